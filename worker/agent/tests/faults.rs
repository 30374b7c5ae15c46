//! What goes wrong: bad requests, bad files, bad backends, bad peers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::faulty::{DRAINED, FLUSHES, Fault, STARTS, faulty};
use common::{
    FakeController, PATIENCE, SpoolFile, arm, builder, connect, eventually, kinds, next_fence,
    rows, spool_file, turn,
};
use profiler_agent::link::Connection;
use profiler_agent::{Agent, AgentError};
use profiler_core::backend::BackendId;
use profiler_core::clock::{ClockSource, Instant, ManualClock, SystemClock};
use profiler_core::control::{
    AgentEvent, AgentReply, AgentRequest, Arm, FromAgent, MAX_COMMIT_WITHIN_MS, OnUnavailable,
    Outcome, ToAgent, WorkerState,
};
use profiler_core::record::{ClockTuple, Window, WindowEdge};
use profiler_core::schedule::{Limits, Schedule, StepSource};

fn assert_idle(controller: &mut FakeController) {
    match controller.ask(AgentRequest::Status, None).unwrap() {
        AgentReply::Status { session: None } => {}
        other => panic!("not idle: {other:?}"),
    }
}

#[test]
fn a_device_that_cannot_start_fails_the_arm_or_degrades_it() {
    let _turn = turn();
    for (fault, code) in
        [(Fault::Open, "busy"), (Fault::Start, "vendor"), (Fault::StartPanic, "backend_panicked")]
    {
        let (builder, _) = faulty(fault);
        let (_agent, mut controller, _) = connect(builder);
        let spool = spool_file();
        let error = controller.arm(arm(1), Some(&spool.file)).unwrap_err();
        assert_eq!(error.code, code);
        assert_idle(&mut controller);

        // Nothing is left behind: the fence is as good as new.
        let spool = spool_file();
        let mut degrading = arm(1);
        degrading.capture.on_unavailable = OnUnavailable::Degrade;
        let armed = controller.arm(degrading, Some(&spool.file)).unwrap();
        assert_eq!(armed.degraded.unwrap().code, code);
        assert_eq!(armed.backend, None);
        controller.commit(1).unwrap();
        controller.stop(1).unwrap();
        let (result, _) = controller.finished();
        assert_eq!(result.degraded.unwrap().code, code);
        assert_eq!(result.error, None);
    }
}

#[test]
fn a_device_that_was_asked_for_must_be_there_and_one_that_was_not_need_not() {
    let _turn = turn();
    let (builder, opened) = faulty(Fault::Unavailable);
    let (_agent, mut controller, _) = connect(builder);
    for (name, code) in [("faulty", "no_driver"), ("other", "no_such_backend")] {
        let spool = spool_file();
        let mut forced = arm(next_fence());
        forced.capture.backend = Some(BackendId::parse(name).unwrap());
        let error = controller.arm(forced, Some(&spool.file)).unwrap_err();
        assert_eq!(error.code, code, "{error}");
    }
    let mut required = arm(next_fence());
    required.capture.device_required = true;
    let spool = spool_file();
    let error = controller.arm(required.clone(), Some(&spool.file)).unwrap_err();
    assert_eq!(error.code, "no_driver", "{error}");
    assert!(error.message.contains("there is no driver"), "{error}");
    assert_idle(&mut controller);

    required.capture.on_unavailable = OnUnavailable::Degrade;
    let spool = spool_file();
    let armed = controller.arm(required.clone(), Some(&spool.file)).unwrap();
    assert_eq!((armed.backend, armed.degraded.unwrap().code), (None, "no_driver".to_owned()));
    controller.commit(required.fence).unwrap();
    controller.stop(required.fence).unwrap();
    let (result, _) = controller.finished();
    assert_eq!((result.degraded.unwrap().code.as_str(), result.error), ("no_driver", None));

    let spool = spool_file();
    let armed = controller.arm(arm(50), Some(&spool.file)).unwrap();
    assert_eq!((armed.backend, armed.degraded), (None, None));
    assert!(armed.why.contains("there is no driver"), "{}", armed.why);
    assert_eq!(opened.load(Ordering::SeqCst), 0);
}

