//! Recording another process.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

mod support;

use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use profiler_core::backend::SessionConfig;
use support::*;

const DRAIN: Duration = Duration::from_millis(500);

fn target(pid: u32) -> SessionConfig {
    SessionConfig { target_pid: Some(pid), ..SessionConfig::default() }
}

#[test]
#[ignore = "runs in a process of its own, started by the tests below"]
fn spinning_child() {
    end_with_parent();
    println!("spinning at {:x} in thread {}", spin_range().start, thread_id());
    loop {
        burn(Duration::from_millis(50));
    }
}

fn spinning() -> (Child, u64) {
    let mut child = Child::spawn(Child::command("spinning_child"));
    let address = child.wait_for_line("spinning at ");
    let address = address.split_whitespace().next().unwrap();
    (child, u64::from_str_radix(address, 16).unwrap())
}

#[test]
fn a_spinning_child_is_sampled_with_its_own_addresses() {
    let (child, address) = spinning();
    let sink = MemorySink::new();
    let mut session = start(&sink, &target(child.pid())).unwrap();
    if sink.written().facts["cpu.sampler"] == "none" {
        return skipped(&sink.written().facts["cpu.sampler.reason"]);
    }
    wait_for("samples of the child", || {
        session.flush().unwrap();
        sink.sample_count() > 40
    });
    let summary = session.stop(DRAIN).unwrap();
    assert_eq!(summary.notes, [] as [&str; 0]);
    let written = sink.written();
    let inside = written.stacks().filter(|(_, f)| (address..address + 512).contains(&f[0]));
    assert!(inside.count() > 30);
    let (module, path, _) = written.module(address).unwrap();
    assert_eq!(module.process, child.pid());
    assert_eq!(path, std::env::current_exe().unwrap().to_str().unwrap());
    let names = written.counter_names();
    assert!(names["cpu time"].0 > 0.0);
    assert!(names["resident memory"].0 > 0.0);
    // The kernel adds up context switches for the calling process only.
    let of_main = |(stream, counter): &(_, profiler_core::record::Counter)| {
        let name = &written.strings[&(*stream, counter.name.0)];
        name != "voluntary context switches" || counter.thread == child.pid()
    };
    assert!(written.counters.iter().all(of_main));
    child.kill();
}

#[test]
fn a_child_that_ends_ends_no_session() {
    let (child, _) = spinning();
    let pid = child.pid();
    let sink = MemorySink::new();
    let mut session = start(&sink, &target(pid)).unwrap();
    wait_for("a counter", || !sink.written().counters.is_empty());
    child.kill();
    session.flush().unwrap();
    let summary = session.stop(DRAIN).unwrap();
    assert!(summary.notes.iter().any(|note| note.contains("ended")), "{:?}", summary.notes);
    assert_eq!(sink.written().facts["cpu.target"], "ended");
}

#[test]
fn a_child_that_becomes_another_program_is_followed() {
    if !perf_allowed() {
        return skipped("perf events are refused here");
    }
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "read go; exec /bin/sh -c 'while :; do :; done'"]);
    command.stdout(std::process::Stdio::piped()).stdin(std::process::Stdio::piped());
    let mut child = Child::spawn(command);
    let sink = MemorySink::new();
    let mut session = start(&sink, &target(child.pid())).unwrap();
    wait_for("the first modules", || !sink.written().modules.is_empty());
    let before = sink.written().modules.len();
    child.say("go\n");
    wait_for("samples and modules of the new program", || {
        session.flush().unwrap();
        let written = sink.written();
        let known = |frames: &[u64]| written.module(frames[0]).is_some();
        written.modules.len() > before && written.stacks().any(|(_, frames)| known(frames))
    });
    session.stop(DRAIN).unwrap();
    child.kill();
}

#[test]
fn a_process_that_is_not_there_is_named() {
    let sink = MemorySink::new();
    // Beyond the largest pid that a kernel gives.
    let error = start(&sink, &target(0x7fff_fffe)).err().expect("no session");
    assert_eq!(error.code(), "no_such_process");
    assert!(error.to_string().contains("2147483646"), "{error}");
    assert_eq!(sink.written().streams.len(), 0);
}

#[test]
fn signal_timers_never_reach_another_process() {
    let (child, _) = spinning();
    let mut config = target(child.pid());
    config.options.insert("cpu.sampler".to_owned(), "signal_timer".into());
    let sink = MemorySink::new();
    let mut session = start(&sink, &config).unwrap();
    let summary = session.stop(DRAIN).unwrap();
    assert_eq!(sink.written().facts["cpu.sampler"], "none");
    assert!(summary.notes[0].contains("only the process that embeds them"));
    config.counters = false;
    let error = start(&sink, &config).err().expect("nothing is left to record");
    assert_eq!(error.code(), "permission");
    child.kill();
}

#[test]
#[ignore = "runs as another user, started by the test below"]
fn recording_a_foreign_process() {
    let pid: u32 = std::env::var("TARGET").unwrap().parse().unwrap();
    let sink = MemorySink::new();
    let mut session = start(&sink, &target(pid)).unwrap();
    wait_for("a counter", || !sink.written().counters.is_empty());
    let summary = session.stop(DRAIN).unwrap();
    let written = sink.written();
    assert_eq!(written.facts["cpu.sampler"], "none");
    let reason = &written.facts["cpu.sampler.reason"];
    println!("the reason is: {reason}");
    assert!(reason.contains("owner") || reason.contains("perf_event_paranoid"), "{reason}");
    assert!(summary.notes[0].contains(reason));
    let config = SessionConfig { counters: false, ..target(pid) };
    assert_eq!(start(&sink, &config).err().expect("no session").code(), "permission");
}

#[test]
fn a_process_of_another_user_gives_counters_and_a_reason() {
    if !rustix::process::geteuid().is_root() {
        return skipped("only root can start a process of another user");
    }
    let (child, _) = spinning();
    let Some(binary) = readable_copy() else {
        return skipped("no directory that another user can read");
    };
    let mut command = Child::command("recording_a_foreign_process");
    let mut as_nobody = std::process::Command::new(binary.path().join("test"));
    as_nobody.args(command.get_args()).env("TARGET", child.pid().to_string());
    as_nobody.stdout(std::process::Stdio::piped()).uid(65_534).gid(65_534);
    command = as_nobody;
    println!("{}", Child::spawn(command).finish());
    child.kill();
}

/// This test binary where everybody can read it.
fn readable_copy() -> Option<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().ok()?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open.clone()).ok()?;
    let path = directory.path().join("test");
    // Written by another process: a descriptor of this one may be open in a child that another test
    // has just forked, and a file that somebody may write cannot be run.
    let copied =
        std::process::Command::new("cp").arg(std::env::current_exe().ok()?).arg(&path).status();
    assert!(copied.ok()?.success(), "the copy is made");
    std::fs::set_permissions(&path, open).ok()?;
    Some(directory)
}
