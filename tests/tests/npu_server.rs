//! A Python server on a machine of Ascend's stand-ins, under `omniprof run`, driven over HTTP: what
//! lies in the manifest's files is what the stand-ins were told to emit.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use profiler_tests::npu_stand_in::{NpuStandIn, of_ledger, of_summary, of_trace};
use profiler_tests::programs;
use serde_json::{Value, json};

/// Long enough for a loaded machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// What requests wait for: less than the client does.
const JOIN_MS: u64 = 60_000;

const PLENTY: u64 = 1 << 30;

/// The one of aclprof's kernels that runs on no AI core.
const AI_CPU_KERNEL: &str = "ScatterPaKvCache";

/// A server: its device belongs to the main thread, which works on while others talk to it.
const SERVER: &str = r#"
import ctypes, os, sys, threading, time
import torch_npu
from torch_npu.profiler import _ExperimentalConfig, profile, profiler, tensorboard_trace_handler

torch_npu.npu.set_device(0)
words = []
# Records hold their addresses.
NAMES = ctypes.c_char_p(b"MatMulV2_ND_bf16"), ctypes.c_char_p(b"KERNEL_AICORE")

def listen():
    for line in sys.stdin:
        words.append(line.split())
    words.append(["end"])

threading.Thread(target=listen, daemon=True).start()
print("ready", flush=True)
own = None
while True:
    time.sleep(0.001)
    if not words:
        continue
    word, *rest = words.pop(0)
    if word == "end":
        break
    if word == "launch":
        profiler.launch(int(rest[0]))
    if word == "mspti":
        library = ctypes.CDLL(os.environ["ASCEND_HOME_PATH"] + "/lib64/libmspti.so")
        library.fake_launch(*NAMES, ctypes.c_uint64(int(rest[0])), ctypes.c_uint32(7))
    if word == "acl":
        library = ctypes.CDLL(os.environ["ASCEND_HOME_PATH"] + "/lib64/libmsprofiler.so")
        library.fake_acl_launch(ctypes.c_uint64(int(rest[0])))
    if word == "grow":
        profiler.grow(int(rest[0]))
    if word == "profile":
        handler = tensorboard_trace_handler(rest[0], analyse_flag=False)
        own = profile(on_trace_ready=handler, experimental_config=_ExperimentalConfig())
        own.start()
    if word == "release":
        own.stop()
    print("done", word, flush=True)
"#;

/// The server under `omniprof run`.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    said: Vec<String>,
    url: String,
}

impl Server {
    /// Starts it with these settings of the backend.
    fn start(stand_in: &NpuStandIn, root: &Path, settings: &Value) -> Self {
        Self::start_with(stand_in, root, settings, &[])
    }

    /// The same, with further variables.
    fn start_with(
        stand_in: &NpuStandIn,
        root: &Path,
        settings: &Value,
        variables: &[(&str, &Path)],
    ) -> Self {
        programs::injected().unwrap();
        let mut command = Command::new(programs::omniprof().unwrap());
        command.args(["run", "--listen", "127.0.0.1:0", "--join", "preload", "--dir"]).arg(root);
        let config = json!({"options": {"npu": settings}});
        command.arg("--profiler-config").arg(config.to_string());
        command.arg("--").arg(programs::python().unwrap()).args(["-c", SERVER]);
        // What is emitted is told by the test alone.
        stand_in.enter_python(&mut command, 0);
        command.env_remove("FAKE_MSPTI_WORK").envs(variables.iter().copied());
        // How full the disk is, is not what is tested.
        command.env("OMNIPROF_MIN_FREE_PERCENT", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let hint = lines(child.stderr.take().unwrap());
        let output = lines(child.stdout.take().unwrap());
        let input = child.stdin.take();
        let mut server = Self { child, input, output, said: Vec::new(), url: String::new() };
        server.hear("ready");
        let mut told = String::new();
        while server.url.is_empty() {
            let line = hint.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no hint: {told}"));
            let last = line.split_whitespace().last().unwrap_or_default();
            if let Some(url) = last.strip_suffix("/start_profile") {
                url.clone_into(&mut server.url);
            }
            told += &line;
        }
        server
    }

    /// Waits for a line; what stands before it is kept.
    fn hear(&mut self, wanted: &str) {
        loop {
            let line = self.output.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no `{wanted}`: {:?}", self.said));
            if line == wanted {
                return;
            }
            self.said.push(line);
        }
    }

    fn tell(&mut self, word: &str, argument: &str) {
        writeln!(self.input.as_mut().unwrap(), "{word} {argument}").unwrap();
        self.hear(&format!("done {word}"));
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let mut answer =
            agent.post(format!("{}{path}", self.url)).send(body.to_string().as_bytes()).unwrap();
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_json().unwrap())
    }

