//! A session: one capture, once the process has loaded the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use profiler_core::backend::{ProfileSession, SessionConfig, SessionSummary};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::sink::{LogLevel, RecordSink};

use crate::backend::Options;
use crate::cupti::capture::{Capture, Target};
use crate::cupti::library::{Cupti, driver_is_loaded};

/// CUPTI serves one session at a time in a process.
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

/// A session of the CUDA backend.
pub(crate) struct CudaSession {
    target: Target,
    drain: Duration,
    attach_at_once: bool,
    state: State,
}

enum State {
    Open(Lease),
    /// Started in a process that has not loaded the driver.
    Waiting(Lease),
    Recording(Capture, Lease),
    /// It could not record once the driver was there.
    Failed(BackendError),
    Stopped,
}

impl CudaSession {
    /// Takes the process's one place for a session.
    pub(crate) fn open(
        cupti: Arc<Cupti>,
        config: &SessionConfig,
        options: Options,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Self, BackendError> {
        let lease = Lease::take()?;
        Ok(Self {
            target: Target {
                cupti,
                sink,
                clock,
                preset: config.preset,
                max_buffer_bytes: config.max_buffer_bytes,
            },
            drain: Duration::from_millis(config.drain_ms),
            attach_at_once: options.attach_at_once,
            state: State::Open(lease),
        })
    }

    fn is_due(&self) -> bool {
        self.attach_at_once || driver_is_loaded()
    }
}

impl ProfileSession for CudaSession {
    fn start(&mut self) -> Result<(), BackendError> {
        let lease = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Open(lease) => lease,
            state => {
                self.state = state;
                return Err(BackendError::AlreadyStarted);
            }
        };
        self.state = if self.is_due() {
            State::Recording(Capture::begin(&self.target)?, lease)
        } else {
            self.target.sink.fact("cuda.attach", "waits for the process to load the driver");
            State::Waiting(lease)
        };
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        match &self.state {
            State::Recording(capture, _) => capture.flush(),
            State::Waiting(_) if self.is_due() => {
                let State::Waiting(lease) = std::mem::replace(&mut self.state, State::Stopped)
                else {
                    return Ok(());
                };
                self.state = match Capture::begin(&self.target) {
                    Ok(capture) => {
                        self.target.sink.fact("cuda.attach", "late, with the driver");
                        State::Recording(capture, lease)
                    }
                    Err(error) => {
                        let message = profiler_core::error::chain(&error);
                        self.target.sink.log(LogLevel::Error, "cuda", &message);
                        State::Failed(error)
                    }
                };
                Ok(())
            }
            State::Waiting(_) | State::Failed(_) => Ok(()),
            State::Open(_) | State::Stopped => Err(BackendError::NotStarted),
        }
    }

    fn stop(&mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Recording(capture, _lease) => capture.end(drain),
            State::Waiting(_lease) => {
                Ok(SessionSummary { device_used: Some(false), ..SessionSummary::default() })
            }
            State::Failed(error) => Err(error),
            state => {
                self.state = state;
                Err(BackendError::NotStarted)
            }
        }
    }
}

impl Drop for CudaSession {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        drop(self.stop(self.drain));
    }
}
