//! Which backend records.

use std::sync::Arc;

use profiler_core::backend::{
    BackendId, BackendRole, ProfileSession, ProfilerBackend, SessionConfig,
};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::registry::{BackendRegistry, RegisteredBackend};
use profiler_core::sink::RecordSink;

struct Fixed {
    id: &'static str,
    report: ProbeReport,
}

impl ProfilerBackend for Fixed {
    fn id(&self) -> BackendId {
        BackendId::parse(self.id).expect("a valid id")
    }

    fn probe(&self) -> ProbeReport {
        self.report.clone()
    }

    fn open(
        &self,
        _config: &SessionConfig,
        _sink: Arc<dyn RecordSink>,
        _clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        Err(BackendError::SessionOpen)
    }
}

fn device(id: &'static str, priority: u32, available: bool) -> RegisteredBackend {
    let report = if available {
        ProbeReport::available(Vec::new())
    } else {
        ProbeReport::unavailable("no_device", format!("no {id} device"), "")
    };
    RegisteredBackend {
        role: BackendRole::Device,
        priority,
        backend: Box::new(Fixed { id, report }),
    }
}

fn registry(backends: Vec<RegisteredBackend>) -> BackendRegistry {
    let mut registry = BackendRegistry::empty();
    for backend in backends {
        registry.add(backend).expect("ids differ");
    }
    registry
}

#[test]
fn the_available_one_of_highest_priority_records() {
    let registry =
        registry(vec![device("low", 1, true), device("best", 9, false), device("good", 5, true)]);
    let selection = registry.select_device(None);
    assert_eq!(selection.chosen.unwrap().as_str(), "good");
    let order: Vec<_> = selection.reports.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(order, ["best", "good", "low"]);
}

#[test]
fn equal_priorities_are_ordered_by_id_whatever_the_order_of_registration() {
    for ids in [["b", "a", "c"], ["c", "b", "a"], ["a", "c", "b"]] {
        let registry = registry(ids.into_iter().map(|id| device(id, 5, true)).collect());
        let order: Vec<_> = registry.iter().map(|b| b.id().as_str().to_owned()).collect();
        assert_eq!(order, ["a", "b", "c"]);
        assert_eq!(registry.select_device(None).chosen.unwrap().as_str(), "a");
    }
}

#[test]
fn a_forced_backend_is_never_replaced_and_the_reason_is_said() {
    let registry = registry(vec![device("cuda", 9, false), device("npu", 5, true)]);
    let forced = registry.select_device(Some(&BackendId::parse("cuda").unwrap()));
    assert_eq!(forced.chosen, None);
    assert_eq!(forced.why, "`cuda` was asked for; no cuda device");
    let missing = registry.select_device(Some(&BackendId::parse("tpu").unwrap()));
    assert_eq!(missing.chosen, None);
    assert_eq!(missing.why, "`tpu` was asked for; this process has no such device backend");
}

#[test]
fn one_id_one_backend() {
    let mut registry = registry(vec![device("cuda", 9, true)]);
    let refused = registry.add(device("cuda", 10, true)).unwrap_err();
    assert_eq!(refused.id.as_str(), "cuda");
    assert_eq!(registry.iter().count(), 1);
}

#[test]
fn ids_are_parsed() {
    for bad in ["", "CUDA", "a b", "ü", &"x".repeat(33)] {
        assert!(BackendId::parse(bad).is_err(), "{bad:?}");
    }
    assert!(BackendId::parse("ascend-npu2").is_ok());
}
