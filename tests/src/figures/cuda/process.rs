//! A process that launches: told by a line, answers by a line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::built;
use crate::figures::Context;

/// Runs the workload's library inside Python, where other profilers are.
const PYTHON: &str = include_str!("other_profiler.py");
/// The workload's program.
const WORKLOAD: &str = "cuda-workload";
/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// What joins a program that knows nothing of us.
const INJECTED: &str = "libomniprof_inject.so";
/// The interpreter that has them.
const PYTHON_VARIABLE: &str = "OMNIPROF_PYTHON";

/// A process.
pub(super) struct Process {
    child: Child,
    /// Its end ends the process.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// The workload; with a socket's folder it is a worker.
    pub(super) fn start(context: &Context, socket_dir: Option<&Path>) -> anyhow::Result<Self> {
        let mut command = Command::new(built(context, WORKLOAD)?);
        if let Some(dir) = socket_dir {
            command.args(["--rank", "0", "--socket-dir"]).arg(dir);
        }
        Self::spawn(command)
    }

    /// The workload, which knows nothing of us, with the file that joins it as it opens the device.
    pub(super) fn injected(context: &Context, socket_dir: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(built(context, WORKLOAD)?);
        command.env("CUDA_INJECTION64_PATH", built(context, INJECTED)?);
        command.env("OMNIPROF_SOCKET", socket_dir);
        Self::spawn(command)
    }

    /// The workload's loops in a Python process that has another profiler.
    pub(super) fn with_other_profiler(context: &Context) -> anyhow::Result<Self> {
        Self::spawn(python(context)?)
    }

    /// A process that reads lines and answers by lines.
    pub(super) fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", command.get_program().display()))?;
        let input = Some(child.stdin.take().context("the process has no input")?);
        let output = BufReader::new(child.stdout.take().context("the process has no output")?);
        Ok(Self { child, input, output })
    }

    /// Its standard error, where that was asked to be a pipe; given once.
    pub(super) fn take_errors(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Says a line and waits for the answer.
    pub(super) fn ask(&mut self, line: &str) -> anyhow::Result<Value> {
        self.tell(line)?;
        self.answer().with_context(|| line.to_owned())
    }

    /// Says a line.
    pub(super) fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("the process has no input")?;
        writeln!(input, "{line}").with_context(|| format!("the process does not hear {line:?}"))
    }

    fn answer(&mut self) -> anyhow::Result<Value> {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line)?;
            anyhow::ensure!(read > 0, "the process has ended");
            // Other profilers print what they please.
            let Ok(Value::Object(answer)) = serde_json::from_str(&line) else { continue };
            if let Some(error) = answer.get("error") {
                anyhow::bail!("{}", error.as_str().unwrap_or("an error without a text"));
            }
            return Ok(Value::Object(answer));
        }
    }

    /// A number of an answer.
    pub(super) fn number(&mut self, line: &str, field: &str) -> anyhow::Result<f64> {
        let answer = self.ask(line)?;
        answer[field].as_f64().with_context(|| format!("{line:?} answers no {field}: {answer}"))
    }

    /// The time of a kernel of that work, ns.
    pub(super) fn kernel_ns(&mut self, work: &str) -> anyhow::Result<f64> {
        let answer = self.ask(work)?;
        let field = |name: &str| answer[name].as_f64().context("an answer without numbers");
        Ok(field("ns")? / field("kernels")?)
    }

    /// Ends it by SIGKILL.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Python with the workload's loops and with other profilers.
pub(super) fn python(context: &Context) -> anyhow::Result<Command> {
    let library = built(context, "libcuda_workload.so")?;
    let script = context.fresh_dir("python")?.join("other_profiler.py");
    std::fs::write(&script, PYTHON)?;
    let python = std::env::var_os(PYTHON_VARIABLE).unwrap_or_else(|| "python3".into());
    let mut command = Command::new(PathBuf::from(python));
    command.arg(script).arg(library);
    Ok(command)
}

impl Drop for Process {
    /// Lets it end by itself, and with it what it started: killed, `omniprof run` would leave behind
    /// a process that gives back its device while the next one is measured.
    fn drop(&mut self) {
        self.input = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _killed: std::io::Result<()> = self.child.kill();
        let _waited: std::io::Result<_> = self.child.wait();
    }
}
