//! A start and a stop over fake workers, and what goes wrong between them.

mod support;

use std::time::Duration;

use profiler_core::backend::BackendId;
use profiler_core::control::WorkerError;
use profiler_core::schedule::StepSource;
use profiler_worker::controller::{ControllerOptions, StartError, StopError, StopRequest};
use profiler_worker::manifest::{FileState, LineState, SessionState};
use profiler_worker::retention::RetentionPolicy;
use profiler_worker::start_request::StartRequest;

use support::{Asked, Behaviour, Bench, OnArm, OnStop, body, join, wait_for};

fn stop_now() -> StopRequest {
    StopRequest { wait_ms: 0, ..StopRequest::default() }
}

#[test]
fn all_workers_record_between_one_start_and_one_stop() {
    let bench = Bench::new();
    let controller = bench.controller();
    let workers = join(
        &controller,
        vec![
            Behaviour::new(0, "thinker", 0, 0),
            Behaviour::new(0, "thinker", 0, 1),
            Behaviour::new(1, "talker", 0, 0),
        ],
    );
    let answer = controller.start_profile(Some("warm run"), None).unwrap();
    assert_eq!(answer.workers.len(), 3);
    assert!(answer.session.ends_with("-warm_run"), "{}", answer.session);
    for worker in &workers {
        let Asked::Arm(arm) = worker.next_asked() else { panic!("armed first") };
        assert_eq!(arm.session, answer.session);
        assert_eq!(arm.spool_path, None, "the descriptor rides on the frame");
        assert_eq!(worker.next_asked(), Asked::Commit(answer.t0.monotonic_ns), "one T0 for all");
    }
    let manifest = controller.stop_profile().unwrap();
    assert_eq!(manifest.workers.len(), 3);
    assert_eq!(manifest.prefix.as_deref(), Some("warm run"));
    assert_eq!(manifest.requested_window.begin, Some(answer.t0));
    assert_eq!(manifest.real_window.end, manifest.requested_window.end);
    assert_eq!(manifest.clock_error_ns, 400);
    assert_eq!(manifest.skew_ns, 0);
    assert_eq!(manifest.stopped_by.as_deref(), Some("request"));
    assert!(manifest.is_good());
    for line in &manifest.workers {
        // Nothing here exports; the manifest says how.
        assert_eq!(line.state, LineState::Pending, "{line:?}");
        assert_eq!(line.records["marker"], 100);
        let spool = &line.files[0];
        assert_eq!((spool.format.as_str(), spool.state), ("spool", FileState::Complete));
        let path = std::path::Path::new(&manifest.directory).join(&spool.path);
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(spool.bytes, Some(bytes.len() as u64));
        assert_eq!(spool.crc32, Some(format!("{:08x}", crc32fast::hash(&bytes))));
        let trace = &line.files[1];
        assert_eq!(trace.state, FileState::Pending);
        assert!(trace.command.as_ref().unwrap().starts_with("omniprof export /"), "{trace:?}");
    }
    // The same lies beside the traces.
    let path = std::path::Path::new(&manifest.directory).join("manifest.json");
    let written: profiler_worker::manifest::Manifest =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(written, manifest);
}

#[test]
fn a_second_start_is_refused_and_a_second_stop_tells_the_same() {
    let bench = Bench::new();
    let controller = bench.controller();
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    assert!(matches!(controller.stop(&stop_now()), Err(StopError::NoSession)));
    let answer = controller.start(&StartRequest::default()).unwrap();
    match controller.start(&StartRequest::default()) {
        Err(StartError::Running { session }) => assert_eq!(session, answer.session),
        other => panic!("{other:?}"),
    }
    let first = controller.stop_profile().unwrap();
    let second = controller.stop_profile().unwrap();
    assert_eq!(first, second);
    let next = controller.start(&StartRequest::default()).unwrap();
    assert_ne!(next.session, answer.session);
    assert!(controller.stop_profile().unwrap().is_good());
}

