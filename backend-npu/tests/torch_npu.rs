//! torch_npu's profiler, driven from inside real CPython on a stand-in for the module.

#![expect(unsafe_code, reason = "loads a library")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use backend_npu::NpuBackend;
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use serde_json::{Value, json};

/// Long enough for a loaded machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An application: its device belongs to the main thread, which works on while another thread
/// records, as an agent's does.
const APPLICATION: &str = r#"
import ctypes, json, multiprocessing, os, sys, threading, time

def application(given):
    import torch_npu
    if given["initialised_by"] == "main":
        torch_npu.npu.set_device(0)
    else:
        thread = threading.Thread(target=torch_npu.npu.set_device, args=(0,))
        thread.start()
        thread.join()
    library = ctypes.CDLL(given["library"])
    for function in (library.record_start, library.record_stop):
        function.restype = ctypes.c_char_p
    said = {}
    if given["profiled"]:
        from torch_npu.profiler import _ExperimentalConfig, profile, tensorboard_trace_handler
        other = profile(
            on_trace_ready=tensorboard_trace_handler(given["other"]),
            experimental_config=_ExperimentalConfig(),
        )
        other.start()
    def record():
        settings = json.dumps(given["settings"]).encode()
        said["start"] = json.loads(library.record_start(settings))
        time.sleep(given["seconds"])
        said["stop"] = json.loads(library.record_stop())
    agent = threading.Thread(target=record)
    agent.start()
    while agent.is_alive():
        time.sleep(0.001)
    if given["profiled"]:
        other.stop()
    print(json.dumps(said), flush=True)

given = json.loads(sys.argv[1])
if given["as_daemon"]:
    process = multiprocessing.get_context("fork").Process(target=application, args=(given,))
    process.daemon = True
    process.start()
    process.join()
else:
    application(given)
"#;

/// The interpreter itself: what is called `python3` may be a script.
fn python() -> Option<&'static Path> {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let script = "import os, sys; print(os.path.realpath(sys.executable))";
        let output = Command::new("python3").args(["-c", script]).output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    };
    FILE.get_or_init(find).as_deref()
}

/// The library that records from inside Python.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = std::env::current_exe().expect("a path");
        let target = own.ancestors().nth(3).expect("the folder above debug/deps");
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--manifest-path", manifest])
            .args(["--example", "record-in-python", "--target-dir"])
            .arg(target)
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the library builds");
        target.join("debug/examples/librecord_in_python.so")
    })
}

fn cann() -> &'static support::FakeCann {
    static CANN: OnceLock<support::FakeCann> = OnceLock::new();
    CANN.get_or_init(|| support::install("torch"))
}

/// A run of the application, and how it differs from the plain one.
struct Run {
    folder: tempfile::TempDir,
    given: Value,
    variant: &'static str,
    without_module: bool,
}

