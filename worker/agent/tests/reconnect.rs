//! Controllers that come and go.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{
    FakeController, PATIENCE, SpoolFile, arm, builder, eventually, kinds, spool_file, turn,
};
use profiler_agent::Agent;
use profiler_agent::link::Connection;
use profiler_core::clock::{ClockSource, ManualClock, SystemClock};
use profiler_core::control::{
    AgentRequest, Arm, COMMIT_DEADLINE_MS, Commit, FromAgent, Hello, MAX_COMMIT_WITHIN_MS,
    ORPHAN_LIMIT_MS, Stop, ToAgent, WorkerError, WorkerState,
};

fn socket_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    folder
}

fn listen(folder: &Path) -> UnixListener {
    let path = folder.join("omniprof.sock");
    if path.exists() {
        std::fs::remove_file(&path).unwrap();
    }
    UnixListener::bind(path).unwrap()
}

fn accept(listener: &UnixListener) -> (FakeController, Hello) {
    let (stream, _) = listener.accept().unwrap();
    let link = Connection::new(stream);
    assert_eq!(link.check_peer().unwrap().pid, std::process::id());
    FakeController::welcome(link)
}

#[test]
fn an_agent_waits_for_its_controller_and_meets_the_next_one() {
    let _turn = turn();
    let folder = socket_folder();
    let agent = builder().socket_dir(folder.path()).connect().unwrap();
    assert_eq!(agent.wait_for_controller(Duration::from_millis(1)), Ok(false));
    for _ in 0..2 {
        let listener = listen(folder.path());
        let (controller, hello) = accept(&listener);
        assert_eq!(hello.worker, agent.worker());
        assert_eq!(agent.wait_for_controller(PATIENCE), Ok(true));
        drop(controller);
        drop(listener);
    }
}

#[test]
fn the_next_controller_adopts_a_session() {
    let _turn = turn();
    let folder = socket_folder();
    let _agent = builder().socket_dir(folder.path()).connect().unwrap();
    let listener = listen(folder.path());
    let (mut controller, _) = accept(&listener);
    let spool = spool_file();
    controller.arm(arm(3), Some(&spool.file)).unwrap();
    let t0 = controller.commit(3).unwrap();
    drop(controller);

    let (mut next, hello) = accept(&listener);
    let session = hello.session.unwrap();
    assert_eq!((session.session.as_str(), session.fence), ("session-3", 3));
    assert_eq!(session.state, WorkerState::Recording);
    let t1 = next.stop(3).unwrap();
    let (result, _) = next.finished();
    assert_eq!(result.windows, [(t0, Some(t1))]);
    assert_eq!(result.error, None);
}

/// An agent whose time passes as the test says.
fn agent_by_its_own_clock() -> (tempfile::TempDir, Arc<ManualClock>, Agent) {
    let folder = socket_folder();
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let agent = builder()
        .socket_dir(folder.path())
        .clock(Arc::clone(&clock) as Arc<dyn ClockSource>)
        .connect()
        .unwrap();
    (folder, clock, agent)
}

fn has_its_end(spool: &SpoolFile) -> bool {
    let reader = profiler_core::spool::SpoolReader::open(&spool.path);
    reader.is_ok_and(|mut reader| {
        while let Ok(Some(_)) = reader.next_block() {}
        reader.is_closed()
    })
}

/// How far the clock goes until the spool has its end.
fn ms_until_its_end(clock: &ManualClock, spool: &SpoolFile) -> u64 {
    // The clock moves in small steps, for when the link's end is seen is not known.
    let mut passed_ms = 0;
    assert!(eventually(|| {
        clock.advance(500_000_000);
        passed_ms += 500;
        has_its_end(spool)
    }));
    passed_ms
}

#[test]
fn one_that_is_refused_again_and_again_has_no_controller() {
    let _turn = turn();
    let (folder, clock, agent) = agent_by_its_own_clock();
    let listener = listen(folder.path());
    let (mut controller, _) = accept(&listener);
    let spool = spool_file();
    let patient = Arm { commit_within_ms: MAX_COMMIT_WITHIN_MS, ..arm(1) };
    controller.arm(patient, Some(&spool.file)).unwrap();
    drop(controller);
    for _ in 0..4 {
        let (stream, _) = listener.accept().unwrap();
        let link = Connection::new(stream);
        link.recv_timeout::<FromAgent>(PATIENCE).unwrap();
        let error = WorkerError::new("too_many_workers", "1024 workers have joined already");
        link.send(&ToAgent::Refused { error }, None).unwrap();
        // Once the agent has seen the end of the link before.
        clock.advance(COMMIT_DEADLINE_MS / 2 * 1_000_000);
    }
    assert!(eventually(|| has_its_end(&spool)), "each refusal begins the time anew");
    drop(agent);
}

#[test]
fn one_that_is_ready_does_not_wait_for_a_controller_that_is_gone() {
    let _turn = turn();
    let (folder, clock, agent) = agent_by_its_own_clock();
    let listener = listen(folder.path());
    let (mut controller, _) = accept(&listener);
    let spool = spool_file();
    let patient = Arm { commit_within_ms: MAX_COMMIT_WITHIN_MS, ..arm(1) };
    controller.arm(patient, Some(&spool.file)).unwrap();
    drop(listener);
    drop(controller);
    let passed_ms = ms_until_its_end(&clock, &spool);
    assert!((COMMIT_DEADLINE_MS..MAX_COMMIT_WITHIN_MS).contains(&passed_ms), "{passed_ms} ms");
    drop(agent);
}

#[test]
fn an_orphan_records_to_its_limit_and_its_result_is_told_later() {
    let _turn = turn();
    let (folder, clock, agent) = agent_by_its_own_clock();
    let listener = listen(folder.path());
    let (mut controller, _) = accept(&listener);
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.ask(AgentRequest::Commit(Commit { fence: 1, t0: clock.now() }), None).unwrap();
    // The controller is killed: nobody listens any more.
    drop(listener);
    drop(controller);
    let passed_ms = ms_until_its_end(&clock, &spool);
    assert!(passed_ms >= ORPHAN_LIMIT_MS, "ended after {passed_ms} ms");

    let listener = listen(folder.path());
    let (mut next, hello) = accept(&listener);
    assert_eq!(hello.session, None);
    let (result, _) = next.finished();
    assert_eq!(result.stopped_by, "orphan");
    assert!(result.spool_closed);
    assert!(!kinds(&spool.path).is_empty());
    drop(agent);
}

#[test]
fn a_result_is_told_again_until_a_controller_shows_that_it_lives() {
    let _turn = turn();
    let folder = socket_folder();
    let _agent = builder().socket_dir(folder.path()).connect().unwrap();
    let listener = listen(folder.path());
    let (mut controller, _) = accept(&listener);
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    let stop = Stop { fence: 1, t1: SystemClock::new().now(), reason: "request".to_owned() };
    controller.ask(AgentRequest::Stop(stop), None).unwrap();
    let (first, _) = controller.finished();
    drop(controller);

    let (mut next, _) = accept(&listener);
    let (second, _) = next.finished();
    assert_eq!(first, second);
    next.ask(AgentRequest::Status, None).unwrap();
    drop(next);

    let (mut last, _) = accept(&listener);
    last.ask(AgentRequest::Status, None).unwrap();
    assert!(last.events.is_empty(), "{:?}", last.events);
}
