//! Running commands under `omniprof run`, and asking it over HTTP.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::cli_support::{DEADLINE, Place, Ran, until};

/// Where `run` puts its traces in these tests.
const ROOT: &str = "traces";

/// A command under `omniprof run`. Dropped, both are killed.
pub(crate) struct Running {
    child: Child,
    /// What it and the command say on standard output, and on standard error.
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    ended: Receiver<()>,
    pub(crate) url: String,
}

impl Running {
    /// Starts it as a controller and waits until both are ready.
    pub(crate) fn start(place: &Place, words: &[&str], command: &[&str]) -> Self {
        let mut all = vec!["run", "--dir", ROOT, "--listen", "127.0.0.1:0"];
        all.extend(words);
        Self::with(place, &all, command)
    }

    /// Starts it as a part of a server's pipeline.
    pub(crate) fn start_at(place: &Place, url: &str, words: &[&str], command: &[&str]) -> Self {
        let mut all = vec!["run", "--server", url];
        all.extend(words);
        Self::with(place, &all, command)
    }

    /// The same behind another program, as `unshare`, with these variables.
    pub(crate) fn start_behind(
        place: &Place,
        program: &[&str],
        variables: &[(&str, &str)],
        words: &[&str],
        command: &[&str],
    ) -> Self {
        let mut starter = std::process::Command::new(program[0]);
        starter.args(&program[1..]).arg(env!("CARGO_BIN_EXE_omniprof")).arg("run").args(words);
        starter.arg("--").args(command).current_dir(place.path()).env_clear();
        starter.envs(variables.iter().copied());
        Self::of(starter)
    }

    fn with(place: &Place, words: &[&str], command: &[&str]) -> Self {
        let mut all = words.to_vec();
        all.push("--");
        all.extend(command);
        Self::of(place.command(&all))
    }

    fn of(mut command: std::process::Command) -> Self {
        let mut child = command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // How full the disk is, is not what these tests ask.
            .env("OMNIPROF_MIN_FREE_PERCENT", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (end, ended) = channel();
        let out = gather(child.stdout.take().unwrap(), end.clone());
        let err = gather(child.stderr.take().unwrap(), end);
        let mut running = Self { child, out, err, ended, url: String::new() };
        running.said("ready ");
        running.url = until("the hint", || {
            let err = running.err.lock().unwrap();
            let line = err.lines().find(|line| line.contains("/start_profile"))?;
            let url = line.split_whitespace().last()?.strip_suffix("/start_profile")?;
            Some(url.to_owned())
        });
        running
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The rest of the line that began so, once it was said.
    pub(crate) fn said(&self, begin: &str) -> String {
        until(begin, || {
            let out = self.out.lock().unwrap();
            let mut whole = out.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            whole.find_map(|line| line.trim_end().strip_prefix(begin)).map(str::to_owned)
        })
    }

    /// Where the command listens, which said its port.
    pub(crate) fn command_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.said("ready "))
    }

    /// The first process that is recorded, once one is.
    pub(crate) fn wait_until_recorded(&self) -> u32 {
        until("a process is recorded", || {
            let status = get(&self.url, "/profile/status");
            // Armed and committed: a start that is under way is taken back with its worker.
            status["session"]["t0"].as_object()?;
            let recorded = status["session"]["workers"].as_array()?;
            recorded.first()?["spool_bytes"].as_u64().filter(|bytes| *bytes > 0)?;
            let key = &recorded.first()?["key"];
            let workers = status["workers"].as_array()?;
            let worker = workers.iter().find(|worker| worker["key"] == *key)?;
            u32::try_from(worker["pid"].as_u64()?).ok()
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How the launcher and its command ended, and what they said.
    pub(crate) fn ended(mut self) -> Ran {
        let status = until("the run ends", || self.child.try_wait().unwrap());
        // Both streams end with the last process that holds them.
        for _ in 0..2 {
            self.ended.recv_timeout(DEADLINE).unwrap();
        }
        let (out, err) = (self.out.lock().unwrap().clone(), self.err.lock().unwrap().clone());
        Ran { code: status.code(), out, err }
    }

    /// How the launcher ended, whatever became of the command.
    pub(crate) fn killed(mut self) -> ExitStatus {
        until("the launcher ends", || self.child.try_wait().unwrap())
    }

    /// Waits for the killed launcher, and ends the command that lives on.
    pub(crate) fn end_orphans(mut self) {
        let launched = children_of(self.child.id());
        until("the launcher ends", || self.child.try_wait().unwrap());
        for pid in launched {
            kill(pid);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let launched = children_of(self.child.id());
        // A test that fails leaves nothing running.
        let _killed: std::io::Result<()> = self.child.kill();
        let _ended: std::io::Result<ExitStatus> = self.child.wait();
        for pid in launched {
            kill(pid);
        }
    }
}

fn gather(
    stream: impl std::io::Read + Send + 'static,
    end: std::sync::mpsc::Sender<()>,
) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&text);
    let body = move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
        // Nobody waits any more where the test is over.
        let _told = end.send(());
    };
    std::thread::Builder::new().name("gather".to_owned()).spawn(body).unwrap();
    text
}

fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let raw = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    test_kill_process(raw).is_ok() && !stat.contains(") Z ")
}

pub(crate) fn kill(pid: u32) {
    let raw = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended.
    let _killed = kill_process(raw, Signal::KILL);
}

pub(crate) fn has_python() -> bool {
    let version = std::process::Command::new("python3").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// The test server of vLLM's process shape.
pub(crate) fn python_server() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/vllm_shape.py")
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(90)))
        .proxy(None)
        .build()
        .new_agent()
}

pub(crate) fn get(url: &str, path: &str) -> Value {
    let mut answer = agent().get(format!("{url}{path}")).call().unwrap();
    answer.body_mut().read_json().unwrap()
}

pub(crate) fn post(url: &str, path: &str, body: &str) -> Value {
    post_as("", url, path, body)
}

/// The same, as one who knows the token.
pub(crate) fn post_as(token: &str, url: &str, path: &str, body: &str) -> Value {
    answer_as(token, url, path, body).1
}

/// The same with the status.
pub(crate) fn post_with_status(url: &str, path: &str, body: &str) -> (u16, Value) {
    answer_as("", url, path, body)
}

fn answer_as(token: &str, url: &str, path: &str, body: &str) -> (u16, Value) {
    let request = agent().post(format!("{url}{path}"));
    let request = request.header("authorization", format!("Bearer {token}"));
    let mut answer = request.send(body).unwrap();
    let mut text = String::new();
    answer.body_mut().as_reader().read_to_string(&mut text).unwrap();
    let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (answer.status().as_u16(), body)
}

impl Place {
    /// The directory of the only session.
    pub(crate) fn session_dir(&self) -> PathBuf {
        let root = self.join(ROOT);
        let mut sessions: Vec<PathBuf> = std::fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("session.json").exists())
            .collect();
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        sessions.remove(0)
    }

    pub(crate) fn manifest(&self) -> Option<Value> {
        let text = std::fs::read_to_string(self.session_dir().join("manifest.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub(crate) fn only_manifest(&self) -> Value {
        self.manifest().unwrap()
    }
}
