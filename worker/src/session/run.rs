//! A worker's part in a session.

use std::collections::BTreeMap;
use std::path::Path;

use profiler_core::clock::Instant;
use profiler_core::control::{
    AgentReply, Armed, CalledWorker, SessionStatus, WorkerError, WorkerResult,
};
use profiler_core::identity::WorkerIdentity;
use profiler_core::spool::RAW_EXTENSION;

use super::export::{Export, ExportStep};
use super::record::WorkerRecord;
use crate::exports::ExportEnd;

/// A worker's part.
#[derive(Debug)]
pub(crate) struct WorkerRun {
    pub(crate) record: WorkerRecord,
    /// Its answer to the arm.
    pub(crate) armed: Option<Armed>,
    /// When it read the commit.
    pub(crate) committed: Option<Instant>,
    /// What it said last.
    pub(crate) status: Option<SessionStatus>,
    /// What came of it, by itself or from its spool.
    pub(crate) result: Option<WorkerResult>,
    /// What went wrong, as the controller sees it.
    pub(crate) error: Option<WorkerError>,
    /// Whether nothing more is expected of it.
    pub(crate) given_up: bool,
    /// The start accepted its failure beforehand.
    pub(crate) accepted: bool,
    /// Whether the stop was sent.
    pub(crate) stop_sent: bool,
    /// Whether its link is up.
    pub(crate) linked: bool,
    /// The size and CRC of its spool, once it is closed.
    pub(crate) spool_sum: Option<(u64, u32)>,
    /// Whether that is known.
    pub(crate) summing: Summing,
    /// Rows that its exports left out, by cause.
    pub(crate) left_out: BTreeMap<String, u64>,
    pub(crate) exports: Vec<Export>,
}

/// How far the summing up of a spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Summing {
    Open,
    Running,
    Done,
}

impl WorkerRun {
    pub(crate) fn new(record: &WorkerRecord) -> Self {
        let exports = record
            .formats
            .iter()
            .map(|format| {
                let path = record.spool.with_extension(format.extension());
                Export::new(path, *format, record.arguments)
            })
            .collect();
        Self {
            record: record.clone(),
            armed: None,
            committed: None,
            status: None,
            result: None,
            error: None,
            given_up: false,
            accepted: false,
            stop_sent: false,
            linked: true,
            spool_sum: None,
            summing: Summing::Open,
            left_out: BTreeMap::new(),
            exports,
        }
    }

    /// Its key.
    pub(crate) fn key(&self) -> &str {
        &self.record.worker.key
    }

    /// Whether it records no more, as far as can be known.
    pub(crate) fn is_settled(&self) -> bool {
        self.result.is_some() || self.given_up
    }

    /// Whether there is a spool that something can be read from: of a worker that says nothing,
    /// what it has written so far.
    pub(crate) fn has_spool(&self, directory: &Path) -> bool {
        match &self.result {
            Some(result) => result.spool_bytes > 0,
            None => {
                let spool = directory.join(&self.record.spool);
                !self.accepted && spool.metadata().is_ok_and(|meta| meta.len() > 0)
            }
        }
    }

