//! What the session and the recorder's thread tell each other.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

/// Commands one way, progress the other.
#[derive(Debug)]
pub(crate) struct Shared {
    wake: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    /// The thread has ended, whatever the way.
    ended: bool,
    flush_asked: u64,
    flush_done: u64,
    stop: bool,
}

/// What the thread has been asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Commands {
    /// A flush, by its number.
    pub(crate) flush: Option<u64>,
    pub(crate) stop: bool,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// What was waited for has happened.
    Done,
    /// The thread has ended.
    Ended,
    /// The time is over.
    TimedOut,
}

impl Shared {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { wake, state: Mutex::default(), changed: Condvar::new() })
    }

    // The session's side.

    pub(crate) fn wait_ready(&self, timeout: Duration) -> Waited {
        self.wait(timeout, |state| state.ready)
    }

    /// Asks for a flush and waits until it is done.
    pub(crate) fn flush(&self, timeout: Duration) -> Waited {
        let number = {
            let mut state = self.lock();
            state.flush_asked += 1;
            state.flush_asked
        };
        self.wake();
        self.wait(timeout, |state| state.flush_done >= number)
    }

    /// Asks for the end and waits for it.
    pub(crate) fn stop(&self, timeout: Duration) -> Waited {
        self.lock().stop = true;
        self.changed.notify_all();
        self.wake();
        self.wait(timeout, |_| false)
    }

    // The thread's side.

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(crate) fn tell_ready(&self) {
        self.lock().ready = true;
        self.changed.notify_all();
    }

    pub(crate) fn take_commands(&self) -> Commands {
        let mut number = [0; 8];
        // Empty when something else woke the thread.
        let _count: rustix::io::Result<usize> = rustix::io::read(&self.wake, &mut number);
        let state = self.lock();
        let flush = (state.flush_asked > state.flush_done).then_some(state.flush_asked);
        Commands { flush, stop: state.stop }
    }

    pub(crate) fn tell_flushed(&self, number: u64) {
        self.lock().flush_done = number;
        self.changed.notify_all();
    }

    /// Sleeps until the session says stop; for a thread that cannot go on.
    pub(crate) fn wait_for_stop(&self) {
        let mut state = self.lock();
        while !state.stop {
            state.flush_done = state.flush_asked;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn tell_ended(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn wait(&self, timeout: Duration, done: impl Fn(&State) -> bool) -> Waited {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if done(&state) {
                return Waited::Done;
            }
            if state.ended {
                return Waited::Ended;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::TimedOut;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wake(&self) {
        // A full counter wakes the thread as well.
        let _count: rustix::io::Result<usize> = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