#[test]
fn a_backend_that_panics_is_not_used_again_and_the_process_lives() {
    let _turn = turn();
    for fault in [Fault::FlushPanic, Fault::StopPanic] {
        let (builder, opened) = faulty(fault);
        let (_agent, mut controller, _) = connect(builder);
        let spool = spool_file();
        controller.arm(arm(1), Some(&spool.file)).unwrap();
        controller.commit(1).unwrap();
        let before = FLUSHES.load(Ordering::SeqCst);
        assert!(eventually(|| FLUSHES.load(Ordering::SeqCst) > before), "it is flushed");
        controller.stop(1).unwrap();
        let (result, states) = controller.finished();
        assert_eq!(result.error.unwrap().code, "backend_panicked");
        assert_eq!(states.last(), Some(&WorkerState::Failed));
        assert!(result.spool_closed);
        let again = spool_file();
        let error = controller.arm(arm(2), Some(&again.file)).unwrap_err();
        assert_eq!(error.code, "backend_panicked");
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }
    {
        let (builder, _) = faulty(Fault::ProbePanic);
        let (_agent, mut controller, hello) = connect(builder);
        assert!(!hello.backends[0].report.is_available());
        let spool = spool_file();
        let error = controller.arm(arm(1), Some(&spool.file)).unwrap_err();
        assert_eq!(error.code, "backend_panicked");
    }
    let (builder, _) = faulty(Fault::DropPanic);
    let (_agent, mut controller, _) = connect(builder);
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    controller.stop(1).unwrap();
    assert!(controller.finished().0.spool_closed);
}

#[test]
fn a_device_that_was_used_and_gave_nothing_is_no_success() {
    let _turn = turn();
    let (builder, _) = faulty(Fault::Unrecorded);
    let (_agent, mut controller, _) = connect(builder);
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    controller.stop(1).unwrap();
    assert_eq!(controller.finished().0.degraded.unwrap().code, "no_device_records");
}

#[test]
fn spools_that_cannot_be_written_are_refused() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    let code = |controller: &mut FakeController, arm: Arm, file: Option<&File>| {
        let error = controller.arm(arm, file).unwrap_err();
        assert_idle(controller);
        error.code
    };
    assert_eq!(code(&mut controller, arm(1), None), "no_spool");
    let spool = spool_file();
    let read_only = File::open(&spool.path).unwrap();
    assert_eq!(code(&mut controller, arm(1), Some(&read_only)), "spool_refused");
    let null = File::options().write(true).open("/dev/null").unwrap();
    assert_eq!(code(&mut controller, arm(1), Some(&null)), "spool_refused");
    let named = |path: &str| Arm { spool_path: Some(path.to_owned()), ..arm(1) };
    let taken = spool.path.to_str().unwrap();
    assert_eq!(code(&mut controller, named(taken), None), "spool_refused");
    assert_eq!(code(&mut controller, named("/does/not/exist/x"), None), "spool_refused");
    let tiny = Limits { max_bytes: 10, ..arm(1).limits };
    assert_eq!(
        code(&mut controller, Arm { limits: tiny, ..arm(1) }, Some(&spool.file)),
        "invalid_limit"
    );

    // A path that can be made is as good as a descriptor.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.spool");
    controller.arm(named(path.to_str().unwrap()), None).unwrap();
    controller.commit(1).unwrap();
    controller.stop(1).unwrap();
    assert_eq!(controller.finished().0.error, None);
    assert!(!kinds(&path).is_empty());
}

#[test]
fn a_full_disk_ends_the_session_and_not_the_process() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    let spool = spool_file();
    let mut full = arm(1);
    // No file system keeps more than all of itself free.
    full.limits.min_free_percent = 100;
    match controller.arm(full, Some(&spool.file)) {
        Err(error) => assert_eq!(error.code, "spool_failed"),
        Ok(_) => {
            controller.commit(1).unwrap();
            let (result, states) = controller.finished();
            assert_eq!(result.stopped_by, "disk_full");
            assert_eq!(result.error.unwrap().code, "disk_full");
            assert!(result.spool_closed);
            assert_eq!(states.last(), Some(&WorkerState::Failed));
        }
    }
    let next = spool_file();
    controller.arm(arm(2), Some(&next.file)).unwrap();
}

