//! A launcher with one child, as small as it gets.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use profiler_agent::link::{Connection, LinkError};
use profiler_core::backend::SessionConfig;
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::control::{
    AgentEvent, AgentReply, AgentRequest, Arm, Armed, COMMIT_DEADLINE_MS, CaptureConfig, Commit,
    FromAgent, Hello, OnUnavailable, Outcome, Stop, ToAgent, WorkerError, WorkerResult,
};
use profiler_core::record::Row;
use profiler_core::schedule::{Limits, Schedule};
use profiler_core::spool::SpoolReader;

/// Long enough for a loaded machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Builds a package of the workspace beside the tests; the path of what it makes.
pub fn build(package: &str, file: &str) -> PathBuf {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--manifest-path", manifest, "-p", package, "--target-dir"])
        .arg(target)
        .status()
        .unwrap();
    assert!(status.success(), "{package} builds");
    target.join("debug").join(file)
}

/// The injected file; `OMNIPROF_TEST_INJECT` names another build of it.
pub fn injected_file() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| match std::env::var_os("OMNIPROF_TEST_INJECT") {
        Some(path) => PathBuf::from(path),
        None => build("profiler-inject", "libomniprof_inject.so"),
    })
}

/// The stand-in for the driver, under the driver's name: a backend looks for that.
pub fn fake_cuda() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let built = build("fake-cuda", "libfake_cuda.so");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let named = folder.join("libcuda.so.1");
        std::fs::copy(built, &named).unwrap();
        named
    })
}

pub fn fake_cupti() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| build("fake-cupti", "libfake_cupti.so"))
}

/// The interpreter itself: what is called `python3` may be a script.
pub fn python() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let output = Command::new("python3")
            .args(["-c", "import os, sys; print(os.path.realpath(sys.executable))"])
            .output()
            .unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

/// Where a launcher listens.
pub struct Launcher {
    pub folder: tempfile::TempDir,
    listener: UnixListener,
}

impl Launcher {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("omniprof.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { folder, listener }
    }

    /// A command that this launcher starts, with no door open.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for name in [
            "OMNIPROF_JOIN",
            "OMNIPROF_JOIN_PROGRAMS",
            "CUDA_INJECTION64_PATH",
            "NVTX_INJECTION64_PATH",
            "LD_PRELOAD",
        ] {
            command.env_remove(name);
        }
        command.env("OMNIPROF_SOCKET", self.folder.path());
        command
    }

    /// A Python program that this launcher starts.
    pub fn python(&self, program: &str) -> Command {
        let mut command = self.command(python());
        command.args(["-c", program]).env("OMNIPROF_TEST_CUDA", fake_cuda());
        command
    }

    /// The next that connects, within a time.
    pub fn connection(&self, within: Duration) -> Option<Connection> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Ok((stream, _)) = self.listener.accept() {
                stream.set_nonblocking(false).unwrap();
                return Some(Connection::new(stream));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    /// The next worker.
    pub fn worker(&self) -> (Worker, Hello) {
        let link = self.connection(PATIENCE).expect("a worker joins");
        Worker::welcome(link)
    }

    /// Whether nobody else has connected so far.
    pub fn nobody_waits(&self) -> bool {
        self.listener.accept().is_err()
    }
}

/// A worker as its controller sees it.
pub struct Worker {
    pub link: Connection,
    pub events: Vec<AgentEvent>,
    next_id: u64,
}

impl Worker {
    pub fn welcome(link: Connection) -> (Self, Hello) {
        let (message, _) = link.recv_timeout::<FromAgent>(PATIENCE).unwrap();
        let FromAgent::Hello(hello) = message else { panic!("no hello: {message:?}") };
        link.send(&ToAgent::Welcome { controller_pid: std::process::id() }, None).unwrap();
        (Self { link, events: Vec::new(), next_id: 1 }, *hello)
    }

