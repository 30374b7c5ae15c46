//! What is left where the kernel refuses perf events.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

mod support;

use std::time::Duration;

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

#[test]
fn a_filter_that_answers_eperm_leaves_signal_timers() {
    behind(libc::EPERM);
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

/// Gives the command's process a filter that has an answer of its own for some calls, as container
/// runtimes do.
#[expect(unsafe_code, reason = "seccomp filters have no safe form")]
fn filter(command: &mut std::process::Command, calls: &[libc::c_long], answer: u32) {
    use std::os::unix::process::CommandExt as _;
    let statement =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the system call is the first word of `seccomp_data`.
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        filter.push(statement(equal, 0, 1, *call as u32));
        filter.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, answer));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: sets a flag of the process and reads no memory.
        let locked = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: `program` and the filter it names outlive the call, which copies them.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        };
        match (locked, installed) {
            (0, 0) => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure allocates nothing and makes system calls only, as it must after fork.
    unsafe { command.pre_exec(install) };
}
