//! The agent as a program sees it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use profiler_core::clock::{ClockSource, SystemClock};
use profiler_core::control::{AgentEvent, AgentRequest, Hello, Outcome, WorkerError};
use profiler_core::identity::{IdentityError, WorkerIdentity};
use profiler_core::registry::BackendRegistry;
use profiler_core::schedule::StepSource;
use profiler_core::socket_path::{SocketEnvironment, SocketPath, SocketPathError};
use profiler_core::thread::spawn_blocked;

use crate::client::{Client, Meeting};
use crate::core::Core;
use crate::door::Backends;
use crate::link::Connection;
use crate::session::lock;
use crate::spans::{MarkerBuilder, SpanBuilder};

/// How long a process that ends normally waits for its spool.
const EXIT_PATIENCE: Duration = Duration::from_millis(300);

/// How long a program that drops its agent waits for its spool.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// The agent of this process.
static CURRENT: Mutex<Weak<Inner>> = Mutex::new(Weak::new());

/// Why a process has no agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Another agent is in the process.
    #[error("an agent is in this process already: use `Agent::current()`")]
    AlreadyEntered,
    /// Another copy of this library brought an agent into the process.
    #[error("another copy of omniprof is in this process already (thread `omniprof-link`)")]
    OtherCopy,
    /// This process was forked from one that an agent entered.
    #[error("this process was forked from one that is profiled: only an exec makes it a worker")]
    Forked,
    /// The process to look at is not there.
    #[error("the process to record is not there")]
    Target {
        /// Why not.
        #[source]
        source: IdentityError,
    },
    /// The socket's place cannot be used.
    #[error("the controller's socket cannot be found")]
    Socket {
        /// Why not.
        #[source]
        source: SocketPathError,
    },
    /// The link's thread could not be started.
    #[error("cannot start the link's thread")]
    Thread {
        /// The answer.
        #[source]
        source: std::io::Error,
    },
}

/// Makes an [`Agent`].
#[must_use]
pub struct AgentBuilder {
    stage: Option<u32>,
    role: Option<String>,
    replica: Option<u32>,
    rank: Option<u32>,
    step_source: StepSource,
    joined_by: String,
    target_pid: Option<u32>,
    root: Option<PathBuf>,
    socket_dir: Option<PathBuf>,
    registry: Option<BackendRegistry>,
    clock: Option<Arc<dyn ClockSource>>,
}

impl AgentBuilder {
    fn new() -> Self {
        Self {
            stage: None,
            role: None,
            replica: None,
            rank: None,
            step_source: StepSource::Api,
            joined_by: "embedded".to_owned(),
            target_pid: None,
            root: None,
            socket_dir: None,
            registry: None,
            clock: None,
        }
    }

    /// The pipeline stage of this worker, from 0.
    pub fn stage(mut self, stage: u32) -> Self {
        self.stage = Some(stage);
        self
    }

    /// What the stage does (`thinker`, `diffusion`).
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// The replica of the stage, from 0.
    pub fn replica(mut self, replica: u32) -> Self {
        self.replica = Some(replica);
        self
    }

    /// The rank within the replica, from 0.
    pub fn rank(mut self, rank: u32) -> Self {
        self.rank = Some(rank);
        self
    }

    /// Where steps come from; without this the application calls [`Agent::step`].
    pub fn step_source(mut self, source: StepSource) -> Self {
        self.step_source = source;
        self
    }

    /// How the agent got into the process (`embedded`, `device`, `preload`, `outside`).
    pub fn joined_by(mut self, way: impl Into<String>) -> Self {
        self.joined_by = way.into();
        self
    }

    /// Records another process of this machine, from outside. Such agents are no part of this
    /// process: there may be several, and spans and steps are not theirs.
    pub fn target_pid(mut self, pid: u32) -> Self {
        self.target_pid = Some(pid);
        self
    }

