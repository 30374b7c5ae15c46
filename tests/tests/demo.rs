//! The demo as a user runs it: what it tells, and that nothing of it is left behind.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use profiler_core::record::{Span, Step};
use profiler_export::capture::{Capture, CaptureOptions, Consumer, Place};
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

/// What lies in the windows of a capture.
#[derive(Default)]
struct Recorded {
    steps: Vec<u64>,
    /// Names, requests and fields.
    spans: Vec<(String, String, Value)>,
}

impl Recorded {
    fn of(spools: &[PathBuf]) -> Self {
        let mut recorded = Self::default();
        let mut capture = Capture::open(spools.to_vec(), CaptureOptions::default()).unwrap();
        capture.read(&mut recorded).unwrap();
        recorded
    }
}

impl Consumer for Recorded {
    fn steps(&mut self, _place: &Place<'_>, rows: &[Step]) -> std::io::Result<()> {
        self.steps.extend(rows.iter().map(|row| row.step));
        Ok(())
    }

    fn spans(&mut self, place: &Place<'_>, rows: &[Span]) -> std::io::Result<()> {
        for row in rows {
            let text = |id| place.definitions.string(id).to_owned();
            let fields = row.fields.text(place.heap).unwrap_or_default();
            let fields = serde_json::from_str(&fields).unwrap_or_default();
            self.spans.push((text(row.name), text(row.request), fields));
        }
        Ok(())
    }
}

/// The spool of a worker of a manifest.
fn spool_of(manifest: &Value, worker: &Value) -> PathBuf {
    let files = worker["files"].as_array().unwrap();
    let spool = files.iter().find(|file| file["format"] == "spool").unwrap();
    Path::new(manifest["directory"].as_str().unwrap()).join(spool["path"].as_str().unwrap())
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
fn it_shows_a_person_workers_stages_and_the_file_to_open() {
    let root = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(root.path(), &["--requests", "2"]);
    let out = std::io::read_to_string(demo.0.stdout.take().unwrap()).unwrap();
    assert_eq!(demo.wait(), Some(0), "{out}");

    let row = |cells: &str| {
        let cells: Vec<_> = cells.split(' ').collect();
        out.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.starts_with(&cells))
            .unwrap_or_else(|| panic!("{cells:?} begin no line of {out}"))
    };
    let head = row("stage role replica rank pid backend state records drops files");
    let column = |name: &str| head.iter().position(|cell| *cell == name).unwrap();
    for worker in ["0 thinker 0 0", "0 thinker 0 1", "1 talker 0 0", "2 diffusion 0 0"] {
        let words = row(worker);
        assert_eq!(words[column("state")], "complete", "{out}");
        assert!(words[column("records")].parse::<u64>().unwrap() > 0, "{out}");
    }
    assert_eq!(row("2 diffusion 1 0")[column("state")], "complete", "{out}");

    // A part for each stage, in their order: how busy it was, and what took its time.
    let titles = [
        "stage 0 thinker: 2 workers, ",
        "stage 1 talker: 1 worker, ",
        "stage 2 diffusion: 2 workers, ",
    ];
    let mut rest = out.as_str();
    let mut parts = Vec::new();
    for title in titles.iter().rev() {
        let (before, part) = rest.rsplit_once(title).unwrap_or_else(|| panic!("{title}: {out}"));
        parts.push(part);
        rest = before;
    }
    let spans = [["denoise", "diffusion"], ["decode", "talker"], ["decode", "thinker"]];
    for (part, spans) in parts.into_iter().zip(spans) {
        let share = |word: &str| -> f64 {
            let heading = part.lines().next().unwrap();
            let (_, behind) = heading.split_once(word).unwrap_or_else(|| panic!("{heading}"));
            behind.split(' ').next().unwrap().parse().unwrap()
        };
        let (busy, idle) = (share("busy "), share("idle "));
        assert!(busy > 0.0 && (busy + idle - 100.0).abs() < 0.2, "{part}");
        let table = |title: &str| {
            let mut lines = part.lines().skip_while(|line| !line.trim().starts_with(title));
            assert!(lines.next().is_some(), "{title}: {part}");
            lines.take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>()
        };
        let table_of_spans = table("Spans");
        assert!(table_of_spans[0].starts_with("Total (%)  Total Time (us)"), "{part}");
        for span in spans {
            let is_told = |line: &&str| line.ends_with(&format!("  {span}"));
            assert!(table_of_spans.iter().any(is_told), "{span}: {part}");
        }
        // A head, a rule and a function at least.
        assert!(table("Sampled functions").len() > 2, "{part}");
    }

    let mut lines = out.lines().rev();
    let open = lines.next().unwrap().strip_prefix("Open ").unwrap();
    let open = Path::new(open.strip_suffix(" in https://ui.perfetto.dev").unwrap());
    assert!(open.starts_with(root.path().canonicalize().unwrap()), "{out}");
    assert!(open.to_str().unwrap().ends_with(".pftrace.gz"), "{out}");
    assert_eq!(std::fs::read(open).unwrap()[..2], [0x1f, 0x8b]);
    let more = lines.next().unwrap().strip_prefix("`omniprof summary ").unwrap();
    let session = Path::new(more.strip_suffix("` shows more.").unwrap());
    assert!(open.starts_with(session), "{out}");
    let summary = Command::new(programs::omniprof().unwrap()).arg("summary").arg(session).output();
    assert!(summary.unwrap().status.success(), "{out}");

    // Five images of two requests: one of them was a batch of four.
    let entries = std::fs::read_dir(session.join("stage2-diffusion")).unwrap();
    let mut spools: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    spools.retain(|path| path.extension().is_some_and(|extension| extension == "spool"));
    assert_eq!(spools.len(), 2, "{spools:?}");
    let mut made = Recorded::of(&spools).spans;
    made.retain(|(name, ..)| name == "diffusion");
    let images = |fields: &Value| fields["images"].as_u64().unwrap();
    assert_eq!(made.iter().map(|(.., fields)| images(fields)).sum::<u64>(), 5, "{made:?}");
    let batches: Vec<_> = made.iter().filter(|(.., fields)| images(fields) == 4).collect();
    let [(_, request, _)] = *batches else { panic!("{made:?}") };
    assert!(!request.is_empty() && !request.contains(','), "one request's: {made:?}");
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
    // Where one has ended by itself, the next begins.
    for iterations in [5, 1] {
        let body = format!(r#"{{"stages": [2], "max_iterations": {iterations}}}"#);
        let (status, answer) = curl("/start_profile", Some(&body));
        assert_eq!(status, 200, "{answer}");
        let path = format!("/profile/sessions/{}", answer["session"].as_str().unwrap());
        let manifest = wait_until("both replicas took their steps", || {
            let (_, manifest) = curl(&path, None);
            (manifest["state"] == "complete").then_some(manifest)
        });
        let workers = manifest["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2, "{manifest}");
        for worker in workers {
            assert_eq!(worker["stopped_by"], "schedule", "{worker}");
            let steps = Recorded::of(&[spool_of(&manifest, worker)]).steps;
            let first = *steps.first().unwrap();
            let consecutive: Vec<u64> = (first..first + iterations).collect();
            assert_eq!(steps, consecutive, "exactly so many, and none between them is missing");
        }
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
