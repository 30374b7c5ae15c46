//! The agent as a program sees it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use profiler_core::clock::{ClockSource, SystemClock};
use profiler_core::control::{AgentEvent, AgentRequest, Hello, Outcome, WorkerError};
use profiler_core::identity::{IdentityError, WorkerIdentity};
use profiler_core::inject_env::{JOINED_BY_PROGRAM, PLUGIN_DIR_VARIABLE, STEP_MARKER_VARIABLE};
use profiler_core::registry::BackendRegistry;
use profiler_core::schedule::StepSource;
use profiler_core::socket_path::{SocketPath, SocketPathError};
use profiler_core::thread::spawn_blocked;

use crate::client::{Client, Meeting};
use crate::core::{Core, Place};
use crate::door::Backends;
use crate::entrance::{Entrance, LINK_THREAD};
use crate::environment::Environment;
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
    /// Another agent of this copy of the library is in the process.
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
    plugin_dir: Option<PathBuf>,
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
            joined_by: JOINED_BY_PROGRAM.to_owned(),
            target_pid: None,
            root: None,
            socket_dir: None,
            registry: None,
            plugin_dir: None,
            clock: None,
        }
    }

    /// The pipeline stage of this worker, from 0. Without this what `OMNIPROF_STAGE` says; the
    /// same goes for role, replica and rank.
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

    /// How the agent got into the process: `embedded` without this, and what
    /// [`profiler_core::inject_env`] names.
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

    /// The directory of plugins, instead of that of `OMNIPROF_PLUGIN_DIR`: an absolute path, which
    /// with all that lead to it only root and this user may be able to write.
    pub fn plugin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.plugin_dir = Some(dir.into());
        self
    }

    /// The backends, instead of all that are linked and those of plugins.
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
        let environment = Environment::of_this_process();
        let meeting = Meeting::At(self.place(&environment)?);
        self.enter(environment, Some(meeting))
    }

    /// As [`AgentBuilder::connect`], but the calling thread becomes the link's: it lives here until
    /// the agent is ended with the process. All its signals should be blocked.
    ///
    /// For a file that is brought into a program. Steps come from NVTX, where
    /// `OMNIPROF_STEP_MARKER` names a pattern. A forked child enters anew, where its parent never
    /// recorded. Where another copy's agent is in the process, the controller is told, once.
    ///
    /// # Errors
    ///
    /// [`AgentError`], at once.
    pub fn serve(mut self) -> Result<(), AgentError> {
        if !crate::fork::enter_anew() {
            return Err(AgentError::Forked);
        }
        let environment = Environment::of_this_process();
        let place = self.place(&environment)?;
        if let Some(pattern) = environment.text(STEP_MARKER_VARIABLE) {
            self.step_source = StepSource::Marker(pattern.to_owned());
        }
        let is_own = self.target_pid.is_none();
        let core = match self.core(environment) {
            Err(error @ AgentError::OtherCopy) => {
                crate::client::decline(&place, &error);
                return Err(error);
            }
            other => other?,
        };
        let client = Arc::new(Client::default());
        let running = RunningClient { client: Arc::clone(&client), thread: Mutex::new(None) };
        let agent = settle(core, Some(running), is_own);
        client.live(&agent.inner.core, Meeting::At(place));
        Ok(())
    }

    fn place(&self, environment: &Environment) -> Result<SocketPath, AgentError> {
        let mut names = environment.socket();
        if let Some(dir) = &self.socket_dir {
            names.socket_dir = Some(dir.clone().into_os_string());
        }
        let root = self.root.clone().unwrap_or_else(|| environment.root());
        SocketPath::resolve(&root, &names).map_err(|source| AgentError::Socket { source })
    }

    /// Enters the process and serves the controller at the other end of `link`, until it ends.
    ///
    /// # Errors
    ///
    /// [`AgentError`].
    pub fn connect_over(self, link: Connection) -> Result<Agent, AgentError> {
        self.enter(Environment::of_this_process(), Some(Meeting::Over(Some(link))))
    }

    /// Enters the process for a controller that lives in it.
    ///
    /// # Errors
    ///
    /// [`AgentError`].
    pub fn local(self) -> Result<LocalAgent, AgentError> {
        let agent = self.enter(Environment::of_this_process(), None)?;
        let (sender, events) = channel();
        agent.inner.core.outbox.attach_local(sender);
        agent.inner.core.controller_came();
        Ok(LocalAgent { agent, events: Mutex::new(Some(events)) })
    }

    fn enter(
        self,
        environment: Environment,
        meeting: Option<Meeting>,
    ) -> Result<Agent, AgentError> {
        let is_own = self.target_pid.is_none();
        let core = self.core(environment)?;
        let client = meeting.map(|meeting| start_client(&core, meeting)).transpose()?;
        Ok(settle(core, client, is_own))
    }

    /// What the agent is made of; the process is entered by it from now on.
    fn core(self, environment: Environment) -> Result<Arc<Core>, AgentError> {
        if crate::fork::is_child() {
            return Err(AgentError::Forked);
        }
        let entrance = match self.target_pid {
            None => Some(Entrance::take()?),
            Some(_) => None,
        };
        let Self { stage, role, replica, rank, .. } = &self;
        let worker = match self.target_pid {
            None => WorkerIdentity::of_this_process(
                stage.or_else(|| environment.stage()),
                role.clone().or_else(|| environment.role()).as_deref(),
                replica.or_else(|| environment.replica()),
                rank.or_else(|| environment.rank()),
            ),
            Some(pid) => {
                let found = WorkerIdentity::of_process(pid)
                    .map_err(|source| AgentError::Target { source })?;
                let (stage, role, replica, rank) = (*stage, role.clone(), *replica, *rank);
                WorkerIdentity { stage, role, replica, rank, ..found }
            }
        };
        let plugin_dir = self.plugin_dir.as_deref();
        let named = environment.get(PLUGIN_DIR_VARIABLE).map(PathBuf::from);
        let registry = self.registry.unwrap_or_else(|| crate::backends::of(plugin_dir, named));
        let core = Arc::new(Core::new(
            self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            Backends::new(registry),
            worker,
            Place {
                step_source: self.step_source,
                joined_by: self.joined_by,
                target: self.target_pid,
                environment,
                entrance,
            },
        ));
        crate::fork::watch();
        Ok(core)
    }
}

