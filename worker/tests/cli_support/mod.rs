//! Running the built `omniprof` as a user would, in a folder and an environment of its own.

#![allow(dead_code, reason = "each test crate uses its part of it")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use profiler_core::socket_path::{SocketEnvironment, SocketPath};
use serde_json::Value;

/// How long anything may take before the test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A folder in which commands run.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The command, not yet run. Nothing of the environment of the test reaches it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_omniprof"));
        command
            .args(words)
            .current_dir(self.path())
            .env_clear()
            .env("TMPDIR", self.path())
            .env("HOME", self.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        Ran::of(self.command(words).output().unwrap())
    }

    /// Another program, in the same folder and environment, with a plain `PATH`.
    pub(crate) fn run_program(&self, program: &str, words: &[&str]) -> Ran {
        let mut command = Command::new(program);
        command
            .args(words)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TMPDIR", self.path())
            .stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    }

    pub(crate) fn run_with(&self, variables: &[(&str, &str)], words: &[&str]) -> Ran {
        Ran::of(self.command(words).envs(variables.iter().copied()).output().unwrap())
    }
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The output as JSON, of a command that ended with this code.
    #[track_caller]
    pub(crate) fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, Some(code), "{self}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Asserts how it ended and what it said on standard error.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, said: &str) {
        assert_eq!(self.code, Some(code), "{self}");
        assert!(self.err.contains(said), "{said:?} is not in {self}");
        assert_eq!(self.out, "", "an error says nothing on standard output");
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit {:?}\n{}\n{}", self.code, self.out, self.err)
    }
}

/// A server that is killed where the test ends early.
pub(crate) struct Serving {
    child: Child,
    pub(crate) url: String,
    pub(crate) root: PathBuf,
}

impl Serving {
    /// Starts `omniprof serve` and waits until it says that it is ready.
    pub(crate) fn start(place: &Place, words: &[&str]) -> Self {
        Self::start_with(place, &[], words)
    }

    /// The same with these variables.
    pub(crate) fn start_with(place: &Place, variables: &[(&str, &str)], words: &[&str]) -> Self {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--json"];
        all.extend(words);
        let mut command = place.command(&all);
        // How full the disk is, is not what these tests ask.
        command.env("OMNIPROF_MIN_FREE_PERCENT", "0").envs(variables.iter().copied());
        Self::of(command)
    }

    /// Starts that command for a server that speaks JSON.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        Self {
            child,
            url: ready["url"].as_str().unwrap().to_owned(),
            root: PathBuf::from(ready["root"].as_str().unwrap()),
        }
    }

    /// Where the workers of this server meet it.
    pub(crate) fn socket_dir(&self, place: &Place) -> PathBuf {
        let environment = SocketEnvironment {
            temporary_dir: place.path().to_owned(),
            user: rustix::process::geteuid().as_raw(),
            ..SocketEnvironment::default()
        };
        SocketPath::resolve(&self.root, &environment).unwrap().dir().to_owned()
    }

    /// Asks it to end, and how it did.
    pub(crate) fn end(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = until("the server ends", || self.child.try_wait().unwrap());
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        status
    }

    /// As SIGKILL ends it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says that a test, or a part of it, could not run here. Past the test harness, which shows nothing of a test that
/// passes; `.ci/run` counts these lines.
pub(crate) fn skipped(why: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped: {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