    fn get(&self, path: &str) -> Value {
        let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
        let mut answer = agent.get(format!("{}{path}", self.url)).call().unwrap();
        answer.body_mut().read_json().unwrap()
    }

    /// A file that a manifest names.
    fn file(&self, session: &str, path: &str) -> Vec<u8> {
        let url = format!("{}/profile/sessions/{session}/files/{path}", self.url);
        let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
        agent.get(url).call().unwrap().body_mut().read_to_vec().unwrap()
    }

    /// Starts a capture of the device alone.
    fn start_profile(&self, max_bytes: u64) -> (u16, Value) {
        let body = json!({
            "backend": "npu",
            "activities": ["GPU"],
            "formats": ["kineto"],
            "max_bytes": max_bytes,
            "wait_join_ms": JOIN_MS,
        });
        self.post("/start_profile", &body)
    }

    fn stop_profile(&self) -> (u16, Value) {
        self.post("/stop_profile", &json!({"wait_ms": JOIN_MS}))
    }

    fn end(mut self) -> Vec<String> {
        drop(self.input.take());
        while let Ok(line) = self.output.recv_timeout(PATIENCE) {
            self.said.push(line);
        }
        assert!(self.child.wait().unwrap().success(), "{:?}", self.said);
        std::mem::take(&mut self.said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that ended needs neither.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    let read = move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("lines".to_owned()).spawn(read).unwrap();
    receiver
}

fn summary(spool: &Path) -> Value {
    let mut command = Command::new(programs::omniprof().unwrap());
    let output = command.args(["summary", "--json"]).arg(spool).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a summary says of the device.
fn summary_of_device(spool: &Path) -> Value {
    let summary = summary(spool);
    let workers = summary["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2, "the worker's own and the device's: {summary}");
    let is_device = |own: &&Value| own["title"].as_str().unwrap().ends_with(", device");
    let device = workers.iter().find(is_device).unwrap();
    assert_eq!(device["pid"], workers[0]["pid"]);
    device.clone()
}

/// How many directories for raw files lie in a folder.
fn raw_directories(folder: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        count += usize::from(path.extension().is_some_and(|extension| extension == "raw"));
        count += if path.is_dir() { raw_directories(&path) } else { 0 };
    }
    count
}

fn file<'a>(worker: &'a Value, format: &str) -> &'a Value {
    let files = worker["files"].as_array().unwrap();
    let found = files.iter().find(|file| file["format"] == format);
    let found = found.unwrap_or_else(|| panic!("no {format}: {worker}"));
    assert_eq!(found["state"], "complete", "{worker}");
    found
}

#[test]
fn what_torch_npu_recorded_lies_in_the_manifests_files_and_a_rival_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    let root = folder.path().join("traces");
    let mut server = Server::start(&stand_in, &root, &json!({"path": "torch_npu"}));

    // The application profiles itself: refused by name, and nothing is left of the start.
    server.tell("profile", folder.path().join("own").to_str().unwrap());
    let (status, answer) = server.start_profile(PLENTY);
    assert_eq!(status, 502, "{answer}");
    let said = answer.to_string();
    assert!(said.contains("busy") && said.contains("torch_npu.profiler records"), "{said}");
    assert!(said.contains("Level0"), "{said}");
    assert_eq!(raw_directories(&root), 0);
    server.tell("release", "");

