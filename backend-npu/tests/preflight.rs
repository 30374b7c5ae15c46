//! Libraries that another process tries before this one loads them.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backend_npu::NpuBackend;
use profiler_core::backend::ProfilerBackend as _;
use profiler_core::error::BackendError;

use support::session::refusal;
use support::{FakeCann, install, other_library, program};

/// A program that sets variables and becomes the one that tries.
fn program_with(cann: &FakeCann, variables: &[(&str, &str)]) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let mut script = "#!/bin/sh\nunset ASCEND_HOME_PATH LD_LIBRARY_PATH\n".to_owned();
    for (name, value) in variables {
        script.push_str(&format!("export {name}='{value}'\n"));
    }
    script.push_str(&format!("echo ran >> '{}'\n", runs(cann).display()));
    script.push_str(&format!("exec '{}' \"$@\"\n", program().display()));
    let path = cann.home.join("omniprof");
    std::fs::write(&path, script).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

fn runs(cann: &FakeCann) -> PathBuf {
    cann.home.join("runs")
}

fn times_run(cann: &FakeCann) -> usize {
    std::fs::read_to_string(runs(cann)).unwrap_or_default().lines().count()
}

fn backend(cann: &FakeCann, program: PathBuf, library: PathBuf) -> NpuBackend {
    NpuBackend::at(&cann.root, None).with_program(program).with_library(library)
}

fn home(cann: &FakeCann) -> &str {
    cann.home.to_str().expect("UTF-8")
}

fn assert_reason(error: &BackendError, code: &str, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn each_missing_companion_is_a_reason_and_never_a_crash() {
    for (companion, remedy) in [
        ("libprofapi.so", "set_env.sh"),
        ("libascendalog.so", "set_env.sh"),
        ("libascend_hal.so", "Ascend driver"),
    ] {
        let cann = install(&format!("without-{companion}"));
        std::fs::remove_file(cann.home.join("lib64").join(companion)).expect("removed");
        let program = program_with(&cann, &[("ASCEND_HOME_PATH", home(&cann))]);
        let error = refusal(&backend(&cann, program, cann.library()));
        assert_reason(&error, "companion_missing", &[companion, remedy]);
    }
}

#[test]
fn a_companion_without_a_function_that_is_called_is_named_with_it() {
    let cann = install("old-companion");
    // The stand-in for libmspti has none of the driver's functions.
    let lib = cann.home.join("lib64");
    std::fs::copy(lib.join("libmspti.so"), lib.join("libascend_hal.so")).expect("a copy");
    let program =
        program_with(&cann, &[("ASCEND_HOME_PATH", home(&cann)), ("FAKE_MSPTI_CRASH", "no")]);
    let error = refusal(&backend(&cann, program, cann.library()));
    assert_reason(&error, "companion_too_old", &["libascend_hal.so", "halGetAPIVersion"]);
}

#[test]
fn a_library_that_ends_its_process_ends_that_of_the_trial_alone() {
    for (how, step) in [("load", "while loading"), ("call", "while subscribing")] {
        let cann = install(&format!("crash-{how}"));
        let variables = [("ASCEND_HOME_PATH", home(&cann)), ("FAKE_MSPTI_CRASH", how)];
        let error = refusal(&backend(&cann, program_with(&cann, &variables), cann.library()));
        assert_reason(&error, "library_crashes", &["SIGABRT", step, "this process was spared"]);
    }
}

#[test]
fn a_library_that_hangs_is_killed_and_told_while_probing_waits_a_second_at_most() {
    let cann = install("hang");
    let variables = [("ASCEND_HOME_PATH", home(&cann)), ("FAKE_MSPTI_CRASH", "hang")];
    let backend = backend(&cann, program_with(&cann, &variables), cann.library())
        .with_trial_limit(Duration::from_secs(2));
    let begin = Instant::now();
    let probed = format!("{:?}", backend.probe());
    assert!(probed.contains("preflight_running"), "{probed}");
    assert!(begin.elapsed() < Duration::from_millis(1_900), "{:?}", begin.elapsed());
    let error = refusal(&backend);
    assert_reason(&error, "library_hangs", &["still loading", "2.0 s and was killed"]);
    assert_eq!(times_run(&cann), 1, "the second answer is the first trial's");
}

#[test]
fn a_verdict_holds_until_the_file_changes() {
    let cann = install("cached");
    let variables = [("ASCEND_HOME_PATH", home(&cann)), ("FAKE_MSPTI_CRASH", "load")];
    let backend = backend(&cann, program_with(&cann, &variables), cann.library());
    for _ in 0..3 {
        assert_eq!(refusal(&backend).code(), "library_crashes");
    }
    assert_eq!(times_run(&cann), 1);
    let mut bytes = std::fs::read(cann.library()).expect("read");
    bytes.push(0);
    std::fs::write(cann.library(), bytes).expect("written");
    assert_eq!(refusal(&backend).code(), "library_crashes");
    assert_eq!(times_run(&cann), 2);
}

#[test]
fn an_old_cann_says_before_any_start_that_it_must_be_preloaded() {
    let cann = install("old-cann");
    let variables = [("ASCEND_HOME_PATH", home(&cann)), ("FAKE_MSPTI_CANN", "82")];
    let backend = backend(&cann, program_with(&cann, &variables), cann.library());
    let line = format!("LD_PRELOAD={}", cann.library().display());
    assert_reason(&refusal(&backend), "needs_ld_preload", &[&line]);
    let probed = format!("{:?}", backend.probe());
    assert!(probed.contains("needs_ld_preload") && probed.contains(&line), "{probed}");
}

#[test]
fn what_is_no_libmspti_is_told_as_such() {
    let cann = install("other");
    let folder = cann.home.join("other");
    std::fs::create_dir_all(&folder).expect("a folder");
    let program = program_with(&cann, &[("ASCEND_HOME_PATH", home(&cann))]);
    let text = other_library(&folder, b"no library at all");
    let error = refusal(&backend(&cann, program.clone(), text));
    assert_reason(&error, "library", &["libmspti.so cannot be used"]);

    let companion = std::fs::read(cann.home.join("lib64/libprofapi.so")).expect("read");
    let error = refusal(&backend(&cann, program, other_library(&folder, &companion)));
    assert_reason(&error, "symbol_missing", &["msptiSubscribe", "OMNIPROF_LIBMSPTI"]);
}

#[test]
fn no_library_and_no_program_are_reasons_that_say_what_to_do() {
    let cann = install("nothing");
    let missing = cann.home.join("nowhere/libmspti.so");
    let error = refusal(&backend(&cann, program(), missing));
    assert_reason(&error, "library_missing", &["nowhere/libmspti.so", "set_env.sh"]);

    let error = refusal(&backend(&cann, cann.home.join("no-program"), cann.library()));
    assert_reason(&error, "preflight_failed", &["cannot start", "no-program"]);
    let silent = PathBuf::from("/bin/true");
    if Path::new(&silent).exists() {
        let error = refusal(&backend(&cann, silent, cann.library()));
        assert_reason(&error, "library_crashes", &["ended without an answer"]);
    }
}
