//! A library that was tried and works is loaded into this process. One test: it stays loaded.
#![expect(unsafe_code, reason = "sets a variable of this process")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use backend_npu::NpuBackend;
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::probe::ProbeReport;

#[test]
fn a_probe_loads_what_was_tried_and_a_session_records_with_it() {
    let cann = support::install("loads");
    // libmspti does without this one.
    std::fs::remove_file(cann.home.join("lib64/libascendcl.so")).expect("removed");
    // SAFETY: this process has no other thread that reads variables.
    unsafe { std::env::set_var("ASCEND_HOME_PATH", &cann.home) };
    let maps = || std::fs::read_to_string("/proc/self/maps").expect("maps");
    let backend = NpuBackend::at(&cann.root, None).with_program(support::program());
    assert!(!maps().contains("libmspti.so"));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let report = loop {
        match backend.probe() {
            ProbeReport::Unavailable { reason } if reason.code == "preflight_running" => {
                assert!(std::time::Instant::now() < deadline, "the trial does not end");
            }
            report => break report,
        }
    };
    let ProbeReport::Available { devices, notes } = report else { panic!("{report:?}") };
    assert_eq!((devices.len(), devices[0].index), (1, 0));
    assert!(notes.iter().any(|note| note.contains("LD_PRELOAD=")), "{notes:?}");
    assert!(maps().contains("libmspti.so"));

    let sink = Arc::new(MemorySink::default());
    let clock = Arc::new(SystemClock::new());
    let opened = backend.open(&SessionConfig::default(), Arc::clone(&sink) as _, clock);
    let mut session = opened.expect("opens");
    session.start().expect("starts");
    let summary = session.stop(Duration::from_millis(200)).expect("stops");
    assert!(summary.notes.iter().all(|note| !note.contains("libascendcl")), "{:?}", summary.notes);
    sink.assert_sound();
    drop((session, backend));
    // It has threads of its own, and our callbacks.
    assert!(maps().contains("libmspti.so"), "it was unloaded");
}
