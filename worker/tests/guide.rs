//! The commands of the user guide, carried out as they stand there.
//!
//! What the guide calls by name lies beside them: its scripts do plain work, and `torchrun` is a
//! stand-in that starts a script once a rank. Seconds are cut to one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli_support;
mod worker_process;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cli_support::{Place, Ran, skipped, until};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// The address that the guide's controllers listen on.
const ADDRESS: &str = "127.0.0.1:8790";

const SERVER: &str = "while True:\n    sum(range(10_000))\n";
const TRAINING: &str = "for _ in range(3_000):\n    sum(range(10_000))\n";
const TORCHRUN: &str = r#"#!/bin/sh
shift 2
for rank in 0 1 2 3; do RANK=$rank LOCAL_RANK=$rank python3 "$@" & done
wait
"#;

/// Commands that are carried out elsewhere, and where.
const ELSEWHERE: [(&str, &str); 3] = [
    ("omniprof demo", "tests/tests/demo.rs"),
    // The script has to tell ranges, as PyTorch's does there.
    ("OMNIPROF_STEP_MARKER=", "tests/workloads/torch/python/served.py"),
    ("omniprof start --max-iterations 20", "tests/workloads/torch/python/served.py"),
];

/// A block of commands.
struct Block {
    section: String,
    commands: Vec<String>,
}

fn blocks() -> Vec<Block> {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/user-guide.md");
    let mut blocks = Vec::new();
    let mut section = String::new();
    let mut open: Option<Block> = None;
    for line in std::fs::read_to_string(page).unwrap().lines() {
        match (&mut open, line) {
            (None, "```sh") => {
                open = Some(Block { section: section.clone(), commands: Vec::new() });
            }
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), line) => {
                let command = line.split(" #").next().unwrap_or_default().trim();
                block.commands.push(command.to_owned());
            }
            (None, line) => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut section);
                }
            }
        }
    }
    blocks
}

/// A command that goes on, with all that it started.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        // It may have ended by itself, and what it started with it.
        kill_process_group(group, Signal::TERM).ok();
        let begun = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        kill_process_group(group, Signal::KILL).ok();
        self.0.wait().ok();
    }
}

/// A user's shell.
struct Shell {
    place: Place,
    jobs: Vec<Job>,
    /// Workers that its commands are to bring.
    workers: usize,
    /// A worker that was there before.
    embedded: Option<worker_process::Process>,
}

