//! What the backend says of machines that a test can build.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;

use backend_npu::NpuBackend;
use profiler_core::backend::{BackendId, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::probe::{ProbeReport, UnavailableReason};
use profiler_core::registry::BackendRegistry;
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

const LIBRARY: &str = "usr/local/Ascend/driver/lib64/driver/libascend_hal.so";

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
    match NpuBackend::at(root, visible.map(str::to_owned)).probe() {
        ProbeReport::Unavailable { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bare_machine_has_no_device() {
    let root = machine(&[("dev/null", "")]);
    let reason = reason(root.path(), None);
    assert_eq!((reason.code.as_str(), reason.remedy.as_str()), ("no_device", ""));
}

#[test]
fn a_driver_without_nodes_is_a_container_without_devices() {
    let root = machine(&[(LIBRARY, "")]);
    let reason = reason(root.path(), None);
    assert_eq!(reason.code, "no_device");
    assert!(reason.remedy.contains("--device /dev/davinci0"));
}

#[test]
fn nodes_without_the_manager_are_of_no_use() {
    let root = machine(&[("dev/davinci3", "")]);
    let reason = reason(root.path(), None);
    assert_eq!(reason.code, "no_device");
    assert!(reason.remedy.contains("/dev/davinci_manager"));
}

fn pci(device: &str) -> [(&'static str, String); 2] {
    [
        ("sys/bus/pci/devices/0000:c1:00.0/vendor", "0x19e5\n".to_owned()),
        ("sys/bus/pci/devices/0000:c1:00.0/device", format!("{device}\n")),
    ]
}

#[test]
fn a_device_without_a_cann_says_which_chip_it_is_and_what_to_install() {
    let pci = pci("0xd802");
    let root = machine(&[
        ("dev/davinci0", ""),
        ("dev/davinci7", ""),
        ("dev/davinci_manager_docker", ""),
        (pci[0].0, &pci[0].1),
        (pci[1].0, &pci[1].1),
        ("usr/local/Ascend/driver/version.info", "Version=24.1.rc3\n"),
    ]);
    let reason = reason(root.path(), Some("0"));
    assert_eq!(reason.code, "library_missing");
    let found = "2 Ascend 910B device(s) found (driver 24.1.rc3), but no libmspti.so";
    assert!(reason.message.starts_with(found), "{}", reason.message);
    assert!(reason.remedy.contains("CANN toolkit, 8.0"), "{}", reason.remedy);
}

#[test]
fn a_chip_without_mspti_names_its_path() {
    for (device, name) in [("0xd500", " Ascend 310P "), ("0xd801", " Ascend 910 ")] {
        let pci = pci(device);
        let root = machine(&[
            ("dev/davinci0", ""),
            ("dev/davinci_manager", ""),
            (pci[0].0, &pci[0].1),
            (pci[1].0, &pci[1].1),
        ]);
        let reason = reason(root.path(), None);
        assert_eq!(reason.code, "library_missing");
        assert!(reason.message.contains(name), "{}", reason.message);
        assert!(reason.message.contains("aclprof") && reason.remedy.contains("CANN toolkit"));
    }
}

#[test]
fn hidden_devices_are_no_devices() {
    let root = machine(&[("dev/davinci0", ""), ("dev/davinci_manager", "")]);
    let reason = reason(root.path(), Some(""));
    assert_eq!(reason.code, "no_device");
    assert!(reason.message.contains("ASCEND_RT_VISIBLE_DEVICES"));
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
fn a_session_is_refused_for_the_same_reason() {
    let root = machine(&[("dev/davinci0", ""), ("dev/davinci_manager", "")]);
    let backend = NpuBackend::at(root.path(), None);
    let config = SessionConfig::default();
    let opened = backend.open(&config, Arc::new(NoSink), Arc::new(SystemClock::new()));
    let error = opened.err().expect("no session");
    assert_eq!(error.code(), "library_missing");
    assert!(error.to_string().contains("OMNIPROF_LIBMSPTI"), "{error}");
}

#[test]
fn it_is_registered_as_a_device_backend() {
    let registry = BackendRegistry::linked();
    let id = BackendId::parse("npu").unwrap();
    let found = registry.find(&id).expect("it registers itself");
    assert!(found.priority < 200, "a machine with both records NVIDIA");
    assert!(registry.select_device(Some(&id)).chosen.is_none());
}
