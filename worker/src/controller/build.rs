//! Setting up a controller.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use profiler_core::clock::{ClockSource, SystemClock};
use profiler_core::control::COMMIT_DEADLINE_MS;
use profiler_core::socket_path::{SocketEnvironment, SocketPath, SocketPathError};
use profiler_core::trace_path::{TraceRoot, TraceRootError};

use super::Controller;
use super::keeper;
use super::state::Inner;
use crate::exports::{Exports, locate};
use crate::links::{ListenError, Listener};
use crate::retention::RetentionPolicy;
use crate::start_request::SessionDefaults;
use crate::who::MapRules;

/// The root where none is named.
const DEFAULT_ROOT: &str = "omniprof-traces";

/// Settings of a controller.
#[derive(Clone)]
#[non_exhaustive]
pub struct ControllerOptions {
    /// What is recorded where a start does not say.
    pub defaults: SessionDefaults,
    /// How long workers may take to arm.
    pub arm_deadline: Duration,
    /// How long workers may take to answer a commit or a stop.
    pub answer_deadline: Duration,
    /// How long a worker may drain after its stop.
    pub drain_deadline: Duration,
    /// How far after the last arm answer T0 lies.
    pub commit_lead: Duration,
    /// What a worker must say whose user the kernel does not know.
    pub token: Option<String>,
    /// Which old sessions go; `None` = none.
    pub retention: Option<RetentionPolicy>,
    /// Whether children follow the spools while they grow.
    pub follow: bool,
    /// By which processes that do not say who they are become known.
    pub map: MapRules,
    /// Called when a start begins, before workers are chosen: whoever finds workers looks again.
    pub before_start: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Whether the counters of NVIDIA devices are read, once for all workers, while one of them
    /// records such a device.
    pub host_counters: bool,
    /// Where time comes from.
    pub clock: Arc<dyn ClockSource>,
}

impl ControllerOptions {
    /// How long a worker that is ready waits for its commit: as long as the others may take to arm
    /// and those that failed to be told so, and the commit's own way.
    pub(super) fn commit_within_ms(&self) -> u64 {
        let others = self.arm_deadline + self.answer_deadline * 2;
        u64::try_from(others.as_millis()).unwrap_or(u64::MAX).saturating_add(COMMIT_DEADLINE_MS)
    }
}

impl std::fmt::Debug for ControllerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerOptions")
            .field("defaults", &self.defaults)
            .finish_non_exhaustive()
    }
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            defaults: SessionDefaults::default(),
            arm_deadline: Duration::from_secs(10),
            answer_deadline: Duration::from_secs(2),
            drain_deadline: Duration::from_secs(30),
            commit_lead: Duration::from_millis(2),
            token: None,
            retention: Some(RetentionPolicy::default()),
            follow: true,
            map: MapRules::default(),
            before_start: None,
            host_counters: true,
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// Where a controller looks for the program that exports.
#[derive(Clone, Debug)]
enum Exporter {
    Find,
    At(PathBuf),
    None,
}

/// Sets up a [`Controller`].
#[derive(Debug)]
pub struct ControllerBuilder {
    root: PathBuf,
    options: ControllerOptions,
    exporter: Exporter,
    listen: bool,
    holder: String,
}

/// Why a controller cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The root cannot be used.
    #[error("the trace root cannot be used")]
    Root {
        /// Why.
        #[source]
        source: TraceRootError,
    },
    /// The socket has no place.
    #[error("the workers' socket has no place")]
    SocketPath {
        /// Why.
        #[source]
        source: SocketPathError,
    },
    /// The socket cannot be had.
    #[error("workers cannot be listened to")]
    Listen {
        /// Why.
        #[source]
        source: ListenError,
    },
    /// A thread could not be started.
    #[error("a thread cannot be started")]
    Thread {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ControllerBuilder {
    pub(super) fn new() -> Self {
        Self {
            root: std::env::var_os("OMNIPROF_DIR")
                .filter(|dir| !dir.is_empty())
                .map_or_else(|| PathBuf::from(DEFAULT_ROOT), PathBuf::from),
            options: ControllerOptions::default(),
            exporter: Exporter::Find,
            listen: true,
            holder: format!("pid {}", std::process::id()),
        }
    }

    /// The directory that holds all sessions; `OMNIPROF_DIR` or `./omniprof-traces` without.
    #[must_use]
    pub fn root(mut self, root: impl AsRef<Path>) -> Self {
        self.root = root.as_ref().to_owned();
        self
    }

    /// Changes settings.
    #[must_use]
    pub fn options(mut self, change: impl FnOnce(&mut ControllerOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// What is recorded where a start does not say.
    #[must_use]
    pub fn defaults(mut self, defaults: SessionDefaults) -> Self {
        self.options.defaults = defaults;
        self
    }

    /// The `omniprof` program that exports, where it is not to be looked for.
    #[must_use]
    pub fn exporter(mut self, program: impl AsRef<Path>) -> Self {
        self.exporter = Exporter::At(program.as_ref().to_owned());
        self
    }

    /// Exports nothing: the manifest says `pending`, with the command for each file.
    #[must_use]
    pub fn without_exporter(mut self) -> Self {
        self.exporter = Exporter::None;
        self
    }

    /// Does not listen: workers come by [`Controller::attach`] alone.
    #[must_use]
    pub fn without_socket(mut self) -> Self {
        self.listen = false;
        self
    }

    /// What another controller is told of this one (`pid 12, http://127.0.0.1:8790`).
    #[must_use]
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = holder.into();
        self
    }

    /// Opens and claims the root, adopts what an earlier controller left, and listens.
    ///
    /// # Errors
    ///
    /// [`BuildError`], in particular where the root has a live controller.
    pub fn build(self) -> Result<Controller, BuildError> {
        let root = TraceRoot::create(&self.root).map_err(|source| BuildError::Root { source })?;
        let claim = root.claim(&self.holder).map_err(|source| BuildError::Root { source })?;
        let listener = self.listen.then(|| listen(root.path())).transpose()?;
        let exports = Exports::new(match self.exporter {
            Exporter::Find => locate(),
            Exporter::At(program) => Some(program),
            Exporter::None => None,
        });
        let inner = Arc::new(Inner::new(root, claim, self.options, exports, listener));
        inner.adopt();
        let mut threads = vec![spawn("omniprof-keeper", &inner, keeper::keep)?];
        if self.listen {
            threads.push(spawn("omniprof-accept", &inner, |inner| inner.accept())?);
        }
        Ok(Controller { inner, threads })
    }
}

fn listen(root: &Path) -> Result<Listener, BuildError> {
    let place = SocketPath::resolve(root, &SocketEnvironment::of_this_process())
        .map_err(|source| BuildError::SocketPath { source })?;
    Listener::bind(&place).map_err(|source| BuildError::Listen { source })
}

fn spawn(
    name: &str,
    inner: &Arc<Inner>,
    body: impl FnOnce(&Arc<Inner>) + Send + 'static,
) -> Result<JoinHandle<()>, BuildError> {
    let inner = Arc::clone(inner);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || body(&inner))
        .map_err(|source| BuildError::Thread { source })
}
