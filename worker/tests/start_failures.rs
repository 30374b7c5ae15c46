//! Starts in which a worker cannot arm or does not begin.

mod support;

use profiler_core::control::WorkerError;
use profiler_worker::manifest::LineState;
use profiler_worker::start_request::StartRequest;

use support::{Asked, Behaviour, Bench, FakeWorker, OnArm, OnCommit, body, join};

/// Is ready and then not: its session is over when its commit comes.
fn refusing(worker: Behaviour, code: &str) -> Behaviour {
    let error = WorkerError::new(code, "no session of fence 1 is here");
    Behaviour { on_commit: OnCommit::Refuse(error), ..worker }
}

/// The next three things that a worker is asked.
fn three_asked(worker: &FakeWorker) -> [&'static str; 3] {
    std::array::from_fn(|_| match worker.next_asked() {
        Asked::Arm(_) => "arm",
        Asked::Commit(_) => "commit",
        Asked::Stop(_) => "stop",
        Asked::Disarm => "disarm",
        Asked::Other => "other",
    })
}

#[test]
fn where_one_worker_cannot_arm_all_are_rolled_back() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut broken = Behaviour::new(0, "thinker", 0, 1);
    broken.on_arm = OnArm::Fail(WorkerError::new("no_driver", "libcuda.so.1 is not there"));
    let workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0), broken]);
    let error = controller.start(&StartRequest::default()).unwrap_err();
    assert_eq!((error.status(), error.code()), (502, "not_armed"));
    let text = error.to_string();
    assert!(text.contains("rank 1") && text.contains("libcuda.so.1 is not there"), "{text}");
    assert!(matches!(workers[0].next_asked(), Asked::Arm(_)));
    assert_eq!(workers[0].next_asked(), Asked::Disarm, "no commit comes");
    assert!(controller.sessions().unwrap().is_empty(), "nothing is left behind");
    assert!(controller.status().session.is_none());
}

#[test]
fn where_one_worker_refuses_to_begin_the_start_says_so_and_none_goes_on() {
    let bench = Bench::new();
    let controller = bench.controller();
    let workers = join(
        &controller,
        vec![
            Behaviour::new(0, "thinker", 0, 0),
            refusing(Behaviour::new(0, "thinker", 0, 1), "no_session"),
        ],
    );
    let error = controller.start(&StartRequest::default()).unwrap_err();
    assert_eq!((error.status(), error.code()), (502, "not_armed"));
    let text = error.to_string();
    assert!(text.contains("rank 1") && text.contains("no session of fence 1"), "{text}");
    assert!(!text.contains("rank 0"), "{text}");
    assert_eq!(three_asked(&workers[0]), ["arm", "commit", "disarm"]);
    assert_eq!(three_asked(&workers[1]), ["arm", "commit", "disarm"]);
    assert!(controller.sessions().unwrap().is_empty(), "nothing is left behind");
    let status = controller.status();
    assert!(status.session.is_none() && status.last.is_none());

    let body = body(r#"{"allow_partial":true}"#);
    let answer = controller.start(&body).unwrap();
    assert_eq!(answer.workers[1].error.as_ref().unwrap().code, "no_session");
    assert!(answer.workers[1].accepted);
    assert_eq!(three_asked(&workers[1]), ["arm", "commit", "disarm"], "the stop is not for it");
    let manifest = controller.stop_profile().unwrap();
    assert!(manifest.is_good(), "the start accepted it beforehand");
    assert_eq!(manifest.workers[1].state, LineState::Degraded);
}

#[test]
fn a_process_that_ends_before_it_begins_is_not_missed_where_nobody_expects_it_to_stay() {
    for code in ["session_over", "no_session"] {
        let bench = Bench::new();
        let controller = bench.controller();
        let passing = refusing(Behaviour::outside(1), code);
        let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0), passing]);
        let answer = controller.start(&StartRequest::default()).unwrap();
        assert_eq!(answer.workers[0].error, None);
        assert_eq!(answer.workers[1].error.as_ref().unwrap().code, code);
        assert!(answer.workers[1].accepted);
        assert!(controller.stop_profile().unwrap().is_good());
    }
}

#[test]
fn one_that_came_late_and_does_not_begin_is_not_missed() {
    let bench = Bench::new();
    let controller = bench.controller();
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    controller.start(&StartRequest::default()).unwrap();
    let late = refusing(Behaviour::new(0, "thinker", 0, 1), "session_over");
    let late = join(&controller, vec![late]);
    assert_eq!(three_asked(&late[0]), ["arm", "commit", "disarm"]);
    let manifest = controller.stop_profile().unwrap();
    assert!(manifest.is_good(), "{manifest:#?}");
    assert_eq!(manifest.workers[1].state, LineState::Degraded);
}

#[test]
fn one_that_comes_during_a_start_is_not_in_what_is_rolled_back() {
    let bench = Bench::new();
    let patient = bench.builder().options(|options| {
        options.answer_deadline = std::time::Duration::from_secs(2);
    });
    let controller = patient.build().unwrap();
    let mut silent = Behaviour::new(0, "thinker", 0, 0);
    silent.on_commit = OnCommit::Silent;
    let refuses = refusing(Behaviour::new(0, "thinker", 0, 1), "no_session");
    let workers = join(&controller, vec![silent, refuses]);
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| controller.start(&StartRequest::default()));
        assert!(matches!(workers[0].next_asked(), Asked::Arm(_)));
        assert!(matches!(workers[0].next_asked(), Asked::Commit(_)), "which takes its time");
        let late = join(&controller, vec![Behaviour::new(0, "thinker", 0, 2)]);
        let error = starting.join().unwrap().unwrap_err();
        assert_eq!(error.code(), "not_armed");
        assert!(late[0].asked.try_recv().is_err(), "nobody asked it anything");
    });
}

#[test]
fn whoever_is_ready_waits_for_as_long_as_the_others_may_take() {
    let bench = Bench::new();
    let controller = bench.patient();
    let workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    controller.start(&StartRequest::default()).unwrap();
    let arm = workers[0].next_arm();
    let others = support::DEADLINE.as_millis() as u64;
    assert!(arm.commit_within_ms > others, "{} ms", arm.commit_within_ms);
    controller.stop_profile().unwrap();
}

#[test]
fn a_partial_start_goes_on_without_those_that_cannot() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut broken = Behaviour::new(0, "thinker", 0, 1);
    broken.on_arm = OnArm::Fail(WorkerError::new("no_driver", "libcuda.so.1 is not there"));
    let mut silent = Behaviour::new(0, "thinker", 0, 2);
    silent.on_arm = OnArm::Silent;
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0), broken, silent]);
    let answer = controller.start(&body(r#"{"allow_partial":true}"#)).unwrap();
    assert_eq!(answer.workers.iter().filter(|worker| worker.error.is_some()).count(), 2);
    let manifest = controller.stop_profile().unwrap();
    assert!(manifest.is_good(), "the start accepted it beforehand");
    let states: Vec<_> = manifest.workers.iter().map(|line| line.state).collect();
    assert_eq!(states, [LineState::Pending, LineState::Degraded, LineState::Degraded]);
    assert_eq!(manifest.workers[1].error.as_ref().unwrap().code, "no_driver");
    assert_eq!(manifest.workers[2].error.as_ref().unwrap().code, "no_answer");
}
