//! A session: one capture.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use profiler_core::backend::{ProfileSession, SessionSummary};
use profiler_core::error::BackendError;

use crate::mspti::capture::{Capture, Target};

/// MSPTI serves one session at a time in a process.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The process's one place for a session.
struct Lease;

impl Lease {
    fn take() -> Result<Self, BackendError> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(BackendError::SessionOpen);
        }
        Ok(Self)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Release);
    }
}

/// A session of the NPU backend.
pub(crate) struct NpuSession {
    target: Target,
    drain: Duration,
    state: State,
}

enum State {
    Open(Lease),
    Recording(Capture, Lease),
    Stopped,
}

impl NpuSession {
    /// Takes the process's one place for a session.
    pub(crate) fn open(target: Target, drain: Duration) -> Result<Self, BackendError> {
        Ok(Self { target, drain, state: State::Open(Lease::take()?) })
    }
}

impl ProfileSession for NpuSession {
    fn start(&mut self) -> Result<(), BackendError> {
        let lease = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Open(lease) => lease,
            state => {
                self.state = state;
                return Err(BackendError::AlreadyStarted);
            }
        };
        self.state = State::Recording(Capture::begin(&self.target)?, lease);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        match &self.state {
            State::Recording(capture, _) => capture.flush(),
            State::Open(_) | State::Stopped => Err(BackendError::NotStarted),
        }
    }

    fn stop(&mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Recording(capture, _lease) => capture.end(drain),
            state => {
                self.state = state;
                Err(BackendError::NotStarted)
            }
        }
    }
}

impl Drop for NpuSession {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        drop(self.stop(self.drain));
    }
}
