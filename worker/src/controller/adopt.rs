//! Sessions that an earlier controller of the root left unfinished.

use std::io::Read as _;
use std::path::Path;

use profiler_core::trace_path::SessionDir;

use super::error::message;
use super::export::sum;
use super::files::{MAX_JSON_BYTES, read_manifest};
use super::state::Inner;
use crate::manifest::Manifest;
use crate::session::{Progress, RECORD_FILE, Session, SessionRecord, SpoolFate, look};

impl Inner {
    /// Takes over what is unfinished: workers that still record come back by themselves, spools
    /// of dead ones are finished by the keeper.
    pub(super) fn adopt(&self) {
        if let Err(error) = self.root.sweep() {
            tracing::warn!(error = message(&error), "half removed sessions stay");
        }
        let ids = match self.root.session_ids() {
            Ok(ids) => ids,
            Err(error) => {
                tracing::warn!(error = message(&error), "no session is adopted");
                return;
            }
        };
        for id in ids {
            let Ok(dir) = self.root.open_session(&id) else { continue };
            if read_manifest(&dir).is_ok_and(|manifest| Manifest::is_final(&manifest)) {
                continue;
            }
            let Some(session) = read_session(&dir) else { continue };
            let mut state = self.lock();
            let records = session.runs.iter().any(|run| !run.is_settled());
            if records && session.record.t0.is_some() {
                state.current = Some(session.id().to_owned());
            }
            state.last = Some(session.id().to_owned());
            tracing::info!(session = session.id(), records, "a session was adopted");
            state.sessions.insert(session.id().to_owned(), session);
        }
    }
}

/// A session as its record and its spools tell it.
pub(super) fn read_session(dir: &SessionDir) -> Option<Session> {
    let file = dir.open_file(Path::new(RECORD_FILE)).ok()?;
    let mut json = Vec::new();
    file.take(MAX_JSON_BYTES).read_to_end(&mut json).ok()?;
    let mut record: SessionRecord = serde_json::from_slice(&json).ok()?;
    if record.session != dir.id().as_str() || record.workers.iter().any(|w| !is_below(&w.spool)) {
        return None;
    }
    // A controller that died between arm and commit: the window never began.
    record.t0 = record.t0.or(Some(record.asked));
    let mut session = Session::new(record, dir.path().to_owned());
    session.adopted = true;
    let exports = session.runs.iter_mut().flat_map(|run| &mut run.exports);
    for export in exports.chain(&mut session.merge) {
        // Published by a child of the earlier controller: whole, or it would not be there.
        if let Ok((bytes, crc)) = sum(&dir.path().join(&export.path)) {
            let crc32 = Some(format!("{crc:08x}"));
            export.progress = Progress::Done { bytes: Some(bytes), crc32 };
        }
    }
    for run in &mut session.runs {
        run.linked = false;
        match look(&dir.path().join(&run.record.spool)) {
            Ok(SpoolFate::Writing) => {}
            Ok(SpoolFate::Left(result)) => run.take_result(*result),
            Err(error) => {
                let message = format!("its spool cannot be read: {}", message(&error));
                run.give_up(profiler_core::control::WorkerError::new("no_spool", message));
            }
        }
    }
    Some(session)
}

/// Whether a path of a record stays below the session's directory.
fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}
