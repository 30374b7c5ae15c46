//! Whether the program has sandboxed itself.
//!
//! A filter of system calls may answer a call that it does not know by killing the process. What
//! was there when the agent came is the container's and answers with errors; one that came later is
//! the program's own, and from then on the agent makes no call that the program would not make.
//!
//! So the question itself must not open anything: the file that answers it is held open.
#![expect(unsafe_code, reason = "a system call that rustix does not have")]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use profiler_core::control::WorkerError;
use profiler_core::descriptor::{Kept, raise};

use crate::fork::NotInherited;

/// Which filters there are on the calling thread.
const PATH: &str = "/proc/thread-self/status";

/// It is at most so long: lists of memory nodes and processors are part of it.
const MAX_BYTES: usize = 16 << 10;

/// `prctl`'s answer where system calls are filtered.
const FILTERED: i32 = 2;

/// The filters of one thread, the one that made this.
pub(crate) struct Sandbox {
    status: Option<(Kept<File>, NotInherited)>,
    /// How many there were in the beginning; `None` where the kernel does not say.
    before: Option<u32>,
}

impl Sandbox {
    /// Looks at the calling thread.
    pub(crate) fn of_this_thread() -> Self {
        let status = File::open(PATH).ok().map(|file| {
            let file = File::from(raise(file.into()));
            let not_inherited = NotInherited::new(file.as_raw_fd());
            (Kept::new(file), not_inherited)
        });
        let mut sandbox = Self { status, before: None };
        sandbox.before = sandbox.count();
        sandbox
    }

    /// Whether a filter came since.
    pub(crate) fn is_closed(&self) -> bool {
        match self.count() {
            Some(now) => now > self.before.unwrap_or(0),
            // The program has closed the file. Whether there is any filter can still be asked.
            None => self.before == Some(0) && is_filtered(),
        }
    }

    /// What a start, or a look at devices, is answered once it is closed.
    pub(crate) fn refusal() -> WorkerError {
        WorkerError::new(
            "sandboxed",
            "the program has installed a filter of system calls (seccomp) since the agent joined: \
             opening a session could end it. Start the capture before it does, or record it from \
             outside (`omniprof run --join outside`)",
        )
    }

    fn count(&self) -> Option<u32> {
        let (status, _) = self.status.as_ref()?;
        let mut bytes = [0; MAX_BYTES];
        let len = status.get().ok()?.read_at(&mut bytes, 0).ok()?;
        parse(&String::from_utf8_lossy(bytes.get(..len)?))
    }
}

fn is_filtered() -> bool {
    // SAFETY: asks for a number and changes nothing.
    (unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) }) == FILTERED
}

/// The number of filters; older kernels only say that there are some.
fn parse(status: &str) -> Option<u32> {
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    };
    number("Seccomp_filters:").or_else(|| number("Seccomp:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_counted() {
        assert_eq!(parse("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t3\n"), Some(3));
        assert_eq!(parse("Name:\tx\nSeccomp:\t2\n"), Some(2));
        assert_eq!(parse(""), None);
        let sandbox = Sandbox::of_this_thread();
        assert!(sandbox.before.is_some() && sandbox.count() == sandbox.before);
        assert!(!sandbox.is_closed());
    }
}
