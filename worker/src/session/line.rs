//! A worker's line in the manifest.

use std::path::Path;

use profiler_core::control::{WorkerError, WorkerResult};
use profiler_export::import::raw_traces;

use super::export::Progress;
use super::run::{NO_ANSWER, WorkerRun};
use crate::manifest::{FileLine, FileState, LineState, Window, WorkerLine};

/// What an agent says where a device was used and gave no row: nobody accepts that beforehand.
const NO_DEVICE_RECORDS: &str = "no_device_records";

/// What agents leave beside their spools for whoever names addresses.
const COMPANIONS: [&str; 2] = ["perf-map", "jitdump"];

impl WorkerRun {
    /// The line, as far as it is known.
    pub(super) fn line(&self, directory: &Path) -> WorkerLine {
        let mut line = WorkerLine::of(&self.record.worker, self.record.limits.clone());
        line.late = self.record.late;
        line.host_counters = self.record.host;
        line.unattributed &= !self.record.host;
        line.accepted = self.accepted;
        if let Some(armed) = &self.armed {
            line.backend = armed.backend.as_ref().map(ToString::to_string);
            line.why.clone_from(&armed.why);
        }
        if let Some(status) = &self.status {
            line.steps = status.steps;
            line.stopped_by.clone_from(&status.stopped_by);
        }
        if let Some(result) = &self.result {
            fill(&mut line, result);
        }
        // A worker that came late says T0 as all others do, and recorded nothing before it was ready.
        let armed = self.armed.as_ref().filter(|_| self.record.late).map(|armed| armed.at);
        if let (Some(armed), Some(first)) = (armed, line.windows.first_mut())
            && first.begin.is_some_and(|begin| begin.monotonic_ns < armed.monotonic_ns)
        {
            first.begin = Some(armed);
        }
        if let Some(note) = &self.record.note {
            line.why.clone_from(note);
            line.notes.push(note.clone());
        }
        for (cause, count) in &self.left_out {
            line.drops.insert(cause.clone(), *count);
        }
        line.files = self.files(directory);
        (line.state, line.error) = self.outcome();
        let has_raw_left = line.files.iter().any(|file| file.state == FileState::Pending);
        if line.state == LineState::Complete && has_raw_left {
            line.state = LineState::Pending;
        }
        line.accepted |= line
            .error
            .as_ref()
            .is_some_and(|error| Some(error) == self.degraded().as_ref() && self.accepts(error));
        line
    }

    /// Whether the start accepted beforehand that the worker records less, for this reason.
    pub(crate) fn accepts(&self, error: &WorkerError) -> bool {
        self.record.may_record_less && error.code != NO_DEVICE_RECORDS
    }

    fn files(&self, directory: &Path) -> Vec<FileLine> {
        let mut files = Vec::new();
        let bytes = match (&self.spool_sum, &self.result) {
            (Some((bytes, _)), _) => Some(*bytes),
            (None, Some(result)) => Some(result.spool_bytes),
            (None, None) => directory.join(&self.record.spool).metadata().ok().map(|m| m.len()),
        };
        let closed = self.result.as_ref().is_some_and(|result| result.spool_closed);
        if bytes.is_some_and(|bytes| bytes > 0) {
            files.push(FileLine {
                path: self.record.spool.display().to_string(),
                format: "spool".to_owned(),
                bytes,
                crc32: self.spool_sum.map(|(_, crc)| format!("{crc:08x}")),
                state: match (closed, self.is_settled()) {
                    (true, _) => FileState::Complete,
                    (false, false) => FileState::Exporting,
                    (false, true) => FileState::Failed,
                },
                error: None,
                command: None,
            });
        }
        for extension in COMPANIONS.iter().filter(|_| self.is_settled()) {
            let path = self.record.spool.with_extension(extension);
            let Ok(meta) = directory.join(&path).metadata() else { continue };
            files.push(FileLine {
                path: path.display().to_string(),
                format: (*extension).to_owned(),
                bytes: Some(meta.len()),
                crc32: None,
                state: FileState::Complete,
                error: None,
                command: None,
            });
        }
        if self.is_settled() {
            files.extend(self.raw_files(directory));
        }
        if !self.accepted {
            files.extend(self.exports.iter().map(|export| export.line(Path::new(""))));
        }
        files
    }

    /// What a vendor's tool recorded in files of its own: whole once it was imported, else with the
    /// command that makes a trace of it.
    fn raw_files(&self, directory: &Path) -> Vec<FileLine> {
        let traces = raw_traces(&directory.join(&self.record.spool)).into_iter();
        let are_over = self.exports.iter().all(super::Export::is_over);
        traces
            .map(|trace| FileLine {
                path: below(&trace.path, directory),
                format: "raw".to_owned(),
                bytes: None,
                crc32: None,
                state: match (trace.is_imported, are_over) {
                    (true, _) => FileState::Complete,
                    (false, false) => FileState::Exporting,
                    (false, true) => FileState::Pending,
                },
                error: None,
                command: (!trace.is_imported).then_some(trace.command),
            })
            .collect()
    }

    /// What it records less than asked, as it says.
    fn degraded(&self) -> Option<WorkerError> {
        let result = self.result.as_ref().and_then(|result| result.degraded.clone());
        result.or_else(|| self.armed.as_ref().and_then(|armed| armed.degraded.clone()))
    }

    fn outcome(&self) -> (LineState, Option<WorkerError>) {
        if let Some(error) = &self.error {
            let state = match error.code.as_str() {
                _ if self.accepted => LineState::Degraded,
                NO_ANSWER => LineState::Missing,
                _ => LineState::Failed,
            };
            return (state, Some(error.clone()));
        }
        let Some(result) = &self.result else { return (LineState::Exporting, None) };
        if let Some(error) = &result.error {
            return (LineState::Failed, Some(error.clone()));
        }
        for export in &self.exports {
            if let Progress::Failed(error) = &export.progress {
                return (LineState::Degraded, Some(error.clone()));
            }
        }
        if let Some(error) = self.degraded() {
            return (LineState::Degraded, Some(error));
        }
        if !self.exports.iter().all(super::Export::is_over) {
            return (LineState::Exporting, None);
        }
        let pending =
            self.exports.iter().any(|export| matches!(export.progress, Progress::Pending { .. }));
        (if pending { LineState::Pending } else { LineState::Complete }, None)
    }
}

fn fill(line: &mut WorkerLine, result: &WorkerResult) {
    // What a spool alone does not tell, the answer to the arm may have.
    if let Some(backend) = &result.backend {
        line.backend = Some(backend.to_string());
    }
    line.why.clone_from(&result.why);
    line.driver = result.driver;
    line.stopped_by = Some(result.stopped_by.clone());
    line.steps = result.steps;
    line.windows = result
        .windows
        .iter()
        .map(|(begin, end)| Window { begin: Some(*begin), end: *end })
        .collect();
    line.clock_error_ns = result.clock_error_ns;
    line.records.clone_from(&result.rows);
    line.drops.clone_from(&result.lost);
    line.own_cpu_ns = (result.own_cpu_ns > 0).then_some(result.own_cpu_ns);
    line.own_memory_bytes = (result.own_memory_bytes > 0).then_some(result.own_memory_bytes);
    line.notes.clone_from(&result.notes);
}

/// A path as manifests have it.
fn below(path: &Path, directory: &Path) -> String {
    path.strip_prefix(directory).unwrap_or(path).display().to_string()
}
