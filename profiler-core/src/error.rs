//! Errors of backends.

use std::path::PathBuf;

/// Why a backend or one of its sessions could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The text is no backend id.
    #[error("{text:?} is no backend id: 1 to 32 lower case letters, digits or '-'")]
    InvalidId {
        /// The text.
        text: String,
    },
    /// The backend cannot record here.
    #[error("{message}")]
    Unavailable {
        /// A stable word, as in probe reports.
        code: String,
        /// What is missing, and what to do.
        message: String,
    },
    /// Another tool records already.
    #[error("busy: {}", holder.as_deref().unwrap_or("another tool holds the driver's profiling interface"))]
    Busy {
        /// Who, where the driver tells.
        holder: Option<String>,
    },
    /// The backend serves one session at a time and has one.
    #[error("a session of this backend is already open in this process")]
    SessionOpen,
    /// `start` was called twice.
    #[error("the session was already started")]
    AlreadyStarted,
    /// `flush` or `stop` was called before `start`, or after `stop`.
    #[error("the session is not recording")]
    NotStarted,
    /// A setting cannot be had.
    #[error("setting `{field}`: {reason}")]
    InvalidConfig {
        /// The setting.
        field: String,
        /// Why not.
        reason: String,
    },
    /// A permission is missing.
    #[error("{what} is not permitted: {remedy}")]
    Permission {
        /// What was refused.
        what: String,
        /// The setting to change.
        remedy: String,
    },
    /// A vendor's call failed.
    #[error("{call} failed with {code} ({name})")]
    Vendor {
        /// The function.
        call: &'static str,
        /// Its result.
        code: i64,
        /// The result's name, or `unknown`.
        name: String,
    },
    /// A vendor's library could not be used.
    #[error("library {} cannot be used", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system refused something.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// What a plugin answered, whose own error has no counterpart here.
    #[error("{message}")]
    Plugin {
        /// The plugin's stable word.
        code: String,
        /// Its text, with causes.
        message: String,
    },
    /// The backend panicked; it is not used again.
    #[error("backend `{backend}` panicked: {message}")]
    Panicked {
        /// The backend.
        backend: String,
        /// The panic's text.
        message: String,
    },
}

impl BackendError {
    /// A stable word for manifests and programs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::InvalidId { .. } => "invalid_backend_id",
            Self::Unavailable { code, .. } | Self::Plugin { code, .. } => code,
            Self::Busy { .. } => "busy",
            Self::SessionOpen => "session_open",
            Self::AlreadyStarted => "already_started",
            Self::NotStarted => "not_started",
            Self::InvalidConfig { .. } => "invalid_config",
            Self::Permission { .. } => "permission",
            Self::Vendor { .. } => "vendor",
            Self::Library { .. } => "library",
            Self::Io { .. } => "io",
            Self::Panicked { .. } => "backend_panicked",
        }
    }
}

/// An error and its causes on one line, for messages that leave the process.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
