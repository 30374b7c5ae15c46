//! The command line over workers that fail, and over a configuration for each stage: what is
//! missing is told in text and by the exit code 4.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli_support;
mod support;
mod worker_process;

use std::path::Path;

use cli_support::{Place, Ran, Serving, until};
use profiler_agent::Agent;
use profiler_core::control::{Arm, WorkerError};
use serde_json::{Value, json};
use support::{Asked, Behaviour, FakeWorker, OnArm};
use worker_process::{Process, itself, work};

/// The rank of a worker process of this test binary.
const RANK: &str = "OMNIPROF_TEST_RANK";

fn worker(rank: u32, socket_dir: &Path) -> Process {
    let mut command = itself("a_worker");
    Process::start(command.env(RANK, rank.to_string()).env("OMNIPROF_SOCKET", socket_dir))
}

/// Not a test by itself: what the worker processes are.
#[test]
fn a_worker() {
    let Ok(rank) = std::env::var(RANK) else { return };
    work(rank.parse().unwrap(), Agent::step);
}

/// A server and what is said to it.
struct Bench {
    place: Place,
    serving: Serving,
}

impl Bench {
    fn start(words: &[&str]) -> Self {
        let place = Place::new();
        let serving = Serving::start(&place, words);
        Self { place, serving }
    }

    /// Without the variable by which other tests ask for no free room on the disk.
    fn start_with_default_limits() -> Self {
        let place = Place::new();
        let serving = Serving::of(place.command(&["serve", "--listen", "127.0.0.1:0", "--json"]));
        Self { place, serving }
    }

    fn run(&self, words: &[&str]) -> Ran {
        self.place.run(&[words, &["--server", self.serving.url.as_str()]].concat())
    }

    fn status(&self) -> Value {
        self.run(&["status", "--json"]).json(0)
    }

    fn wait_for_workers(&self, count: usize) {
        until("the workers join", || {
            let status = self.status();
            (status["workers"].as_array().unwrap().len() == count).then_some(())
        });
    }

    fn join(&self, workers: Vec<Behaviour>) -> Vec<FakeWorker> {
        let dir = self.serving.socket_dir(&self.place);
        let joined: Vec<_> = workers.into_iter().map(|worker| worker.join(&dir)).collect();
        self.wait_for_workers(joined.len());
        joined
    }
}

/// Asserts that a line of a table of `omniprof` begins with these cells.
#[track_caller]
fn has_row(ran: &Ran, cells: &[&str]) {
    let begins = |line: &str| line.split_whitespace().take(cells.len()).eq(cells.iter().copied());
    assert!(ran.out.lines().any(begins), "{cells:?} is not in {ran}");
}

#[test]
fn a_stop_after_a_worker_was_killed_tells_it_and_exits_with_4() {
    let bench = Bench::start(&[]);
    let dir = bench.serving.socket_dir(&bench.place);
    let lives = worker(0, &dir);
    let mut dies = worker(1, &dir);
    bench.wait_for_workers(2);
    let session = bench.run(&["start", "--backend", "cpu", "--json"]).json(0)["session"].clone();
    until("both record", || {
        let status = bench.status();
        let workers = status["session"]["workers"].as_array()?;
        workers.iter().all(|worker| worker["rows"].as_u64() > Some(0)).then_some(())
    });
    dies.kill();

    let manifest = bench.run(&["stop", "--wait", "60s", "--json"]).json(4);
    assert_eq!(manifest["session"], session);
    let lines = manifest["workers"].as_array().unwrap();
    let states: Vec<_> = lines.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["complete", "failed"], "{manifest:#}");
    assert_eq!(lines[1]["error"]["code"], "worker_died", "{manifest:#}");

    // A second stop tells the same, here to a person.
    let ran = bench.run(&["stop"]);
    assert_eq!(ran.code, Some(4), "{ran}");
    let head = [
        "stage", "role", "replica", "rank", "pid", "backend", "state", "records", "drops", "files",
    ];
    has_row(&ran, &head);
    let (lived, died) = (lives.0.id().to_string(), dies.0.id().to_string());
    has_row(&ran, &["0", "thinker", "0", "0", &lived, "-", "complete"]);
    has_row(&ran, &["0", "thinker", "0", "1", &died, "-", "failed"]);
    let line = format!("stage 0 thinker, replica 0, rank 1 (pid {died}): ");
    let told = ran.out.lines().find(|told| told.starts_with(&line));
    assert!(told.is_some_and(|told| told.ends_with("[worker_died]")), "{ran}");
    assert_eq!(ran.err, "", "what is missing stands in the manifest");
}

