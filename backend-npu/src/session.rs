//! A session: one capture.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use profiler_core::backend::{ProfileSession, SessionSummary};
use profiler_core::error::BackendError;

use crate::{aclprof, mspti, torch_npu};

/// Ascend's profilers exclude one another in a process: one session at a time, whatever its path.
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

/// What a capture is made of, on one of the three paths.
pub(crate) enum Target {
    Mspti(mspti::capture::Target),
    Aclprof(aclprof::capture::Target),
    TorchNpu(torch_npu::capture::Target),
}

/// A capture that runs.
enum Capture {
    Mspti(mspti::capture::Capture),
    Aclprof(aclprof::capture::Capture),
    TorchNpu(torch_npu::capture::Capture),
}

impl Capture {
    fn begin(target: &Target) -> Result<Self, BackendError> {
        Ok(match target {
            Target::Mspti(target) => Self::Mspti(mspti::capture::Capture::begin(target)?),
            Target::Aclprof(target) => Self::Aclprof(aclprof::capture::Capture::begin(target)?),
            Target::TorchNpu(target) => Self::TorchNpu(torch_npu::capture::Capture::begin(target)?),
        })
    }

    fn flush(&self) -> Result<(), BackendError> {
        match self {
            Self::Mspti(capture) => capture.flush(),
            // Both write files of their own, which are read after the stop.
            Self::Aclprof(_) | Self::TorchNpu(_) => Ok(()),
        }
    }

    fn end(self, drain: Duration) -> Result<SessionSummary, BackendError> {
        match self {
            Self::Mspti(capture) => capture.end(drain),
            Self::Aclprof(capture) => capture.end(),
            Self::TorchNpu(capture) => capture.end(),
        }
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
    Recording(Box<Capture>, Lease),
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
        self.state = State::Recording(Box::new(Capture::begin(&self.target)?), lease);
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
