//! The fallback sampler. Its handler belongs to the whole process, so that each case has one of its
//! own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use profiler_core::backend::SessionConfig;
use support::*;

const DRAIN: Duration = Duration::from_millis(500);

fn by_signals() -> SessionConfig {
    let mut config = SessionConfig::default();
    config.options.insert("cpu.sampler".to_owned(), "signal_timer".into());
    config
}

fn run(case: &str) {
    println!("{}", Child::spawn(Child::command(case)).finish());
}

#[test]
fn a_busy_function_is_sampled() {
    run("case_busy_function");
}

#[test]
#[ignore = "runs in a process of its own"]
fn case_busy_function() {
    let sink = MemorySink::new();
    let mut session = start(&sink, &by_signals()).unwrap();
    let before = thread_cpu();
    burn(Duration::from_secs(1));
    let used = thread_cpu() - before;
    session.flush().unwrap();
    wait_for("the flushed samples", || sink.sample_count() > 20);
    let summary = session.stop(DRAIN).unwrap();
    let (spent, held) = (summary.own_cpu_ns_elsewhere, summary.own_memory_bytes);
    assert!(spent > 0 && u128::from(spent) < used.as_nanos() / 10, "{spent} ns in handlers");
    assert!(held > 4 << 20, "{held} bytes, the handlers' slots among them");
    let written = sink.written();
    assert_eq!(written.facts["cpu.sampler"], "signal_timer");
    assert_eq!(written.facts["cpu.sampler.reason"], "it was asked for");
    let mine: Vec<_> = written.stacks().filter(|(s, _)| s.thread == thread_id()).collect();
    let weight: u64 = mine.iter().map(|(sample, _)| sample.weight_ns).sum();
    let share = weight as f64 / used.as_nanos() as f64;
    // The kernel looks at these timers once a tick, and a tick may be 10 ms.
    assert!((0.4..1.5).contains(&share), "{} samples stand for {share}", mine.len());
    let in_spin = mine.iter().filter(|(_, frames)| {
        let caller = frames.get(1).is_some_and(|frame| burn_range().contains(frame));
        spin_range().contains(&frames[0]) && caller
    });
    assert!(in_spin.count() > mine.len() / 2);
    assert!(mine.iter().map(|(_, frames)| frames.len()).max() > Some(5));
    let samples = sink.sample_count();
    burn(Duration::from_millis(100));
    assert_eq!(sink.sample_count(), samples, "nothing comes after stop");
}

#[test]
fn threads_that_begin_later_are_sampled_and_ours_are_not() {
    run("case_threads");
}

#[test]
#[ignore = "runs in a process of its own"]
fn case_threads() {
    let sink = MemorySink::new();
    let mut session = start(&sink, &by_signals()).unwrap();
    let busy = |name: &str| {
        let body = || {
            burn(Duration::from_millis(900));
            thread_id()
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(body).unwrap()
    };
    let (app, ours) = (busy("app-busy"), busy("omniprof-busy"));
    let (app, ours) = (app.join().unwrap(), ours.join().unwrap());
    // Threads that end with their timers running.
    for _ in 0..50 {
        let body = || burn(Duration::from_millis(5));
        std::thread::Builder::new().spawn(body).unwrap().join().unwrap();
    }
    session.stop(DRAIN).unwrap();
    let written = sink.written();
    let of = |thread| written.samples.iter().filter(|s| s.thread == thread).count();
    assert!(of(app) > 10, "{} samples", of(app));
    assert_eq!(of(ours), 0);
}

#[test]
fn two_sessions_and_many_in_turn_share_the_handler() {
    run("case_sessions");
}

#[test]
#[ignore = "runs in a process of its own"]
fn case_sessions() {
    let (one, two) = (MemorySink::new(), MemorySink::new());
    let mut first = start(&one, &by_signals()).unwrap();
    let mut second = start(&two, &by_signals()).unwrap();
    burn(Duration::from_millis(400));
    first.stop(DRAIN).unwrap();
    burn(Duration::from_millis(300));
    second.stop(DRAIN).unwrap();
    assert!(one.sample_count() > 5 && two.sample_count() > one.sample_count());
    for _ in 0..30 {
        start(&one, &by_signals()).unwrap().stop(DRAIN).unwrap();
    }
    drop(start(&one, &by_signals()).unwrap());
    burn(Duration::from_millis(50));
    // More than the handler serves at once: the rest says so and records its counters.
    let mut sessions: Vec<_> = (0..6).map(|_| start(&one, &by_signals()).unwrap()).collect();
    assert!(one.written().facts["cpu.sampler.reason"].contains("as many sessions"));
    for session in &mut sessions {
        session.stop(DRAIN).unwrap();
    }
}

#[test]
fn a_handler_that_was_there_is_called_and_comes_back() {
    run("case_previous_handler");
}

static CALLS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn theirs(_signal: i32) {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "signal handlers have no safe form")]
fn handler_address() -> usize {
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `action` has room for the answer; nothing is changed.
    let answer = unsafe { libc::sigaction(libc::SIGPROF, std::ptr::null(), &raw mut action) };
    assert_eq!(answer, 0);
    action.sa_sigaction
}

fn signal_ourselves() {
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::PROF).unwrap();
}

#[test]
#[ignore = "runs in a process of its own"]
#[expect(unsafe_code, reason = "signal handlers have no safe form")]
fn case_previous_handler() {
    let handler: extern "C" fn(i32) = theirs;
    // SAFETY: `theirs` does what a handler may.
    unsafe { libc::signal(libc::SIGPROF, handler as usize) };
    let sink = MemorySink::new();
    let mut session = start(&sink, &by_signals()).unwrap();
    assert_ne!(handler_address(), handler as usize);
    signal_ourselves();
    wait_for("their handler to be called", || CALLS.load(Ordering::Relaxed) == 1);
    burn(Duration::from_millis(300));
    session.stop(DRAIN).unwrap();
    assert!(sink.sample_count() > 5);
    assert_eq!(handler_address(), handler as usize, "their handler is back");
    signal_ourselves();
    wait_for("their handler to be called", || CALLS.load(Ordering::Relaxed) == 2);
}

#[test]
fn a_signal_after_the_session_ends_no_process() {
    run("case_late_signal");
}

#[test]
#[ignore = "runs in a process of its own"]
fn case_late_signal() {
    let sink = MemorySink::new();
    start(&sink, &by_signals()).unwrap().stop(DRAIN).unwrap();
    // The default action would end the process here.
    signal_ourselves();
    burn(Duration::from_millis(20));
}

#[test]
fn a_child_of_the_process_is_inert() {
    run("case_fork");
}

#[test]
#[ignore = "runs in a process of its own"]
#[expect(unsafe_code, reason = "fork has no safe form")]
fn case_fork() {
    for config in [by_signals(), SessionConfig::default()] {
        let sink = MemorySink::new();
        let mut session = start(&sink, &config).unwrap();
        burn(Duration::from_millis(50));
        // SAFETY: the child makes no call that another thread's lock could hold up: the session
        // looks at its own state and the pid.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let refused = session.flush().is_err();
            drop(session);
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(if refused { 7 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: `status` has room for the answer.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 7);
        session.stop(DRAIN).unwrap();
    }
}
