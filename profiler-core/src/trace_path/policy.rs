//! The names of a worker's files.

use std::path::{Path, PathBuf};

use super::component::{UNKNOWN, escape};
use super::session_id::SessionId;
use crate::identity::WorkerIdentity;

/// The longest name of one path component, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// The longest extension that is taken as it is.
const MAX_EXTENSION_BYTES: usize = 40;

/// The directory of what belongs to a host and to no stage.
const HOST_DIR: &str = "host";

/// Where each worker's files lie below a root. Pure: touches no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracePathPolicy {
    root: PathBuf,
}

impl TracePathPolicy {
    /// The policy of a root.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A session's directory.
    #[must_use]
    pub fn session_dir(&self, session: &SessionId) -> PathBuf {
        self.root.join(session.as_str())
    }

    /// A file of a worker.
    #[must_use]
    pub fn worker_file(
        &self,
        session: &SessionId,
        worker: &WorkerIdentity,
        extension: &str,
    ) -> PathBuf {
        self.session_dir(session).join(TracePath::worker(worker).relative(extension))
    }

    /// A file of a host's counters.
    #[must_use]
    pub fn host_file(
        &self,
        session: &SessionId,
        worker: &WorkerIdentity,
        extension: &str,
    ) -> PathBuf {
        self.session_dir(session).join(TracePath::host(worker).relative(extension))
    }
}

/// The place of a worker's files inside a session: a directory and the files' common stem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TracePath {
    dir: String,
    stem: String,
}

impl TracePath {
    /// The place of a worker; parts that are not known are `_`.
    #[must_use]
    pub fn worker(worker: &WorkerIdentity) -> Self {
        let stage = number(worker.stage);
        let role = escape(worker.role.as_deref().unwrap_or_default());
        let (replica, rank) = (number(worker.replica), number(worker.rank));
        let process = process(worker);
        Self {
            dir: format!("stage{stage}-{role}"),
            stem: format!("replica{replica}.rank{rank}.{process}"),
        }
    }

    /// The place of a host's counters.
    #[must_use]
    pub fn host(worker: &WorkerIdentity) -> Self {
        Self { dir: HOST_DIR.to_owned(), stem: process(worker) }
    }

    /// The directory's name, inside the session's.
    #[must_use]
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// What the names of all files of the worker begin with.
    #[must_use]
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// The name of the file of an extension (`spool`, `pftrace.gz`), given without a dot in front.
    /// Letters, digits, `.`, `-` and `_` are taken; others become `_`, and what is too long is cut.
    #[must_use]
    pub fn file_name(&self, extension: &str) -> String {
        let mut name = format!("{}.", self.stem);
        for c in extension.chars().take(MAX_EXTENSION_BYTES) {
            let plain = c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            name.push(if plain { c } else { '_' });
        }
        name
    }

    /// The file of an extension, inside the session's directory.
    #[must_use]
    pub fn relative(&self, extension: &str) -> PathBuf {
        Path::new(&self.dir).join(self.file_name(extension))
    }
}

fn process(worker: &WorkerIdentity) -> String {
    let (host, key) = (escape(&worker.host), escape(&worker.key));
    format!("{host}.{}-{key}", worker.pid)
}

fn number(number: Option<u32>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), |number| number.to_string())
}
