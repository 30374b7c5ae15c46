//! Finishing sessions without workers: `omniprof recover`.

use std::path::Path;
use std::time::Duration;

use profiler_core::trace_path::SessionId;

use super::build::BuildError;
use super::error::SessionError;
use super::{Controller, ControllerBuilder};
use crate::manifest::Manifest;

/// Why nothing could be recovered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The root cannot be used.
    #[error("the root cannot be used")]
    Build {
        /// Why.
        #[source]
        source: BuildError,
    },
    /// The session cannot be used.
    #[error("the session cannot be recovered")]
    Session {
        /// Why.
        #[source]
        source: SessionError,
    },
    /// Its workers still record.
    #[error("session {session} is still being recorded: stop it, or wait for its limits")]
    Recording {
        /// The session.
        session: String,
    },
}

/// Finishes the unfinished sessions of a root, or one of them: exports what the spools hold and
/// writes the manifests. Gives back the manifests of those it finished.
///
/// # Errors
///
/// [`RecoverError`], in particular where the root has a live controller.
pub fn recover(
    root: &Path,
    session: Option<&SessionId>,
    timeout: Duration,
) -> Result<Vec<Manifest>, RecoverError> {
    recover_with(Controller::builder().root(root), session, timeout)
}

fn recover_with(
    builder: ControllerBuilder,
    session: Option<&SessionId>,
    timeout: Duration,
) -> Result<Vec<Manifest>, RecoverError> {
    let controller = builder
        .without_socket()
        .options(|options| options.retention = None)
        .build()
        .map_err(|source| RecoverError::Build { source })?;
    let adopted: Vec<String> = controller.inner.lock().sessions.keys().cloned().collect();
    let wanted = |id: &String| session.is_none_or(|session| session.as_str() == id);
    if let Some(session) = session
        && !adopted.iter().any(&wanted)
    {
        // It is finished already, or there is none.
        let manifest = controller.manifest(session.as_str());
        return manifest
            .map(|manifest| vec![manifest])
            .map_err(|source| RecoverError::Session { source });
    }
    let mut manifests = Vec::new();
    for id in adopted.into_iter().filter(wanted) {
        let live = controller.inner.lock().current.as_ref() == Some(&id);
        if live {
            return Err(RecoverError::Recording { session: id });
        }
        controller.inner.wait_until(timeout, |state| {
            state.sessions.get(&id).is_none_or(|session| session.sealed)
        });
        let manifest =
            controller.manifest(&id).map_err(|source| RecoverError::Session { source })?;
        manifests.push(manifest);
    }
    Ok(manifests)
}
