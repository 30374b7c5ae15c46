//! What the backend says of machines that a test can build.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;

use backend_cuda::CudaBackend;
use profiler_core::backend::{BackendId, BackendRole, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::probe::{ProbeReport, UnavailableReason};
use profiler_core::registry::BackendRegistry;
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

fn reason(root: &Path, visible: Option<&str>) -> UnavailableReason {
    match CudaBackend::at(root, visible.map(str::to_owned)).probe() {
        ProbeReport::Unavailable { reason } => reason,
        other => panic!("{other:?}"),
    }
}

const VERSION: &str = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue\n";

#[test]
fn a_bare_machine_has_no_device() {
    let root = machine(&[("dev/null", ""), ("dev/nvidiactl", "")]);
    let reason = reason(root.path(), None);
    assert_eq!(reason.code, "no_device");
    assert_eq!(reason.remedy, "");
}

#[test]
fn a_driver_without_nodes_is_a_container_without_devices() {
    let root = machine(&[("proc/driver/nvidia/version", VERSION)]);
    let reason = reason(root.path(), None);
    assert_eq!(reason.code, "no_device");
    assert!(reason.message.contains("580.159.04"));
    assert!(reason.remedy.contains("--gpus"));
}

#[test]
fn devices_are_found_and_named() {
    let information = "Model: \t NVIDIA H100 80GB HBM3\nGPU UUID: GPU-1\nDevice Minor: 1\n";
    let root = machine(&[
        ("dev/nvidia0", ""),
        ("dev/nvidia1", ""),
        ("dev/nvidia-uvm", ""),
        ("proc/driver/nvidia/version", VERSION),
        ("proc/driver/nvidia/gpus/0000:01:00.0/information", information),
    ]);
    match CudaBackend::at(root.path(), Some("0,1".to_owned())).probe() {
        ProbeReport::Available { devices, notes } => {
            assert_eq!(devices.len(), 2);
            assert_eq!(devices[1].name, "NVIDIA H100 80GB HBM3");
            assert_eq!(devices[1].uuid, "GPU-1");
            assert_eq!(notes, ["driver 580.159.04"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn hidden_devices_are_no_devices() {
    let root = machine(&[("dev/nvidia0", "")]);
    let reason = reason(root.path(), Some(""));
    assert_eq!(reason.code, "no_device");
    assert!(reason.message.contains("CUDA_VISIBLE_DEVICES"));
}

/// A refused session touches no sink.
struct NoSink;

impl RecordSink for NoSink {
    fn open_stream(&self, _info: StreamInfo) -> StreamId {
        panic!("nothing is opened")
    }
    fn emit(&self, _group: &[Batch<'_>]) -> Emit {
        panic!("nothing is emitted")
    }
    fn loss(&self, _loss: Loss) {}
    fn fact(&self, _key: &str, _value: &str) {}
    fn log(&self, _level: LogLevel, _target: &str, _message: &str) {}
}

#[test]
fn without_a_libcupti_a_session_is_refused_with_the_remedy() {
    let root = machine(&[("dev/nvidia0", "")]);
    let backend = CudaBackend::at(root.path(), None);
    let mut config = SessionConfig::default();
    config.options.insert("cuda.attach".to_owned(), "at_once".into());
    let opened = backend.open(&config, Arc::new(NoSink), Arc::new(SystemClock::new()));
    let Some(error) = opened.err() else {
        use std::io::Write as _;
        // Past the test harness, which shows nothing of a test that passes.
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let line = format!("skipped: {test}: this machine has a libcupti\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    };
    assert_eq!(error.code(), "library_missing");
    assert!(error.to_string().contains("nvidia-cuda-cupti"), "{error}");
}

#[test]
fn it_is_registered_as_a_device_backend() {
    let registry = BackendRegistry::linked();
    let id = BackendId::parse("cuda").unwrap();
    let found = registry.find(&id).expect("it registers itself");
    assert_eq!(found.priority, 200);
    assert_eq!(found.role, BackendRole::Device);
}
