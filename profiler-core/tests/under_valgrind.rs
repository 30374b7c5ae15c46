//! A program that is run under valgrind has another auxiliary vector than the kernel tells, and no
//! vDSO. Whoever reads the clock there must not crash it.

#![allow(clippy::print_stdout, reason = "a test says what it skips")]

use std::process::Command;

use profiler_core::clock::{ClockSource as _, SystemClock};

#[test]
fn clocks_are_read_under_valgrind() {
    let own = std::env::current_exe().expect("a path");
    let run = Command::new("valgrind")
        .args(["--tool=none", "--quiet"])
        .arg(own)
        .args(["reads_clocks", "--exact", "--ignored"])
        .output();
    match run {
        Err(error) => println!("skipped: valgrind cannot be started ({error})"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {text}{errors}", output.status);
            assert!(text.contains("1 passed"), "{text}");
        }
    }
}

#[test]
#[ignore = "run by `clocks_are_read_under_valgrind`"]
fn reads_clocks() {
    let tuple = SystemClock::new().tuple();
    assert!(tuple.monotonic > 0 && tuple.realtime > tuple.monotonic);
}
