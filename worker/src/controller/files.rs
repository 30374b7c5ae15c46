//! Sessions and their files on the disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use profiler_core::trace_path::{SessionDir, SessionId, TraceRootError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::SessionError;
use super::state::Inner;
use crate::manifest::{FileLine, FileState, MANIFEST_FILE, Manifest, SessionState};
use crate::retention::{Candidate, Pruned, RetentionPolicy};

/// The longest manifest or record that is read, in bytes.
pub(super) const MAX_JSON_BYTES: u64 = 64 << 20;

/// A session in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct SessionLine {
    /// Its id.
    pub session: String,
    /// Where it stands; absent = it was left unfinished (`omniprof recover` finishes it).
    pub state: Option<SessionState>,
    /// The label that the user gave.
    pub prefix: Option<String>,
    /// How many workers were asked.
    pub workers: usize,
    /// Whether all of them did what was asked.
    pub good: Option<bool>,
    /// The size of its files.
    pub bytes: u64,
    /// How many they are.
    pub files: usize,
}

impl Inner {
    pub(super) fn sessions(&self) -> Result<Vec<SessionLine>, SessionError> {
        let entries = self.root.sessions().map_err(|source| SessionError::Root { source })?;
        let mut lines = Vec::new();
        for entry in entries {
            let manifest = self.manifest_of(entry.id.as_str()).ok();
            lines.push(SessionLine {
                session: entry.id.to_string(),
                state: manifest.as_ref().map(|manifest| manifest.state),
                prefix: manifest.as_ref().and_then(|manifest| manifest.prefix.clone()),
                workers: manifest.as_ref().map_or(0, |manifest| manifest.workers.len()),
                good: manifest.as_ref().map(Manifest::is_good),
                bytes: entry.bytes,
                files: entry.files,
            });
        }
        Ok(lines)
    }

    pub(super) fn manifest_of(&self, session: &str) -> Result<Manifest, SessionError> {
        if let Some(known) = self.lock().sessions.get(session) {
            return Ok(known.manifest());
        }
        read_manifest(&self.open_session(session)?)
    }

    pub(super) fn open_file(&self, session: &str, path: &str) -> Result<File, SessionError> {
        let manifest = self.manifest_of(session)?;
        let no_file =
            || SessionError::NoFile { session: session.to_owned(), path: path.to_owned() };
        let dir = self.open_session(session)?;
        if path == MANIFEST_FILE {
            return dir.open_file(Path::new(path)).map_err(|_gone| no_file());
        }
        let lines = manifest.workers.iter().flat_map(|worker| &worker.files);
        // Some formats are a directory of files.
        let is_in = |line: &&FileLine| {
            path.strip_prefix(line.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let line = lines.chain(&manifest.files).find(is_in);
        let Some(line) = line else { return Err(no_file()) };
        // A spool that lost its writer is not whole and all there is.
        let there = line.state == FileState::Complete
            || (line.format == "spool" && line.state == FileState::Failed);
        if !there {
            return Err(SessionError::NotYet {
                session: session.to_owned(),
                path: path.to_owned(),
            });
        }
        dir.open_file(Path::new(path)).map_err(|source| match source {
            TraceRootError::NotFound { .. } => no_file(),
            source => SessionError::Root { source },
        })
    }

    pub(super) fn open_session(&self, session: &str) -> Result<SessionDir, SessionError> {
        let none = || SessionError::NoSession { session: session.to_owned() };
        let id = SessionId::parse(session).map_err(|_not_one| none())?;
        self.root.open_session(&id).map_err(|source| match source {
            TraceRootError::NotFound { .. } => none(),
            source => SessionError::Root { source },
        })
    }

    /// Writes the session's manifest beside its files, and gives it back.
    pub(super) fn write_manifest(&self, id: &str) -> Option<Manifest> {
        let _turn = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let manifest = self.lock().sessions.get(id)?.manifest();
        let written = self.open_session(id).and_then(|dir| {
            let json = serde_json::to_vec_pretty(&manifest)
                .map_err(|source| SessionError::Manifest { session: id.to_owned(), source })?;
            dir.write(MANIFEST_FILE, &json).map_err(|source| SessionError::Root { source })
        });
        if let Err(error) = written {
            tracing::warn!(session = id, error = super::error::message(&error), "no manifest");
        }
        Some(manifest)
    }

    pub(super) fn prune(
        &self,
        policy: &RetentionPolicy,
        dry_run: bool,
    ) -> Result<Pruned, SessionError> {
        let entries = self.root.sessions().map_err(|source| SessionError::Root { source })?;
        // Read after the directory: what is listed there and lives is known by now.
        let known: BTreeSet<String> = {
            let state = self.lock();
            let open = state.sessions.values().filter(|session| !session.sealed);
            let open = open.map(|session| session.id().to_owned());
            open.chain(state.last.clone()).chain(state.laid_out.clone()).collect()
        };
        let candidates: Vec<Candidate> = entries
            .into_iter()
            .map(|entry| {
                let live = entry.live || known.contains(entry.id.as_str());
                Candidate { id: entry.id, bytes: entry.bytes, live }
            })
            .collect();
        Ok(crate::retention::prune(&self.root, &candidates, policy, dry_run))
    }
}

pub(super) fn read_manifest(dir: &SessionDir) -> Result<Manifest, SessionError> {
    let session = dir.id().to_string();
    let file = dir.open_file(Path::new(MANIFEST_FILE)).map_err(|source| match source {
        TraceRootError::NotFound { .. } => SessionError::NoSession { session: session.clone() },
        source => SessionError::Root { source },
    })?;
    serde_json::from_reader(std::io::BufReader::new(file.take(MAX_JSON_BYTES)))
        .map_err(|source| SessionError::Manifest { session, source })
}