    pub fn ask(
        &mut self,
        request: AgentRequest,
        file: Option<&File>,
    ) -> Result<Outcome, LinkError> {
        let id = self.next_id;
        self.next_id += 1;
        self.link.send(&ToAgent::Request { id, request }, file.map(|file| file.as_fd()))?;
        loop {
            match self.link.recv_timeout::<FromAgent>(PATIENCE)?.0 {
                FromAgent::Reply { id: answered, outcome } if answered == id => {
                    return Ok(outcome);
                }
                FromAgent::Event { event } => self.events.push(event),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Arms and commits.
    pub fn start(&mut self, arm: Arm, spool: &File) -> Result<Armed, WorkerError> {
        let fence = arm.fence;
        let armed = match self.ask(AgentRequest::Arm(Box::new(arm)), Some(spool)).unwrap() {
            Outcome::Done(reply) => match *reply {
                AgentReply::Armed(armed) => *armed,
                other => panic!("unexpected {other:?}"),
            },
            Outcome::Failed(error) => return Err(error),
        };
        let commit = Commit { fence, t0: SystemClock::new().now() };
        match self.ask(AgentRequest::Commit(commit), None).unwrap() {
            Outcome::Done(_) => Ok(armed),
            Outcome::Failed(error) => Err(error),
        }
    }

    pub fn stop(&mut self, fence: u64) -> WorkerResult {
        let stop = Stop { fence, t1: SystemClock::new().now(), reason: "request".to_owned() };
        self.ask(AgentRequest::Stop(stop), None).unwrap();
        self.finished().unwrap()
    }

    /// The session's result.
    pub fn finished(&mut self) -> Result<WorkerResult, LinkError> {
        loop {
            let event = match self.events.is_empty() {
                false => self.events.remove(0),
                true => match self.link.recv_timeout::<FromAgent>(PATIENCE)?.0 {
                    FromAgent::Event { event } => event,
                    other => panic!("unexpected {other:?}"),
                },
            };
            if let AgentEvent::Finished { result } = event {
                return Ok(*result);
            }
        }
    }
}

/// A child that says and hears lines.
pub struct Spoken {
    pub child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Spoken {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// What it says next, without the line's end; empty once it says nothing any more.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn say(&mut self, line: &str) {
        // One that ended hears nothing.
        writeln!(self.input, "{line}").ok();
    }

    /// Its exit code; `None` where a signal ended it.
    pub fn ended(mut self) -> Option<i32> {
        drop(self.input);
        self.child.wait().unwrap().code()
    }
}

pub fn arm(fence: u64) -> Arm {
    Arm {
        session: format!("session-{fence}"),
        prefix: None,
        fence,
        spool_path: None,
        called: None,
        commit_within_ms: COMMIT_DEADLINE_MS,
        capture: CaptureConfig {
            device: false,
            device_required: false,
            host: false,
            spans: true,
            backend: None,
            on_unavailable: OnUnavailable::Fail,
            session: SessionConfig { drain_ms: 100, ..SessionConfig::default() },
        },
        schedule: Schedule::default(),
        limits: Limits { min_free_percent: 0, ..Limits::default() },
    }
}

/// A spool's file, as a controller opens it.
pub struct SpoolFile {
    pub folder: tempfile::TempDir,
    pub path: PathBuf,
    pub file: File,
}

pub fn spool_file() -> SpoolFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.spool");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    SpoolFile { folder, path, file }
}

/// All rows of a kind, with the heap of each.
pub fn rows<R: Row>(path: &Path) -> Vec<(R, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut reader = SpoolReader::open(path).unwrap();
    while let Some(block) = reader.next_block().unwrap() {
        if block.kind() != R::KIND {
            continue;
        }
        for row in block.rows::<R>().unwrap().iter() {
            rows.push((*row, block.heap().to_vec()));
        }
    }
    rows
}

/// Waits for a condition; `false` where it never held.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The threads of a process, by their names.
pub fn threads(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks.flatten().filter_map(name).map(|name| name.trim_end().to_owned()).collect()
}

/// Says that a test, or a part of it, could not run here. Past the test harness, which shows nothing
/// of a test that passes; `.ci/run` counts these lines.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped: {test}: {why}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}
