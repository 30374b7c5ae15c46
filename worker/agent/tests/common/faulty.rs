//! A device backend that fails where it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use profiler_core::backend::{
    BackendId, BackendRole, ProfileSession, ProfilerBackend, SessionConfig, SessionSummary,
};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::sink::RecordSink;

use super::{builder, eventually, registry_of};

/// Where a backend fails.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    Unavailable,
    Open,
    Start,
    ProbePanic,
    StartPanic,
    FlushPanic,
    StopPanic,
    DropPanic,
    SlowStop,
    Unrecorded,
}

struct Faulty {
    fault: Fault,
    opened: Arc<AtomicU32>,
}

struct FaultySession {
    fault: Fault,
}

pub(crate) static FLUSHES: AtomicU32 = AtomicU32::new(0);
pub(crate) static STARTS: AtomicU32 = AtomicU32::new(0);
pub(crate) static DRAINED: AtomicBool = AtomicBool::new(true);

impl ProfilerBackend for Faulty {
    fn id(&self) -> BackendId {
        BackendId::parse("faulty").unwrap()
    }

    fn probe(&self) -> ProbeReport {
        match self.fault {
            Fault::Unavailable => {
                ProbeReport::unavailable("no_driver", "there is no driver", "load it")
            }
            Fault::ProbePanic => panic!("probe panics"),
            _ => ProbeReport::available(Vec::new()),
        }
    }

    fn open(
        &self,
        _config: &SessionConfig,
        _sink: Arc<dyn RecordSink>,
        _clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        if self.fault == Fault::Open {
            return Err(BackendError::Busy { holder: Some("another profiler".to_owned()) });
        }
        Ok(Box::new(FaultySession { fault: self.fault }))
    }
}

impl ProfileSession for FaultySession {
    fn start(&mut self) -> Result<(), BackendError> {
        STARTS.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Start => {
                Err(BackendError::Vendor { call: "enable", code: 39, name: "BUSY".to_owned() })
            }
            Fault::StartPanic => panic!("start panics"),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        FLUSHES.fetch_add(1, Ordering::SeqCst);
        assert!(self.fault != Fault::FlushPanic, "flush panics");
        Ok(())
    }

    fn stop(&mut self, _drain: Duration) -> Result<SessionSummary, BackendError> {
        assert!(self.fault != Fault::StopPanic, "stop panics");
        if self.fault == Fault::SlowStop {
            eventually(|| DRAINED.load(Ordering::SeqCst));
        }
        let device_used = (self.fault == Fault::Unrecorded).then_some(true);
        Ok(SessionSummary { device_used, ..SessionSummary::default() })
    }
}

impl Drop for FaultySession {
    fn drop(&mut self) {
        if self.fault == Fault::DropPanic {
            panic!("drop panics");
        }
    }
}

pub(crate) fn faulty(fault: Fault) -> (profiler_agent::AgentBuilder, Arc<AtomicU32>) {
    let opened = Arc::new(AtomicU32::new(0));
    let backend = Faulty { fault, opened: Arc::clone(&opened) };
    let registry =
        registry_of([(BackendRole::Device, Box::new(backend) as Box<dyn ProfilerBackend>)]);
    (builder().registry(registry), opened)
}
