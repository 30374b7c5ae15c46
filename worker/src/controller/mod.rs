//! The controller: starts and stops a capture over all workers of a machine at once.
//!
//! Workers join it at a Unix socket, or as agents of the same process. A start arms all of them,
//! commits all of them to one instant and rolls back where one cannot; a stop sends one instant
//! to all and gathers one manifest. Every wait has a deadline, and the number of answers that is
//! expected is the number of workers asked.
//!
//! It blocks and knows no HTTP; threads of its own (one a link, one a child, one keeper) do what
//! goes on between calls.

mod adopt;
mod ask;
mod build;
mod choose;
mod drivers;
mod error;
mod export;
mod files;
mod host;
mod identify;
mod join;
mod keeper;
mod late;
mod recover;
mod start;
mod state;
mod status;
mod stop;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::links::WorkerLink;
use crate::manifest::Manifest;
use crate::start_request::StartRequest;

pub use build::{BuildError, ControllerBuilder, ControllerOptions};
pub use error::{SessionError, StartError, StopError};
pub use files::SessionLine;
pub use recover::{RecoverError, recover};
pub use start::{StartAnswer, StartedWorker};
pub use status::{BackendStatus, ProcessLine, RunningSession, RunningWorker, Status, WorkerStatus};
pub use stop::{DEFAULT_WAIT_MS, StopRequest, StopRequestError};

pub(crate) use state::Inner;

/// Controls the captures of one root.
///
/// Dropping it ends a running capture (`stopped_by: controller_exit`), its export children and
/// its links; what was recorded stays, and the next controller of the root finishes it.
#[derive(Debug)]
pub struct Controller {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

impl Controller {
    /// A controller to be set up.
    #[must_use]
    pub fn builder() -> ControllerBuilder {
        ControllerBuilder::new()
    }

    /// Starts a capture.
    ///
    /// Returns when every selected worker records and knows T0.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing records then, unless it says so.
    pub fn start(&self, request: &StartRequest) -> Result<StartAnswer, StartError> {
        self.inner.start(request)
    }

    /// Ends the running capture, or tells again what came of the last one.
    ///
    /// Returns when every worker has answered (or its deadline has passed) and, within the
    /// request's wait, is done and exported.
    ///
    /// # Errors
    ///
    /// [`StopError`] where there is no such session.
    pub fn stop(&self, request: &StopRequest) -> Result<Manifest, StopError> {
        self.inner.stop(request)
    }

    /// Starts a capture of these stages (`None` = all), labelled: the offline pair's first half.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn start_profile(
        &self,
        prefix: Option<&str>,
        stages: Option<&[u32]>,
    ) -> Result<StartAnswer, StartError> {
        self.start(&StartRequest::for_stages(prefix, stages))
    }

    /// Ends the capture and waits for its files: the offline pair's second half.
    ///
    /// # Errors
    ///
    /// [`StopError`].
    pub fn stop_profile(&self) -> Result<Manifest, StopError> {
        self.stop(&StopRequest { wait_ms: OFFLINE_WAIT_MS, ..StopRequest::default() })
    }

    /// What goes on.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// All sessions of the root, oldest first.
    ///
    /// # Errors
    ///
    /// [`SessionError`] where the root cannot be listed.
    pub fn sessions(&self) -> Result<Vec<SessionLine>, SessionError> {
        self.inner.sessions()
    }

    /// What came, or comes, of a session.
    ///
    /// # Errors
    ///
    /// [`SessionError`] where there is none of that id.
    pub fn manifest(&self, session: &str) -> Result<Manifest, SessionError> {
        self.inner.manifest_of(session)
    }

    /// Opens a file that the session's manifest names.
    ///
    /// # Errors
    ///
    /// [`SessionError`] where the manifest names no such file, or it is not whole.
    pub fn open_file(&self, session: &str, path: &str) -> Result<std::fs::File, SessionError> {
        self.inner.open_file(session, path)
    }

    /// Takes a worker over a link of the caller's. Returns when it has joined, or was refused.
    ///
    /// # Errors
    ///
    /// What the worker was told.
    pub fn attach(
        &self,
        link: Arc<dyn WorkerLink>,
    ) -> Result<(), profiler_core::control::WorkerError> {
        self.inner.attach(link)
    }

    /// Takes what a launcher, a process of this machine, says of its processes that have not
    /// joined, instead of what it said before; [`Controller::status`] tells it.
    pub fn set_not_joined(&self, launcher: u32, lines: Vec<ProcessLine>) {
        self.inner.set_not_joined(launcher, lines);
    }

    /// Waits until so many workers have joined; says whether they have.
    #[must_use]
    pub fn wait_for_workers(&self, count: usize, timeout: Duration) -> bool {
        self.inner.wait_for_workers(count, timeout)
    }

    /// Waits until nothing records and nothing is exported; says whether that came to be.
    #[must_use]
    pub fn wait_until_idle(&self, timeout: Duration) -> bool {
        self.inner.wait_until_idle(timeout)
    }

    /// Removes old sessions by the rule; see [`crate::retention`].
    ///
    /// # Errors
    ///
    /// [`SessionError`] where the root cannot be listed.
    pub fn prune(
        &self,
        policy: &crate::retention::RetentionPolicy,
        dry_run: bool,
    ) -> Result<crate::retention::Pruned, SessionError> {
        self.inner.prune(policy, dry_run)
    }

    /// The root, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.inner.root.path()
    }

    /// The directory in which workers find the socket (`OMNIPROF_SOCKET`), `None` = not listening.
    #[must_use]
    pub fn socket_dir(&self) -> Option<PathBuf> {
        self.inner.socket_dir()
    }
}

/// How long the offline pair waits for files, in ms.
const OFFLINE_WAIT_MS: u64 = 120_000;

impl Drop for Controller {
    fn drop(&mut self) {
        self.inner.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ended: std::thread::Result<()> = thread.join();
        }
        self.inner.release();
    }
}

/// What the older interface was called with.
///
/// # Errors
///
/// Always [`TemplateRefused`], which says what to write instead.
#[deprecated(note = "use `Controller::start_profile(prefix, stages)`: files name themselves, and \
                     the manifest that `stop_profile` returns lists them")]
pub fn start_profile(trace_path_template: &str) -> Result<(), TemplateRefused> {
    Err(TemplateRefused { template: trace_path_template.to_owned() })
}

/// A template for trace paths was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "trace path templates are not taken, since two workers can meet in one file ({template:?}): \
     call `controller.start_profile(Some(\"label\"), None)`, and read the files' paths from the \
     manifest that `controller.stop_profile()` returns"
)]
#[non_exhaustive]
pub struct TemplateRefused {
    /// The template.
    pub template: String,
}
