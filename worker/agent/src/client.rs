//! The link's thread: meets the controller, answers it, and looks for it again each second.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use profiler_core::control::{AgentRequest, FromAgent, Outcome, ToAgent, WorkerError};
use profiler_core::identity::WorkerIdentity;
use profiler_core::inject_env::TOKEN_FILE_VARIABLE;
use profiler_core::socket_path::SocketPath;

use crate::agent::AgentError;
use crate::core::Core;
use crate::credentials;
use crate::door::panic_text;
use crate::environment::Environment;
use crate::fork::NotInherited;
use crate::link::{Connection, LinkError};
use crate::sandbox::Sandbox;
use crate::session::lock;

/// A controller is looked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a controller may take to answer a hello.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);

/// Where the controller is met.
#[derive(Debug)]
pub(crate) enum Meeting {
    /// At a socket, again and again.
    At(SocketPath),
    /// Over a link that is there already, once.
    Over(Option<Connection>),
}

/// What the link's thread shares with who ends it.
#[derive(Default)]
pub(crate) struct Client {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_ending: bool,
    is_welcome: bool,
    link: Option<Arc<Connection>>,
    refused: Option<WorkerError>,
}

impl Client {
    /// The thread's life.
    pub(crate) fn live(&self, core: &Arc<Core>, mut meeting: Meeting) {
        let sandbox = core.is_own_process().then(Sandbox::of_this_thread);
        let is_closed = || sandbox.as_ref().is_some_and(Sandbox::is_closed);
        loop {
            // A program that has sandboxed itself since is not called from here any more.
            if is_closed() {
                let state = lock(&self.state);
                drop(self.changed.wait_while(state, |state| !state.is_ending));
                return;
            }
            if let Some(link) = meet(&mut meeting) {
                self.serve(core, &link, &is_closed);
            }
            let state = lock(&self.state);
            let is_last = matches!(meeting, Meeting::Over(None));
            if state.is_ending || is_last {
                return;
            }
            let waited =
                self.changed.wait_timeout_while(state, LOOK_EVERY, |state| !state.is_ending);
            if waited.unwrap_or_else(PoisonError::into_inner).0.is_ending {
                return;
            }
        }
    }