#[test]
fn the_byte_limit_ends_the_session_by_itself_and_the_next_one_starts() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    let spool = spool_file();
    let limits = Limits { max_bytes: 3 << 20, ..arm(1).limits };
    controller.arm(Arm { limits, ..arm(1) }, Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    let noise: Vec<String> =
        (0..64).map(|n| format!("{:x}", n * 0x9E37_79B9_7F4A_7C15_u128)).collect();
    let mut number = 0_u64;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        for text in &noise {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            profiler_agent::marker("m")
                .payload(number)
                .field("noise", number)
                .field("t", text.as_str())
                .emit();
        }
        let status = controller.ask(AgentRequest::Status, None).unwrap();
        let AgentReply::Status { session } = status else { panic!("{status:?}") };
        if session.is_none_or(|session| session.stopped_by.is_some()) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the limit is reached");
    }
    let (result, _) = controller.finished();
    assert_eq!((result.stopped_by.as_str(), result.error), ("byte_limit", None));
    assert!(result.spool_closed && result.spool_bytes <= 3 << 20);
    assert!(result.lost.contains_key("byte_limit"), "{:?}", result.lost);
    let next = spool_file();
    controller.arm(arm(2), Some(&next.file)).unwrap();
}

#[test]
fn fences_keep_late_messages_from_later_sessions() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    assert_eq!(controller.stop(4).unwrap_err().code, "no_session");
    let spool = spool_file();
    controller.arm(arm(5), Some(&spool.file)).unwrap();
    let other = spool_file();
    assert_eq!(controller.arm(arm(6), Some(&other.file)).unwrap_err().code, "busy");
    assert_eq!(controller.commit(4).unwrap_err().code, "stale_fence");
    assert_eq!(controller.stop(4).unwrap_err().code, "stale_fence");
    assert_eq!(controller.commit(7).unwrap_err().code, "no_session");
    assert_eq!(controller.arm(arm(5), Some(&other.file)).unwrap_err().code, "stale_fence");
    controller.commit(5).unwrap();
    controller.stop(5).unwrap();
    controller.stop(5).unwrap();
    let (result, _) = controller.finished();
    controller.stop(5).unwrap();
    assert_eq!(controller.commit(5).unwrap_err().code, "no_session");
    assert_eq!(result.windows.len(), 1);
    assert_eq!(controller.arm(arm(5), Some(&other.file)).unwrap_err().code, "stale_fence");
    controller.arm(arm(6), Some(&other.file)).unwrap();
    controller.ask(AgentRequest::Disarm { fence: 6 }, None).unwrap();
    let (result, _) = controller.finished();
    assert_eq!((result.stopped_by.as_str(), result.windows.len()), ("disarm", 0));
}

#[test]
fn steps_are_refused_where_there_are_none() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder().step_source(StepSource::None));
    let spool = spool_file();
    let stepped = Schedule { active_steps: Some(1), ..Schedule::default() };
    let error = controller.arm(Arm { schedule: stepped, ..arm(1) }, Some(&spool.file)).unwrap_err();
    assert_eq!(error.code, "no_step_source");
    assert!(error.message.contains("duration_ms"), "{error}");
    let zero = Schedule { active_steps: Some(0), ..Schedule::default() };
    let error = controller.arm(Arm { schedule: zero, ..arm(1) }, Some(&spool.file)).unwrap_err();
    assert_eq!(error.code, "invalid_schedule");
}

#[test]
fn an_arm_without_a_commit_disarms_itself() {
    let _turn = turn();
    let start = SystemClock::new().now();
    let clock = Arc::new(ManualClock::new(start));
    let (_agent, mut controller, _) =
        connect(builder().clock(Arc::clone(&clock) as Arc<dyn ClockSource>));
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    clock.advance(4_999_000_000);
    let AgentReply::Status { session } = controller.ask(AgentRequest::Status, None).unwrap() else {
        panic!("no status")
    };
    assert_eq!(session.unwrap().state, WorkerState::Armed);
    clock.advance(2_000_000);
    let (result, _) = controller.finished();
    assert_eq!(result.stopped_by, "commit_deadline");
    assert!(result.windows.is_empty() && result.spool_closed);
    assert!(controller.commit(1).is_err());
    assert_idle(&mut controller);
}

