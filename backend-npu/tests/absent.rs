//! Libraries and programs that are not there, or lack what is called. One test: variables are the
//! process's, and what is loaded is found by all that comes after it.
#![expect(unsafe_code, reason = "sets variables of this process")]

mod support;

use std::path::Path;
use std::sync::Arc;

use backend_npu::NpuBackend;
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;

fn open_aclprof(root: &Path) -> BackendError {
    let options = [("npu.path".to_owned(), "aclprof".into())].into();
    let config = SessionConfig { options, ..SessionConfig::default() };
    let (sink, clock) = (Arc::new(MemorySink::default()), Arc::new(SystemClock::new()));
    let opened = NpuBackend::at(root, None).open(&config, sink, clock);
    opened.map(drop).expect_err("does not open")
}

#[test]
fn each_is_a_reason_that_says_what_to_do() {
    let cann = support::install("absent");
    let empty = tempfile::tempdir().expect("a folder");
    // SAFETY: this process has no other thread that reads variables.
    unsafe { std::env::set_var("OMNIPROF_BIN_DIR", empty.path()) };
    // SAFETY: as above.
    unsafe { std::env::set_var("ASCEND_HOME_PATH", empty.path()) };

    let error = open_aclprof(&cann.root);
    assert_eq!(error.code(), "library_missing");
    let text = error.to_string();
    assert!(text.contains("libmsprofiler.so") && text.contains("set_env.sh"), "{text}");

    let library = cann.library();
    let report = NpuBackend::at(&cann.root, None).with_library(library.clone()).probe();
    let ProbeReport::Unavailable { reason } = report else { panic!("{report:?}") };
    assert_eq!(reason.code, "preflight_missing");
    assert!(reason.message.contains(&library.display().to_string()), "{}", reason.message);
    assert!(reason.remedy.contains("OMNIPROF_BIN_DIR"), "{}", reason.remedy);

    // SAFETY: as above.
    unsafe { std::env::set_var("ASCEND_HOME_PATH", &cann.home) };
    for name in ["libmsprofiler.so", "libascendcl.so"] {
        support::hide(&cann.home.join("lib64").join(name), &["aclprofDestroyConfig"]);
    }
    let error = open_aclprof(&cann.root);
    assert_eq!(error.code(), "symbol_missing");
    let text = error.to_string();
    assert!(text.contains("has no aclprofDestroyConfig"), "{text}");
    assert!(text.contains("libmsprofiler.so and ") && text.contains("set_env.sh"), "{text}");
}
