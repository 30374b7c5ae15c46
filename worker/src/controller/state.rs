//! What the controller's threads share.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use profiler_core::clock::ClockSource;
use profiler_core::control::{BackendProbe, CalledWorker, Outcome, SessionStatus};
use profiler_core::identity::WorkerIdentity;
use profiler_core::inject_env::JOINED_BY_LOOKING;
use profiler_core::process_facts::ProcessFacts;
use profiler_core::registry::RefusedPlugin;
use profiler_core::schedule::StepSource;
use profiler_core::trace_path::{RootClaim, TraceRoot};

use super::build::ControllerOptions;
use super::drivers::Residue;
use super::status::ProcessLine;
use crate::exports::Exports;
use crate::links::{Listener, WorkerLink};
use crate::session::Session;

/// How many finished sessions stay at hand, for what a late worker may still say.
const KEPT_SESSIONS: usize = 8;

/// The controller without its handle.
pub(crate) struct Inner {
    pub(super) root: TraceRoot,
    /// Given up at the end, though a thread may still hold this.
    pub(super) claim: Mutex<Option<RootClaim>>,
    pub(super) options: ControllerOptions,
    pub(super) clock: Arc<dyn ClockSource>,
    pub(super) exports: Exports,
    /// Given up at the end, likewise.
    listener: Mutex<Option<Arc<Listener>>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while a manifest is taken and written, so that an older one never follows a newer.
    pub(super) writing: Mutex<()>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("root", &self.root.path()).finish_non_exhaustive()
    }
}

/// What changes.
#[derive(Default)]
pub(super) struct State {
    /// The workers, by key.
    pub(super) workers: BTreeMap<String, Worker>,
    /// The key of the one that reads the host's counters, and is no worker.
    pub(super) host: Option<String>,
    /// The sessions at hand, by id: the running one, those being exported, the last few.
    pub(super) sessions: BTreeMap<String, Session>,
    /// The session that occupies the workers.
    pub(super) current: Option<String>,
    /// The session that was started last.
    pub(super) last: Option<String>,
    /// Whether a start is under way.
    pub(super) starting: bool,
    /// The session of that start, from before its directory is made: nobody removes it.
    pub(super) laid_out: Option<String>,
    /// Whether everything ends.
    pub(super) closing: bool,
    /// How often something changed.
    pub(super) changes: u64,
    /// The number of the last request, and of the last link.
    pub(super) numbers: u64,
    /// The links that have not said hello yet, so that closing reaches them.
    pub(super) strangers: BTreeMap<u64, Arc<dyn WorkerLink>>,
    /// Processes that have not joined, by the launcher that told of them.
    pub(super) not_joined: BTreeMap<u32, Vec<ProcessLine>>,
}

/// A worker that has joined.
pub(super) struct Worker {
    pub(super) identity: WorkerIdentity,
    /// What it called itself as it joined, which nothing overrides.
    pub(super) given: CalledWorker,
    /// Its process's id here, where it can be looked at.
    pub(super) local_pid: Option<u32>,
    /// What its process looked like as it joined.
    pub(super) facts: ProcessFacts,
    pub(super) link: Arc<dyn WorkerLink>,
    /// Tells a link from the one that the same worker had before.
    pub(super) number: u64,
    pub(super) agent_version: String,
    pub(super) joined_by: String,
    pub(super) step_source: StepSource,
    pub(super) backends: Vec<BackendProbe>,
    pub(super) refused_plugins: Vec<RefusedPlugin>,
    pub(super) status: Option<SessionStatus>,
    /// What its driver kept of its last session.
    pub(super) residue: Option<Residue>,
    /// Who waits for which answer.
    pub(super) pending: BTreeMap<u64, Sender<(String, Outcome)>>,
}

impl Inner {
    pub(super) fn new(
        root: TraceRoot,
        claim: RootClaim,
        options: ControllerOptions,
        exports: Exports,
        listener: Option<Listener>,
    ) -> Self {
        Self {
            root,
            claim: Mutex::new(Some(claim)),
            clock: Arc::clone(&options.clock),
            options,
            exports,
            listener: Mutex::new(listener.map(Arc::new)),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            writing: Mutex::new(()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed that somebody may wait for.
    pub(super) fn tell(&self) {
        self.lock().changes += 1;
        self.changed.notify_all();
    }

    pub(super) fn listener(&self) -> Option<Arc<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes room for another controller of this root.
    pub(super) fn release(&self) {
        drop(self.listener.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.claim.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Waits until the condition holds, `timeout` at most; says whether it does.
    pub(super) fn wait_until(
        &self,
        timeout: Duration,
        mut condition: impl FnMut(&mut State) -> bool,
    ) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.lock();
        loop {
            if condition(&mut state) {
                return true;
            }
            let left = match deadline {
                None => Duration::from_secs(3600),
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn wait_for_workers(&self, count: usize, timeout: Duration) -> bool {
        self.wait_until(timeout, |state| state.closing || state.joined().count() >= count)
            && self.lock().joined().count() >= count
    }

    pub(super) fn wait_until_idle(&self, timeout: Duration) -> bool {
        self.wait_until(timeout, |state| {
            !state.starting && state.current.is_none() && state.sessions.values().all(|s| s.sealed)
        })
    }

    pub(super) fn socket_dir(&self) -> Option<PathBuf> {
        self.listener()?.path().parent().map(PathBuf::from)
    }
}

impl State {
    /// The workers that have joined, without what reads the host's counters.
    pub(super) fn joined(&self) -> impl Iterator<Item = &Worker> {
        let is_worker = |(key, _): &(&String, &Worker)| self.host.as_ref() != Some(*key);
        self.workers.iter().filter(is_worker).map(|(_, worker)| worker)
    }

    /// Whether a process that is looked at from outside has joined from within as well: whoever
    /// looks at it may not have seen that yet.
    pub(super) fn is_superseded(&self, worker: &Worker) -> bool {
        let is_outside = |worker: &Worker| worker.joined_by == JOINED_BY_LOOKING;
        let is_within =
            |other: &Worker| !is_outside(other) && other.identity.is_same_process(&worker.identity);
        is_outside(worker) && self.joined().any(is_within)
    }

    /// The session that occupies the workers; one whose workers are all done occupies none.
    pub(super) fn release_current(&mut self) {
        let Some(current) = &self.current else { return };
        if self.sessions.get(current).is_none_or(Session::is_settled) {
            self.current = None;
        }
    }

    /// Forgets the oldest sessions that are over.
    pub(super) fn forget_old(&mut self) {
        let over: Vec<String> =
            self.sessions.values().filter(|s| s.sealed).map(|s| s.id().to_owned()).collect();
        let surplus = over.len().saturating_sub(KEPT_SESSIONS);
        for session in &over[..surplus] {
            if self.last.as_ref() != Some(session) {
                self.sessions.remove(session);
            }
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}
