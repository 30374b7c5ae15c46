//! A process is entered by one agent, however often it is tried.
//!
//! The agent may be in the process several times: linked by the program, brought by the driver,
//! by NVTX and by the loader. Within one copy of the library an atomic says who was first. Copies
//! do not see each other's memory, but all see the kernel's: each tries to lock a file that the
//! kernel keeps for this process alone. An exec gives the lock back, and so does the end.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use profiler_core::descriptor::{Kept, raise};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use crate::agent::AgentError;
use crate::fork::NotInherited;

/// The name of the thread that serves the link.
pub(crate) const LINK_THREAD: &str = "omniprof-link";

/// A file of this process alone, which nobody else may open and nobody has a reason to lock.
const LOCKED: &str = "/proc/self/auxv";

/// The process that an agent of this copy of the library is in, 0 = none.
static ENTERED: AtomicU32 = AtomicU32::new(0);

/// The right to be the process's agent, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// In a forked child the values of its parent give nothing back.
    process: u32,
    _not_inherited: Option<NotInherited>,
    _lock: Option<Kept<OwnedFd>>,
}

impl Entrance {
    /// Enters, unless another agent is in the process.
    pub(crate) fn take() -> Result<Self, AgentError> {
        let process = std::process::id();
        if ENTERED.swap(process, Ordering::AcqRel) == process {
            return Err(AgentError::AlreadyEntered);
        }
        // From here on a refusal gives the mark back.
        let mut entrance = Self { process, _not_inherited: None, _lock: None };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        if let Ok(file) = open(LOCKED, flags, Mode::empty()) {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(AgentError::OtherCopy),
                // Where the kernel locks no such file, the threads alone tell.
                Err(_) => {}
                Ok(()) => {
                    let kept = Kept::new(raise(file));
                    entrance._not_inherited = Some(NotInherited::new(kept.as_raw_fd()));
                    entrance._lock = Some(kept);
                }
            }
        }
        // A program that closed all descriptors has freed the lock of an agent that lives.
        match has_foreign_link() {
            true => Err(AgentError::OtherCopy),
            false => Ok(entrance),
        }
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        // An error says that a child has entered since, which is another process.
        let _left: Result<u32, u32> =
            ENTERED.compare_exchange(self.process, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Whether a link's thread runs here that is not of this copy of the library.
fn has_foreign_link() -> bool {
    const TRIES: u32 = 50;
    // A thread of ours that was joined may be seen for another moment.
    for _ in 0..TRIES {
        if !has_link_thread() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Whether another thread than the calling one serves a link.
fn has_link_thread() -> bool {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return false };
    let own = crate::spans::thread_id().to_string();
    let is_link = |task: &Path| {
        std::fs::read(task.join("comm")).is_ok_and(|name| name.starts_with(LINK_THREAD.as_bytes()))
    };
    tasks.flatten().any(|task| *task.file_name() != *own && is_link(&task.path()))
}
