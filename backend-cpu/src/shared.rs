//! What the session and the recorder's thread tell each other.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use profiler_core::descriptor::Kept;

use crate::wake::Wake;

/// Commands one way, progress the other.
#[derive(Debug)]
pub(crate) struct Shared {
    wake: Wake,
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
        Ok(Self { wake: Wake::new()?, state: Mutex::default(), changed: Condvar::new() })
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
        self.wake.ring();
        self.wait(timeout, |state| state.flush_done >= number)
    }

    /// Asks for the end and waits for it.
    pub(crate) fn stop(&self, timeout: Duration) -> Waited {
        self.lock().stop = true;
        self.changed.notify_all();
        self.wake.ring();
        self.wait(timeout, |_| false)
    }

    // The thread's side.

    /// Readable when there are commands.
    pub(crate) fn woken(&self) -> &Kept<OwnedFd> {
        self.wake.descriptor()
    }

    pub(crate) fn tell_ready(&self) {
        self.lock().ready = true;
        self.changed.notify_all();
    }

    pub(crate) fn take_commands(&self) -> Commands {
        self.wake.take();
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
