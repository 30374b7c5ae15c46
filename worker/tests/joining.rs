//! Workers that join: while a session runs or others arm, as strangers, in another version.

mod support;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use profiler_agent::link::{Connection, LinkError};
use profiler_core::control::{FromAgent, ToAgent};
use profiler_core::inject_env::JOINED_BY_LOOKING;
use profiler_worker::links::WorkerLink;
use profiler_worker::start_request::StartRequest;

use support::{Asked, Behaviour, Bench, FakeWorker, OnArm, body, join, wait_for};

#[test]
fn a_worker_that_comes_late_is_taken_in_where_it_fits() {
    let bench = Bench::new();
    let controller = bench.controller();
    let _first = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    let answer = controller.start(&body(r#"{"stages":[0]}"#)).unwrap();
    let late = join(
        &controller,
        vec![Behaviour::new(0, "thinker", 0, 1), Behaviour::new(1, "talker", 0, 0)],
    );
    assert!(matches!(late[0].next_asked(), Asked::Arm(_)));
    assert_eq!(late[0].next_asked(), Asked::Commit(answer.t0.monotonic_ns), "the same T0");
    let manifest = controller.stop_profile().unwrap();
    let lines: Vec<_> =
        manifest.workers.iter().map(|line| (line.stage, line.rank, line.late)).collect();
    assert_eq!(lines, [(Some(0), Some(0), false), (Some(0), Some(1), true)]);
    assert!(manifest.is_good());
    let begins: Vec<u64> =
        manifest.workers.iter().map(|line| line.windows[0].begin.unwrap().monotonic_ns).collect();
    assert_eq!(begins[0], answer.t0.monotonic_ns);
    assert!(begins[1] > begins[0], "nothing was recorded before it was ready: {begins:?}");
    assert!(late[1].asked.try_recv().is_err(), "another stage was not asked for");
}

/// Whoever looks at a process learns a moment later that it has joined from within.
#[test]
fn a_process_that_joined_from_within_is_not_looked_at_from_outside_too() {
    let bench = Bench::new();
    let controller = bench.controller();
    let within = Behaviour::new(0, "thinker", 0, 0);
    let mut outside = Behaviour::new(0, "thinker", 0, 0);
    outside.joined_by = JOINED_BY_LOOKING;
    outside.identity.start_ticks = within.identity.start_ticks;
    let mut another = Behaviour::new(1, "talker", 0, 0);
    another.joined_by = JOINED_BY_LOOKING;
    let workers = join(&controller, vec![outside, within, another]);
    controller.start(&StartRequest::default()).unwrap();
    assert!(matches!(workers[1].next_asked(), Asked::Arm(_)));
    assert!(matches!(workers[2].next_asked(), Asked::Arm(_)), "nobody is within that one");
    let manifest = controller.stop_profile().unwrap();
    let lines: Vec<_> = manifest.workers.iter().map(|line| line.stage).collect();
    assert_eq!(lines, [Some(0), Some(1)]);
    assert!(workers[0].asked.try_recv().is_err(), "the one within was enough");
}

/// A link of which the kernel does not say who is at its other end.
struct Stranger(Connection);

impl WorkerLink for Stranger {
    fn send(&self, message: &ToAgent, file: Option<OwnedFd>) -> Result<(), LinkError> {
        self.0.send(message, file.as_ref().map(OwnedFd::as_fd))
    }

    fn receive(&self, timeout: Option<Duration>) -> Result<FromAgent, LinkError> {
        let timeout = timeout.unwrap_or(support::DEADLINE);
        self.0.recv_timeout(timeout).map(|(message, _file)| message)
    }

    fn carries_files(&self) -> bool {
        true
    }

    fn is_trusted(&self) -> bool {
        false
    }

    fn close(&self) {
        self.0.close();
    }
}

#[test]
fn a_stranger_has_to_know_the_token() {
    let bench = Bench::new();
    let secret = "0123456789abcdef";
    let come = |own: Option<&str>, given: Option<&str>| {
        let controller =
            bench.builder().options(|o| o.token = own.map(str::to_owned)).build().unwrap();
        let (here, there) = Connection::pair().unwrap();
        let mut worker = Behaviour::new(0, "thinker", 0, 0);
        worker.token = given.map(str::to_owned);
        let _worker = FakeWorker::start(worker, there);
        controller.attach(Arc::new(Stranger(here))).map_err(|error| error.code)
    };
    assert_eq!(come(Some(secret), Some(secret)), Ok(()));
    for (own, given) in
        [(Some(secret), None), (Some(secret), Some("wrong")), (None, None), (None, Some(secret))]
    {
        assert_eq!(come(own, given), Err("token".to_owned()), "{own:?} {given:?}");
    }
}

#[test]
fn a_worker_that_joins_while_others_arm_is_taken_in() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut slow = Behaviour::new(0, "thinker", 0, 0);
    slow.on_arm = OnArm::Silent;
    let slow = join(&controller, vec![slow, Behaviour::new(0, "thinker", 0, 1)]);
    let dir = controller.socket_dir().unwrap();
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| controller.start(&body(r#"{"allow_partial":true}"#)));
        assert!(matches!(slow[0].next_asked(), Asked::Arm(_)), "the arm waits for its deadline");
        let late = Behaviour::new(0, "thinker", 0, 2).join(&dir);
        let answer = starting.join().unwrap().unwrap();
        assert!(matches!(late.next_asked(), Asked::Arm(_)));
        assert_eq!(late.next_asked(), Asked::Commit(answer.t0.monotonic_ns));
        let manifest = controller.stop_profile().unwrap();
        assert_eq!(manifest.workers.len(), 3);
        assert!(manifest.workers[2].late);
    });
}

#[test]
fn many_that_join_while_others_arm_are_each_taken_in_once() {
    let bench = Bench::new();
    let patient = bench.builder().options(|options| {
        options.arm_deadline = Duration::from_secs(3);
        options.answer_deadline = support::DEADLINE;
    });
    let controller = patient.build().unwrap();
    let mut slow = Behaviour::new(0, "thinker", 0, 0);
    slow.on_arm = OnArm::Silent;
    let slow = join(&controller, vec![slow, Behaviour::new(0, "thinker", 0, 1)]);
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| controller.start(&body(r#"{"allow_partial":true}"#)));
        assert!(matches!(slow[0].next_asked(), Asked::Arm(_)), "the arm waits for its deadline");
        let late = (2..12).map(|rank| Behaviour::new(0, "thinker", 0, rank)).collect();
        let late = join(&controller, late);
        let answer = starting.join().unwrap().unwrap();
        for worker in &late {
            assert!(matches!(worker.next_asked(), Asked::Arm(_)));
            assert!(matches!(worker.next_asked(), Asked::Commit(_)));
        }
        let manifest = controller.stop_profile().unwrap();
        assert_eq!(manifest.workers.len(), 12, "{manifest:#?}");
        for worker in &late {
            assert!(matches!(worker.next_asked(), Asked::Stop(_)), "asked to arm once");
        }
        let session = std::path::Path::new(&answer.directory);
        let record = std::fs::read(session.join("session.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["workers"].as_array().unwrap().len(), 12, "whom the next one adopts");
        let files = std::fs::read_dir(session.join("stage0-thinker")).unwrap();
        let spools = files.filter(|file| {
            let path = file.as_ref().unwrap().path();
            path.extension().is_some_and(|extension| extension == "spool")
        });
        assert_eq!(spools.count(), 12, "each is a worker's");
    });
}

#[test]
fn an_agent_of_another_version_is_told_so() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut worker = Behaviour::new(0, "thinker", 0, 0);
    worker.protocol = 99;
    let worker = worker.join(&controller.socket_dir().unwrap());
    wait_for("the refusal", || worker.refused.lock().unwrap().is_some());
    let refused = worker.refused.lock().unwrap().clone().unwrap();
    assert_eq!(refused.code, "protocol");
    assert!(controller.status().workers.is_empty());
}