impl Run {
    fn new(options: Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "raw_dir": folder.path().join("a.raw"),
            "options": options,
        });
        let given = json!({
            "library": library(),
            "settings": {"machine": cann().root, "config": config},
            "other": folder.path().join("other"),
            "seconds": 0.2,
            "initialised_by": "main",
            "profiled": false,
            "as_daemon": false,
        });
        Self { folder, given, variant: "", without_module: false }
    }

    /// What the backend said, and what the process printed.
    fn run(&self) -> (Value, String) {
        let mut application = APPLICATION.to_owned();
        if self.without_module {
            application = application.replace("import torch_npu\n", "torch_npu = None\n");
            application = application.replace("torch_npu.npu.set_device(0)", "pass");
        }
        let output = self.output(&application);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}{errors}", output.status);
        (told(&output), text)
    }

    /// What a program makes of the given.
    fn output(&self, application: &str) -> Output {
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fakes/torch_npu");
        Command::new(python().expect("python3"))
            .args(["-c", application])
            .arg(self.given.to_string())
            .env("PYTHONPATH", module)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("FAKE_LIBTORCH_NPU", cann().home.join("lib64/libtorch_npu.so"))
            .env("FAKE_TORCH_NPU", self.variant)
            .env("FAKE_MSPTI_LEDGER", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("python runs")
    }

    fn raw(&self) -> PathBuf {
        self.folder.path().join("a.raw")
    }

    /// What the profiler wrote.
    fn written(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.raw()).expect("a folder");
        let mut paths = entries.map(|entry| entry.expect("an entry").path());
        let found = paths.find(|path| path.to_string_lossy().ends_with("_ascend_pt"));
        found.expect("a directory of torch_npu's")
    }

    /// How the analysis ended, once it has.
    fn analysed(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = std::fs::read_to_string(self.raw().join("analyse.log")).unwrap_or_default();
            // What stands in brackets is the profiler's own: the last line says how it ended.
            let last = log.strip_suffix('\n').and_then(|log| log.lines().last());
            if let Some(last) = last.filter(|last| !last.starts_with('[')) {
                return last.to_owned();
            }
            assert!(Instant::now() < deadline, "the analysis does not end: {log:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn torch() -> Value {
    json!({"npu.path": "torch_npu"})
}

#[test]
fn it_is_driven_by_the_thread_that_has_the_device_and_analysed_by_another_process() {
    let run = Run::new(torch());
    let (said, printed) = run.run();
    assert_eq!(said["start"], Value::Null, "{printed}");
    assert_eq!(said["stop"]["notes"], json!([]), "{said}");
    let facts = &said["stop"]["facts"];
    assert_eq!(facts["npu.path"], "torch_npu");
    assert_eq!(facts["npu.torch_npu.version"], "2.7.1.post4");
    assert_eq!(facts["npu.torch_npu.level"], "Level1");
    let written = run.written();
    assert_eq!(facts["npu.raw"], written.to_str().expect("UTF-8"));
    // A stop without a schedule says so, and is none the worse for it.
    assert!(printed.contains("Incorrect schedule: Stop profiler"), "{printed}");
    assert!(!printed.contains("[ERROR]"), "{printed}");
    assert_eq!(run.analysed(), "done");
    assert!(written.join("ASCEND_PROFILER_OUTPUT/trace_view.json").is_file());
}

#[test]
fn a_worker_that_is_a_daemon_is_analysed_all_the_same() {
    let mut run = Run::new(torch());
    run.given["as_daemon"] = true.into();
    let (said, printed) = run.run();
    assert_eq!(said["stop"]["notes"], json!([]), "{said}");
    assert!(!printed.contains("cannot be parsed during the daemon process"), "{printed}");
    assert_eq!(run.analysed(), "done");
    // The stand-in does refuse in such a process, as the vendor's does.
    let script = "
import multiprocessing
def refuse():
    from torch_npu.profiler import analyse
    analyse('/nowhere')
process = multiprocessing.get_context('fork').Process(target=refuse, daemon=True)
process.start()
process.join()
";
    let refused = Command::new(python().expect("python3"))
        .args(["-c", script])
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fakes/torch_npu"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("FAKE_LIBTORCH_NPU", cann().home.join("lib64/libtorch_npu.so"))
        .output()
        .expect("python runs");
    let refused = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(refused.contains("cannot be parsed during the daemon process"), "{refused}");
}

#[test]
fn settings_reach_it_and_those_that_its_version_lacks_are_refused_by_name() {
    let mut run = Run::new(json!({
        "npu.path": "torch_npu",
        "npu.level": "Level2",
        "npu.aic_metrics": "ArithmeticUtilization",
        "npu.l2_cache": true,
        "npu.msprof_tx": true,
        "npu.data_simplification": false,
        "npu.gc_detect_threshold": 1.5,
        "npu.with_modules": true,
    }));
    run.given["settings"]["config"]["record_shapes"] = true.into();
    run.given["settings"]["config"]["memory"] = true.into();
    run.given["settings"]["config"]["with_stack"] = true.into();
    let (said, _) = run.run();
    assert_eq!(said["start"], Value::Null, "{said}");
    let info = std::fs::read(run.written().join("profiler_info.json")).expect("a file");
    let info: Value = serde_json::from_slice(&info).expect("JSON");
    for (name, value) in [
        ("activities", json!(["CPU", "NPU"])),
        ("profiler_level", "Level2".into()),
        ("aic_metrics", "ACL_AICORE_ARITHMETIC_UTILIZATION".into()),
        ("l2_cache", true.into()),
        ("msprof_tx", true.into()),
        ("data_simplification", false.into()),
        ("gc_detect_threshold", 1.5.into()),
        ("record_shapes", true.into()),
        ("profile_memory", true.into()),
        ("with_stack", true.into()),
        ("with_modules", true.into()),
        ("with_flops", false.into()),
    ] {
        assert_eq!(info[name], value, "{name}");
    }
    assert_eq!(run.analysed(), "done");

    let run = Run::new(json!({"npu.path": "torch_npu", "npu.mstx": true}));
    let (said, _) = run.run();
    assert_eq!(said["start"]["code"], "invalid_config", "{said}");
    assert!(said["start"]["error"].as_str().expect("a text").contains("has no setting mstx"));
    let run = Run::new(json!({"npu.path": "torch_npu", "npu.aic_metrics": "MemoryUB"}));
    let (said, _) = run.run();
    assert!(said["start"]["error"].as_str().expect("a text").contains("has no MemoryUB"), "{said}");
}

#[test]
fn one_that_runs_already_is_busy_by_name_on_every_path() {
    for path in ["mspti", "aclprof", "torch_npu"] {
        let mut run = Run::new(json!({"npu.path": path}));
        run.given["profiled"] = true.into();
        let (said, _) = run.run();
        assert_eq!(said["start"]["code"], "busy", "{said}");
        let error = said["start"]["error"].as_str().expect("a text");
        assert!(error.contains("torch_npu.profiler") && error.contains("Level0"), "{error}");
        assert!(!run.raw().exists(), "{path}");
    }
}

#[test]
fn each_way_in_which_it_fails_says_what_to_do() {
    // The device belongs to a thread that is not the main one: the start prints that, and returns.
    let mut run = Run::new(torch());
    run.given["initialised_by"] = "another".into();
    let (said, printed) = run.run();
    assert_eq!(said["start"]["code"], "torch_npu_failed", "{said}");
    assert!(printed.contains("a thread that has no device"), "{printed}");

    let mut run = Run::new(torch());
    run.variant = "refuse";
    let (said, printed) = run.run();
    assert_eq!(said["start"]["code"], "torch_npu_failed", "{said}");
    assert!(printed.contains("AclProfilingStart failed"), "{printed}");
    assert!(!run.raw().exists(), "nothing is left");

    let mut run = Run::new(torch());
    run.without_module = true;
    let (said, _) = run.run();
    assert_eq!(said["start"]["code"], "torch_npu_missing", "{said}");
    assert!(said["start"]["error"].as_str().expect("a text").contains("imported torch_npu"));

    let mut run = Run::new(torch());
    run.variant = "unparsed";
    let (said, _) = run.run();
    assert_eq!(said["stop"]["notes"], json!([]), "{said}");
    assert!(run.analysed().starts_with("analyse wrote no "), "{}", run.analysed());
}

/// What an application does whose main thread waits inside a library.
const WAITS: &str = "    agent.join()\n";
const WORKS: &str = "    while agent.is_alive():\n        time.sleep(0.001)\n";

#[test]
fn a_main_thread_that_runs_no_python_is_busy_and_nothing_is_left_of_the_start() {
    let run = Run::new(torch());
    assert!(APPLICATION.contains(WORKS));
    let said = told(&run.output(&APPLICATION.replace(WORKS, WAITS)));
    assert_eq!(said["start"]["code"], "python_busy", "{said}");
    let error = said["start"]["error"].as_str().expect("a text");
    assert!(error.contains("ran no Python for 5.0 s"), "{error}");
    assert!(!run.raw().exists(), "the call came after it was called off");
}

#[test]
fn a_queue_of_calls_that_is_full_is_busy() {
    let run = Run::new(torch());
    // Each call is `abs(0)`, which is 0: done. The main thread takes some on its way to where it
    // waits.
    let full = r#"
        call, nothing = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p), ctypes.c_void_p()
        for _ in range(5):
            while ctypes.pythonapi.Py_AddPendingCall(call, nothing) == 0:
                pass
            time.sleep(0.05)
"#;
    let begin = "    def record():\n";
    let application = APPLICATION.replace(WORKS, WAITS).replace(begin, &format!("{begin}{full}"));
    let said = told(&run.output(&application));
    assert_eq!(said["start"]["code"], "python_busy", "{said}");
    assert!(said["start"]["error"].as_str().expect("a text").contains("is full"), "{said}");
}