#[test]
fn a_start_without_a_worker_that_cannot_arm_exits_with_4_where_that_was_allowed() {
    let bench = Bench::start(&[]);
    let mut broken = Behaviour::new(0, "thinker", 0, 1);
    broken.on_arm = OnArm::Fail(WorkerError::new("no_driver", "libcuda.so.1 is not there"));
    let _workers = bench.join(vec![Behaviour::new(0, "thinker", 0, 0), broken]);

    // Not allowed, nothing is done, not even a part.
    bench.run(&["start"]).failed(1, "libcuda.so.1 is not there");
    assert_eq!(bench.status()["session"], Value::Null);

    let ran = bench.run(&["start", "--allow-partial"]);
    assert_eq!(ran.code, Some(4), "{ran}");
    let pid = std::process::id().to_string();
    has_row(&ran, &["stage", "role", "replica", "rank", "pid", "backend", "why"]);
    has_row(&ran, &["0", "thinker", "0", "0", &pid]);
    has_row(&ran, &["0", "thinker", "0", "1", &pid]);
    assert!(ran.out.contains(&format!("\npid {pid}: libcuda.so.1 is not there\n")), "{ran}");
    let ran = bench.run(&["stop", "--wait", "60s"]);
    assert_eq!(ran.code, Some(4), "{ran}");
    has_row(&ran, &["0", "thinker", "0", "0", &pid, "-", "complete"]);
    has_row(&ran, &["0", "thinker", "0", "1", &pid, "-", "degraded"]);
    assert!(ran.out.contains("libcuda.so.1 is not there [no_driver]\n"), "{ran}");

    let started = bench.run(&["start", "--allow-partial", "--json"]).json(4);
    assert_eq!(started["workers"][0]["error"], Value::Null, "{started:#}");
    assert_eq!(started["workers"][1]["error"]["code"], "no_driver", "{started:#}");
    bench.run(&["stop", "--wait", "60s", "--json"]).json(4);

    // All that was asked for, though the same was allowed.
    bench.run(&["start", "--allow-partial", "--ranks", "0", "--json"]).json(0);
    bench.run(&["stop", "--wait", "60s", "--json"]).json(0);
}

#[test]
fn limits_are_told_whether_anybody_named_them_or_not() {
    let bench = Bench::start_with_default_limits();
    let _workers = bench.join(vec![Behaviour::new(0, "thinker", 0, 0)]);
    let by_default =
        "ends after 600 s or 4.0 GiB a worker at the latest; 5 % of the disk stay free\n";
    let ran = bench.run(&["status"]);
    assert!(ran.out.contains(&format!("\na start that names no limits {by_default}")), "{ran}");
    let ran = bench.run(&["start"]);
    assert_eq!(ran.code, Some(0), "{ran}");
    assert!(ran.out.contains(&format!("\n{by_default}files: ")), "{ran}");
    bench.run(&["stop", "--json"]).json(0);
    let ran = bench.run(&["start", "--duration", "15m", "--max-bytes", "8388608"]);
    let named =
        "\nends after 1800 s or 8.0 MiB a worker at the latest; 5 % of the disk stay free\n";
    assert!(ran.out.contains(named), "{ran}");
}

#[test]
fn what_is_configured_for_a_stage_reaches_its_workers_alone() {
    let overrides = json!({"1": {"profiler_config": {
        "profiler": "torch", "torch_profiler_dir": "traces", "torch_profiler_record_shapes": true,
        "delay_iterations": 2, "max_iterations": 7, "sample_hz": 49,
    }}});
    let config = json!({"counter_hz": 3, "delay_iterations": 1});
    let (overrides, config) = (overrides.to_string(), config.to_string());
    let words = ["--profiler-config", config.as_str(), "--stage-overrides", overrides.as_str()];
    let bench = Bench::start(&words);
    assert!(bench.serving.root.ends_with("traces"), "{}", bench.serving.root.display());
    let workers =
        bench.join(vec![Behaviour::new(0, "thinker", 0, 0), Behaviour::new(1, "talker", 0, 0)]);
    bench.run(&["start", "--json"]).json(0);
    let arms: Vec<Box<Arm>> = workers
        .iter()
        .map(|worker| match worker.next_asked() {
            Asked::Arm(arm) => arm,
            other => panic!("{other:?}"),
        })
        .collect();
    let [thinker, talker] = arms.as_slice() else { panic!("two arms") };
    let of = |arm: &Arm| {
        let session = &arm.capture.session;
        (session.operators, session.with_stack, session.record_shapes)
    };
    assert_eq!((of(thinker), of(talker)), ((false, false, false), (true, true, true)));
    let hz = |arm: &Arm| (arm.capture.session.sample_hz, arm.capture.session.counter_hz);
    assert_eq!((hz(thinker), hz(talker)), ((99, 3), (49, 3)));
    let steps = |arm: &Arm| (arm.schedule.delay_steps, arm.limits.max_steps);
    assert_eq!((steps(thinker), steps(talker)), ((1, None), (2, Some(7))));

    let manifest = bench.run(&["stop", "--wait", "60s", "--json"]).json(0);
    let formats = |worker: usize| -> Vec<&str> {
        let files = manifest["workers"][worker]["files"].as_array().unwrap();
        files.iter().filter_map(|file| file["format"].as_str()).collect()
    };
    assert_eq!(formats(0), ["spool", "pftrace-gz"]);
    assert_eq!(formats(1), ["spool", "pftrace-gz", "kineto-gz", "table"]);
}
