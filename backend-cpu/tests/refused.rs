//! What is left where the kernel refuses perf events.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

mod filter;
mod support;

use std::time::Duration;

use filter::filter;
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::probe::ProbeReport;
use support::*;

const DRAIN: Duration = Duration::from_millis(500);

#[test]
#[ignore = "runs behind a seccomp filter, started by the tests below"]
fn behind_the_filter() {
    let errno = std::env::var("ERRNO").unwrap();
    let ProbeReport::Available { notes, .. } = backend_cpu::CpuBackend::new().probe() else {
        panic!("the CPU backend is available everywhere");
    };
    assert!(notes[0].contains("signal timers"), "{notes:?}");
    assert!(notes[0].contains("seccomp"), "{notes:?}");

    let sink = MemorySink::new();
    let mut session = start(&sink, &SessionConfig::default()).unwrap();
    burn(Duration::from_millis(600));
    let summary = session.stop(DRAIN).unwrap();
    let written = sink.written();
    assert_eq!(written.facts["cpu.sampler"], "signal_timer");
    let reason = &written.facts["cpu.sampler.reason"];
    println!("errno {errno}: {reason}");
    assert!(reason.contains("perf_event_open is refused"), "{reason}");
    names_the_settings(&errno, reason);
    assert!(summary.notes[0].contains("signal timers"), "{:?}", summary.notes);
    assert!(written.samples.len() > 20, "{} samples", written.samples.len());
    assert!(!written.counters.is_empty());

    // Asked for by name, perf is not silently replaced.
    let mut config = SessionConfig::default();
    config.options.insert("cpu.sampler".to_owned(), "perf_event".into());
    let sink = MemorySink::new();
    start(&sink, &config).unwrap().stop(DRAIN).unwrap();
    assert_eq!(sink.written().facts["cpu.sampler"], "none");

    // Another process cannot be sampled then; its counters can.
    let sink = MemorySink::new();
    let config = SessionConfig {
        target_pid: Some(std::os::unix::process::parent_id()),
        ..SessionConfig::default()
    };
    let mut session = start(&sink, &config).unwrap();
    wait_for("a counter", || !sink.written().counters.is_empty());
    session.stop(DRAIN).unwrap();
    assert_eq!(sink.written().facts["cpu.sampler"], "none");
    assert!(sink.written().facts["cpu.sampler.reason"].contains("perf_event_open"));
}

/// What is to be changed for perf events to be had.
fn names_the_settings(errno: &str, reason: &str) {
    if errno == libc::ENOSYS.to_string() {
        assert!(reason.contains("in the container's seccomp profile"), "{reason}");
        return;
    }
    let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    let level = level.trim();
    assert!(reason.contains(&format!("kernel.perf_event_paranoid is {level}")), "{reason}");
    assert!(reason.contains("CAP_PERFMON"), "{reason}");
    let remedy = match level.parse::<i32>().unwrap() {
        // The setting alone forbids it.
        3.. => "kernel.perf_event_paranoid=2",
        _ => "allow perf_event_open in the container's seccomp profile",
    };
    assert!(reason.contains(remedy), "{reason}");
}

#[test]
fn a_filter_that_answers_eperm_leaves_signal_timers() {
    behind(libc::EPERM);
}

#[test]
fn a_filter_that_answers_eacces_leaves_signal_timers() {
    behind(libc::EACCES);
}

#[test]
fn a_filter_that_answers_enosys_leaves_signal_timers() {
    behind(libc::ENOSYS);
}

#[test]
fn a_filter_that_kills_kills_nobody() {
    let mut command = Child::command("behind_the_deadly_filter");
    let deadly = libc::SECCOMP_RET_KILL_PROCESS;
    filter(&mut command, &[libc::SYS_perf_event_open, libc::SYS_process_vm_readv], deadly);
    println!("{}", Child::spawn(command).finish());
}

#[test]
#[ignore = "runs behind a seccomp filter, started by the test above"]
fn behind_the_deadly_filter() {
    let sink = MemorySink::new();
    let mut session = start(&sink, &SessionConfig::default()).unwrap();
    burn(Duration::from_millis(600));
    session.stop(DRAIN).unwrap();
    let written = sink.written();
    assert_eq!(written.facts["cpu.sampler"], "signal_timer");
    let reason = &written.facts["cpu.sampler.reason"];
    assert!(reason.contains("seccomp filter ends processes"), "{reason}");
    let mine = written.stacks().filter(|(sample, _)| sample.thread == thread_id());
    // A page of the stack holds the nearest callers.
    assert!(mine.filter(|(_, frames)| frames.len() > 1).count() > 10);
}

fn behind(errno: i32) {
    let mut command = Child::command("behind_the_filter");
    command.env("ERRNO", errno.to_string());
    let answer = libc::SECCOMP_RET_ERRNO | errno as u32;
    filter(&mut command, &[libc::SYS_perf_event_open], answer);
    println!("{}", Child::spawn(command).finish());
}
