//! The counters of the host's devices, beside workers that record such a device. The devices are
//! those of a stand-in for libnvidia-ml.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unsafe_code, reason = "loads a stand-in and calls it")]

mod support;

use std::ffi::c_int;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::backend::{BackendId, BackendRole};
use profiler_core::control::BackendProbe;
use profiler_core::probe::ProbeReport;
use profiler_core::record::{Counter, DeviceDef, Row as _};
use profiler_core::spool::SpoolReader;
use profiler_worker::manifest::{LineState, Manifest, SessionState, WorkerLine};
use profiler_worker::start_request::StartRequest;

use support::{Behaviour, Bench, join, wait_for};

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stand-in, found by its name from now on.
fn nvml() -> &'static Library {
    static NVML: OnceLock<Library> = OnceLock::new();
    NVML.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let library = folder.join("libnvidia-ml.so.1");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fakes/fake-nvml/nvml.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let compiled = Command::new(compiler)
            .args(["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", source, "-o"])
            .arg(&library)
            .status()
            .unwrap();
        assert!(compiled.success());
        // SAFETY: our own library, which has no initialisers.
        let loaded = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_LOCAL) };
        std::fs::remove_dir_all(folder).unwrap();
        loaded.unwrap()
    })
}

fn set_broken(is_broken: bool) {
    // SAFETY: the stand-in gives the function this type.
    let set = unsafe { nvml().get::<extern "C" fn(c_int)>(b"fake_nvml_broken") };
    set.unwrap()(c_int::from(is_broken));
}

fn with_gpu(mut behaviour: Behaviour) -> Behaviour {
    behaviour.backends.push(BackendProbe {
        id: BackendId::parse("cuda").unwrap(),
        role: BackendRole::Device,
        priority: 200,
        report: ProbeReport::available(Vec::new()),
        plugin: None,
        driver: None,
    });
    behaviour
}

fn host_line(manifest: &Manifest) -> &WorkerLine {
    let mut lines = manifest.workers.iter().filter(|line| line.host_counters);
    let line = lines.next().expect("a line of the host");
    assert!(lines.next().is_none(), "one host, one line");
    line
}

fn rows(path: &Path, kind: profiler_core::record::RecordKind) -> usize {
    let mut reader = SpoolReader::open(path).unwrap();
    let mut rows = 0;
    while let Some(block) = reader.next_block().unwrap() {
        if block.kind() == kind && block.info().is_none_or(|info| !info.is_repeated) {
            rows += block.count();
        }
    }
    rows
}

#[test]
fn a_session_with_devices_has_the_counters_of_their_host_once() {
    let _alone = alone();
    nvml();
    let bench = Bench::new();
    let controller = bench.patient();
    let _workers = join(
        &controller,
        vec![
            with_gpu(Behaviour::new(0, "thinker", 0, 0)),
            with_gpu(Behaviour::new(0, "thinker", 0, 1)),
        ],
    );
    for round in 1..=2 {
        let answer = controller.start(&StartRequest::default()).unwrap();
        assert_eq!(answer.workers.len(), 2, "the host is no worker");
        assert_eq!(controller.status().workers.len(), 2);
        let manifest = controller.stop_profile().unwrap();
        assert_eq!(manifest.workers.len(), 3, "round {round}");
        assert_eq!(manifest.skew_ns, 0);
        assert!(manifest.is_good());
        let line = host_line(&manifest);
        assert_eq!((line.stage, line.unattributed, line.pid), (None, false, std::process::id()));
        assert_eq!(line.name(), "devices of the host");
        assert!(line.error.is_none(), "{:?}", line.error);
        let spool = &line.files.first().unwrap().path;
        assert!(spool.starts_with("host/") && spool.ends_with(".spool"), "{spool}");
        let path = Path::new(&manifest.directory).join(spool);
        assert_eq!(rows(&path, DeviceDef::KIND), 2);
        assert!(rows(&path, Counter::KIND) >= 2 * 5);
    }
}

#[test]
fn it_ends_with_the_last_worker() {
    let _alone = alone();
    nvml();
    let bench = Bench::new();
    let controller = bench.patient();
    let mut worker = with_gpu(Behaviour::new(0, "thinker", 0, 0));
    worker.ends_by_itself = Some((Duration::from_millis(50), "active_steps"));
    let _workers = join(&controller, vec![worker]);
    let request = StartRequest::parse(br#"{"num_steps": 3}"#).unwrap();
    let session = controller.start(&request).unwrap().session;
    wait_for("the session's end", || {
        controller.manifest(&session).is_ok_and(|manifest| manifest.state == SessionState::Complete)
    });
    let manifest = controller.manifest(&session).unwrap();
    assert_eq!(manifest.stopped_by.as_deref(), Some("active_steps"), "what ended the workers");
    assert_eq!(host_line(&manifest).stopped_by.as_deref(), Some("workers_ended"));
}

#[test]
fn a_driver_that_does_not_answer_is_a_reason_and_fails_no_start() {
    let _alone = alone();
    set_broken(true);
    let bench = Bench::new();
    let controller = bench.patient();
    let _workers = join(&controller, vec![with_gpu(Behaviour::new(0, "thinker", 0, 0))]);
    controller.start(&StartRequest::default()).unwrap();
    let manifest = controller.stop_profile().unwrap();
    set_broken(false);
    assert!(manifest.is_good());
    let line = host_line(&manifest);
    assert_eq!((line.state, line.accepted), (LineState::Degraded, true));
    assert_eq!(line.error.as_ref().unwrap().code, "nvml_failed");
}

#[test]
fn sessions_without_such_a_device_have_no_counters_of_a_host() {
    let _alone = alone();
    nvml();
    let bench = Bench::new();
    let controller = bench.patient();
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    controller.start(&StartRequest::default()).unwrap();
    assert_eq!(controller.stop_profile().unwrap().workers.len(), 1);

    let bench = Bench::new();
    let without = bench.builder().options(|options| options.host_counters = false);
    let controller = without.build().unwrap();
    let _workers = join(&controller, vec![with_gpu(Behaviour::new(0, "thinker", 0, 0))]);
    controller.start(&StartRequest::default()).unwrap();
    assert_eq!(controller.stop_profile().unwrap().workers.len(), 1);
}