    /// The root of the controller to meet. Without this `OMNIPROF_DIR`, else `./omniprof-traces`.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// The directory of the controller's socket, whatever the environment says.
    pub fn socket_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.socket_dir = Some(dir.into());
        self
    }

    /// The backends, instead of all that are linked.
    pub fn registry(mut self, registry: BackendRegistry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// The clock, instead of the machine's.
    pub fn clock(mut self, clock: Arc<dyn ClockSource>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Enters the process and looks for the controller, each second until there is one.
    ///
    /// # Errors
    ///
    /// [`AgentError`]; that no controller is there is none.
    pub fn connect(self) -> Result<Agent, AgentError> {
        let mut environment = SocketEnvironment::of_this_process();
        if let Some(dir) = &self.socket_dir {
            environment.socket_dir = Some(dir.clone().into_os_string());
        }
        let root = self.root.clone().unwrap_or_else(default_root);
        let place = SocketPath::resolve(&root, &environment)
            .map_err(|source| AgentError::Socket { source })?;
        self.enter(Some(Meeting::At(place)))
    }

    /// Enters the process and serves the controller at the other end of `link`, until it ends.
    ///
    /// # Errors
    ///
    /// [`AgentError`].
    pub fn connect_over(self, link: Connection) -> Result<Agent, AgentError> {
        self.enter(Some(Meeting::Over(Some(link))))
    }

    /// Enters the process for a controller that lives in it.
    ///
    /// # Errors
    ///
    /// [`AgentError`].
    pub fn local(self) -> Result<LocalAgent, AgentError> {
        let agent = self.enter(None)?;
        let (sender, events) = channel();
        agent.inner.core.outbox.attach_local(sender);
        agent.inner.core.controller_came();
        Ok(LocalAgent { agent, events: Mutex::new(Some(events)) })
    }

    fn enter(self, meeting: Option<Meeting>) -> Result<Agent, AgentError> {
        if crate::fork::is_child() {
            return Err(AgentError::Forked);
        }
        let mut current = lock(&CURRENT);
        let is_own = self.target_pid.is_none();
        if is_own && current.strong_count() > 0 {
            return Err(AgentError::AlreadyEntered);
        }
        if is_own && has_foreign_link() {
            return Err(AgentError::OtherCopy);
        }
        let worker = match self.target_pid {
            None => {
                let role = self.role.as_deref();
                WorkerIdentity::of_this_process(self.stage, role, self.replica, self.rank)
            }
            Some(pid) => {
                let found = WorkerIdentity::of_process(pid)
                    .map_err(|source| AgentError::Target { source })?;
                let Self { stage, role, replica, rank, .. } = &self;
                let (stage, role, replica, rank) = (*stage, role.clone(), *replica, *rank);
                WorkerIdentity { stage, role, replica, rank, ..found }
            }
        };
        let core = Arc::new(Core::new(
            self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            Backends::new(self.registry.unwrap_or_else(BackendRegistry::linked)),
            worker,
            self.step_source,
            self.joined_by,
            self.target_pid,
        ));
        crate::fork::watch();
        let client = meeting.map(|meeting| start_client(&core, meeting)).transpose()?;
        let inner = Arc::new(Inner { core, client });
        if is_own {
            *current = Arc::downgrade(&inner);
            drop(current);
            crate::spans::set_steps(&inner.core);
            crate::exit::watch();
        }
        Ok(Agent { inner })
    }
}

fn start_client(core: &Arc<Core>, meeting: Meeting) -> Result<RunningClient, AgentError> {
    let client = Arc::new(Client::default());
    let name = if core.is_own_process() { "omniprof-link" } else { "omniprof-remote" };
    let thread = {
        let (client, core) = (Arc::clone(&client), Arc::clone(core));
        spawn_blocked(name, move || client.live(&core, meeting))
            .map_err(|source| AgentError::Thread { source })?
    };
    Ok(RunningClient { client, thread: Mutex::new(Some(thread)) })
}

/// `OMNIPROF_DIR`, else `./omniprof-traces`.
fn default_root() -> PathBuf {
    let root = std::env::var_os("OMNIPROF_DIR").filter(|root| !root.is_empty());
    root.map_or_else(|| PathBuf::from("omniprof-traces"), PathBuf::from)
}

/// Whether a link's thread runs here that is not of this copy of the library.
fn has_foreign_link() -> bool {
    const TRIES: u32 = 50;
    // A thread of ours that was joined may be seen for another moment.
    for _ in 0..TRIES {
        if !has_link_thread() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn has_link_thread() -> bool {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return false };
    let is_link = |task: &Path| {
        std::fs::read(task.join("comm")).is_ok_and(|name| name.starts_with(b"omniprof-link"))
    };
    tasks.flatten().any(|task| is_link(&task.path()))
}

struct Inner {
    core: Arc<Core>,
    client: Option<RunningClient>,
}

struct RunningClient {
    client: Arc<Client>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Inner {
    fn end(&self, reason: &str, patience: Duration, is_hasty: bool) {
        self.core.shut_down(reason, patience, is_hasty);
        let Some(RunningClient { client, thread }) = &self.client else { return };
        client.end();
        let thread = lock(thread).take();
        // A thread that waits for itself would wait for ever; one in haste does not wait.
        if let Some(thread) = thread
            && !is_hasty
            && thread.thread().id() != std::thread::current().id()
        {
            let _joined: std::thread::Result<()> = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In a forked child there is nothing to end: the threads are the parent's.
        if self.core.is_astray() {
            return;
        }
        if self.core.is_own_process() {
            crate::spans::clear_steps();
        }
        self.end("agent_dropped", DROP_PATIENCE, false);
    }
}

/// An agent: what of omniprof lives in a profiled process.
///
/// Cheap to clone. The last clone that is dropped ends a session that is under way, closes its
/// spool and leaves the process.
#[derive(Clone)]
#[must_use = "the process is a worker for as long as the agent lives"]
pub struct Agent {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("worker", &self.worker()).finish_non_exhaustive()
    }
}

impl Agent {
    /// Describes an agent to be.
    pub fn builder() -> AgentBuilder {
        AgentBuilder::new()
    }

    /// The agent of this process, if it has one.
    #[must_use]
    pub fn current() -> Option<Self> {
        // Whoever held the lock when the process was forked is not there to give it back.
        if crate::fork::is_child() {
            return None;
        }
        lock(&CURRENT).upgrade().map(|inner| Self { inner })
    }

    /// Who this worker is.
    #[must_use]
    pub fn worker(&self) -> WorkerIdentity {
        self.inner.core.worker()
    }

    /// The application begins a step (an iteration of its engine).
    pub fn step(&self) {
        self.inner.core.step();
    }

    /// Begins a span of this process, like [`crate::span`].
    pub fn span<'a>(&self, name: &'a str) -> SpanBuilder<'a> {
        crate::span(name)
    }

    /// Begins a marker of this process, like [`crate::marker`].
    pub fn marker<'a>(&self, name: &'a str) -> MarkerBuilder<'a> {
        crate::marker(name)
    }

    /// Waits until a controller has taken this worker; `false` where none did in time.
    ///
    /// # Errors
    ///
    /// What the controller said where it refused this worker.
    pub fn wait_for_controller(&self, timeout: Duration) -> Result<bool, WorkerError> {
        match &self.inner.client {
            Some(running) => running.client.wait_for_welcome(timeout),
            None => Ok(true),
        }
    }

    /// Ends what runs, as the process is about to end.
    pub(crate) fn end_with_process(&self) {
        self.inner.end("process_exit", EXIT_PATIENCE, true);
    }
}

/// An agent whose controller lives in the same process.
#[derive(Debug)]
pub struct LocalAgent {
    agent: Agent,
    events: Mutex<Option<Receiver<AgentEvent>>>,
}

impl LocalAgent {
    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// How the agent introduces itself.
    #[must_use]
    pub fn hello(&self) -> Hello {
        self.agent.inner.core.hello(None)
    }

    /// Asks the agent. Any thread may; blocks for as long as an arm takes.
    pub fn request(&self, request: AgentRequest, spool: Option<OwnedFd>) -> Outcome {
        self.agent.inner.core.answer(request, spool)
    }

    /// What happens without being asked. Given once, later `None`.
    #[must_use]
    pub fn events(&self) -> Option<Receiver<AgentEvent>> {
        lock(&self.events).take()
    }
}
