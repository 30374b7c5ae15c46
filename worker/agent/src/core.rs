//! The agent's core: one session at a time, asked by whoever holds the link.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use profiler_core::clock::ClockSource;
use profiler_core::control::{
    AgentEvent, AgentReply, AgentRequest, CalledWorker, Commit, Hello, Outcome, PROTOCOL_VERSION,
    SessionStatus, Stop, WorkerError, WorkerState,
};
use profiler_core::identity::WorkerIdentity;
use profiler_core::process_facts::ProcessFacts;
use profiler_core::schedule::StepSource;
use profiler_core::thread::spawn_blocked;

use crate::door::Backends;
use crate::drain::drain;
use crate::entrance::Entrance;
use crate::environment::Environment;
use crate::outbox::Outbox;
use crate::session::{Next, Session, Stamp, lock};

/// How long an arm waits for a session that still drains.
const DRAINING_PATIENCE: Duration = Duration::from_secs(3);

/// The code of a panic of the agent itself.
const PANICKED: &str = "agent_panicked";

/// How an agent stands in its process, or to the one that it looks at.
pub(crate) struct Place {
    pub(crate) step_source: StepSource,
    pub(crate) joined_by: String,
    pub(crate) target: Option<u32>,
    pub(crate) environment: Environment,
    /// `None` where the agent looks at another process.
    pub(crate) entrance: Option<Entrance>,
}

/// What an agent is made of.
pub(crate) struct Core {
    pub(crate) clock: Arc<dyn ClockSource>,
    pub(crate) backends: Backends,
    pub(crate) step_source: StepSource,
    pub(crate) joined_by: String,
    pub(crate) target: Option<u32>,
    pub(crate) environment: Environment,
    /// Keeps others out for as long as this lives.
    _entrance: Option<Entrance>,
    pub(crate) outbox: Outbox,
    worker: Mutex<WorkerIdentity>,
    next_step: AtomicU64,
    /// The pid that this agent is at home in: in a forked child it does nothing.
    home: u32,
    slot: Mutex<Slot>,
    slot_changed: Condvar,
    /// Who steps looks here first: no lock where there is no session.
    is_in_session: AtomicBool,
    /// The session that steps go to; the slot's, where who steps finds it without a lock.
    stepped: ArcSwapOption<Session>,
    has_controller: AtomicBool,
}

#[derive(Default)]
struct Slot {
    session: Option<Arc<Session>>,
    /// An arm is under way.
    is_arming: bool,
    /// The session's thread, joined before the next one starts.
    thread: Option<JoinHandle<()>>,
    /// The last session's end: a second stop gets the same answer.
    last: Option<SessionStatus>,
    /// The greatest fence that was seen.
    fence: u64,
}

impl Core {
    pub(crate) fn new(
        clock: Arc<dyn ClockSource>,
        backends: Backends,
        worker: WorkerIdentity,
        place: Place,
    ) -> Self {
        let Place { step_source, joined_by, target, environment, entrance } = place;
        Self {
            clock,
            backends,
            step_source,
            joined_by,
            target,
            environment,
            _entrance: entrance,
            outbox: Outbox::default(),
            worker: Mutex::new(worker),
            next_step: AtomicU64::new(0),
            home: std::process::id(),
            slot: Mutex::default(),
            slot_changed: Condvar::new(),
            is_in_session: AtomicBool::new(false),
            stepped: ArcSwapOption::empty(),
            has_controller: AtomicBool::new(false),
        }
    }

    pub(crate) fn worker(&self) -> WorkerIdentity {
        lock(&self.worker).clone()
    }

    /// What the process looks like now.
    pub(crate) fn facts(&self) -> ProcessFacts {
        match self.target {
            Some(pid) => ProcessFacts::of_process(pid, &[]),
            None => self.environment.facts(),
        }
    }