#[test]
fn an_arm_that_says_how_long_the_others_may_take_is_waited_for() {
    let _turn = turn();
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let (_agent, mut controller, _) =
        connect(builder().clock(Arc::clone(&clock) as Arc<dyn ClockSource>));
    let spool = spool_file();
    let patient = Arm { commit_within_ms: 17_000, ..arm(1) };
    controller.arm(patient, Some(&spool.file)).unwrap();
    for _ in 0..3 {
        clock.advance(5_500_000_000);
        // The session's thread tells its state after it has looked at the clock; the first may be
        // of before.
        match controller.next_event().unwrap() {
            AgentEvent::State { status } => assert_eq!(status.state, WorkerState::Armed),
            other => panic!("unexpected {other:?}"),
        }
    }
    controller.commit(1).unwrap();
    controller.stop(1).unwrap();
    let (result, _) = controller.finished();
    assert_eq!(result.stopped_by, "request");

    let spool = spool_file();
    let endless = Arm { commit_within_ms: u64::MAX, ..arm(2) };
    controller.arm(endless, Some(&spool.file)).unwrap();
    clock.advance(MAX_COMMIT_WITHIN_MS * 1_000_000);
    let (result, _) = controller.finished();
    assert_eq!(result.stopped_by, "commit_deadline");
}

#[test]
fn a_long_delay_starts_the_backends_one_step_ahead() {
    let _turn = turn();
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    for fault in [Fault::Unrecorded, Fault::Start] {
        let (builder, _) = faulty(fault);
        let (_agent, mut controller, _) =
            connect(builder.clock(Arc::clone(&clock) as Arc<dyn ClockSource>));
        let spool = spool_file();
        let schedule = Schedule { delay_ms: 60_000, ..Schedule::default() };
        let before = STARTS.load(Ordering::SeqCst);
        controller.arm(Arm { schedule, ..arm(1) }, Some(&spool.file)).unwrap();
        let commit = profiler_core::control::Commit { fence: 1, t0: clock.now() };
        controller.ask(AgentRequest::Commit(commit), None).unwrap();
        clock.advance(58_000_000_000);
        controller.ask(AgentRequest::Status, None).unwrap();
        assert_eq!(STARTS.load(Ordering::SeqCst), before);
        clock.advance(1_500_000_000);
        assert!(eventually(|| STARTS.load(Ordering::SeqCst) > before));
        if fault == Fault::Start {
            let (result, _) = controller.finished();
            assert_eq!((result.stopped_by.as_str(), result.windows.len()), ("vendor", 0));
            assert_eq!(result.error.unwrap().code, "vendor");
            continue;
        }
        clock.advance(1_000_000_000);
        let t1 = clock.now();
        let stop = profiler_core::control::Stop { fence: 1, t1, reason: "request".to_owned() };
        controller.ask(AgentRequest::Stop(stop), None).unwrap();
        let (result, _) = controller.finished();
        assert_eq!((result.error, result.windows.len()), (None, 1));
    }
}

#[test]
fn a_limit_of_time_ends_a_session_whose_steps_stall() {
    let _turn = turn();
    let start = SystemClock::new().now();
    let clock = Arc::new(ManualClock::new(start));
    let (agent, mut controller, _) =
        connect(builder().clock(Arc::clone(&clock) as Arc<dyn ClockSource>));
    let spool = spool_file();
    let schedule = Schedule { active_steps: Some(100), ..Schedule::default() };
    let limits = Limits { max_session_ms: 60_000, ..arm(1).limits };
    controller.arm(Arm { schedule, limits, ..arm(1) }, Some(&spool.file)).unwrap();
    let t0 = clock.now();
    let commit = profiler_core::control::Commit { fence: 1, t0 };
    controller.ask(AgentRequest::Commit(commit), None).unwrap();
    clock.advance(1_000_000);
    agent.step();
    clock.advance(60_000_000_000);
    let (result, _) = controller.finished();
    assert_eq!(result.stopped_by, "max_session");
    let begin = t0.monotonic_ns + 1_000_000;
    let (from, to) = result.windows[0];
    assert_eq!(
        (from.monotonic_ns, to.unwrap().monotonic_ns),
        (begin, t0.monotonic_ns + 60_000_000_000)
    );
    assert!(result.notes.iter().any(|note| note.contains("stalled")), "{:?}", result.notes);
}