#[test]
fn a_time_without_end_does_not_end_the_keeper() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut workers = vec![Behaviour::new(0, "thinker", 0, 0), Behaviour::new(1, "talker", 0, 0)];
    workers[1].on_stop = OnStop::Drain;
    let workers = join(&controller, workers);
    // A caller in this process is bound by no body's limits.
    let request = StartRequest { duration_ms: Some(u64::MAX), ..StartRequest::default() };
    controller.start(&request).unwrap();
    let manifest = controller.stop(&stop_now()).unwrap();
    assert_eq!(manifest.workers[0].limits.max_session_ms, u64::MAX);
    drop(workers);
    // Only the keeper settles a worker that is gone.
    assert!(controller.wait_until_idle(support::DEADLINE), "the session is sealed");
}

#[test]
fn stages_replicas_and_ranks_select() {
    let bench = Bench::new();
    let controller = bench.controller();
    let _workers = join(
        &controller,
        vec![
            Behaviour::new(0, "thinker", 0, 0),
            Behaviour::new(0, "thinker", 0, 1),
            Behaviour::new(2, "diffusion", 0, 0),
            Behaviour::new(2, "diffusion", 1, 0),
        ],
    );
    let selected = |json: &str| {
        let answer = controller.start(&body(json)).unwrap();
        controller.stop_profile().unwrap();
        let of = |w: &profiler_worker::controller::StartedWorker| {
            (w.stage.unwrap(), w.replica.unwrap(), w.rank.unwrap())
        };
        let mut workers: Vec<_> = answer.workers.iter().map(of).collect();
        workers.sort_unstable();
        workers
    };
    assert_eq!(selected(r#"{"stages":[0]}"#), [(0, 0, 0), (0, 0, 1)]);
    assert_eq!(selected(r#"{"stages":[2],"replicas":[1]}"#), [(2, 1, 0)]);
    assert_eq!(selected(r#"{"ranks":[1]}"#), [(0, 0, 1)]);
    assert_eq!(selected("").len(), 4);
}

#[test]
fn an_unknown_number_names_what_exists_and_starts_nothing() {
    let bench = Bench::new();
    let controller = bench.controller();
    let error = controller.start(&StartRequest::default()).unwrap_err();
    assert_eq!((error.status(), error.code()), (404, "no_workers"));
    let workers = join(
        &controller,
        vec![Behaviour::new(0, "thinker", 0, 0), Behaviour::new(2, "diffusion", 1, 0)],
    );
    for (json, code, exists) in [
        (r#"{"stages":[0,7]}"#, "unknown_stage", "there is no stage 7; there is 0, 2"),
        (r#"{"replicas":[3]}"#, "unknown_replica", "there is no replica 3; there is 0, 1"),
        (r#"{"stages":[0],"replicas":[1]}"#, "unknown_replica", "no replica 1; there is 0"),
        (r#"{"ranks":[1]}"#, "unknown_rank", "there is no rank 1; there is 0"),
    ] {
        let error = controller.start(&body(json)).unwrap_err();
        assert_eq!((error.status(), error.code()), (404, code));
        assert!(error.to_string().contains(exists), "{error}");
    }
    for worker in &workers {
        assert!(worker.asked.try_recv().is_err(), "nobody is asked");
    }
    assert!(controller.sessions().unwrap().is_empty(), "no directory is made");
}

#[test]
fn steps_of_a_worker_that_counts_none_are_refused() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut talker = Behaviour::new(1, "talker", 0, 0);
    talker.step_source = StepSource::None;
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0), talker]);
    let error = controller.start(&body(r#"{"num_steps":"5"}"#)).unwrap_err();
    assert_eq!((error.status(), error.code()), (422, "no_steps"));
    let text = error.to_string();
    assert!(text.contains("`num_steps`") && text.contains("stage 1 talker"), "{text}");
    assert!(text.contains("`duration_ms`"), "{text}");
    controller.start(&body(r#"{"num_steps":5,"stages":[0]}"#)).unwrap();
    controller.stop_profile().unwrap();
}

#[test]
fn a_rank_that_does_not_answer_is_one_line() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut silent = Behaviour::new(0, "thinker", 0, 1);
    silent.on_stop = OnStop::Silent;
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0), silent]);
    controller.start(&StartRequest::default()).unwrap();
    let manifest = controller.stop(&stop_now()).unwrap();
    assert!(!manifest.is_good());
    let silent = &manifest.workers[1];
    assert_eq!((silent.rank, silent.state), (Some(1), LineState::Missing));
    assert_eq!(silent.error.as_ref().unwrap().code, "no_answer");
    wait_for("rank 0's end", || {
        let manifest = controller.stop(&stop_now()).unwrap();
        manifest.workers[0].state == LineState::Pending
    });
    // It does not hold up the next capture of the others.
    controller.start(&body(r#"{"ranks":[0]}"#)).unwrap();
}

#[test]
fn a_session_that_ends_by_itself_makes_room_for_the_next() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut worker = Behaviour::new(0, "thinker", 0, 0);
    worker.ends_by_itself = Some((Duration::from_millis(20), "max_steps"));
    let _workers = join(&controller, vec![worker]);
    let answer = controller.start(&body(r#"{"max_iterations":3}"#)).unwrap();
    wait_for("the automatic end", || controller.status().session.is_none());
    let last = controller.status().last.unwrap();
    assert_eq!(last.session, answer.session);
    assert_eq!(last.stopped_by.as_deref(), Some("max_steps"));
    let next = controller.start(&body(r#"{"max_iterations":3}"#)).unwrap();
    assert_ne!(next.session, answer.session);
    let manifest = controller.manifest(&answer.session).unwrap();
    assert_eq!(manifest.stopped_by.as_deref(), Some("max_steps"));
}

#[test]
fn a_degraded_worker_is_good_only_where_that_was_asked_for() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut worker = Behaviour::new(0, "thinker", 0, 0);
    let why = WorkerError::new("no_driver", "the host records alone");
    worker.on_arm = OnArm::Degraded(why.clone());
    let _workers = join(&controller, vec![worker]);
    controller.start(&body(r#"{"activities":["CPU","GPU"],"on_unavailable":"degrade"}"#)).unwrap();
    let manifest = controller.stop_profile().unwrap();
    let line = &manifest.workers[0];
    assert_eq!((line.state, line.error.as_ref()), (LineState::Degraded, Some(&why)));
    assert!(line.accepted && manifest.is_good());
}

#[test]
fn a_degraded_worker_that_nobody_accepted_is_no_success() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut worker = Behaviour::new(0, "thinker", 0, 0);
    worker.on_arm = OnArm::Degraded(WorkerError::new("outside", "operators do not show"));
    let _workers = join(&controller, vec![worker, Behaviour::new(0, "thinker", 0, 1)]);
    for asked in ["{}", r#"{"on_unavailable":"fail"}"#, r#"{"allow_partial":false}"#] {
        let answer = controller.start(&body(asked)).unwrap();
        assert!(!answer.is_good() && !answer.workers[0].accepted, "{asked}");
        let manifest = controller.stop_profile().unwrap();
        let line = &manifest.workers[0];
        assert_eq!((line.state, line.accepted), (LineState::Degraded, false), "{asked}");
        assert!(!manifest.is_good(), "{asked}");
    }
    for asked in [r#"{"on_unavailable":"degrade"}"#, r#"{"allow_partial":true}"#] {
        let answer = controller.start(&body(asked)).unwrap();
        assert!(answer.is_good() && answer.workers[0].accepted, "{asked}");
        assert!(answer.workers[0].error.is_some(), "{asked}: it is told all the same");
        let manifest = controller.stop_profile().unwrap();
        let line = &manifest.workers[0];
        assert_eq!((line.state, line.accepted), (LineState::Degraded, true), "{asked}");
        assert!(manifest.is_good(), "{asked}");
    }
}

#[test]
fn a_worker_of_no_known_stage_is_unattributed() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut nobody = Behaviour::new(0, "thinker", 0, 0);
    (nobody.identity.stage, nobody.identity.role) = (None, None);
    (nobody.identity.replica, nobody.identity.rank) = (None, None);
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0), nobody]);
    controller.start(&StartRequest::default()).unwrap();
    let manifest = controller.stop_profile().unwrap();
    let lines: Vec<_> =
        manifest.workers.iter().map(|line| (line.stage, line.unattributed)).collect();
    assert_eq!(lines, [(Some(0), false), (None, true)]);
    let manifest = serde_json::to_value(&manifest).unwrap();
    assert_eq!(manifest["workers"][1]["unattributed"], true, "{manifest}");
    assert_eq!(manifest["workers"][0].get("unattributed"), None, "{manifest}");
    assert!(controller.start(&body(r#"{"stages":[0]}"#)).unwrap().workers.len() == 1);
}

#[test]
fn old_sessions_go_by_themselves_and_a_live_one_never() {
    let kept = RetentionPolicy::default();
    assert_eq!((kept.max_bytes, kept.max_sessions), (20 << 30, 50));
    assert_eq!(ControllerOptions::default().retention, Some(kept), "without being asked for");

    let bench = Bench::new();
    let policy = RetentionPolicy { max_sessions: 1, ..RetentionPolicy::default() };
    let builder = bench.builder().options(|options| options.retention = Some(policy));
    let controller = builder.build().unwrap();
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    let ids = || -> Vec<String> {
        controller.sessions().unwrap().into_iter().map(|line| line.session).collect()
    };
    let capture = || {
        let session = controller.start(&StartRequest::default()).unwrap().session;
        let during = ids();
        controller.stop_profile().unwrap();
        (session, during)
    };
    let (first, during) = capture();
    assert_eq!(during, std::slice::from_ref(&first));
    let (second, during) = capture();
    assert_eq!(during, [first.clone(), second.clone()], "a live one does not count the first out");
    wait_for("the first one's end", || ids() == [second.clone()]);
    assert!(!bench.root().join(&first).exists());
    assert!(bench.root().join(&second).join("manifest.json").exists());

    // The only one may stay; none may, and the one that lives stays all the same.
    let none = RetentionPolicy { max_sessions: 0, ..RetentionPolicy::default() };
    let third = controller.start(&StartRequest::default()).unwrap().session;
    let pruned = controller.prune(&none, false).unwrap();
    let removed: Vec<String> = pruned.removed.iter().map(ToString::to_string).collect();
    assert_eq!((removed, ids()), (vec![second], vec![third]));
    assert!(controller.stop_profile().unwrap().is_good());
}

#[test]
fn the_host_by_name_asks_for_operators_only_where_they_show() {
    let bench = Bench::new();
    let controller = bench.controller();
    let workers =
        join(&controller, vec![Behaviour::new(0, "thinker", 0, 0), Behaviour::outside(1)]);
    for (asked, wanted) in [
        (r#"{"activities":["CPU"]}"#, [true, false]),
        (r#"{"activities":["CPU"],"record_shapes":true}"#, [true, true]),
        ("{}", [false, false]),
    ] {
        controller.start(&body(asked)).unwrap();
        let manifest = controller.stop_profile().unwrap();
        assert!(manifest.is_good(), "{asked}");
        let operators: Vec<bool> =
            workers.iter().map(|worker| worker.next_arm().capture.session.operators).collect();
        assert_eq!(operators, wanted, "{asked}");
    }
}

#[test]
fn a_start_that_counts_steps_tells_whom_it_leaves_out() {
    let bench = Bench::new();
    let controller = bench.controller();
    let counting = Behaviour::new(0, "thinker", 0, 0);
    let workers = join(&controller, vec![counting, Behaviour::outside(1)]);
    let answer = controller.start(&body(r#"{"num_steps":3}"#)).unwrap();
    let asked: Vec<_> = answer.workers.iter().map(|worker| worker.rank).collect();
    assert_eq!(asked, [Some(0)]);
    let [left_out] = answer.left_out.as_slice() else { panic!("{:?}", answer.left_out) };
    assert_eq!((left_out.rank, left_out.code.as_str()), (Some(1), "no_steps"));
    assert!(left_out.message.contains("`num_steps`"), "{}", left_out.message);
    assert!(left_out.message.contains("`duration_ms`"), "{}", left_out.message);
    assert!(answer.is_good());
    // One that comes later is told of as well.
    let _late = join(&controller, vec![Behaviour::outside(2)]);
    wait_for("the late one's line", || {
        controller.manifest(&answer.session).unwrap().left_out.len() == 2
    });
    let manifest = controller.stop_profile().unwrap();
    assert!(manifest.is_good(), "nothing is missed");
    let lines: Vec<_> = manifest.workers.iter().map(|line| line.rank).collect();
    assert_eq!(lines, [Some(0)]);
    let left_out: Vec<_> =
        manifest.left_out.iter().map(|line| (line.rank, line.code.as_str())).collect();
    assert_eq!(left_out, [(Some(1), "no_steps"), (Some(2), "no_steps")]);
    assert_eq!(&manifest.left_out[..1], answer.left_out, "as the start said");
    let table = profiler_worker::manifest::table(&manifest);
    assert_eq!(table.matches("was left out: `").count(), 2, "{table}");
    assert!(workers[1].asked.try_recv().is_err(), "it was not asked");
    // By time both are recorded.
    let answer = controller.start(&body(r#"{"stages":[0],"ranks":[0,1]}"#)).unwrap();
    assert_eq!((answer.workers.len(), answer.left_out.len()), (2, 0));
}

#[test]
fn a_controller_makes_room_for_the_next_at_once() {
    let bench = Bench::new();
    for _ in 0..5 {
        let controller = bench.controller();
        let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
        drop(controller);
    }
}

#[test]
fn a_device_that_was_used_and_gave_no_record_is_no_success() {
    let bench = Bench::new();
    let controller = bench.controller();
    let mut worker = Behaviour::new(0, "thinker", 0, 0);
    worker.backend = Some(BackendId::parse("cuda").unwrap());
    let _workers = join(&controller, vec![worker]);
    controller.start(&body(r#"{"on_unavailable":"degrade"}"#)).unwrap();
    let manifest = controller.stop_profile().unwrap();
    let line = &manifest.workers[0];
    assert_eq!(line.state, LineState::Degraded);
    assert_eq!(line.error.as_ref().unwrap().code, "no_device_records");
    assert!(!manifest.is_good(), "nobody asked for that");
}

#[test]
fn an_export_that_fails_says_what_it_said() {
    let bench = Bench::new();
    let exporter = bench.exporter(
        "echo 'omniprof: the spool is damaged at byte 17' >&2; echo 'stack backtrace: 0: x' >&2; \
         exit 3",
    );
    let controller = bench.builder().exporter(exporter).build().unwrap();
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    controller.start(&StartRequest::default()).unwrap();
    let manifest = controller.stop_profile().unwrap();
    assert!(!manifest.is_good());
    let line = &manifest.workers[0];
    assert_eq!((line.state, line.files[1].state), (LineState::Degraded, FileState::Failed));
    let error = line.files[1].error.as_ref().unwrap();
    assert_eq!(error.code, "export_failed");
    assert!(error.message.contains("damaged at byte 17"), "{error}");
    assert!(!error.message.contains("backtrace"), "{error}");
    assert_eq!(line.files[0].state, FileState::Complete, "the spool is there");
}

#[test]
fn where_a_follower_fails_another_reads_the_whole_spool() {
    let bench = Bench::new();
    let exporter = bench.exporter("[ -z \"$follow\" ] || exit 3; printf trace > \"$output\"");
    let controller = bench.builder().exporter(exporter).build().unwrap();
    let _workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    controller.start(&StartRequest::default()).unwrap();
    let manifest = controller.stop_profile().unwrap();
    assert_eq!(manifest.workers[0].state, LineState::Complete, "{manifest:#?}");
}

#[test]
fn other_formats_and_the_merge_follow_the_stop() {
    let bench = Bench::new();
    let exporter = bench.exporter("printf %s \"$format$follow\" > \"$output\"");
    let controller = bench
        .builder()
        .exporter(exporter)
        .options(|options| options.follow = false)
        .build()
        .unwrap();
    let _workers = join(
        &controller,
        vec![Behaviour::new(0, "thinker", 0, 0), Behaviour::new(1, "talker", 0, 0)],
    );
    let wanted = r#"{"formats":["kineto-gz","pftrace-gz"],"merge_profiles":true}"#;
    controller.start(&body(wanted)).unwrap();
    let manifest = controller.stop_profile().unwrap();
    assert!(manifest.is_good(), "{manifest:#?}");
    for line in &manifest.workers {
        let formats: Vec<_> = line.files.iter().map(|file| file.format.as_str()).collect();
        assert_eq!(formats, ["spool", "kineto-gz", "pftrace-gz"]);
        assert!(line.files[1].path.ends_with(".pt.trace.json.gz"), "TensorBoard finds it");
    }
    assert_eq!(manifest.files[0].path, "merged.pftrace.gz");
    let merged = std::path::Path::new(&manifest.directory).join("merged.pftrace.gz");
    assert_eq!(std::fs::read_to_string(merged).unwrap(), "pftrace-gz");
}

#[test]
fn a_worker_that_never_ends_its_drain_is_missing_and_what_it_wrote_is_exported() {
    let bench = Bench::new();
    let exporter = bench
        .exporter("if [ -n \"$follow\" ]; then exec sleep 1000; fi; printf trace > \"$output\"");
    let controller = bench
        .builder()
        .exporter(exporter)
        .options(|options| options.drain_deadline = Duration::from_millis(200))
        .build()
        .unwrap();
    let mut worker = Behaviour::new(0, "thinker", 0, 0);
    worker.on_stop = OnStop::Drain;
    let _workers = join(&controller, vec![worker]);
    controller.start(&StartRequest::default()).unwrap();
    let manifest = controller.stop_profile().unwrap();
    let line = &manifest.workers[0];
    assert_eq!(line.state, LineState::Missing, "{line:#?}");
    assert!(line.error.as_ref().unwrap().message.contains("drain"));
    assert_eq!(line.files[1].state, FileState::Complete, "{line:#?}");
}

#[test]
fn a_controller_that_ends_tells_its_workers() {
    let bench = Bench::new();
    let controller = bench.controller();
    let workers = join(&controller, vec![Behaviour::new(0, "thinker", 0, 0)]);
    let answer = controller.start(&StartRequest::default()).unwrap();
    drop(controller);
    assert!(matches!(workers[0].next_asked(), Asked::Arm(_)));
    assert!(matches!(workers[0].next_asked(), Asked::Commit(_)));
    assert_eq!(workers[0].next_asked(), Asked::Stop("controller_exit".to_owned()));
    let controller = bench.controller();
    wait_for("the final manifest", || {
        controller.manifest(&answer.session).unwrap().state == SessionState::Complete
    });
    let manifest = controller.manifest(&answer.session).unwrap();
    assert!(manifest.is_good(), "{manifest:?}");
}