    /// Takes over what the controller calls this worker.
    pub(crate) fn take_called(&self, called: Option<CalledWorker>) {
        if let Some(called) = called {
            called.apply(&mut lock(&self.worker));
        }
    }

    /// Whether this is a forked child of the process that the agent entered.
    pub(crate) fn is_astray(&self) -> bool {
        crate::fork::is_child() || self.home != std::process::id()
    }

    pub(crate) fn is_own_process(&self) -> bool {
        self.target.is_none()
    }

    pub(crate) fn hello(&self, token: Option<String>) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            worker: self.worker(),
            joined_by: self.joined_by.clone(),
            facts: self.facts(),
            step_source: self.step_source.clone(),
            backends: self.backends.probe(),
            refused_plugins: self.backends.refused_plugins(),
            session: self.status(),
            token,
        }
    }

    pub(crate) fn status(&self) -> Option<SessionStatus> {
        let session = lock(&self.slot).session.clone();
        session.map(|session| session.status())
    }

    /// A controller is there. Fences grow within its root alone, so that an idle agent forgets
    /// those of the last one.
    pub(crate) fn controller_came(&self) {
        self.has_controller.store(true, Ordering::Release);
        let mut slot = lock(&self.slot);
        if slot.session.is_none() && !slot.is_arming {
            slot.fence = 0;
        }
        if let Some(session) = &slot.session {
            session.set_orphaned(false);
        }
    }

    /// The controller went.
    pub(crate) fn controller_went(&self) {
        self.has_controller.store(false, Ordering::Release);
        self.outbox.detach();
        if let Some(session) = &lock(&self.slot).session {
            session.set_orphaned(true);
        }
    }

    /// Answers a request.
    pub(crate) fn answer(
        self: &Arc<Self>,
        request: AgentRequest,
        descriptor: Option<OwnedFd>,
    ) -> Outcome {
        self.outbox.confirm();
        if self.is_astray() {
            return Outcome::Failed(WorkerError::new(
                "forked",
                "this process was forked from one that an agent entered; it has none itself",
            ));
        }
        let reply = match request {
            AgentRequest::Probe => Ok(AgentReply::Probed { backends: self.backends.probe() }),
            AgentRequest::Arm(arm) => self.arm(*arm, descriptor),
            AgentRequest::Commit(commit) => self.commit(commit),
            AgentRequest::Stop(stop) => self.stop(&stop),
            AgentRequest::Disarm { fence } => self.disarm(fence),
            AgentRequest::Status => Ok(AgentReply::Status { session: self.status().map(Box::new) }),
            _ => Err(WorkerError::new(
                "unknown_request",
                "this agent does not know what is asked; it may be older than the controller",
            )),
        };
        match reply {
            Ok(reply) => Outcome::Done(Box::new(reply)),
            Err(error) => Outcome::Failed(error),
        }
    }

    fn arm(
        self: &Arc<Self>,
        arm: profiler_core::control::Arm,
        descriptor: Option<OwnedFd>,
    ) -> Result<AgentReply, WorkerError> {
        self.reserve(arm.fence)?;
        if self.is_own_process() {
            crate::fork::recorded();
        }
        let fence = arm.fence;
        let armed = catch_unwind(AssertUnwindSafe(|| crate::arm::arm(self, arm, descriptor)))
            .unwrap_or_else(|payload| {
                let text = crate::door::panic_text(payload);
                Err(WorkerError::new(PANICKED, format!("the arm panicked: {text}")))
            });
        let mut slot = lock(&self.slot);
        slot.is_arming = false;
        let (session, armed) = match armed {
            Ok(armed) => armed,
            Err(error) => {
                self.slot_changed.notify_all();
                return Err(error);
            }
        };
        slot.fence = fence;
        slot.session = Some(Arc::clone(&session));
        // A link that broke while the backends were loaded orphans the session from the start.
        let is_linked = self.has_controller.load(Ordering::Acquire);
        session.set_orphaned(!is_linked);
        let core = Arc::clone(self);
        let life = Arc::clone(&session);
        match spawn_blocked("omniprof-clock", move || core.live(&life)) {
            Ok(thread) => slot.thread = Some(thread),
            Err(source) => {
                slot.session = None;
                drop(slot);
                crate::arm::roll_back(&session);
                return Err(WorkerError::new(
                    "no_thread",
                    format!("cannot start the session's thread: {source}"),
                ));
            }
        }
        self.stepped.store(Some(Arc::clone(&session)));
        self.is_in_session.store(true, Ordering::Release);
        session.sink.fact("agent.armed_ns", &armed.at.monotonic_ns.to_string());
        Ok(AgentReply::Armed(Box::new(armed)))
    }

    /// Makes sure that a session may begin, and that no other does meanwhile.
    fn reserve(&self, fence: u64) -> Result<(), WorkerError> {
        let mut slot = lock(&self.slot);
        if fence <= slot.fence {
            return Err(stale(fence, slot.fence));
        }
        let is_free = |slot: &mut Slot| {
            let drains = slot.session.as_ref().is_some_and(|session| session.is_over());
            !(drains || slot.is_arming)
        };
        let waited =
            self.slot_changed.wait_timeout_while(slot, DRAINING_PATIENCE, |slot| !is_free(slot));
        slot = waited.unwrap_or_else(PoisonError::into_inner).0;
        if let Some(session) = &slot.session {
            let other = &session.terms.session;
            let what = if session.is_over() { "still drains" } else { "records" };
            return Err(WorkerError::new("busy", format!("session {other} {what} here")));
        }
        if slot.is_arming {
            return Err(WorkerError::new("busy", "another arm is under way here"));
        }
        slot.is_arming = true;
        let thread = slot.thread.take();
        drop(slot);
        if let Some(thread) = thread {
            // It has told the end of its session and does nothing more.
            let _joined: std::thread::Result<()> = thread.join();
        }
        Ok(())
    }

    fn commit(&self, commit: Commit) -> Result<AgentReply, WorkerError> {
        let session = self.session_of(commit.fence)?;
        if session.is_over() {
            return Err(over(&session));
        }
        Ok(AgentReply::Committed { at: session.commit(commit.t0) })
    }

    fn stop(&self, stop: &Stop) -> Result<AgentReply, WorkerError> {
        if let Some(status) = self.ended(stop.fence) {
            return Ok(AgentReply::Stopping { status: Box::new(status) });
        }
        let session = self.session_of(stop.fence)?;
        session.stop(stop.t1, &stop.reason);
        Ok(AgentReply::Stopping { status: Box::new(session.status()) })
    }

    fn disarm(&self, fence: u64) -> Result<AgentReply, WorkerError> {
        let stop = Stop { fence, t1: self.clock.now(), reason: "disarm".to_owned() };
        self.stop(&stop)
    }

    fn session_of(&self, fence: u64) -> Result<Arc<Session>, WorkerError> {
        let slot = lock(&self.slot);
        match &slot.session {
            Some(session) if session.terms.fence == fence => Ok(Arc::clone(session)),
            _ if fence < slot.fence => Err(stale(fence, slot.fence)),
            _ => {
                Err(WorkerError::new("no_session", format!("no session of fence {fence} is here")))
            }
        }
    }

    fn ended(&self, fence: u64) -> Option<SessionStatus> {
        let slot = lock(&self.slot);
        if slot.session.is_some() {
            return None;
        }
        slot.last.clone().filter(|last| last.fence == fence)
    }

    /// The life of a session's thread. A panic of ours ends the session, too: else the worker would
    /// be busy for ever and its controller would wait for a result.
    fn live(self: &Arc<Self>, session: &Arc<Session>) {
        let flusher = {
            let session = Arc::clone(session);
            spawn_blocked("omniprof-flush", move || session.flush_until_stopped())
        };
        let recorded = caught(session, || {
            if let Err(source) = &flusher {
                let error = WorkerError::new(
                    "no_thread",
                    format!("cannot start the thread that flushes: {source}"),
                );
                lock(&session.faults).fail(error);
                session.stop(self.clock.now(), "no_thread");
            }
            self.record(session);
        });
        if recorded.is_none() {
            caught(session, || session.stop(self.clock.now(), PANICKED));
        }
        session.stop_flusher();
        if let Ok(flusher) = flusher {
            // A panic of a backend is caught at the door already.
            join(Some(flusher));
        }
        let result = caught(session, || drain(self, session))
            .or_else(|| caught(session, || crate::drain::abandon(self, session)));
        let last = caught(session, || {
            let mut last = session.status();
            last.state = match result.as_ref().is_some_and(|result| result.error.is_none()) {
                true => WorkerState::Idle,
                false => WorkerState::Failed,
            };
            if last.state == WorkerState::Failed {
                self.tell(session, vec![WorkerState::Failed]);
            }
            last
        });
        let mut slot = lock(&self.slot);
        self.is_in_session.store(false, Ordering::Release);
        self.stepped.store(None);
        slot.last = last;
        slot.session = None;
        drop(slot);
        if let Some(result) = result {
            self.outbox.tell(AgentEvent::Finished { result: Box::new(result) });
        }
        self.slot_changed.notify_all();
    }

    /// Follows the schedule until it or somebody ends the session.
    fn record(&self, session: &Session) {
        loop {
            match session.round() {
                Next::Tell(states) => self.tell(session, states),
                Next::Drain(states) => return self.tell(session, states),
            }
        }
    }

    fn tell(&self, session: &Session, states: Vec<WorkerState>) {
        for state in states {
            let mut status = session.status();
            status.state = state;
            self.outbox.tell(AgentEvent::State { status: Box::new(status) });
        }
    }

    /// The application begins a step. Takes no lock; makes a system call only where a window hangs
    /// on steps, to wake the session's thread.
    pub(crate) fn step(&self) {
        let number = self.next_step.fetch_add(1, Ordering::Relaxed);
        if !self.is_in_session.load(Ordering::Acquire) || self.is_astray() {
            return;
        }
        let monotonic_ns = self.clock.monotonic_ns();
        let stepped = self.stepped.load();
        let Some(session) = &*stepped else { return };
        session.step(Stamp { number, monotonic_ns, thread: crate::spans::thread_id() });
    }

    /// Ends the session, if there is one, and waits for that.
    pub(crate) fn shut_down(&self, reason: &str, patience: Duration, hasty: bool) {
        if self.is_astray() {
            return;
        }
        let slot = lock(&self.slot);
        let Some(session) = slot.session.clone() else {
            let thread = { slot }.thread.take();
            join(thread);
            return;
        };
        if hasty {
            session.hurry();
        }
        session.stop(self.clock.now(), reason);
        let waited =
            self.slot_changed.wait_timeout_while(slot, patience, |slot| slot.session.is_some());
        let (mut slot, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let thread = slot.thread.take();
        drop(slot);
        if !timeout.timed_out() {
            join(thread);
        }
    }
}

/// Calls what is ours behind a catch; a panic fails the session, and the answer is `None`.
fn caught<T>(session: &Session, call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|payload| {
            let text = crate::door::panic_text(payload);
            let text = format!("the session's thread panicked: {text}");
            lock(&session.faults).fail(WorkerError::new(PANICKED, text));
        })
        .ok()
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        // Its panics are caught and told already.
        let _joined: std::thread::Result<()> = thread.join();
    }
}

fn stale(fence: u64, seen: u64) -> WorkerError {
    WorkerError::new("stale_fence", format!("fence {fence} is past: {seen} was seen"))
}

fn over(session: &Session) -> WorkerError {
    let status = session.status();
    let by = status.stopped_by.unwrap_or_default();
    WorkerError::new("session_over", format!("session {} was ended by {by}", status.session))
}
