//! Running what a session says is due, and taking how it ended.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use profiler_core::control::WorkerError;

use super::state::Inner;
use crate::exports::ExportEnd;
use crate::session::{ExportStep, Progress};

impl Inner {
    /// Starts all exports of the session that are due.
    pub(super) fn run_exports(self: &Arc<Self>, id: &str) {
        let mut state = self.lock();
        if state.closing {
            return;
        }
        let Some(session) = state.sessions.get_mut(id) else { return };
        let steps = session.due_exports(self.exports.can_run(), self.options.follow);
        let sums = session.due_sums();
        for step in steps {
            let ticket = self.exports.ticket();
            if let Some(export) = session.export_mut(step.run, step.export) {
                export.progress =
                    Progress::Running { ticket: Some(ticket), follow: step.task.follow };
            }
            self.spawn_export(id, step, ticket, session);
        }
        drop(state);
        for (index, path) in sums {
            self.spawn_sum(id, index, path);
        }
    }

    fn spawn_export(
        self: &Arc<Self>,
        id: &str,
        step: ExportStep,
        ticket: u64,
        session: &mut crate::session::Session,
    ) {
        let (inner, owned_id) = (Arc::clone(self), id.to_owned());
        let (run, export) = (step.run, step.export);
        let spawned = thread::Builder::new().name("omniprof-export".to_owned()).spawn(move || {
            let end = inner.exports.run(ticket, &step.task);
            inner.take_export(&owned_id, &step, &end);
        });
        if let Err(error) = spawned {
            let error = WorkerError::new("export_failed", format!("no thread: {error}"));
            session.take_export(run, export, &ExportEnd::Failed(error));
        }
    }

    fn take_export(self: &Arc<Self>, id: &str, step: &ExportStep, end: &ExportEnd) {
        {
            let mut state = self.lock();
            if state.closing {
                return;
            }
            let Some(session) = state.sessions.get_mut(id) else { return };
            session.take_export(step.run, step.export, end);
        }
        self.run_exports(id);
        self.tell();
    }

    /// Sums up a closed spool, beside everything else.
    fn spawn_sum(self: &Arc<Self>, id: &str, index: usize, path: PathBuf) {
        let (inner, id) = (Arc::clone(self), id.to_owned());
        let spawned = thread::Builder::new().name("omniprof-sum".to_owned()).spawn(move || {
            let sum = sum(&path).ok();
            if let Some(session) = inner.lock().sessions.get_mut(&id) {
                session.take_sum(index, sum);
            }
            inner.tell();
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "a spool is not summed up");
        }
    }
}

/// A file's size and CRC-32.
pub(super) fn sum(path: &std::path::Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}
