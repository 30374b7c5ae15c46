//! How workers come, speak and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use profiler_agent::link::{Connection, LinkError};
use profiler_core::backend::DriverState;
use profiler_core::control::{
    AgentEvent, AgentRequest, CalledWorker, FromAgent, Hello, Outcome, PROTOCOL_VERSION,
    SessionStatus, Stop, ToAgent, WorkerError,
};
use profiler_core::error::chain;
use profiler_core::identity::WorkerIdentity;

use super::drivers::Residue;
use super::identify;
use super::state::{Inner, Worker};
use super::status::ProcessLine;
use crate::links::{SocketLink, WorkerLink};

/// How long a peer may take to introduce itself.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait before accepting again where the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most workers that one controller takes.
const MAX_WORKERS: usize = 4096;

/// The most peers that have not introduced themselves yet.
const MAX_STRANGERS: usize = 256;

impl Inner {
    /// Takes connections until the controller closes.
    pub(super) fn accept(self: &Arc<Self>) {
        let Some(listener) = self.listener() else { return };
        loop {
            let accepted = listener.accept();
            if self.lock().closing {
                return;
            }
            match accepted {
                Ok(connection) => self.meet(connection),
                Err(error) => {
                    tracing::warn!(%error, "a worker's connection could not be taken");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Serves a link in a thread of its own.
    fn meet(self: &Arc<Self>, connection: Connection) {
        let link = match SocketLink::accept(connection) {
            Ok(link) => Arc::new(link),
            Err(error) => {
                tracing::warn!(error = chain(&error), "a peer was refused");
                return;
            }
        };
        let inner = Arc::clone(self);
        let spawned = thread::Builder::new().name("omniprof-worker".to_owned()).spawn(move || {
            let link: Arc<dyn WorkerLink> = link;
            match inner.greet(&link) {
                Ok((key, number)) => inner.listen_to(&key, number, &link),
                Err(error) => tracing::warn!(%error, "a worker was refused"),
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "a worker's thread could not be started");
        }
    }

    /// Takes a link that the caller has; returns when the worker has joined.
    pub(super) fn attach(self: &Arc<Self>, link: Arc<dyn WorkerLink>) -> Result<(), WorkerError> {
        let (key, number) = self.greet(&link)?;
        let inner = Arc::clone(self);
        thread::Builder::new()
            .name("omniprof-worker".to_owned())
            .spawn(move || inner.listen_to(&key, number, &link))
            .map(drop)
            .map_err(|error| WorkerError::new("thread", error.to_string()))
    }

    /// Hears who it is, and answers.
    fn greet(self: &Arc<Self>, link: &Arc<dyn WorkerLink>) -> Result<(String, u64), WorkerError> {
        let number = {
            let mut state = self.lock();
            if state.closing || state.strangers.len() >= MAX_STRANGERS {
                link.close();
                return Err(WorkerError::new("busy", "too many peers, or the controller closes"));
            }
            let number = state.next_number();
            state.strangers.insert(number, Arc::clone(link));
            number
        };
        let hello = link.receive(Some(HELLO_DEADLINE));
        self.lock().strangers.remove(&number);
        let joined = match hello {
            Ok(FromAgent::Hello(hello)) => self.join(*hello, number, link),
            Ok(FromAgent::Declined { worker, error }) => {
                self.note_declined(&worker, &error, &**link);
                let message = format!("process {} ({}): {error}", worker.pid, worker.program);
                Err(WorkerError::new("declined", message))
            }
            Ok(_) => Err(WorkerError::new("no_hello", "the first frame is no hello")),
            Err(error) => Err(WorkerError::new("no_hello", chain(&error))),
        };
        if let Err(error) = &joined {
            // A peer that is gone needs no answer.
            let _told: Result<(), LinkError> =
                link.send(&ToAgent::Refused { error: error.clone() }, None);
            link.close();
        }
        joined
    }

    fn join(
        self: &Arc<Self>,
        hello: Hello,
        number: u64,
        link: &Arc<dyn WorkerLink>,
    ) -> Result<(String, u64), WorkerError> {
        if hello.protocol != PROTOCOL_VERSION {
            let message = format!(
                "the agent ({}) speaks version {} of the protocol, this controller {}: use one \
                 release of omniprof for both",
                hello.agent_version, hello.protocol, PROTOCOL_VERSION
            );
            return Err(WorkerError::new("protocol", message));
        }
        if !link.is_trusted() && !self.knows_token(hello.token.as_deref()) {
            let message = "the kernel does not say whose process this is, and the token is not \
                           the controller's: give both the same --token-file";
            return Err(WorkerError::new("token", message));
        }
        let key = hello.worker.key.clone();
        let local_pid = identify::local_pid(&hello.worker, &**link);
        let worker = Worker {
            given: CalledWorker::of(&hello.worker),
            local_pid,
            facts: hello.facts,
            identity: hello.worker,
            link: Arc::clone(link),
            number,
            agent_version: hello.agent_version,
            joined_by: hello.joined_by,
            step_source: hello.step_source,
            backends: hello.backends,
            refused_plugins: hello.refused_plugins,
            status: hello.session.clone(),
            residue: None,
            pending: BTreeMap::new(),
        };
        let is_idle = hello.session.is_none();
        let stale = {
            let mut state = self.lock();
            if state.workers.len() >= MAX_WORKERS && !state.workers.contains_key(&key) {
                let message = format!("{MAX_WORKERS} workers have joined already");
                return Err(WorkerError::new("too_many_workers", message));
            }
            // Welcomed under the lock: no request may be sent before it.
            let welcome = ToAgent::Welcome { controller_pid: std::process::id() };
            link.send(&welcome, None)
                .map_err(|error| WorkerError::new("link_failed", chain(&error)))?;
            if let Some(before) = state.workers.insert(key.clone(), worker) {
                before.link.close();
            }
            hello.session.and_then(|session| take_back(&mut state, &key, session))
        };
        if let Some(session) = stale {
            self.end_stale(&key, &session);
        }
        self.identify();
        self.tell();
        if is_idle {
            self.spawn_late(&key);
        }
        Ok((key, number))
    }

    /// A process cannot be a worker here; the status tells why for as long as it lives.
    fn note_declined(&self, worker: &WorkerIdentity, error: &WorkerError, link: &dyn WorkerLink) {
        let pid = identify::local_pid(worker, link).unwrap_or(worker.pid);
        let line = ProcessLine::new(pid, &worker.program, &error.code, &error.message);
        self.set_not_joined(pid, vec![line]);
    }

    fn knows_token(&self, given: Option<&str>) -> bool {
        match (&self.options.token, given) {
            (Some(own), Some(given)) => {
                constant_time_eq::constant_time_eq(own.as_bytes(), given.as_bytes())
            }
            _ => false,
        }
    }

    /// A worker came back with a session that nobody here knows: it records for nobody.
    fn end_stale(&self, worker: &str, session: &SessionStatus) {
        let (link, id) = {
            let mut state = self.lock();
            let id = state.next_number();
            let Some(known) = state.workers.get(worker) else { return };
            (Arc::clone(&known.link), id)
        };
        let request = AgentRequest::Stop(Stop {
            fence: session.fence,
            t1: self.clock.now(),
            reason: "unknown_session".to_owned(),
        });
        // Where it does not arrive, the worker's own limits end it.
        let _sent: Result<(), LinkError> = link.send(&ToAgent::Request { id, request }, None);
    }

    /// Takes what a worker says until its link ends.
    fn listen_to(&self, key: &str, number: u64, link: &Arc<dyn WorkerLink>) {
        loop {
            match link.receive(None) {
                Ok(FromAgent::Reply { id, outcome }) => self.take_reply(key, id, outcome),
                Ok(FromAgent::Event { event }) => self.take_event(key, event),
                Ok(_) => {
                    link.close();
                    return self.lose(key, number, "it said hello twice");
                }
                Err(error) => {
                    link.close();
                    return self.lose(key, number, &chain(&error));
                }
            }
        }
    }

    fn take_reply(&self, key: &str, id: u64, outcome: Outcome) {
        let waiting = {
            let mut state = self.lock();
            state.workers.get_mut(key).and_then(|worker| worker.pending.remove(&id))
        };
        let Some(waiting) = waiting else { return };
        // Whoever asked may have stopped waiting.
        let _taken = waiting.send((key.to_owned(), outcome));
    }

    fn take_event(&self, key: &str, event: AgentEvent) {
        let mut state = self.lock();
        match event {
            AgentEvent::State { status } => {
                if let Some(worker) = state.workers.get_mut(key) {
                    worker.status = Some((*status).clone());
                }
                if let Some(session) = state.sessions.get_mut(&status.session) {
                    session.take_status(key, *status);
                }
            }
            AgentEvent::Finished { result } => {
                if let Some(worker) = state.workers.get_mut(key) {
                    worker.status = None;
                    let kept = result.driver == Some(DriverState::Residue);
                    let session = result.session.clone();
                    worker.residue = kept.then_some(Residue { session, asked: None });
                }
                if let Some(session) = state.sessions.get_mut(&result.session) {
                    session.take_result(key, *result);
                }
                state.release_current();
            }
            // A newer agent may tell more.
            _ => {}
        }
        drop(state);
        self.tell();
    }

    fn lose(&self, key: &str, number: u64, why: &str) {
        let mut state = self.lock();
        if state.workers.get(key).is_none_or(|worker| worker.number != number) {
            return;
        }
        let Some(worker) = state.workers.remove(key) else { return };
        tracing::info!(worker = key, pid = worker.identity.pid, why, "a worker left");
        for session in state.sessions.values_mut() {
            if let Some(run) = session.run_mut(key) {
                run.linked = false;
            }
        }
        drop(state);
        for waiting in worker.pending.into_values() {
            let error = WorkerError::new("link_failed", format!("the link ended: {why}"));
            let _taken = waiting.send((key.to_owned(), Outcome::Failed(error)));
        }
        self.tell();
    }
}

/// Puts a returning worker back into its session; gives the session back where none is known.
fn take_back(
    state: &mut super::state::State,
    key: &str,
    status: SessionStatus,
) -> Option<SessionStatus> {
    let session = state.sessions.get_mut(&status.session);
    let Some(run) = session.and_then(|session| session.run_mut(key)) else {
        return Some(status);
    };
    run.linked = true;
    run.stop_sent = false;
    run.status = Some(status);
    None
}
