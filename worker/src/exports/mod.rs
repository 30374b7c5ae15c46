//! Exports run in processes of their own: `omniprof export`, at low priority.
//!
//! Such a child follows a spool while it grows, so that at the stop only the tail is left.
//! Children die with the controller; whoever serves the root next finishes what they left.

mod child;
mod spawn;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use profiler_core::control::WorkerError;
use serde::Deserialize;

use profiler_core::config::{EventArguments, TraceFormat};

pub use profiler_core::program::{BIN_DIR_VARIABLE, locate};
pub use spawn::is_export_child;

/// An export that shall run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportTask {
    /// What to read.
    pub(crate) spools: Vec<PathBuf>,
    /// What to write.
    pub(crate) output: PathBuf,
    /// How.
    pub(crate) format: TraceFormat,
    /// How many arguments its events carry.
    pub(crate) arguments: EventArguments,
    /// Whether the spool still grows.
    pub(crate) follow: bool,
}

impl ExportTask {
    /// The arguments after the program's name.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["export".to_owned()];
        arguments.extend(self.spools.iter().map(|spool| spool.display().to_string()));
        arguments.push("--output".to_owned());
        arguments.push(self.output.display().to_string());
        arguments.push("--format".to_owned());
        arguments.push(self.format.name().to_owned());
        if self.arguments == EventArguments::Full {
            arguments.extend(["--args".to_owned(), "full".to_owned()]);
        }
        if self.follow {
            arguments.push("--follow".to_owned());
        }
        arguments.push("--json".to_owned());
        arguments
    }

    /// The command for a person, who exports what is there.
    pub(crate) fn command(&self) -> String {
        let mut task = self.clone();
        task.follow = false;
        let mut words = vec!["omniprof".to_owned()];
        words.extend(task.arguments().into_iter().filter(|word| word != "--json"));
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=~:,+@".contains(&b));
    if plain && !word.is_empty() {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What an export child says at its end, on one line of its standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ExportReport {
    /// The file's size.
    pub(crate) bytes: Option<u64>,
    /// The file's CRC-32.
    pub(crate) crc32: Option<String>,
    /// Rows that are in the spool and not in the trace, by cause.
    pub(crate) drops: BTreeMap<String, u64>,
}

/// How an export ended.
#[derive(Debug)]
pub(crate) enum ExportEnd {
    /// The file is there.
    Done(ExportReport),
    /// It is not.
    Failed(WorkerError),
    /// It was told to end.
    Killed,
}

/// The export children of a controller.
#[derive(Debug)]
pub(crate) struct Exports {
    program: Option<PathBuf>,
    slots: Mutex<usize>,
    freed: Condvar,
    running: Mutex<BTreeMap<u64, Running>>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Running {
    process: Option<Arc<OwnedFd>>,
    killed: bool,
}

impl Exports {
    /// Exports by the program that is found. Of the children that read whole spools, a quarter as
    /// many as there are processors run at a time; those that follow take no such turn.
    pub(crate) fn new(program: Option<PathBuf>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            program,
            slots: Mutex::new((processors / 4).max(1)),
            freed: Condvar::new(),
            running: Mutex::new(BTreeMap::new()),
            next: AtomicU64::new(1),
        }
    }

    /// Whether there is a program that exports.
    pub(crate) fn can_run(&self) -> bool {
        self.program.is_some()
    }

    /// A number for a task that is about to run, by which it can be killed.
    pub(crate) fn ticket(&self) -> u64 {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.running).insert(ticket, Running::default());
        ticket
    }

    /// Runs a task to its end. A follower sleeps most of its time and takes no slot.
    pub(crate) fn run(&self, ticket: u64, task: &ExportTask) -> ExportEnd {
        let Some(program) = &self.program else {
            return ExportEnd::Failed(WorkerError::new("no_exporter", "no `omniprof` was found"));
        };
        let slot = (!task.follow).then(|| self.take_slot());
        if lock(&self.running).get(&ticket).is_none_or(|running| running.killed) {
            lock(&self.running).remove(&ticket);
            return ExportEnd::Killed;
        }
        let end = child::run(program, task, |process| self.register(ticket, process));
        drop(slot);
        let killed = lock(&self.running).remove(&ticket).is_none_or(|running| running.killed);
        match end {
            ExportEnd::Failed(_) if killed => ExportEnd::Killed,
            end => end,
        }
    }

    /// Ends a task.
    pub(crate) fn kill(&self, ticket: u64) {
        if let Some(running) = lock(&self.running).get_mut(&ticket) {
            running.kill();
        }
    }

    /// Ends all tasks, those that wait for a slot too.
    pub(crate) fn kill_all(&self) {
        for running in lock(&self.running).values_mut() {
            running.kill();
        }
    }

    /// Whether the task may go on, now that it has a process.
    fn register(&self, ticket: u64, process: OwnedFd) {
        if let Some(running) = lock(&self.running).get_mut(&ticket) {
            running.process = Some(Arc::new(process));
            if running.killed {
                running.kill();
            }
        }
    }

    fn take_slot(&self) -> Slot<'_> {
        let mut free = lock(&self.slots);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Slot { exports: self }
    }
}

impl Running {
    fn kill(&mut self) {
        self.killed = true;
        if let Some(process) = &self.process {
            // A process that is gone already needs no signal.
            let _sent: rustix::io::Result<()> =
                rustix::process::pidfd_send_signal(&**process, rustix::process::Signal::KILL);
        }
    }
}

struct Slot<'a> {
    exports: &'a Exports,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *lock(&self.exports.slots) += 1;
        self.exports.freed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted_into_a_shell() {
        let task = ExportTask {
            spools: vec![PathBuf::from("/tmp/it's here/a.spool")],
            output: PathBuf::from("/tmp/a.pftrace.gz"),
            format: TraceFormat::PftraceGz,
            arguments: EventArguments::Full,
            follow: true,
        };
        assert_eq!(
            task.command(),
            "omniprof export '/tmp/it'\\''s here/a.spool' --output /tmp/a.pftrace.gz --format \
             pftrace-gz --args full"
        );
        assert!(task.arguments().contains(&"--follow".to_owned()));
    }
}
