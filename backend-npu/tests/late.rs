//! A libmspti that is loaded when kernels were registered already. One test: it stays loaded.
#![expect(unsafe_code, reason = "loads a library and sets a variable of this process")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use backend_npu::NpuBackend;
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::record::{Kernel, Row as _};

use support::FakeMspti;
use support::session::DRAIN;

#[test]
fn kernels_that_were_registered_before_are_missing_and_this_is_told() {
    let cann = support::install("late");
    // SAFETY: this process has no other thread that reads variables.
    unsafe { std::env::set_var("ASCEND_HOME_PATH", &cann.home) };
    let acl = cann.home.join("lib64/libascendcl.so");
    // SAFETY: our own library.
    let acl = unsafe { Library::open(Some(acl), RTLD_LAZY | RTLD_LOCAL) }.expect("it loads");

    // What the other process tells of a library that works.
    let program = cann.home.join("omniprof");
    std::fs::write(&program, "#!/bin/sh\necho '{\"works\":{}}'\n").expect("a script");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let backend =
        NpuBackend::at(&cann.root, None).with_program(program).with_library(cann.library());

    let sink = Arc::new(MemorySink::default());
    let clock = Arc::new(SystemClock::new());
    let opened = backend.open(&SessionConfig::default(), Arc::clone(&sink) as _, clock);
    let mut session = opened.expect("opens");
    session.start().expect("starts");
    let line = format!("LD_PRELOAD={}", cann.library().display());
    let fake = FakeMspti::loaded(cann);
    fake.register_kernel(c"registered since");
    fake.launch(c"registered before", 10, 1);
    fake.launch(c"registered since", 10, 1);
    let summary = session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(Kernel::KIND), 10);
    let told = summary.notes.iter().any(|note| {
        note.contains("libmspti was loaded when libascendcl had been") && note.contains(&line)
    });
    assert!(told, "{:?}", summary.notes);
    drop(acl);
}