    let (status, answer) = server.start_profile(PLENTY);
    assert_eq!(status, 200, "{answer}");
    server.tell("launch", "41");
    server.tell("launch", "300");
    let (status, manifest) = server.stop_profile();
    assert_eq!(status, 200, "{manifest}");
    // What came later is no part of it.
    server.tell("launch", "7");

    let workers = manifest["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 1, "{manifest}");
    let worker = &workers[0];
    assert_eq!(worker["state"], "complete", "{worker}");
    assert_eq!((&worker["backend"], &worker["error"]), (&json!("npu"), &Value::Null), "{worker}");
    assert_eq!(worker["notes"], Value::Null, "{worker}");

    let emitted = stand_in.ledger(worker["pid"].as_u64().unwrap()).unwrap();
    assert_eq!(emitted.len(), 41 + 1 + 300 + 1);
    let told = of_ledger(&emitted);
    assert_eq!(told.len(), 3, "two kernels and a collective: {told:?}");
    assert_eq!(raw_directories(&root), 1);
    let directory = root.join(manifest["directory"].as_str().unwrap());
    let raw = directory.join(file(worker, "raw")["path"].as_str().unwrap());
    assert!(raw.join("ASCEND_PROFILER_OUTPUT/trace_view.json").is_file(), "{}", raw.display());
    let spool = directory.join(file(worker, "spool")["path"].as_str().unwrap());
    assert_eq!(of_summary(&summary_of_device(&spool)).unwrap(), told);
    let session = manifest["session"].as_str().unwrap();
    let trace = server.file(session, file(worker, "kineto")["path"].as_str().unwrap());
    assert_eq!(of_trace(&trace).unwrap(), told);

    let said = server.end().join("\n");
    // Its stop says so without a schedule; it was analysed, and by no daemon.
    assert!(said.contains("Incorrect schedule: Stop profiler"), "{said}");
    assert!(!said.contains("[ERROR]") && !said.contains("daemon process"), "{said}");
}

#[test]
fn what_mspti_recorded_lies_in_the_manifests_files() {
    const KERNELS: [u64; 2] = [41, 3_000];
    const KERNEL_NS: u64 = 1_500;
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    let root = folder.path().join("traces");
    let library = stand_in.library();
    let preload = [("LD_PRELOAD", library.as_path())];
    let mut server = Server::start_with(&stand_in, &root, &json!({}), &preload);
    // What came before and what comes later is no part of it.
    server.tell("mspti", "9");
    let (status, answer) = server.start_profile(PLENTY);
    assert_eq!(status, 200, "{answer}");
    for count in KERNELS {
        server.tell("mspti", &count.to_string());
    }
    let (status, manifest) = server.stop_profile();
    assert_eq!(status, 200, "{manifest}");
    server.tell("mspti", "7");

    let worker = &manifest["workers"][0];
    assert_eq!(worker["state"], "complete", "{worker}");
    assert_eq!((&worker["backend"], &worker["error"]), (&json!("npu"), &Value::Null), "{worker}");
    assert_eq!((&worker["notes"], &worker["drops"]), (&Value::Null, &json!({})), "{worker}");
    let count: u64 = KERNELS.iter().sum();
    assert_eq!(worker["records"]["kernel"], count, "{worker}");

    let directory = root.join(manifest["directory"].as_str().unwrap());
    let spool = directory.join(file(worker, "spool")["path"].as_str().unwrap());
    let summary = summary(&spool);
    let [own] = &summary["workers"].as_array().unwrap()[..] else { panic!("{summary}") };
    let summed = of_summary(own).unwrap();
    let session = manifest["session"].as_str().unwrap();
    let trace = server.file(session, file(worker, "kineto")["path"].as_str().unwrap());
    assert_eq!(of_trace(&trace).unwrap(), summed);
    assert_eq!(summed.len(), 1, "{summed:?}");
    let name = ("kernel".to_owned(), "MatMulV2_ND_bf16".to_owned());
    let (counted, ns) = summed[&name];
    assert_eq!(counted, count);
    // Instants are mapped from CLOCK_REALTIME, which may be slewed: each duration is right to the
    // nanosecond.
    assert!(ns.abs_diff(count * KERNEL_NS) <= count, "{ns}");
    server.end();
}

#[test]
fn raw_files_end_a_capture_at_its_limit_of_bytes_and_what_there_is_is_imported() {
    const MAX_BYTES: u64 = 2 << 20;
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    let root = folder.path().join("traces");
    let mut server = Server::start(&stand_in, &root, &json!({"path": "torch_npu"}));
    let (status, answer) = server.start_profile(MAX_BYTES);
    assert_eq!(status, 200, "{answer}");
    server.tell("launch", "50");
    // Nobody stops it but the limit.
    server.tell("grow", &MAX_BYTES.to_string());
    let deadline = Instant::now() + PATIENCE;
    while !server.get("/profile/status")["session"].is_null() {
        assert!(Instant::now() < deadline, "the limit ends it");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (status, manifest) = server.stop_profile();
    assert_eq!(status, 200, "{manifest}");
    let worker = &manifest["workers"][0];
    assert_eq!(worker["stopped_by"], "byte_limit", "{worker}");
    assert_eq!((&worker["state"], &worker["error"]), (&json!("complete"), &Value::Null));
    let [note] = &worker["notes"].as_array().unwrap()[..] else { panic!("{worker}") };
    assert!(note.as_str().unwrap().contains("bytes of raw files"), "{note}");
    let told = of_ledger(&stand_in.ledger(worker["pid"].as_u64().unwrap()).unwrap());
    assert_eq!(told.values().map(|sum| sum.0).sum::<u64>(), 51);
    let session = manifest["session"].as_str().unwrap();
    let trace = server.file(session, file(worker, "kineto")["path"].as_str().unwrap());
    assert_eq!(of_trace(&trace).unwrap(), told);
    server.end();
}

#[test]
fn counters_of_the_ai_cores_and_of_the_l2_cache_become_rows_of_their_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    let root = folder.path().join("traces");
    // It takes the path that has such counters by itself.
    let settings = json!({"aic_metrics": "PipeUtilization", "l2_cache": true});
    let mut server = Server::start(&stand_in, &root, &settings);
    let (status, answer) = server.start_profile(PLENTY);
    assert_eq!(status, 200, "{answer}");
    server.tell("acl", "40");
    let (status, manifest) = server.stop_profile();
    assert_eq!(status, 200, "{manifest}");
    let worker = &manifest["workers"][0];
    assert_eq!(
        (&worker["state"], &worker["notes"]),
        (&json!("complete"), &Value::Null),
        "{worker}"
    );
    let directory = root.join(manifest["directory"].as_str().unwrap());
    let spool = directory.join(file(worker, "spool")["path"].as_str().unwrap());
    let device = summary_of_device(&spool);
    let told = of_ledger(&stand_in.ledger(worker["pid"].as_u64().unwrap()).unwrap());
    assert_eq!(of_summary(&device).unwrap(), told);

    // Work of an AI CPU has no such counter.
    let of_cores =
        told.iter().filter(|((kind, name), _)| kind == "kernel" && name != AI_CPU_KERNEL);
    let (count, ns) = of_cores.fold((0, 0), |sum, (_, one)| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!(count, 30);
    let counters = device["tables"]["counters"].as_array().unwrap();
    let counter_of = |name: &str, count: u64| {
        let row = counters.iter().find(|row| row["name"] == name).unwrap();
        assert_eq!((&row["count"], &row["device"]), (&count.into(), &0.into()), "{row}");
        (row["unit"].as_str().unwrap(), row["mean"].as_f64().unwrap())
    };
    assert_eq!(counter_of("aic_mac_ratio", count), ("1", 0.375));
    // Of the first kernel msprof has none.
    assert_eq!(counter_of("l2_cache_hit_rate", count - 1), ("1", 0.75));
    assert_eq!(counter_of("l2_cache_victim_rate", count - 1), ("1", 0.125));
    let (unit, mean) = counter_of("aicore_time", count);
    assert_eq!((unit, (mean * 1_000.0 * count as f64).round() as u64), ("us", ns));
    server.end();
}