    /// Ends the thread, wherever it waits.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.is_ending = true;
        if let Some(link) = &state.link {
            link.close();
        }
        self.changed.notify_all();
    }

    /// Waits until a controller has taken this agent; whether one did.
    pub(crate) fn wait_for_welcome(&self, timeout: Duration) -> Result<bool, WorkerError> {
        let state = lock(&self.state);
        let waited = self.changed.wait_timeout_while(state, timeout, |state| {
            !state.is_welcome && state.refused.is_none() && !state.is_ending
        });
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        match &state.refused {
            Some(error) if !state.is_welcome => Err(error.clone()),
            _ => Ok(state.is_welcome),
        }
    }

    fn serve(&self, core: &Arc<Core>, link: &Arc<Connection>, is_closed: &dyn Fn() -> bool) {
        let _not_inherited = NotInherited::new(link.as_raw_fd());
        {
            let mut state = lock(&self.state);
            if state.is_ending {
                return;
            }
            state.link = Some(Arc::clone(link));
        }
        // Why a link ended is of no use to a process that is profiled: it looks for the next.
        let _ended: Result<(), LinkError> = self.talk(core, link, is_closed);
        link.close();
        core.controller_went();
        let mut state = lock(&self.state);
        state.link = None;
        state.is_welcome = false;
    }

    /// Whoever waits for a controller learns that another user listens in its place.
    fn note_foreign(&self, error: &LinkError) {
        if matches!(error, LinkError::ForeignPeer { .. }) {
            let error = WorkerError::new("foreign_controller", error.to_string());
            lock(&self.state).refused = Some(error);
            self.changed.notify_all();
        }
    }

    fn talk(
        &self,
        core: &Arc<Core>,
        link: &Arc<Connection>,
        is_closed: &dyn Fn() -> bool,
    ) -> Result<(), LinkError> {
        let token = token(&core.environment);
        // Between user namespaces the kernel cannot say who the peer is; then the token does.
        let is_unknown = credentials::is_unknown(link.peer()?.uid);
        if !(is_unknown && token.is_some()) {
            link.check_peer().inspect_err(|error| self.note_foreign(error))?;
        }
        link.send(&FromAgent::Hello(Box::new(core.hello(token))), None)?;
        match link.recv_timeout(WELCOME_DEADLINE)?.0 {
            ToAgent::Welcome { .. } => {}
            ToAgent::Refused { error } => {
                lock(&self.state).refused = Some(error);
                self.changed.notify_all();
                return Err(LinkError::Closed);
            }
            // A controller that asks before it answers is none of ours.
            _ => return Err(LinkError::Closed),
        }
        core.controller_came();
        core.outbox.attach(link);
        let mut state = lock(&self.state);
        state.is_welcome = true;
        state.refused = None;
        drop(state);
        self.changed.notify_all();
        loop {
            let (value, descriptor): (serde_json::Value, Option<OwnedFd>) = link.recv()?;
            let id = request_id(&value);
            let message = match (serde_json::from_value(value), id) {
                (Ok(message), _) => message,
                (Err(error), Some(id)) => {
                    link.send(&not_understood(id, &error), None)?;
                    continue;
                }
                (Err(source), None) => return Err(LinkError::Malformed { len: 0, source }),
            };
            match message {
                ToAgent::Request { id, request: AgentRequest::Arm(_) | AgentRequest::Probe }
                    if is_closed() =>
                {
                    let outcome = Outcome::Failed(Sandbox::refusal());
                    link.send(&FromAgent::Reply { id, outcome }, None)?;
                }
                ToAgent::Request { id, request } => {
                    let outcome =
                        catch_unwind(AssertUnwindSafe(|| core.answer(request, descriptor)))
                            .unwrap_or_else(|payload| {
                                let text = panic_text(payload);
                                Outcome::Failed(WorkerError::new("agent_panicked", text))
                            });
                    link.send(&FromAgent::Reply { id, outcome }, None)?;
                }
                ToAgent::Refused { .. } => return Err(LinkError::Closed),
                // A second welcome changes nothing.
                _ => {}
            }
        }
    }
}

/// The number of a request, whatever it asks: a newer controller may ask what this agent does not
/// know, and must not lose a session over it.
fn request_id(message: &serde_json::Value) -> Option<u64> {
    (message.get("type")? == "request").then(|| message.get("id")?.as_u64())?
}

fn not_understood(id: u64, error: &serde_json::Error) -> FromAgent {
    let message = format!("this agent does not understand what is asked: {error}");
    FromAgent::Reply { id, outcome: Outcome::Failed(WorkerError::new("unknown_request", message)) }
}

/// Tells the controller at `place` that this process cannot be a worker of its.
pub(crate) fn decline(place: &SocketPath, error: &AgentError) {
    let told = || -> Option<()> {
        place.check().ok()?;
        let link = Connection::connect(&place.socket()).ok()?;
        link.check_peer().ok()?;
        let worker = Box::new(WorkerIdentity::of_this_process(None, None, None, None));
        let error = WorkerError::new("other_agent", error.to_string());
        link.send(&FromAgent::Declined { worker, error }, None).ok()
    };
    // Where nobody listens, nobody needs to know.
    let _told: Option<()> = told();
}

fn meet(meeting: &mut Meeting) -> Option<Arc<Connection>> {
    match meeting {
        Meeting::Over(link) => link.take().map(Arc::new),
        Meeting::At(place) => {
            // Nobody else may have put a socket there; and where there is none, nobody listens.
            place.check().ok()?;
            Connection::connect(&place.socket()).ok().map(Arc::new)
        }
    }
}

/// The contents of the file that `OMNIPROF_TOKEN_FILE` names: in a user namespace the controller
/// cannot tell who we are.
fn token(environment: &Environment) -> Option<String> {
    const MAX_BYTES: usize = 4096;
    let path = PathBuf::from(environment.get(TOKEN_FILE_VARIABLE)?);
    let text = std::fs::read_to_string(path).ok()?;
    (text.len() <= MAX_BYTES).then(|| text.trim().to_owned())
}
