//! Why a call of the controller failed.

use profiler_core::control::WorkerError;
use profiler_core::error::chain;
use profiler_core::trace_path::{LabelError, TraceRootError};

/// Why a capture was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// One is running, or being started.
    #[error("session {session} is running: stop it first")]
    Running {
        /// Its id; empty while it is being started.
        session: String,
    },
    /// A number names nothing.
    #[error("there is no {what} {number}; there is {exists}")]
    Unknown {
        /// `stage`, `replica` or `rank`.
        what: &'static str,
        /// The number.
        number: u32,
        /// What there is.
        exists: String,
    },
    /// Nobody can be asked.
    #[error("no worker has joined this controller ({socket})")]
    NoWorkers {
        /// Where workers join.
        socket: String,
    },
    /// The numbers are all known and their combination is not.
    #[error("no worker is in all of the named stages, replicas and ranks; there is {exists}")]
    NoneSelected {
        /// What there is.
        exists: String,
    },
    /// A worker counts no steps.
    #[error(
        "`{field}` counts steps, and {worker} says none: give `duration_ms`, or leave that worker \
         out"
    )]
    NoSteps {
        /// The field.
        field: &'static str,
        /// The worker.
        worker: String,
    },
    /// The label was refused.
    #[error("`profile_prefix` is refused")]
    Label {
        /// Why.
        #[source]
        source: LabelError,
    },
    /// The session's files could not be made.
    #[error("the session's files cannot be made")]
    Root {
        /// Why.
        #[source]
        source: TraceRootError,
    },
    /// The session's record could not be written.
    #[error("the session's record cannot be written")]
    Record {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Workers could not be armed or refused to begin, and the others were told to forget it.
    #[error("nothing records: {}", workers.iter().map(|(who, error)| format!("{who}: {error}")).collect::<Vec<_>>().join("; "))]
    NotArmed {
        /// Who, and why.
        workers: Vec<(String, WorkerError)>,
    },
    /// The controller is closing.
    #[error("the controller is closing")]
    Closing,
}

impl StartError {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Running { .. } => "running",
            Self::Unknown { what: "stage", .. } => "unknown_stage",
            Self::Unknown { what: "replica", .. } => "unknown_replica",
            Self::Unknown { .. } => "unknown_rank",
            Self::NoWorkers { .. } => "no_workers",
            Self::NoneSelected { .. } => "none_selected",
            Self::NoSteps { .. } => "no_steps",
            Self::Label { .. } => "invalid_prefix",
            Self::Root { source } => source.code(),
            Self::Record { .. } => "record",
            Self::NotArmed { .. } => "not_armed",
            Self::Closing => "closing",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Running { .. } => 409,
            Self::Unknown { .. } | Self::NoWorkers { .. } | Self::NoneSelected { .. } => 404,
            Self::NoSteps { .. } | Self::Label { .. } => 422,
            Self::Root { source: TraceRootError::Full { .. } } => 507,
            Self::Root { .. } | Self::Record { .. } => 500,
            Self::NotArmed { .. } => 502,
            Self::Closing => 503,
        }
    }
}

/// Why a stop has nothing to tell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// Nothing was ever started.
    #[error("no session is running, and none was since this controller began")]
    NoSession,
    /// It is not this one that runs.
    #[error("session {session} is not running and not the last one")]
    OtherSession {
        /// The session that was named.
        session: String,
    },
    /// A session ends as a whole.
    #[error("a stop ends the whole session, which records stages {recorded}: leave `stages` out")]
    PartOfSession {
        /// The stages it records.
        recorded: String,
    },
}

impl StopError {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSession => "no_session",
            Self::OtherSession { .. } => "other_session",
            Self::PartOfSession { .. } => "part_of_session",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NoSession | Self::OtherSession { .. } => 404,
            Self::PartOfSession { .. } => 422,
        }
    }
}

/// Why a session or a file of it cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is none.
    #[error("there is no session {session:?}")]
    NoSession {
        /// The id that was asked for.
        session: String,
    },
    /// The session has no such file.
    #[error("session {session} has no file {path:?}; its manifest lists what there is")]
    NoFile {
        /// The session.
        session: String,
        /// The path that was asked for.
        path: String,
    },
    /// The file is not whole yet.
    #[error("{path:?} of session {session} is not whole yet")]
    NotYet {
        /// The session.
        session: String,
        /// The path that was asked for.
        path: String,
    },
    /// The root could not be read.
    #[error("the root cannot be read")]
    Root {
        /// Why.
        #[source]
        source: TraceRootError,
    },
    /// What lies there is no manifest.
    #[error("the manifest of session {session} cannot be read")]
    Manifest {
        /// The session.
        session: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl SessionError {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSession { .. } => "no_session",
            Self::NoFile { .. } => "no_file",
            Self::NotYet { .. } => "not_yet",
            Self::Root { source } => source.code(),
            Self::Manifest { .. } => "manifest",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NoSession { .. } | Self::NoFile { .. } => 404,
            Self::NotYet { .. } => 409,
            Self::Root { .. } | Self::Manifest { .. } => 500,
        }
    }
}

/// The text of an error that leaves the process.
pub(crate) fn message(error: &dyn std::error::Error) -> String {
    chain(error)
}
