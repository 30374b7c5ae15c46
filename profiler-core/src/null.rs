//! A backend that records nothing, correctly: the worked example of the two traits.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{BackendId, ProfileSession, ProfilerBackend, SessionConfig, SessionSummary};
use crate::clock::{ClockDomain, ClockSource};
use crate::error::BackendError;
use crate::probe::ProbeReport;
use crate::record::Marker;
use crate::sink::{Batch, Emit, RecordSink, StreamId, StreamInfo};

/// A backend that writes one marker a flush and nothing else.
///
/// It is not registered; tests and other tools add it by hand.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NullBackend;

impl NullBackend {
    /// The backend.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl ProfilerBackend for NullBackend {
    fn id(&self) -> BackendId {
        BackendId::parse("null").unwrap_or_else(|_| unreachable!("`null` is a valid id"))
    }

    fn probe(&self) -> ProbeReport {
        ProbeReport::available(Vec::new())
    }

    fn open(
        &self,
        _config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        let stream = sink.open_stream(StreamInfo {
            producer: "null".to_owned(),
            thread: 0,
            clock: ClockDomain::Monotonic,
        });
        Ok(Box::new(NullSession { sink, clock, stream, state: State::Open, is_closed: false }))
    }
}

struct NullSession {
    sink: Arc<dyn RecordSink>,
    clock: Arc<dyn ClockSource>,
    stream: StreamId,
    state: State,
    /// The sink takes nothing any more.
    is_closed: bool,
}

#[derive(PartialEq)]
enum State {
    Open,
    Recording,
    Stopped,
}

impl ProfileSession for NullSession {
    fn start(&mut self) -> Result<(), BackendError> {
        if self.state != State::Open {
            return Err(BackendError::AlreadyStarted);
        }
        self.state = State::Recording;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        if self.state != State::Recording {
            return Err(BackendError::NotStarted);
        }
        if self.is_closed {
            return Ok(());
        }
        let marker = Marker { time: self.clock.monotonic_ns(), ..Marker::default() };
        match self.sink.emit(&[Batch::new(self.stream, &[marker])]) {
            // The sink has counted what it did not take, and a marker defines nothing.
            Emit::Accepted | Emit::Full => {}
            Emit::Closed => self.is_closed = true,
        }
        Ok(())
    }

    fn stop(&mut self, _drain: Duration) -> Result<SessionSummary, BackendError> {
        if self.state != State::Recording {
            return Err(BackendError::NotStarted);
        }
        self.flush()?;
        self.state = State::Stopped;
        Ok(SessionSummary::default())
    }
}