    /// Whether its spool changes no more.
    pub(crate) fn has_whole_spool(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.spool_bytes > 0)
    }

    pub(crate) fn take_armed(&mut self, armed: Armed) {
        // What became known at the arm; the names of files stay as they are.
        self.know(&armed.worker);
        self.armed = Some(armed);
    }

    /// Takes over who the worker says it is; what it does not say stays as it was found out.
    fn know(&mut self, worker: &WorkerIdentity) {
        let found = CalledWorker::of(&self.record.worker);
        self.record.worker = worker.clone();
        CalledWorker::of(worker).or(found).apply(&mut self.record.worker);
    }

    pub(crate) fn take_result(&mut self, result: WorkerResult) {
        self.know(&result.worker);
        // It did answer, though late, or over a link that broke. One that never heard of the commit
        // recorded nothing, and says so in no error of its own.
        let heard = self.committed.is_some() || !result.windows.is_empty();
        if heard && self.error.as_ref().is_some_and(is_of_the_link) {
            self.error = None;
        }
        self.result = Some(result);
    }

    /// Notes the answer to the commit; gives back why it did not begin, where that is certain. Who
    /// did not answer may have begun all the same, and says so in the end.
    pub(crate) fn take_committed(
        &mut self,
        answer: Result<AgentReply, WorkerError>,
    ) -> Option<WorkerError> {
        let error = match answer {
            Ok(AgentReply::Committed { at }) => {
                self.committed = Some(at);
                return None;
            }
            Ok(_) => WorkerError::new("protocol", "the answer to the commit is none"),
            Err(error) => error,
        };
        let is_certain = match &self.result {
            Some(result) if !result.windows.is_empty() && is_of_the_link(&error) => return None,
            Some(_) => true,
            None => !is_of_the_link(&error),
        };
        // One whose session is over says in its result why.
        let own = self.result.as_ref().and_then(|result| result.error.clone());
        let error = own.unwrap_or(error);
        self.error = Some(error.clone());
        is_certain.then_some(error)
    }

    /// Nothing more is expected of it. Its exports, if there is anything to export, do not follow.
    pub(crate) fn give_up(&mut self, error: WorkerError) {
        if self.result.is_some() {
            return;
        }
        self.error = Some(error);
        self.given_up = true;
    }

    /// The exports that are due: the first format follows from the commit on, all others wait for
    /// the worker's end.
    pub(super) fn due_exports(
        &mut self,
        index: usize,
        directory: &Path,
        can_run: bool,
        following: bool,
        steps: &mut Vec<ExportStep>,
    ) {
        let settled = self.is_settled();
        let spool = directory.join(&self.record.spool);
        if settled && !self.has_spool(directory) {
            for export in &mut self.exports {
                export.give_up();
            }
            return;
        }
        // What a vendor's tool records in files of its own is read when it is whole.
        let following = following && !spool.with_extension(RAW_EXTENSION).exists();
        for (number, export) in self.exports.iter_mut().enumerate() {
            let follow = !settled;
            if follow && !(following && can_run && number == 0 && self.armed.is_some()) {
                continue;
            }
            export.due_as(
                follow,
                Some(index),
                number,
                vec![spool.clone()],
                directory,
                can_run,
                steps,
            );
        }
    }

    /// An export ended.
    pub(crate) fn take_export(&mut self, number: usize, end: &ExportEnd) {
        if let ExportEnd::Done(report) = end {
            for (cause, count) in &report.drops {
                let known = self.left_out.entry(cause.clone()).or_default();
                *known = (*known).max(*count);
            }
        }
        if let Some(export) = self.exports.get_mut(number) {
            export.take_end(end);
        }
    }
}

/// The code of a worker that did not answer in time.
pub(crate) const NO_ANSWER: &str = "no_answer";

/// The code of a worker whose link ended while it was asked.
pub(crate) const LINK_FAILED: &str = "link_failed";

fn is_of_the_link(error: &WorkerError) -> bool {
    [NO_ANSWER, LINK_FAILED].contains(&error.code.as_str())
}

/// The code of a worker whose process is gone.
pub(crate) const WORKER_DIED: &str = "worker_died";

#[cfg(test)]
mod tests {
    use profiler_core::config::EventArguments;
    use profiler_core::identity::WorkerIdentity;
    use profiler_core::schedule::Limits;

    use super::*;

    /// A run whose commit was not answered, and that says this in the end.
    fn after_a_lost_commit(code: &str, windows: Vec<(Instant, Option<Instant>)>) -> WorkerRun {
        let worker = WorkerIdentity::of_this_process(Some(0), None, None, None);
        let mut run = WorkerRun::new(&WorkerRecord {
            worker: worker.clone(),
            spool: "a.spool".into(),
            limits: Limits::default(),
            formats: Vec::new(),
            arguments: EventArguments::default(),
            note: None,
            late: false,
            host: false,
            may_record_less: false,
        });
        run.error = Some(WorkerError::new(code, "the commit"));
        run.take_result(WorkerResult {
            session: "a".to_owned(),
            fence: 1,
            worker,
            backend: None,
            why: String::new(),
            degraded: None,
            error: None,
            windows,
            steps: 0,
            stopped_by: "request".to_owned(),
            rows: BTreeMap::new(),
            lost: BTreeMap::new(),
            spool_bytes: 1,
            spool_closed: true,
            clock_error_ns: 0,
            own_cpu_ns: 0,
            own_memory_bytes: 0,
            device_used: None,
            driver: None,
            notes: Vec::new(),
        });
        run
    }

    #[test]
    fn an_answer_that_was_lost_is_no_failure_where_a_window_was_recorded() {
        for code in [NO_ANSWER, LINK_FAILED] {
            let window = (Instant::default(), None);
            assert_eq!(after_a_lost_commit(code, vec![window]).error, None, "{code}");
            assert!(after_a_lost_commit(code, Vec::new()).error.is_some(), "{code}");
        }
        let window = (Instant::default(), None);
        assert!(after_a_lost_commit("protocol", vec![window]).error.is_some());
    }
}
