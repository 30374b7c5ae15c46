//! An export of a session, from its wish to its file.

use std::path::{Path, PathBuf};

use profiler_core::control::WorkerError;

use crate::exports::{ExportEnd, ExportTask};
use crate::manifest::{FileLine, FileState};
use profiler_core::config::{EventArguments, TraceFormat};

/// An export.
#[derive(Debug)]
pub(crate) struct Export {
    /// The file, below the session's directory.
    pub(crate) path: PathBuf,
    pub(crate) format: TraceFormat,
    pub(crate) arguments: EventArguments,
    pub(crate) progress: Progress,
    /// A child that followed failed: the next one waits until the spool is whole.
    pub(crate) follows_no_more: bool,
}

/// How far an export is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing runs.
    Waiting,
    /// A child runs.
    Running { ticket: Option<u64>, follow: bool },
    /// The file is whole.
    Done { bytes: Option<u64>, crc32: Option<String> },
    /// It could not be written.
    Failed(WorkerError),
    /// There is nothing here that could write it.
    Pending { command: String },
}

/// An export that is due.
#[derive(Debug)]
pub(crate) struct ExportStep {
    /// The worker's place in the session, `None` = the merge.
    pub(crate) run: Option<usize>,
    /// Which of its exports.
    pub(crate) export: usize,
    /// What to run.
    pub(crate) task: ExportTask,
}

impl Export {
    pub(crate) fn new(path: PathBuf, format: TraceFormat, arguments: EventArguments) -> Self {
        Self { path, format, arguments, progress: Progress::Waiting, follows_no_more: false }
    }

    /// Whether nothing more happens to it.
    pub(crate) fn is_over(&self) -> bool {
        matches!(
            self.progress,
            Progress::Done { .. } | Progress::Failed(_) | Progress::Pending { .. }
        )
    }

    /// There is nothing that could be exported.
    pub(crate) fn give_up(&mut self) {
        if matches!(self.progress, Progress::Waiting) {
            let error = WorkerError::new("no_spool", "nothing was recorded that could be exported");
            self.progress = Progress::Failed(error);
        }
    }

    /// The child that follows, where one does.
    pub(crate) fn follower(&self) -> Option<u64> {
        match self.progress {
            Progress::Running { ticket, follow: true } => ticket,
            _ => None,
        }
    }

    /// Makes it run, where it waits.
    pub(crate) fn due(
        &mut self,
        run: Option<usize>,
        export: usize,
        spools: Vec<PathBuf>,
        directory: &Path,
        can_run: bool,
        steps: &mut Vec<ExportStep>,
    ) {
        self.due_as(false, run, export, spools, directory, can_run, steps);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one step, used in two places")]
    pub(crate) fn due_as(
        &mut self,
        follow: bool,
        run: Option<usize>,
        export: usize,
        spools: Vec<PathBuf>,
        directory: &Path,
        can_run: bool,
        steps: &mut Vec<ExportStep>,
    ) {
        if !matches!(self.progress, Progress::Waiting) || (follow && self.follows_no_more) {
            return;
        }
        let output = directory.join(&self.path);
        if output.exists() {
            // Left whole by a controller that died: exports are published when they are whole.
            // A directory's own length says nothing of its files.
            let meta = output.metadata().ok().filter(std::fs::Metadata::is_file);
            let bytes = meta.map(|meta| meta.len());
            self.progress = Progress::Done { bytes, crc32: None };
            return;
        }
        let task =
            ExportTask { spools, output, format: self.format, arguments: self.arguments, follow };
        if !can_run {
            self.progress = Progress::Pending { command: task.command() };
            return;
        }
        self.progress = Progress::Running { ticket: None, follow };
        steps.push(ExportStep { run, export, task });
    }

    /// A child ended.
    pub(crate) fn take_end(&mut self, end: &ExportEnd) {
        self.progress = match end {
            ExportEnd::Done(report) => {
                Progress::Done { bytes: report.bytes, crc32: report.crc32.clone() }
            }
            ExportEnd::Failed(_)
                if matches!(self.progress, Progress::Running { follow: true, .. }) =>
            {
                self.follows_no_more = true;
                Progress::Waiting
            }
            ExportEnd::Failed(error) => Progress::Failed(error.clone()),
            // It was told to end so that another may run without following.
            ExportEnd::Killed => Progress::Waiting,
        };
    }

    /// Its line in the manifest.
    pub(crate) fn line(&self, below: &Path) -> FileLine {
        let mut line = FileLine {
            path: below.join(&self.path).display().to_string(),
            format: self.format.name().to_owned(),
            bytes: None,
            crc32: None,
            state: FileState::Exporting,
            error: None,
            command: None,
        };
        match &self.progress {
            Progress::Waiting | Progress::Running { .. } => {}
            Progress::Done { bytes, crc32 } => {
                line.state = FileState::Complete;
                line.bytes = *bytes;
                line.crc32.clone_from(crc32);
            }
            Progress::Failed(error) => {
                line.state = FileState::Failed;
                line.error = Some(error.clone());
            }
            Progress::Pending { command } => {
                line.state = FileState::Pending;
                line.command = Some(command.clone());
            }
        }
        line
    }
}