impl Shell {
    fn new() -> Self {
        let place = Place::new();
        std::fs::create_dir(place.join("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_omniprof"), place.join("bin/omniprof")).unwrap();
        place.write("bin/torchrun", TORCHRUN);
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place.join("bin/torchrun"), executable).unwrap();
        for server in ["server.py", "serve.py", "thinker.py", "talker.py", "denoise.py"] {
            place.write(server, SERVER);
        }
        place.write("train.py", TRAINING);
        let foreign = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
        let trace = foreign.join("h100_torch_profiler_10000_launches.json.gz");
        std::fs::copy(trace, place.join("rank0.pt.trace.json.gz")).unwrap();
        Self { place, jobs: Vec::new(), workers: 0, embedded: None }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        let path = format!("{}:/usr/bin:/bin", self.place.join("bin").display());
        command
            .args(["-c", line])
            .current_dir(self.place.path())
            .env_clear()
            .envs([("PATH", path.as_str()), ("OMNIPROF_MIN_FREE_PERCENT", "0")])
            .env("HOME", self.place.path())
            .env("TMPDIR", self.place.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Ran {
        Ran::of(self.command(line).output().unwrap())
    }

    /// Starts what goes on, and waits until it is there.
    fn start(&mut self, line: &str) {
        let log = std::fs::File::create(self.place.join("jobs.log")).unwrap();
        let mut command = self.command(line);
        command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.jobs.push(Job(command.spawn().unwrap()));
        if line.contains("omniprof run") {
            self.workers += if line.contains("torchrun") { 4 } else { 1 };
        }
        until(line, || self.is_ready().then_some(()));
    }

    /// Whether the workers are there, and nothing is recorded.
    fn is_ready(&self) -> bool {
        let ran = self.run("omniprof status --json");
        let Ok(status) = serde_json::from_str::<Value>(&ran.out) else { return false };
        let workers = status["workers"].as_array().map_or(0, Vec::len);
        workers >= self.workers && status["session"].is_null()
    }

    fn end(&mut self) {
        self.jobs.clear();
        self.workers = usize::from(self.embedded.is_some());
    }

    /// The names of the sessions there are, the newest first.
    fn sessions(&self) -> Vec<String> {
        let ran = self.run("omniprof list --json");
        let listed: Value = serde_json::from_str(&ran.out).unwrap_or_default();
        let sessions = listed["sessions"].as_array().cloned().unwrap_or_default();
        sessions.iter().map(|session| session["session"].as_str().unwrap().to_owned()).collect()
    }

    /// Carries a command out as it stands, but for its seconds and the name of a session.
    fn carry_out(&mut self, command: &str, section: &str) {
        let is_controller = command.contains("omniprof serve")
            || command.contains("omniprof run") && !command.contains("--server");
        // One that lives recovers by itself.
        if is_controller || command.contains("omniprof recover") {
            self.end();
        }
        if let Some(line) = command.strip_suffix('&') {
            return self.start(line.trim());
        }
        let mut line = command.replace("--duration 10s", "--duration 1s");
        line = line.replace("--duration 5s", "--duration 1s").replace("2000}", "1000}");
        if line.contains(" SESSION") {
            let newest = self.sessions().first().cloned().unwrap();
            line = line.replace("SESSION", &newest);
        }
        if line.contains("omniprof start") || line.contains("/start_profile") {
            until("the session before is over", || self.is_ready().then_some(()));
        }
        let before = self.sessions().len();
        let ran = self.run(&line);
        // What this machine does not allow is named by the output.
        assert!(matches!(ran.code, Some(0 | 4)), "{section}: {line}: {ran}");
        if line.contains("omniprof start") || line.contains("--profile-at-start") {
            assert_eq!(self.sessions().len(), before + 1, "{section}: {line}: {ran}");
        }
        if line.starts_with("curl") {
            let answer: Value = serde_json::from_str(&ran.out).unwrap();
            assert!(answer["error"].is_null(), "{section}: {line}: {ran}");
        }
    }
}

/// A worker that embeds the agent, where the guide speaks of one.
#[test]
fn a_worker_that_counts_steps() {
    if std::env::var_os("OMNIPROF_GUIDE_WORKER").is_some() {
        worker_process::work(0, profiler_agent::Agent::step);
    }
}

fn worker(place: &Place) -> worker_process::Process {
    let mut command = worker_process::itself("a_worker_that_counts_steps");
    command.env("OMNIPROF_GUIDE_WORKER", "1").env("TMPDIR", place.path());
    command.env("HOME", place.path()).current_dir(place.path());
    worker_process::Process::start(&mut command)
}

#[test]
fn the_commands_of_the_guide_are_carried_out() {
    if std::net::TcpListener::bind(ADDRESS).is_err() {
        return skipped("another program listens on the guide's port");
    }
    for program in ["python3", "curl", "bash"] {
        if Command::new(program).arg("--version").output().is_err() {
            return skipped(&format!("there is no {program}"));
        }
    }
    let mut shell = Shell::new();
    let mut carried_out = 0;
    for block in blocks() {
        // The section speaks of a worker that embeds the agent.
        if !block.section.starts_with("A server") {
            shell.embedded = None;
        } else if shell.embedded.is_none() {
            shell.embedded = Some(worker(&shell.place));
        }
        for command in &block.commands {
            if ELSEWHERE.iter().all(|(begin, _)| !command.starts_with(begin)) {
                shell.carry_out(command, &block.section);
                carried_out += 1;
            }
        }
    }
    shell.end();
    assert!(carried_out >= 35, "{carried_out}");
}
