//! A session as the controller sees it: who was asked, what each answered, what is exported.
//!
//! A value without threads, files or links of its own, so that every turn of it can be tested:
//! the controller calls it under its lock and acts on what it says.

mod export;
mod from_spool;
mod line;
mod record;
mod run;

use std::path::{Path, PathBuf};

use profiler_core::backend::DriverState;
use profiler_core::clock::Instant;
use profiler_core::control::{Armed, SessionStatus, WorkerError, WorkerResult};

use crate::exports::ExportEnd;
use crate::manifest::{MANIFEST_VERSION, Manifest, SessionState, Window};
use profiler_core::config::TraceFormat;

pub(crate) use export::{Export, ExportStep, Progress};
pub(crate) use from_spool::{SpoolFate, look};
pub(crate) use record::{MERGED_FILE, RECORD_FILE, SessionRecord, WorkerRecord};
pub(crate) use run::{LINK_FAILED, NO_ANSWER, Summing, WORKER_DIED, WorkerRun};

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    /// What is known from its begin, and lies on the disk.
    pub(crate) record: SessionRecord,
    /// The session's directory.
    pub(crate) directory: PathBuf,
    /// The workers that were asked.
    pub(crate) runs: Vec<WorkerRun>,
    /// The merged trace, where one was asked for.
    pub(crate) merge: Option<Export>,
    /// T1 and who said so, once somebody did.
    pub(crate) stop: Option<(Instant, String)>,
    /// Whether the final manifest is on the disk.
    pub(crate) sealed: bool,
    /// How often what the final manifest says was corrected.
    pub(crate) corrections: u64,
    /// Whether it was found on the disk at this controller's begin.
    pub(crate) adopted: bool,
}