/// It answers after the limit of 30 s: what it began is taken back.
#[test]
fn a_profiler_that_does_not_answer_is_told_and_undone_when_it_does() {
    let run = Run::new(torch());
    let slow = r#"
    whole = torch_npu.profiler.profile.start
    def start(self):
        time.sleep(31)
        whole(self)
    torch_npu.profiler.profile.start = start
"#;
    let loaded = "    library = ctypes.CDLL";
    let application = APPLICATION.replacen(loaded, &format!("{slow}{loaded}"), 1);
    let ends = "    print(json.dumps(said), flush=True)\n";
    let running = "    said[\"runs\"] = torch_npu.profiler.profiler._recording is not None\n";
    let application = application.replace(ends, &format!("{running}{ends}"));
    let output = run.output(&application);
    let said = told(&output);
    assert_eq!(said["start"]["code"], "python_hangs", "{said}");
    assert!(said["start"]["error"].as_str().expect("a text").contains("within 30.0 s"), "{said}");
    assert_eq!(said["runs"], false, "{output:?}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("Incorrect schedule: Stop profiler"), "it was stopped: {printed}");
}

/// The last line of JSON that a process printed.
fn told(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    said.unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn a_process_without_python_is_told_what_to_use() {
    let library = cann().home.join("lib64/libtorch_npu.so");
    // SAFETY: our own library, which has no initialisers.
    let _loaded = unsafe { libloading::Library::new(library) }.expect("the stand-in loads");
    let mut options = std::collections::BTreeMap::new();
    options.insert("npu.path".to_owned(), "torch_npu".into());
    let folder = tempfile::tempdir().expect("a folder");
    let raw_dir = Some(folder.path().join("a.raw"));
    let config = SessionConfig { options, raw_dir, ..SessionConfig::default() };
    let sink = Arc::new(MemorySink::default());
    let backend = NpuBackend::at(&cann().root, None);
    let opened = backend.open(&config, sink, Arc::new(SystemClock::new()));
    let refused = opened.and_then(|mut session| session.start()).expect_err("there is no Python");
    assert_eq!(refused.code(), "no_python");
    assert!(refused.to_string().contains("`npu.path` `mspti` or `aclprof`"), "{refused}");
}

/// The start of a program that records from another thread.
const RECORDS: &str = r#"
import ctypes, json, os, signal, sys, threading, time
import torch_npu
given = json.loads(sys.argv[1])
torch_npu.npu.set_device(0)
library = ctypes.CDLL(given["library"])
library.record_start.restype = ctypes.c_char_p

def aside(call):
    thread = threading.Thread(target=call)
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)

def start():
    said = library.record_start(json.dumps(given["settings"]).encode())
    assert said == b"null", said
aside(start)
"#;

/// An agent ends its session in a handler of the C library, when the interpreter is gone.
#[test]
fn a_stop_at_the_exit_of_the_process_lets_it_exit() {
    let run = Run::new(torch());
    let script = r#"
libc = ctypes.CDLL(None)
stop = ctypes.cast(library.record_stop, ctypes.c_void_p)
assert libc.__cxa_atexit(stop, None, None) == 0
print("exits", flush=True)
"#;
    let output = run.output(&format!("{RECORDS}{script}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().last(), Some("exits"));
}

/// A signal's handler runs on the thread that is borrowed: what it raises is the application's.
#[test]
fn an_application_that_is_told_to_end_while_it_is_stopped_ends() {
    let run = Run::new(torch());
    let script = r#"
def told(number, frame):
    raise SystemExit(7)
signal.signal(signal.SIGTERM, told)
whole = torch_npu.profiler.profile.stop
def stop(self):
    os.kill(os.getpid(), signal.SIGTERM)
    whole(self)
torch_npu.profiler.profile.stop = stop
aside(library.record_stop)
print("goes on", flush=True)
"#;
    let output = run.output(&format!("{RECORDS}{script}"));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}
