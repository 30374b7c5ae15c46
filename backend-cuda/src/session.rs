//! A session: one capture, once the process has loaded the driver.

use std::sync::Arc;
use std::time::Duration;

use profiler_core::backend::{ProfileSession, SessionConfig, SessionSummary};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::sink::{LogLevel, RecordSink};

use crate::backend::{Libraries, Options};
use crate::cupti::capture::{Capture, Target};
use crate::driver::Driver;
use crate::place::Lease;

/// A session of the CUDA backend.
pub(crate) struct CudaSession {
    libraries: Arc<Libraries>,
    options: Options,
    target: Target,
    drain: Duration,
    state: State,
    /// The process that opened it: in a forked child CUPTI's threads are gone, and a call waits for
    /// ever.
    home: u32,
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
        libraries: Arc<Libraries>,
        config: &SessionConfig,
        options: Options,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Self, BackendError> {
        let lease = Lease::take(options.detach_after)?;
        let session = Self {
            libraries,
            target: Target {
                sink,
                clock,
                preset: config.preset,
                max_buffer_bytes: config.max_buffer_bytes,
            },
            drain: Duration::from_millis(config.drain_ms),
            options,
            state: State::Open(lease),
            home: std::process::id(),
        };
        if session.is_due() {
            session.libraries.cupti(session.options.libcupti.as_deref())?;
        }
        Ok(session)
    }

    /// Whether CUPTI can be loaded: before the driver is there, the process may yet load a
    /// libcupti of its own, beside which a second one would not work.
    fn is_due(&self) -> bool {
        self.options.attach_at_once || Driver::loaded().is_some()
    }

    fn is_astray(&self) -> bool {
        self.home != std::process::id()
    }

    fn begin(&self, mut lease: Lease) -> Result<State, BackendError> {
        // What CUPTI took for an earlier session it still has.
        if !Lease::finds_residue() {
            self.options.check_free_memory()?;
        }
        let cupti = self.libraries.cupti(self.options.libcupti.as_deref())?;
        let capture = self.target.begin(&cupti, &mut lease)?;
        Ok(State::Recording(capture, lease))
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
            self.begin(lease)?
        } else {
            self.target.sink.fact("cuda.attach", "waits for the process to load the driver");
            State::Waiting(lease)
        };
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        match &self.state {
            _ if self.is_astray() => Err(BackendError::NotStarted),
            State::Recording(capture, _) => capture.flush(),
            State::Waiting(_) if self.is_due() => {
                let State::Waiting(lease) = std::mem::replace(&mut self.state, State::Stopped)
                else {
                    return Ok(());
                };
                self.state = match self.begin(lease) {
                    Ok(recording) => {
                        self.target.sink.fact("cuda.attach", "late, with the driver");
                        recording
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
        if self.is_astray() {
            return Err(BackendError::NotStarted);
        }
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Recording(capture, lease) => {
                let mut summary = capture.end(drain)?;
                summary.notes.extend(lease.outlook());
                Ok(summary)
            }
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
        if self.is_astray() {
            // What it holds belongs to threads that the child does not have.
            let state = std::mem::replace(&mut self.state, State::Stopped);
            let _kept = std::mem::ManuallyDrop::new(state);
            return;
        }
        // Nobody is left to hear of an error.
        drop(self.stop(self.drain));
    }
}
