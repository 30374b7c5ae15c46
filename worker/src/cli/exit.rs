//! How a command ends.

use std::process::ExitCode;

/// The codes of `omniprof --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    NothingThere,
    Partial,
    Conflict,
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NothingThere => 3,
            Exit::Partial => 4,
            Exit::Conflict => 5,
            Exit::Interrupted => 130,
        })
    }
}

/// An error and the code with which the command ends.
#[derive(Debug)]
pub(crate) struct CommandError {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

impl CommandError {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    pub(crate) fn text(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, error: anyhow::Error::msg(text.into()) }
    }
}

impl<E: Into<anyhow::Error>> From<E> for CommandError {
    fn from(error: E) -> Self {
        let error = error.into();
        Self { exit: exit_of(&error), error }
    }
}

/// The code of an error that has a meaning of its own, wherever it lies in the chain.
fn exit_of(error: &anyhow::Error) -> Exit {
    use profiler_core::trace_path::{SessionIdError, TraceRootError};
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<TraceRootError>() {
            return match error {
                TraceRootError::NotFound { .. } => Exit::NothingThere,
                TraceRootError::Exists { .. } | TraceRootError::Claimed { .. } => Exit::Conflict,
                _ => Exit::Failed,
            };
        }
        if cause.is::<SessionIdError>() || cause.is::<crate::config::ConfigLoadError>() {
            return Exit::Usage;
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return match error.kind() {
                std::io::ErrorKind::NotFound => Exit::NothingThere,
                std::io::ErrorKind::AlreadyExists => Exit::Conflict,
                _ => Exit::Failed,
            };
        }
    }
    Exit::Failed
}
