//! One export child, from its start to its report.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use profiler_core::control::WorkerError;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{ExportEnd, ExportReport, ExportTask, spawn};

/// How much of what a child writes is kept, in bytes.
const TAIL_BYTES: usize = 8 << 10;

/// Runs the child to its end; `started` gets a handle by which it can be killed.
pub(super) fn run(program: &Path, task: &ExportTask, started: impl FnOnce(OwnedFd)) -> ExportEnd {
    match try_run(program, task, started) {
        Ok(end) => end,
        Err(source) => {
            let message = format!("running {}: {source}", program.display());
            ExportEnd::Failed(WorkerError::new("export_failed", message))
        }
    }
}

fn try_run(
    program: &Path,
    task: &ExportTask,
    started: impl FnOnce(OwnedFd),
) -> io::Result<ExportEnd> {
    let mut command = Command::new(program);
    command
        .args(task.arguments())
        // What it says goes into a manifest.
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn::spawn(&mut command)?;
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Without a handle the child cannot be killed early, and ends all the same.
        if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) {
            started(handle);
        }
    }
    let errors = child.stderr.take();
    let errors = thread::Builder::new()
        .name("omniprof-export-errors".to_owned())
        .spawn(move || errors.map(tail).unwrap_or_default())?;
    let output = child.stdout.take().map(tail).unwrap_or_default();
    let status = child.wait();
    spawn::waited_for(child.id());
    let status = status?;
    let errors = without_backtrace(&errors.join().unwrap_or_default());
    if !status.success() {
        let errors = errors.trim();
        let message = if errors.is_empty() {
            format!("the export ended with {status} and said nothing")
        } else {
            format!("the export ended with {status}: {errors}")
        };
        return Ok(ExportEnd::Failed(WorkerError::new("export_failed", message)));
    }
    Ok(ExportEnd::Done(report(&output)))
}

/// What a person can use of what a child said: a panic's frames say nothing here.
fn without_backtrace(text: &str) -> String {
    let end = text.find("stack backtrace:").unwrap_or(text.len());
    text[..end].trim().to_owned()
}

/// The last line that is a report; a child without one is believed for its exit status.
fn report(output: &str) -> ExportReport {
    let mut lines = output.lines().rev();
    lines.find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

/// The end of what a stream has to say. It is read whole, so that its writer never waits.
fn tail(mut stream: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > TAIL_BYTES {
            kept.drain(..kept.len() - TAIL_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
