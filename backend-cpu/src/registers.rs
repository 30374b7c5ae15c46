//! The few registers that unwinding needs, on each processor that we know.

use framehop::UnwindRegsNative;

/// What unwinding begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    /// The instruction pointer.
    pub(crate) ip: u64,
    /// The stack pointer.
    pub(crate) sp: u64,
    /// The frame pointer.
    pub(crate) fp: u64,
    /// The link register; 0 where the processor has none.
    pub(crate) lr: u64,
}

/// How many registers a sample carries.
pub(crate) const REGISTER_COUNT: usize = PERF_MASK.count_ones() as usize;

#[cfg(target_arch = "x86_64")]
mod arch {
    use perf_event_open_sys::bindings as sys;

    use super::{Registers, UnwindRegsNative};

    /// The registers asked of perf; they come in the order of their bits.
    pub(crate) const PERF_MASK: u64 =
        1 << sys::PERF_REG_X86_BP | 1 << sys::PERF_REG_X86_SP | 1 << sys::PERF_REG_X86_IP;

    impl Registers {
        /// The values in the order in which perf gives them.
        pub(crate) fn from_perf([fp, sp, ip]: [u64; 3]) -> Self {
            Self { ip, sp, fp, lr: 0 }
        }

        pub(crate) fn unwind(self) -> UnwindRegsNative {
            UnwindRegsNative::new(self.ip, self.sp, self.fp)
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use perf_event_open_sys::bindings as sys;

    use super::{Registers, UnwindRegsNative};

    /// The registers asked of perf; they come in the order of their bits.
    pub(crate) const PERF_MASK: u64 = 1 << sys::PERF_REG_ARM64_X29
        | 1 << sys::PERF_REG_ARM64_LR
        | 1 << sys::PERF_REG_ARM64_SP
        | 1 << sys::PERF_REG_ARM64_PC;

    impl Registers {
        /// The values in the order in which perf gives them.
        pub(crate) fn from_perf([fp, lr, sp, ip]: [u64; 4]) -> Self {
            Self { ip, sp, fp, lr }
        }

        pub(crate) fn unwind(self) -> UnwindRegsNative {
            UnwindRegsNative::new(self.lr, self.sp, self.fp)
        }
    }
}

pub(crate) use arch::PERF_MASK;