/// The agent that the process has from now on.
fn settle(core: Arc<Core>, client: Option<RunningClient>, is_own: bool) -> Agent {
    let inner = Arc::new(Inner { core, client });
    if is_own {
        *lock(&CURRENT) = Arc::downgrade(&inner);
        crate::spans::set_steps(&inner.core);
        crate::exit::watch();
    }
    Agent { inner }
}

fn start_client(core: &Arc<Core>, meeting: Meeting) -> Result<RunningClient, AgentError> {
    let client = Arc::new(Client::default());
    let name = if core.is_own_process() { LINK_THREAD } else { "omniprof-remote" };
    let thread = {
        let (client, core) = (Arc::clone(&client), Arc::clone(core));
        spawn_blocked(name, move || client.live(&core, meeting))
            .map_err(|source| AgentError::Thread { source })?
    };
    Ok(RunningClient { client, thread: Mutex::new(Some(thread)) })
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

    /// The agent of this process, as it ends: whoever holds the lock may never give it back.
    pub(crate) fn current_at_exit() -> Option<Self> {
        const TRIES: u32 = 50;
        for _ in 0..TRIES {
            match CURRENT.try_lock() {
                Ok(current) => return current.upgrade().map(|inner| Self { inner }),
                Err(TryLockError::Poisoned(error)) => {
                    return error.into_inner().upgrade().map(|inner| Self { inner });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        None
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
    /// What the controller said where it refused this worker; that another user listens in its
    /// place (`foreign_controller`), whom this worker tells nothing.
    pub fn wait_for_controller(&self, timeout: Duration) -> Result<bool, WorkerError> {
        match &self.inner.client {
            Some(running) => running.client.wait_for_welcome(timeout),
            None => Ok(true),
        }
    }

    /// Leaves the process for good: ends a session that is under way, for this reason, and waits
    /// until its spool is closed and its end is told. For agents that look at another process,
    /// which ended, was taken by an agent of its own or ran another program.
    pub fn leave(&self, reason: &str) {
        self.inner.end(reason, DROP_PATIENCE, false);
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
