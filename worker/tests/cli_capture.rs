//! A capture by the command line from start to summary, over a worker in this process.
//!
//! One test, for a process is entered by one agent.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli_support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cli_support::{Place, Ran, Serving, until};
use profiler_agent::Agent;
use profiler_core::schedule::StepSource;
use serde_json::{Value, json};

/// Work with a span and a step every few milliseconds, until it is dropped.
struct Work {
    #[expect(dead_code, reason = "the agent lives as long as the work")]
    agent: Agent,
    go: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Work {
    fn start(agent: Agent) -> Self {
        let go = Arc::new(AtomicBool::new(true));
        let (own, worker) = (Arc::clone(&go), agent.clone());
        let work = move || {
            while own.load(Ordering::Relaxed) {
                let span = profiler_agent::span("decode").enter();
                std::thread::sleep(Duration::from_millis(2));
                drop(span);
                worker.step();
            }
        };
        let thread = std::thread::Builder::new().name("work".to_owned()).spawn(work).unwrap();
        Self { agent, go, thread: Some(thread) }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.go.store(false, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Runs a command and interrupts it as Ctrl-C does, once something is so.
fn interrupted(mut command: Command, mut is_so: impl FnMut() -> bool) -> Ran {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the command is under way", || is_so().then_some(()));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

fn spool(root: &std::path::Path, manifest: &Value) -> PathBuf {
    let files = manifest["workers"][0]["files"].as_array().unwrap();
    let spool = files.iter().find(|file| file["format"] == "spool").unwrap();
    let session = root.join(manifest["session"].as_str().unwrap());
    session.join(spool["path"].as_str().unwrap())
}

#[test]
fn a_capture_from_start_to_summary() {
    let place = Place::new();
    let config = json!({"formats": ["folded", "pftrace-gz"], "max_session_ms": 120_000});
    let config = config.to_string();
    let words = ["--dir", "traces", "--profiler-config", config.as_str()];
    let serving = Serving::start(&place, &words);
    let root = serving.root.clone();
    let agent = Agent::builder()
        .stage(0)
        .role("thinker")
        .replica(0)
        .rank(0)
        .step_source(StepSource::Api)
        .socket_dir(serving.socket_dir(&place))
        .connect()
        .unwrap();
    let work = Work::start(agent);
    let to = |words: &[&str]| {
        let mut all = words.to_vec();
        all.extend(["--dir", "traces"]);
        place.run(&all)
    };
    until("the worker joins", || {
        let status = to(&["status", "--json"]).json(0);
        (!status["workers"].as_array().unwrap().is_empty()).then_some(())
    });
    let status = to(&["status"]);
    assert!(
        status.out.contains("thinker") && status.out.contains("nothing is recorded"),
        "{status}"
    );

    // What is not there is named, and nothing starts.
    to(&["start", "--stages", "9"]).failed(3, "9");
    to(&["start", "--formats", "nope"]).failed(2, "nope");
    assert!(to(&["list", "--json"]).json(0)["sessions"].as_array().unwrap().is_empty());

    // By hand.
    let started = to(&["start", "--prefix", "first run", "--json"]).json(0);
    let session = started["session"].as_str().unwrap().to_owned();
    assert!(session.ends_with("-first_run"), "{session}");
    to(&["start"]).failed(5, "session");
    let listing = to(&["list", "--json"]).json(0);
    assert_eq!(listing["sessions"][0]["state"], "recording");
    let kept = to(&["prune", "--dry-run", "--max-sessions", "0", "--json"]).json(0);
    assert_eq!(kept["removed"], json!([]), "a live session never goes");
    let status = to(&["status"]);
    assert!(status.out.contains(&session), "{status}");
    let manifest = to(&["stop", "--wait", "60s", "--json"]).json(0);
    assert_eq!(manifest["session"], json!(session));
    assert_eq!(manifest["workers"][0]["state"], "complete", "{manifest:#}");
    let files = manifest["workers"][0]["files"].as_array().unwrap();
    let formats: Vec<_> = files.iter().filter_map(|file| file["format"].as_str()).collect();
    assert_eq!(formats, ["spool", "folded", "pftrace-gz"], "as the server was configured");
    assert_eq!(manifest["workers"][0]["limits"]["max_session_ms"], 120_000);
    let again = to(&["stop", "--json"]).json(0);
    assert_eq!(again["session"], json!(session), "a second stop tells the same");
    let listing = to(&["list", "--json"]).json(0);
    assert_eq!(listing["sessions"][0]["state"], "complete");
    assert_eq!(listing["sessions"][0]["label"], "first_run");

    // By a count of steps, in one command.
    let counted = to(&["start", "--max-iterations", "5", "--wait", "--json"]).json(0);
    assert_eq!(counted["workers"][0]["state"], "complete", "{counted:#}");
    assert_eq!(counted["workers"][0]["windows"].as_array().unwrap().len(), 1);
    let timed = to(&["start", "--duration", "300ms", "--wait"]);
    assert_eq!(timed.code, Some(0), "{timed}");
    assert!(timed.out.contains("complete"), "{timed}");

    // What was recorded.
    let summary = to(&["summary", &session]);
    assert_eq!(summary.code, Some(0), "{summary}");
    assert!(summary.out.contains("thinker") && summary.out.contains("decode"), "{summary}");
    let document = to(&["summary", &session, "--json"]).json(0);
    assert_eq!(document["session"], json!(session));

    let spool = spool(&root, &manifest);
    let spool = spool.to_str().unwrap();
    let export = ["export", spool, "--format", "kineto", "--output", "one.json", "--json"];
    let report = place.run(&export).json(0);
    assert_eq!(report["format"], "kineto");
    let file = std::fs::read(place.join("one.json")).unwrap();
    assert_eq!(report["bytes"], json!(file.len()));
    assert_eq!(report["crc32"], json!(format!("{:08x}", crc32fast::hash(&file))));
    let trace: Value = serde_json::from_slice(&file).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|event| event["name"] == "decode"));
    place.run(&export).failed(5, "is not replaced");
    assert_eq!(std::fs::read(place.join("one.json")).unwrap(), file);

    let ids: Vec<&str> = vec![&session, counted["session"].as_str().unwrap()];
    let merged =
        to(&[&["merge", "--output", "all.pftrace"][..], &["--format", "pftrace"], &ids].concat());
    assert_eq!(merged.code, Some(0), "{merged}");
    assert!(merged.out.contains("all.pftrace"), "{merged}");

    // Called off, a capture is stopped in order and an export leaves nothing behind.
    let waiting = place.command(&["start", "--wait", "--json", "--dir", "traces"]);
    let called_off = interrupted(waiting, || {
        let status = to(&["status", "--json"]).json(0);
        !status["session"].is_null()
    });
    let manifest = called_off.json(130);
    assert_eq!(manifest["workers"][0]["state"], "complete", "{manifest:#}");

    // The controller dies while the worker records; what was recorded is exported afterwards.
    let started = to(&["start", "--prefix", "orphan", "--json"]).json(0);
    let orphan = started["session"].as_str().unwrap().to_owned();
    until("rows are written", || {
        let summary = to(&["summary", &orphan]);
        summary.out.contains("decode").then_some(())
    });
    let file = root.join(&orphan).join("stage0-thinker");
    let spool = std::fs::read_dir(&file).unwrap().map(|entry| entry.unwrap().path());
    let spool = spool.into_iter().find(|path| path.extension().is_some_and(|e| e == "spool"));
    let folder = place.join("out");
    std::fs::create_dir(&folder).unwrap();
    let (spool, output) = (spool.unwrap(), folder.join("a.json"));
    let mut following = place.command(&["export", "--follow", "--format", "kineto"]);
    following.arg(&spool).arg("--output").arg(&output);
    let count = || std::fs::read_dir(&folder).unwrap().count();
    let called_off = interrupted(following, || count() == 1);
    assert_eq!(called_off.code, Some(130), "{called_off}");
    assert_eq!(count(), 0, "nothing is left");
    serving.kill();
    let listing = to(&["list", "--json"]).json(0);
    let last = listing["sessions"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["session"], &last["state"]), (&json!(orphan), &json!("recording")));
    drop(work);
    let recovered = until("the worker is gone", || {
        let ran = to(&["recover", "--json"]);
        (ran.code != Some(5)).then_some(ran)
    });
    let manifests: Value = serde_json::from_str(&recovered.out).unwrap();
    assert_eq!(manifests[0]["session"], json!(orphan), "{recovered}");
    let summary = to(&["summary", &orphan]);
    assert!(summary.out.contains("decode"), "{summary}");
}