/// A session that begins now, of an agent whose clock the test moves.
fn begun(clock: &Arc<ManualClock>) -> (Agent, FakeController, SpoolFile) {
    let (agent, mut controller, _) =
        connect(builder().clock(Arc::clone(clock) as Arc<dyn ClockSource>));
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    let commit = profiler_core::control::Commit { fence: 1, t0: clock.now() };
    controller.ask(AgentRequest::Commit(commit), None).unwrap();
    (agent, controller, spool)
}

#[test]
fn a_step_of_the_real_time_clock_changes_no_window() {
    let _turn = turn();
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let t0 = clock.now();
    let (_agent, mut controller, _spool) = begun(&clock);
    clock.advance(1_000_000_000);
    clock.step_realtime(-1_000_000_000);
    let t1 = clock.now();
    let stop = profiler_core::control::Stop { fence: 1, t1, reason: "request".to_owned() };
    controller.ask(AgentRequest::Stop(stop), None).unwrap();
    let (result, _) = controller.finished();
    assert_eq!(result.windows, [(t0, Some(t1))]);
    assert_eq!(t0.realtime_ns, t1.realtime_ns);
}

#[test]
fn a_window_that_goes_on_says_so_beside_a_reading_of_the_clocks() {
    let _turn = turn();
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let (_agent, mut controller, spool) = begun(&clock);
    let open = || {
        let rows = rows::<Window>(&spool.path).into_iter().map(|(_, row, _)| row);
        rows.filter(|row| row.edge == WindowEdge::Open.number()).collect::<Vec<_>>()
    };
    for said in 1..=3 {
        clock.advance(460_000_000);
        assert!(eventually(|| open().len() == said), "{:?}", open());
    }
    let t1 = clock.now();
    let stop = profiler_core::control::Stop { fence: 1, t1, reason: "request".to_owned() };
    controller.ask(AgentRequest::Stop(stop), None).unwrap();
    controller.finished();
    // A reader that follows goes as far as both say.
    let tuples = rows::<ClockTuple>(&spool.path);
    for row in open() {
        let until = row.monotonic + 250_000_000;
        let beside = |tuple: &ClockTuple| (row.monotonic..until).contains(&tuple.monotonic);
        assert!(tuples.iter().any(|(_, tuple, _)| beside(tuple)), "{row:?} of {tuples:?}");
    }
}

#[test]
fn a_process_is_entered_once_and_again_after_the_agent_left() {
    let _turn = turn();
    let (agent, controller, _) = connect(builder());
    let (_ours, theirs) = Connection::pair().unwrap();
    let second = builder().connect_over(theirs).unwrap_err();
    assert!(matches!(second, AgentError::AlreadyEntered), "{second}");
    assert_eq!(Agent::current().unwrap().worker(), agent.worker());
    // An agent for another process is no part of this one.
    let outside = Agent::builder().target_pid(std::process::id()).local().unwrap();
    assert_eq!(outside.hello().worker.pid, std::process::id());
    assert!(Agent::builder().target_pid(u32::MAX - 1).local().is_err());
    drop(outside);
    drop(agent);
    assert!(Agent::current().is_none());
    drop(controller);
    let (_agent, _controller, _) = connect(builder());
}

#[test]
fn dropping_the_agent_finishes_its_session() {
    let _turn = turn();
    let (agent, mut controller, _) = connect(builder());
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    drop(agent);
    let (result, _) = controller.finished();
    assert_eq!(result.stopped_by, "agent_dropped");
    assert!(!kinds(&spool.path).is_empty());
    let threads = || {
        std::fs::read_dir("/proc/self/task").unwrap().flatten().any(|task| {
            std::fs::read(task.path().join("comm")).is_ok_and(|name| name.starts_with(b"omniprof-"))
        })
    };
    assert!(eventually(|| !threads()), "all threads are joined");
}

