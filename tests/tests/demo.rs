//! The demo as a user runs it: what it tells, and that nothing of it is left behind.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use profiler_tests::programs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a debug build on a busy machine may take.
const DEADLINE: Duration = Duration::from_secs(240);

/// A demo that is killed where a test fails before it ended.
struct Demo(Child);

impl Demo {
    fn start(root: &Path, arguments: &[&str]) -> Self {
        let child = Command::new(programs::omniprof().unwrap())
            .arg("demo")
            .arg("--dir")
            .arg(root)
            .args(arguments)
            // How full the disk is, is not what is tested.
            .env("OMNIPROF_MIN_FREE_PERCENT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn wait(&mut self) -> Option<i32> {
        wait_until("the demo ends", || self.0.try_wait().unwrap()).code()
    }

    /// The stage processes, once all five run.
    fn stages(&self) -> Vec<u32> {
        wait_until("five stages run", || {
            let stages = stages_of(self.0.id());
            (stages.len() == 5).then_some(stages)
        })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
}

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a session of the root has files of its workers: all stages are joined by then.
fn wait_until_recorded(root: &Path) {
    wait_until("the capture has begun", || {
        let mut sessions = std::fs::read_dir(root).unwrap().flatten();
        sessions.find(|entry| entry.path().join("stage1-talker").is_dir())
    });
}

/// Stage processes that were started by `parent`; they say so on their command line, which
/// outlives the parent.
fn stages_of(parent: u32) -> Vec<u32> {
    let mut stages = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        let names_parent = words
            .windows(2)
            .any(|pair| pair[0] == b"--parent" && pair[1] == parent.to_string().as_bytes());
        if words.get(1) == Some(&b"demo-stage".as_slice()) && names_parent {
            stages.push(pid);
        }
    }
    stages
}

fn sockets_of(parent: u32) -> Vec<PathBuf> {
    let prefix = format!("omniprof-demo-{parent}-");
    std::fs::read_dir(std::env::temp_dir())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn it_profiles_five_workers_over_http_and_names_the_file_to_open() {
    let root = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(root.path(), &["--json", "--requests", "2"]);
    let out = std::io::read_to_string(demo.0.stdout.take().unwrap()).unwrap();
    assert_eq!(demo.wait(), Some(0), "{out}");
    let outcome: Value = serde_json::from_str(&out).unwrap();

    let workers = outcome["manifest"]["workers"].as_array().unwrap();
    let mut places: Vec<_> = workers
        .iter()
        .map(|worker| {
            let number = |field: &str| worker[field].as_u64().unwrap();
            assert_eq!(worker["state"], "complete", "{worker}");
            assert!(worker["error"].is_null(), "{worker}");
            // Of the environment: the demo is configured as a server is.
            assert_eq!(worker["limits"]["min_free_percent"], 0, "{worker}");
            assert!(worker["records"]["span"].as_u64().unwrap() > 0, "{worker}");
            assert!(worker["steps"].as_u64().unwrap() > 0, "{worker}");
            (number("stage"), number("replica"), number("rank"))
        })
        .collect();
    places.sort_unstable();
    assert_eq!(places, [(0, 0, 0), (0, 0, 1), (1, 0, 0), (2, 0, 0), (2, 1, 0)]);

    let stages = outcome["summary"]["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3);
    for (stage, request_span) in stages.iter().zip(["thinker", "talker", "diffusion"]) {
        let spans = stage["tables"]["spans"].as_array().unwrap();
        let own = spans.iter().find(|row| row["name"] == request_span).unwrap();
        // Two requests, on both ranks of the thinker; the diffusion may take both in one batch.
        let count = own["count"].as_u64().unwrap();
        match request_span {
            "thinker" => assert_eq!(count, 4),
            "talker" => assert_eq!(count, 2),
            _ => assert!((1..=2).contains(&count)),
        }
    }
    let open = PathBuf::from(outcome["open"].as_str().unwrap());
    assert!(open.starts_with(root.path().canonicalize().unwrap()), "{}", open.display());
    let gzip = std::fs::read(&open).unwrap();
    assert_eq!(gzip[..2], [0x1f, 0x8b]);
    assert_eq!(sockets_of(demo.0.id()), Vec::<PathBuf>::new());
}

#[test]
fn served_it_answers_to_http_and_ends_in_order_on_ctrl_c() {
    let root = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(root.path(), &["--json", "--serve", "--port", "0"]);
    let mut line = String::new();
    BufReader::new(demo.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let url = ready["url"].as_str().unwrap();

    let curl = |path: &str, body: Option<&str>| -> (u16, Value) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = match body {
            Some(body) => agent.post(format!("{url}{path}")).send(body),
            None => agent.get(format!("{url}{path}")).call(),
        }
        .unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
    };
    let (status, answer) = curl("/start_profile", Some(r#"{"stages": [2], "max_iterations": 5}"#));
    assert_eq!(status, 200, "{answer}");
    let manifest = wait_until("both replicas took five steps", || {
        let (_, sessions) = curl("/profile/sessions", None);
        let id = sessions[0]["session"].as_str()?.to_owned();
        let (_, manifest) = curl(&format!("/profile/sessions/{id}"), None);
        (manifest["state"] == "complete").then_some(manifest)
    });
    let workers = manifest["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2, "{manifest}");
    for worker in workers {
        assert_eq!(worker["stopped_by"], "schedule", "{worker}");
    }

    let stages = demo.stages();
    demo.signal(Signal::INT);
    assert_eq!(demo.wait(), Some(0));
    for stage in stages {
        assert!(!Path::new(&format!("/proc/{stage}")).exists(), "stage {stage} is left");
    }
    assert_eq!(sockets_of(demo.0.id()), Vec::<PathBuf>::new());
}

#[test]
fn interrupted_while_it_profiles_it_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(root.path(), &["--requests", "1000"]);
    let stages = demo.stages();
    wait_until_recorded(root.path());
    demo.signal(Signal::INT);
    assert_eq!(demo.wait(), Some(130));
    for stage in stages {
        assert!(!Path::new(&format!("/proc/{stage}")).exists(), "stage {stage} is left");
    }
    assert_eq!(sockets_of(demo.0.id()), Vec::<PathBuf>::new());
}

#[test]
fn killed_it_takes_its_stages_along() {
    let root = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(root.path(), &["--requests", "1000"]);
    demo.stages();
    demo.signal(Signal::KILL);
    assert_eq!(demo.wait(), None);
    wait_until("no stage runs", || stages_of(demo.0.id()).is_empty().then_some(()));
    for left in sockets_of(demo.0.id()) {
        std::fs::remove_dir_all(left).unwrap();
    }
}

#[test]
fn a_dead_stage_ends_it_with_its_name() {
    let root = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(root.path(), &["--requests", "1000"]);
    let stages = demo.stages();
    wait_until_recorded(root.path());
    let place = ["--stage", "2", "--replica", "1"].map(str::as_bytes);
    let last = stages.into_iter().find(|stage| {
        let line = std::fs::read(format!("/proc/{stage}/cmdline")).unwrap();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.windows(place.len()).any(|part| part == place)
    });
    let last = Pid::from_raw(i32::try_from(last.unwrap()).unwrap()).unwrap();
    kill_process(last, Signal::KILL).unwrap();
    assert_eq!(demo.wait(), Some(1));
    let said = std::io::read_to_string(demo.0.stderr.take().unwrap()).unwrap();
    // Either the start finds it dead, or the pipeline.
    assert!(said.contains("stage 2") && said.contains("replica 1, rank 0"), "{said}");
    wait_until("no stage runs", || stages_of(demo.0.id()).is_empty().then_some(()));
}
