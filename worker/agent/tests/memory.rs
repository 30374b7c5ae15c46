//! Allocations and frees: recorded, or missed by name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;

use common::{arm, builder, connect, next_fence, null_registry, registry_of, spool_file, turn};
use profiler_core::backend::{
    BackendId, BackendRole, ProfileSession, ProfilerBackend, SessionConfig,
};
use profiler_core::clock::ClockSource;
use profiler_core::control::{Arm, OnUnavailable};
use profiler_core::error::BackendError;
use profiler_core::null::NullBackend;
use profiler_core::probe::ProbeReport;
use profiler_core::registry::BackendRegistry;
use profiler_core::sink::RecordSink;

/// What the null backend records, by one that says it records memory.
struct Able;

impl ProfilerBackend for Able {
    fn id(&self) -> BackendId {
        BackendId::parse("able").unwrap()
    }

    fn probe(&self) -> ProbeReport {
        ProbeReport::available(Vec::new())
    }

    fn records_memory(&self, config: &SessionConfig) -> bool {
        config.memory
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        NullBackend::new().open(config, sink, clock)
    }
}

fn arm_with_memory(degrade: bool) -> Arm {
    let mut asked = arm(next_fence());
    asked.capture.session.memory = true;
    if degrade {
        asked.capture.on_unavailable = OnUnavailable::Degrade;
    }
    asked
}

#[test]
fn memory_that_nothing_records_fails_the_arm_or_degrades_it() {
    let _turn = turn();
    // A device whose backend does not record it; and none at all.
    for (registry, backend) in [(null_registry(), Some("null")), (BackendRegistry::empty(), None)] {
        let (_agent, mut controller, _) = connect(builder().registry(registry));
        let spool = spool_file();
        let error = controller.arm(arm_with_memory(false), Some(&spool.file)).unwrap_err();
        assert_eq!(error.code, "no_memory_rows", "{error}");
        assert!(error.message.contains("on_unavailable"), "{error}");

        let spool = spool_file();
        let asked = arm_with_memory(true);
        let armed = controller.arm(asked.clone(), Some(&spool.file)).unwrap();
        assert_eq!(armed.degraded.unwrap().code, "no_memory_rows");
        assert_eq!(armed.backend.as_ref().map(BackendId::as_str), backend, "the rest is whole");
        controller.commit(asked.fence).unwrap();
        controller.stop(asked.fence).unwrap();
        let (result, _) = controller.finished();
        assert_eq!(
            (result.degraded.unwrap().code.as_str(), result.error),
            ("no_memory_rows", None)
        );
    }
}

#[test]
fn memory_is_recorded_by_a_backend_that_says_so_and_no_row_is_told() {
    let _turn = turn();
    let registry = registry_of([(BackendRole::Device, Box::new(Able) as Box<dyn ProfilerBackend>)]);
    let (_agent, mut controller, _) = connect(builder().registry(registry));
    let spool = spool_file();
    let asked = arm_with_memory(false);
    let armed = controller.arm(asked.clone(), Some(&spool.file)).unwrap();
    assert_eq!(armed.degraded, None);
    controller.commit(asked.fence).unwrap();
    controller.stop(asked.fence).unwrap();
    let (result, _) = controller.finished();
    assert_eq!((result.degraded, result.error), (None, None));
    assert!(result.notes.iter().any(|note| note.contains("no allocation")), "{:?}", result.notes);
}
