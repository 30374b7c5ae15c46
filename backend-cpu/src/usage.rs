//! What a process has used, as the C library tells it.

#![expect(unsafe_code, reason = "getrusage and processor clocks of other processes")]

use std::io;
use std::mem::MaybeUninit;

/// What our own process has used, all threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnUsage {
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
}

impl OwnUsage {
    /// Now.
    pub(crate) fn read() -> io::Result<Self> {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` has room for one `rusage`, which is all that the call writes.
        if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all bytes were zeroed, a valid `rusage`, and then the call filled it.
        let usage = unsafe { usage.assume_init() };
        Ok(Self {
            user_ns: nanoseconds(usage.ru_utime),
            system_ns: nanoseconds(usage.ru_stime),
            minor_faults: usage.ru_minflt as u64,
            major_faults: usage.ru_majflt as u64,
            voluntary_switches: usage.ru_nvcsw as u64,
            involuntary_switches: usage.ru_nivcsw as u64,
        })
    }
}

fn nanoseconds(time: libc::timeval) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000
}

/// The processor time of another process in ns: finer than the clock ticks in its `stat`.
pub(crate) fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    // The kernel's numbering of processor clocks: the pid's complement, and 2 for scheduled time.
    let clock = (!(pid as libc::clockid_t)) << 3 | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid `timespec` to write to; an unknown clock is refused.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
