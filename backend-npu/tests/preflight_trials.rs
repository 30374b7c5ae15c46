//! The process that tries a library: how long it may take, how it may end, when it is asked again.

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use backend_npu::NpuBackend;

use support::session::refusal;
use support::{FakeCann, install};

/// A program that notes its number, and then does this.
fn program(cann: &FakeCann, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let text = format!("#!/bin/sh\necho $$ >> '{}'\n{script}\n", cann.home.join("pids").display());
    let path = cann.home.join("omniprof");
    std::fs::write(&path, text).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

/// The numbers of the programs that ran.
fn pids(cann: &FakeCann) -> Vec<u32> {
    let text = std::fs::read_to_string(cann.home.join("pids")).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

fn backend(cann: &FakeCann, script: &str) -> NpuBackend {
    let program = program(cann, script);
    NpuBackend::at(&cann.root, None).with_program(program).with_library(cann.library())
}

#[test]
fn without_further_word_it_has_five_seconds_and_is_gone_afterwards() {
    let cann = install("five-seconds");
    let begin = Instant::now();
    let error = refusal(&backend(&cann, "exec sleep 600"));
    assert!(begin.elapsed() >= Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(error.code(), "library_hangs", "{error}");
    assert!(error.to_string().contains("after 5.0 s and was killed"), "{error}");
    let [pid] = pids(&cann)[..] else { panic!("{:?}", pids(&cann)) };
    // Killed, and waited for: not even a zombie is left.
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid}");
}

#[test]
fn each_signal_that_ends_it_is_named() {
    for (signal, name) in [
        ("SEGV", "signal 11 (SIGSEGV)"),
        ("BUS", "signal 7 (SIGBUS)"),
        ("ABRT", "signal 6 (SIGABRT)"),
        ("KILL", "signal 9 (SIGKILL)"),
        ("TERM", "signal 15 while"),
    ] {
        let cann = install(&format!("signal-{signal}"));
        let error = refusal(&backend(&cann, &format!("kill -{signal} $$")));
        assert_eq!(error.code(), "library_crashes", "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.to_string().contains("this process was spared"), "{error}");
    }
}

/// A library is known by its path, its size and when it was changed, each by itself.
#[test]
fn a_file_that_differs_in_size_or_in_time_or_in_place_is_tried_anew() {
    let cann = install("tried-anew");
    let asked = backend(&cann, "exit 3");
    let times = || {
        assert_eq!(refusal(&asked).code(), "library_crashes");
        pids(&cann).len()
    };
    assert_eq!([times(), times()], [1, 1]);
    let library = cann.library();
    let changed = std::fs::metadata(&library).and_then(|meta| meta.modified()).expect("a time");
    let set = |time: SystemTime| {
        let file = File::options().append(true).open(&library).expect("the library");
        file.set_modified(time).expect("its time is set");
    };

    // Another time, the same bytes.
    set(changed + Duration::from_secs(1));
    assert_eq!([times(), times()], [2, 2]);

    // Another size, the same time.
    let mut bytes = std::fs::read(&library).expect("read");
    bytes.push(0);
    std::fs::write(&library, bytes).expect("written");
    set(changed + Duration::from_secs(1));
    assert_eq!([times(), times()], [3, 3]);

    // The same file at another place.
    let elsewhere = cann.home.join("elsewhere");
    std::fs::create_dir_all(&elsewhere).expect("a folder");
    let moved = elsewhere.join("libmspti.so");
    std::fs::copy(&library, &moved).expect("a copy");
    let file = File::options().append(true).open(&moved).expect("the copy");
    file.set_modified(changed + Duration::from_secs(1)).expect("its time is set");
    let asked = asked.with_library(moved);
    for _ in 0..2 {
        assert_eq!(refusal(&asked).code(), "library_crashes");
        assert_eq!(pids(&cann).len(), 4);
    }
}
