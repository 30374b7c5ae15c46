//! What a backend logs reaches the person who reads the manifest.

mod common;

use std::sync::Arc;

use common::{arm, connect, next_fence, registry_of, spool_file};
use profiler_agent::Agent;
use profiler_core::backend::{
    BackendId, BackendRole, ProfileSession, ProfilerBackend, SessionConfig,
};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::null::NullBackend;
use profiler_core::probe::ProbeReport;
use profiler_core::sink::{LogLevel, RecordSink};

/// The null backend, with something to say.
struct Talkative(NullBackend);

impl ProfilerBackend for Talkative {
    fn id(&self) -> BackendId {
        self.0.id()
    }

    fn probe(&self) -> ProbeReport {
        self.0.probe()
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        sink.log(LogLevel::Info, "talkative", "good morning");
        sink.log(LogLevel::Warn, "talkative", "the driver is old");
        self.0.open(config, sink, clock)
    }
}

#[test]
fn warnings_of_a_backend_are_notes_of_the_result() {
    let backend: Box<dyn ProfilerBackend> = Box::new(Talkative(NullBackend::new()));
    let registry = registry_of([(BackendRole::Device, backend)]);
    let (_agent, mut controller, _) = connect(Agent::builder().registry(registry));
    let spool = spool_file();
    let fence = next_fence();
    controller.arm(arm(fence), Some(&spool.file)).unwrap();
    controller.commit(fence).unwrap();
    controller.stop(fence).unwrap();
    let (result, _) = controller.finished();
    assert_eq!(result.error, None);
    let said: Vec<_> = result.notes.iter().filter(|note| note.contains("talkative")).collect();
    assert_eq!(said, ["talkative: the driver is old"]);
}
