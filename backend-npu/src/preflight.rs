//! Having a libmspti tried by another process before this one loads it.
//!
//! The process is a spawned `omniprof probe-npu`, never code after a bare fork. Its answer counts,
//! not its exit status: the profiled process may wait for its children itself and take that away.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use profiler_core::inject_env::{
    CUDA_INJECTION_VARIABLE, NVTX_INJECTION_VARIABLE, PRELOAD_VARIABLE,
};
use profiler_core::thread::spawn_blocked;

use crate::trial::{Capabilities, Failure, Line};

/// How long a trial may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// No answer is longer; more is no answer.
const MOST_BYTES: u64 = 64 << 10;

/// Variables by which this process may have been entered, and the other shall not.
pub(crate) const NOT_INHERITED: [&str; 3] =
    [PRELOAD_VARIABLE, CUDA_INJECTION_VARIABLE, NVTX_INJECTION_VARIABLE];

/// Which file was tried: one that was replaced is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tried {
    path: PathBuf,
    bytes: u64,
    modified: (i64, i64),
}

impl Tried {
    /// The file as it is now.
    pub(crate) fn look(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            path: path.to_owned(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// A trial that runs.
pub(crate) struct Trial {
    child: Child,
    lines: Receiver<Line>,
    begun: Instant,
    limit: Duration,
    last_step: String,
    library: PathBuf,
}

/// What a trial has shown so far.
pub(crate) enum Progress {
    Over(Result<Capabilities, Failure>),
    Running,
}

impl Trial {
    /// Starts `program probe-npu library`.
    pub(crate) fn begin(program: &Path, library: &Path, limit: Duration) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.arg("probe-npu").arg(library);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        let failure = |what: &str, error: &dyn std::error::Error| Failure {
            code: "preflight_failed".to_owned(),
            message: format!("{what} {}: {error}", program.display()),
            remedy: "libmspti is loaded only where another process has tried it: see that the \
                     program can be run, or preload libmspti"
                .to_owned(),
        };
        let mut child = command.spawn().map_err(|error| failure("cannot start", &error))?;
        let Some(out) = child.stdout.take() else {
            end(&mut child);
            return Err(failure("no answer can come from", &std::fmt::Error));
        };
        let (sender, lines) = channel();
        let read = move || read_lines(out, &sender);
        if let Err(error) = spawn_blocked("omniprof-probe", read) {
            end(&mut child);
            return Err(failure("cannot listen to", &error));
        }
        Ok(Self {
            child,
            lines,
            begun: Instant::now(),
            limit,
            last_step: "starting".to_owned(),
            library: library.to_owned(),
        })
    }

    /// Waits for its end, for so long at most.
    pub(crate) fn wait(&mut self, patience: Duration) -> Progress {
        let until = (Instant::now() + patience).min(self.begun + self.limit);
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(rest) {
                Ok(Line::Step(step)) => self.last_step = step,
                Ok(Line::Works(capabilities)) => return Progress::Over(Ok(capabilities)),
                Ok(Line::Fails(failure)) => return Progress::Over(Err(failure)),
                Err(RecvTimeoutError::Disconnected) => return Progress::Over(Err(self.died())),
                Err(RecvTimeoutError::Timeout) if self.begun.elapsed() >= self.limit => {
                    end(&mut self.child);
                    return Progress::Over(Err(self.hung()));
                }
                Err(RecvTimeoutError::Timeout) => return Progress::Running,
            }
        }
    }

    fn died(&mut self) -> Failure {
        use std::os::unix::process::ExitStatusExt as _;
        let how = match self.status() {
            Some(status) => match status.signal() {
                Some(signal) => format!("died of signal {signal}{}", signal_name(signal)),
                None => format!("ended without an answer ({status})"),
            },
            None => "ended without an answer".to_owned(),
        };
        Failure {
            code: "library_crashes".to_owned(),
            message: format!(
                "a process that tried {} {how} while {}; this process was spared",
                self.library.display(),
                self.last_step
            ),
            remedy: "libmspti, its CANN and the driver do not fit together: source the set_env.sh \
                     of one CANN, or repair its installation"
                .to_owned(),
        }
    }

    /// How it ended, once its output is closed: it is dead or about to be. `None` where this process
    /// waits for its children elsewhere.
    fn status(&mut self) -> Option<ExitStatus> {
        for _ in 0..100 {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => return None,
            }
        }
        None
    }

    fn hung(&self) -> Failure {
        Failure {
            code: "library_hangs".to_owned(),
            message: format!(
                "a process that tried {} was still {} after {:.1} s and was killed",
                self.library.display(),
                self.last_step,
                self.limit.as_secs_f64()
            ),
            remedy: "see whether `npu-smi info` answers: the driver may hang".to_owned(),
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Kills and reaps it; one that somebody else reaped is gone as well.
pub(crate) fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

fn read_lines(out: std::process::ChildStdout, sender: &Sender<Line>) {
    for line in BufReader::new(out.take(MOST_BYTES)).lines() {
        let Ok(line) = line else { return };
        // What is no line of ours was printed by the library.
        let Ok(line) = serde_json::from_str(&line) else { continue };
        if sender.send(line).is_err() {
            return;
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        _ => "",
    }
}