impl Session {
    /// A session whose workers are being armed.
    pub(crate) fn new(record: SessionRecord, directory: PathBuf) -> Self {
        let runs: Vec<WorkerRun> = record.workers.iter().map(WorkerRun::new).collect();
        let merge = record.merge.then(|| {
            let path = PathBuf::from(MERGED_FILE);
            Export::new(path, TraceFormat::PftraceGz, record.merge_arguments)
        });
        Self {
            record,
            directory,
            runs,
            merge,
            stop: None,
            sealed: false,
            corrections: 0,
            adopted: false,
        }
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.record.session
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> SessionState {
        if self.record.t0.is_none() {
            return SessionState::Arming;
        }
        if !self.is_settled() {
            return match &self.stop {
                Some(_) => SessionState::Stopping,
                None => SessionState::Recording,
            };
        }
        if self.is_exported() && self.is_summed() {
            SessionState::Complete
        } else {
            SessionState::Exporting
        }
    }

    /// Whether no worker records any more, as far as can be known.
    pub(crate) fn is_settled(&self) -> bool {
        self.record.t0.is_some() && self.runs.iter().all(WorkerRun::is_settled)
    }

    /// Whether nothing is left to export.
    pub(crate) fn is_exported(&self) -> bool {
        let exports = self.runs.iter().flat_map(|run| &run.exports).chain(&self.merge);
        exports.into_iter().all(Export::is_over)
    }

    /// The part of a worker.
    pub(crate) fn run_mut(&mut self, key: &str) -> Option<&mut WorkerRun> {
        self.runs.iter_mut().find(|run| run.record.worker.key == key)
    }

    /// A worker is ready.
    pub(crate) fn take_armed(&mut self, key: &str, armed: Armed) {
        if let Some(run) = self.run_mut(key) {
            run.take_armed(armed);
        }
    }

    /// A worker said where it stands.
    pub(crate) fn take_status(&mut self, key: &str, status: SessionStatus) {
        if let Some(run) = self.run_mut(key) {
            run.status = Some(status);
        }
    }

    /// A worker is done.
    pub(crate) fn take_result(&mut self, key: &str, result: WorkerResult) {
        let Some(run) = self.run_mut(key) else { return };
        // An agent may say it again over a new link.
        if run.result.as_ref() == Some(&result) {
            return;
        }
        run.take_result(result);
        self.sealed = false;
    }

    /// A worker's driver keeps nothing of the session any more.
    pub(crate) fn detached(&mut self, key: &str) {
        let Some(result) = self.run_mut(key).and_then(|run| run.result.as_mut()) else { return };
        result.driver = Some(DriverState::Detached);
        self.sealed = false;
        self.corrections += 1;
    }

    /// Something is wrong with a worker, and nothing more is expected of it.
    pub(crate) fn take_error(&mut self, key: &str, error: WorkerError) {
        if let Some(run) = self.run_mut(key) {
            run.give_up(error);
        }
    }

    /// The next exports to run: those of workers that are done, and the merge when all are.
    pub(crate) fn due_exports(&mut self, can_run: bool, following: bool) -> Vec<ExportStep> {
        let mut steps = Vec::new();
        let directory = self.directory.clone();
        for (index, run) in self.runs.iter_mut().enumerate() {
            run.due_exports(index, &directory, can_run, following, &mut steps);
        }
        let settled = self.is_settled();
        let spools: Vec<PathBuf> = self
            .runs
            .iter()
            .filter(|run| run.has_spool(&directory))
            .map(|run| directory.join(&run.record.spool))
            .collect();
        if let Some(merge) = self.merge.as_mut().filter(|_| settled) {
            merge.due(None, 0, spools, &directory, can_run, &mut steps);
        }
        steps
    }

    /// What came of it so far.
    pub(crate) fn manifest(&self) -> Manifest {
        let mut begins = Vec::new();
        let mut real = Window::default();
        let mut clock_error_ns = 0;
        let mut stopped_by = self.stop.as_ref().map(|(_, reason)| reason.clone());
        for run in self.runs.iter().filter(|run| !run.record.host) {
            let Some(result) = &run.result else { continue };
            clock_error_ns = clock_error_ns.max(result.clock_error_ns);
            if stopped_by.is_none() && self.is_settled() {
                stopped_by = Some(result.stopped_by.clone());
            }
            begins.extend(result.windows.first().map(|(begin, _)| begin.monotonic_ns));
            for (begin, end) in &result.windows {
                if real.begin.is_none_or(|known| begin.monotonic_ns < known.monotonic_ns) {
                    real.begin = Some(*begin);
                }
                let Some(end) = end else { continue };
                if real.end.is_none_or(|known| end.monotonic_ns > known.monotonic_ns) {
                    real.end = Some(*end);
                }
            }
        }
        let skew_ns = spread(begins.iter().copied());
        // A worker that came late is no measure of the start.
        let punctual = || self.runs.iter().filter(|run| !run.record.late && !run.record.host);
        let armed =
            || punctual().filter_map(|run| run.armed.as_ref()).map(|armed| armed.at.monotonic_ns);
        let committed = punctual().filter_map(|run| run.committed).map(|at| at.monotonic_ns);
        let t0 = self.record.t0.map_or(u64::MAX, |t0| t0.monotonic_ns);
        Manifest {
            schema_version: MANIFEST_VERSION,
            session: self.record.session.clone(),
            prefix: self.record.prefix.clone(),
            directory: self.directory.display().to_string(),
            state: self.state(),
            requested_window: Window {
                begin: self.record.t0,
                end: self.stop.as_ref().map(|(t1, _)| *t1),
            },
            real_window: real,
            clock_error_ns,
            skew_ns,
            armed_spread_ns: spread(armed()),
            commit_spread_ns: spread(committed),
            armed_late_ns: armed().max().unwrap_or(0).saturating_sub(t0),
            stopped_by,
            workers: self.runs.iter().map(|run| run.line(&self.directory)).collect(),
            left_out: self.record.left_out.clone(),
            notes: self.record.request.notes(),
            files: self.merge.iter().map(|merge| merge.line(Path::new(""))).collect(),
        }
    }
}

impl Session {
    /// An export of a worker, or the merge.
    pub(crate) fn export_mut(&mut self, run: Option<usize>, export: usize) -> Option<&mut Export> {
        match run {
            None => self.merge.as_mut(),
            Some(run) => self.runs.get_mut(run)?.exports.get_mut(export),
        }
    }

    /// An export ended.
    pub(crate) fn take_export(&mut self, run: Option<usize>, export: usize, end: &ExportEnd) {
        match run {
            None => {
                if let Some(merge) = &mut self.merge {
                    merge.take_end(end);
                }
            }
            Some(run) => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.take_export(export, end);
                }
            }
        }
    }

    /// The closed spools that are to be summed up, once each.
    pub(crate) fn due_sums(&mut self) -> Vec<(usize, PathBuf)> {
        let mut due = Vec::new();
        for (index, run) in self.runs.iter_mut().enumerate() {
            if run.has_whole_spool() && run.summing == Summing::Open {
                run.summing = Summing::Running;
                due.push((index, self.directory.join(&run.record.spool)));
            }
        }
        due
    }

    /// A spool is summed up, or could not be read.
    pub(crate) fn take_sum(&mut self, run: usize, sum: Option<(u64, u32)>) {
        if let Some(run) = self.runs.get_mut(run) {
            run.spool_sum = sum;
            run.summing = Summing::Done;
        }
    }

    /// Whether no spool is left to be summed up.
    pub(crate) fn is_summed(&self) -> bool {
        self.runs.iter().all(|run| !run.has_whole_spool() || run.summing == Summing::Done)
    }
}

/// How far instants lie apart.
pub(crate) fn spread(instants: impl Iterator<Item = u64> + Clone) -> u64 {
    match (instants.clone().min(), instants.max()) {
        (Some(first), Some(last)) => last - first,
        _ => 0,
    }
}
