//! Whether a system call can be tried at all.
//!
//! Most filters answer a forbidden call with an error, and trying is how one learns of it. Some end
//! the process instead, and then the profiled process would die of our trying. So where a filter is
//! active, a child that shares nothing but memory tries first.

#![expect(unsafe_code, reason = "clone and raw system calls have no safe form")]

use std::ffi::{c_int, c_long, c_void};
use std::ptr;

use crate::process::Process;

/// A call that filters are known to forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RiskyCall {
    PerfEventOpen,
    ProcessVmReadv,
}

impl RiskyCall {
    fn number(self) -> c_long {
        match self {
            Self::PerfEventOpen => libc::SYS_perf_event_open,
            Self::ProcessVmReadv => libc::SYS_process_vm_readv,
        }
    }

    /// Whether this thread survives the call; its answer may still be an error.
    pub(crate) fn is_survivable(self) -> bool {
        let own = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let filters = Process::open(None).ok().and_then(|process| process.filters(own));
        match filters {
            Some(filters) if !filters.starts_with(b"Seccomp:\t0") => try_in_child(self.number()),
            // No filter, or a kernel without them.
            _ => true,
        }
    }
}

/// The child's stack: it makes one system call.
const STACK_BYTES: usize = 64 << 10;

fn try_in_child(number: c_long) -> bool {
    let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    // The parent's thread waits until the child has ended, so that the stack outlives it. No
    // signal tells of the end: the application's handlers and waits see nothing of this child.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    let argument = ptr::without_provenance_mut::<c_void>(number as usize);
    // SAFETY: the child runs `make_call` on the stack, of which `top` is the upper end, aligned to
    // 16 bytes; it writes no memory but that stack and this thread's `errno`.
    let child = unsafe { libc::clone(make_call, top.cast(), flags, argument) };
    if child < 0 {
        // Nothing is known: the caller takes the way that needs no such call.
        return false;
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` has room for the answer; the child is ours and not waited for yet.
        let waited = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
        if waited == child {
            return libc::WIFEXITED(status);
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return false;
        }
    }
}

extern "C" fn make_call(number: *mut c_void) -> c_int {
    let number = number.addr() as c_long;
    // SAFETY: with zeros for arguments either call is refused or does nothing.
    unsafe { libc::syscall(number, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize) };
    0
}