#[test]
fn hostile_controllers_close_the_link_and_nothing_else() {
    let _turn = turn();
    for bytes in [
        &u32::MAX.to_le_bytes()[..],
        b"\x02\0\0\0[]",
        b"\x13\0\0\0{\"type\":\"request\"} ",
        b"\x04\0\0\0null",
        b"\x0a\0\0\0{\"type\":1}",
        b"\x03\0",
    ] {
        let (mut raw, theirs) = UnixStream::pair().unwrap();
        let agent = builder().connect_over(Connection::new(theirs)).unwrap();
        let mut header = [0; 4];
        raw.read_exact(&mut header).unwrap();
        let mut hello = vec![0; u32::from_le_bytes(header) as usize];
        raw.read_exact(&mut hello).unwrap();
        raw.write_all(bytes).unwrap();
        raw.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(raw.read(&mut header).unwrap(), 0, "the agent closes");
        agent.step();
        drop(agent);
    }
}

#[test]
fn a_request_that_is_not_understood_is_answered_and_the_session_goes_on() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    for (id, request) in [
        (101, serde_json::json!({"ask": "dance"})),
        (102, serde_json::json!({"ask": "commit", "fence": "x"})),
        (103, serde_json::json!(null)),
    ] {
        let message = serde_json::json!({"type": "request", "id": id, "request": request});
        controller.link.send(&message, None).unwrap();
        let (reply, _) = controller.link.recv_timeout::<FromAgent>(PATIENCE).unwrap();
        let FromAgent::Reply { id: answered, outcome: Outcome::Failed(error) } = reply else {
            panic!("{reply:?}")
        };
        assert_eq!((answered, error.code.as_str()), (id, "unknown_request"));
    }
    controller.commit(1).unwrap();
    controller.stop(1).unwrap();
    assert_eq!(controller.finished().0.error, None);
}

#[test]
fn a_stop_is_answered_at_once_and_the_next_arm_waits_for_the_drain() {
    let _turn = turn();
    DRAINED.store(false, Ordering::SeqCst);
    let (builder, _) = faulty(Fault::SlowStop);
    let (_agent, mut controller, _) = connect(builder);
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    controller.stop(1).unwrap();
    controller.stop(1).unwrap();
    let AgentReply::Status { session } = controller.ask(AgentRequest::Status, None).unwrap() else {
        panic!("no status")
    };
    let session = session.unwrap();
    assert_eq!(session.state, WorkerState::Draining);
    assert_eq!(session.stopped_by.as_deref(), Some("request"));
    let next = spool_file();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The arm is on its way by then, or comes to a session that has ended.
            std::thread::sleep(Duration::from_millis(50));
            DRAINED.store(true, Ordering::SeqCst);
        });
        controller.arm(arm(2), Some(&next.file)).unwrap();
    });
    let (result, _) = controller.finished();
    assert_eq!((result.fence, result.error), (1, None));
}

#[test]
fn a_refused_agent_says_why() {
    let _turn = turn();
    let (ours, theirs) = Connection::pair().unwrap();
    let agent = builder().connect_over(theirs).unwrap();
    let _hello = ours.recv_timeout::<FromAgent>(PATIENCE).unwrap();
    let error = profiler_core::control::WorkerError::new("protocol", "too old");
    ours.send(&ToAgent::Refused { error: error.clone() }, None).unwrap();
    assert_eq!(agent.wait_for_controller(PATIENCE), Err(error));
}

#[test]
fn a_local_agent_is_asked_without_a_socket() {
    let _turn = turn();
    let agent = builder().local().unwrap();
    let events = agent.events().unwrap();
    assert!(agent.events().is_none());
    assert_eq!(agent.hello().worker.stage, Some(2));
    let spool = spool_file();
    let file = spool.file.try_clone().unwrap();
    let done = |outcome| match outcome {
        Outcome::Done(reply) => reply,
        other => panic!("{other:?}"),
    };
    done(agent.request(AgentRequest::Arm(Box::new(arm(1))), Some(file.into())));
    let t0: Instant = SystemClock::new().now();
    let commit = profiler_core::control::Commit { fence: 1, t0 };
    done(agent.request(AgentRequest::Commit(commit), None));
    let stop = profiler_core::control::Stop { fence: 1, t1: t0, reason: "request".to_owned() };
    done(agent.request(AgentRequest::Stop(stop), None));
    let finished =
        std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok()).find_map(|event| match event {
            AgentEvent::Finished { result } => Some(result),
            _ => None,
        });
    assert_eq!(finished.unwrap().windows, [(t0, Some(t0))]);
}
