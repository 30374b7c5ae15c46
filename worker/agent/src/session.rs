//! A session: the schedule followed, the edges written, the threads that do so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use profiler_core::backend::BackendId;
use profiler_core::clock::{ClockSource, Instant};
use profiler_core::control::{
    COMMIT_DEADLINE_MS, ORPHAN_LIMIT_MS, SessionStatus, WorkerError, WorkerState,
};
use profiler_core::record::{ClockTuple, Step, Window, WindowEdge};
use profiler_core::schedule::{Machine, Output};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};
use profiler_core::spool::{SpoolEnd, SpoolProgress, SpoolWriter};

use crate::cost::OwnTime;
use crate::door::OpenSession;
use crate::drain::BYTE_LIMIT;
use crate::fork::NotInherited;
use crate::raw_files::RawFiles;
use crate::spans::SpanSession;

/// The stream of the agent's own rows, which every spool has.
pub(crate) const OWN_STREAM: StreamId = StreamId(0);

/// Backends are flushed so often.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// The session's thread looks at its clock at least so often: a clock may be another than the
/// machine's, and a full disk shows in no other way.
const LOOK_EVERY_NS: u64 = 250_000_000;

const CLOCK_TUPLE_EVERY_NS: u64 = 1_000_000_000;

/// A controller is told so often how far a session is, also where its state stays.
const TELL_EVERY_NS: u64 = 1_000_000_000;

const NS_PER_MS: u64 = 1_000_000;

/// Steps between two looks of the session's thread, at most; each one that begins a window wakes
/// it, so that only a program that does nothing but step comes here.
const STEP_QUEUE: usize = 4096;

/// The threads of a session, a backend's among them.
const SESSION_THREADS: usize = 4;

/// What a thread touches of its stack and of the allocator's arena.
const THREAD_BYTES: usize = 64 << 10;

/// Edges that wait for a full sink, at most; words that a window goes on are dropped before.
const MAX_WAITING_EDGES: usize = 65_536;

/// Changes of state that the controller is told; a session of very many windows tells no more
/// than that.
const MAX_STATE_EVENTS: u32 = 64;

/// A step as the application's thread stamped it.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) number: u64,
    pub(crate) monotonic_ns: u64,
    pub(crate) thread: u32,
}

/// What is decided when a session is armed and does not change.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) session: String,
    pub(crate) fence: u64,
    pub(crate) backend: Option<BackendId>,
    pub(crate) why: String,
    pub(crate) degraded: Option<WorkerError>,
    /// Whether allocations and frees were asked for.
    pub(crate) memory: bool,
    pub(crate) drain: Duration,
    /// Whether steps open and close windows, so that each wakes the session's thread.
    pub(crate) by_steps: bool,
    /// Where the spool lies, if that is to be seen from here.
    pub(crate) spool_path: Option<std::path::PathBuf>,
    /// Files that the backends named.
    pub(crate) named: crate::jit::Named,
    /// What vendors' tools write.
    pub(crate) raw_files: Arc<RawFiles>,
    /// The most bytes of the spool and of such files.
    pub(crate) max_bytes: u64,
    /// How long it waits for its commit.
    pub(crate) commit_within_ms: u64,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
    /// What the backends log.
    pub(crate) logged: crate::log_lines::LogLines,
}

/// A session.
pub(crate) struct Session {
    pub(crate) terms: Terms,
    pub(crate) clock: Arc<dyn ClockSource>,
    pub(crate) sink: Arc<dyn RecordSink>,
    pub(crate) steps: ArrayQueue<Stamp>,
    pub(crate) missed_steps: AtomicU64,
    running: Mutex<Running>,
    wake: Condvar,
    pub(crate) not_inherited: Mutex<Option<NotInherited>>,
    pub(crate) writer: Mutex<Option<SpoolWriter>>,
    /// What the writer said last; final once the writer is gone.
    pub(crate) totals: Mutex<SpoolProgress>,
    pub(crate) backends: Mutex<Vec<OpenSession>>,
    pub(crate) spans: Mutex<Option<SpanSession>>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) own_time: OwnTime,
    pub(crate) hurry: AtomicBool,
    flusher: Flusher,
}

struct Running {
    machine: Machine,
    armed_at: u64,
    orphaned_at: Option<u64>,
    waiting: Vec<Window>,
    clock_error_ns: u32,
    next_tuple: u64,
    next_tell: u64,
    told: u32,
    events: Vec<WorkerState>,
    start_backends: bool,
}

/// What went wrong on the way.
#[derive(Default)]
pub(crate) struct Faults {
    /// What fails the session.
    pub(crate) error: Option<WorkerError>,
    /// What failed by the way, once each; how often.
    pub(crate) by_the_way: BTreeMap<String, u64>,
}

impl Faults {
    pub(crate) fn fail(&mut self, error: WorkerError) {
        self.error.get_or_insert(error);
    }

    fn note(&mut self, text: String) {
        const MAX_DISTINCT: usize = 32;
        if self.by_the_way.len() < MAX_DISTINCT || self.by_the_way.contains_key(&text) {
            *self.by_the_way.entry(text).or_default() += 1;
        }
    }
}

#[derive(Default)]
struct Flusher {
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// What the session's thread does next.
pub(crate) enum Next {
    /// Tell these states, then go on.
    Tell(Vec<WorkerState>),
    /// Drain.
    Drain(Vec<WorkerState>),
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(crate) fn new(
        terms: Terms,
        machine: Machine,
        clock: Arc<dyn ClockSource>,
        writer: SpoolWriter,
        own_time: OwnTime,
    ) -> Self {
        let armed_at = clock.monotonic_ns();
        Self {
            terms,
            sink: writer.sink(),
            steps: ArrayQueue::new(STEP_QUEUE),
            missed_steps: AtomicU64::new(0),
            running: Mutex::new(Running {
                machine,
                armed_at,
                orphaned_at: None,
                waiting: Vec::new(),
                clock_error_ns: 0,
                next_tuple: armed_at,
                next_tell: armed_at + TELL_EVERY_NS,
                told: 0,
                events: Vec::new(),
                start_backends: false,
            }),
            clock,
            wake: Condvar::new(),
            not_inherited: Mutex::default(),
            writer: Mutex::new(Some(writer)),
            totals: Mutex::default(),
            backends: Mutex::default(),
            spans: Mutex::default(),
            faults: Mutex::default(),
            own_time,
            hurry: AtomicBool::new(false),
            flusher: Flusher::default(),
        }
    }

    /// The window begins at `t0`.
    pub(crate) fn commit(&self, t0: Instant) -> Instant {
        let mut running = lock(&self.running);
        let now = self.clock.now();
        self.take_steps(&mut running, now);
        running.act(self, |machine, out| machine.commit(t0, now, out));
        self.wake.notify_all();
        now
    }

    /// The window ends at `t1`.
    pub(crate) fn stop(&self, t1: Instant, reason: &str) {
        let mut running = lock(&self.running);
        let now = self.clock.now();
        self.take_steps(&mut running, now);
        running.act(self, |machine, out| machine.stop(t1, reason, out));
        self.wake.notify_all();
    }

    /// A step of the application. Wakes the session's thread where a window may hang on it.
    pub(crate) fn step(&self, stamp: Stamp) {
        if self.steps.push(stamp).is_err() {
            self.missed_steps.fetch_add(1, Ordering::Relaxed);
        }
        if self.terms.by_steps {
            self.wake.notify_all();
        }
    }

    /// The controller is gone, or another one is there.
    pub(crate) fn set_orphaned(&self, is_orphaned: bool) {
        let now = self.clock.monotonic_ns();
        let mut running = lock(&self.running);
        // One that refuses the agent each second is no controller that came and went.
        running.orphaned_at = is_orphaned.then(|| running.orphaned_at.unwrap_or(now));
    }

    pub(crate) fn status(&self) -> SessionStatus {
        let progress = self.progress();
        let running = lock(&self.running);
        SessionStatus {
            session: self.terms.session.clone(),
            fence: self.terms.fence,
            state: running.machine.state(),
            steps: running.machine.steps(),
            windows: running.machine.windows_begun(),
            rows: progress.rows.values().sum(),
            spool_bytes: progress.bytes,
            lost: progress.lost.total(),
            stopped_by: running.machine.stopped_by().map(ToString::to_string),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        lock(&self.running).machine.stopped_by().is_some()
    }

    /// Windows, steps, cause and the greatest clock error.
    pub(crate) fn course(&self) -> (Machine, u32) {
        let running = lock(&self.running);
        (running.machine.clone(), running.clock_error_ns)
    }

    pub(crate) fn progress(&self) -> SpoolProgress {
        match &*lock(&self.writer) {
            Some(writer) => writer.progress(),
            None => lock(&self.totals).clone(),
        }
    }

    /// The memory that it holds itself; its threads' stacks are counted by what they touch.
    pub(crate) fn memory_bytes(&self) -> u64 {
        (SESSION_THREADS * THREAD_BYTES + STEP_QUEUE * size_of::<Stamp>()) as u64
    }

    /// One round of the session's thread: waits until there is something to do, and does it.
    pub(crate) fn round(&self) -> Next {
        let mut running = lock(&self.running);
        let now = self.clock.now();
        self.take_steps(&mut running, now);
        running.act(self, |machine, out| machine.tick(now, out));
        if let Some((cause, at)) = self.outside_cause(&running, now) {
            running.act(self, |machine, out| machine.stop(at, &cause, out));
        }
        running.write_waiting(self);
        if now.monotonic_ns >= running.next_tuple {
            running.write_tuple(self);
        }
        if std::mem::take(&mut running.start_backends) {
            drop(running);
            let failed = self.start_backends();
            running = lock(&self.running);
            if let Some(code) = failed {
                let now = self.clock.now();
                running.act(self, |machine, out| machine.stop(now, &code, out));
            }
        }
        if now.monotonic_ns >= running.next_tell {
            running.next_tell = now.monotonic_ns + TELL_EVERY_NS;
            let state = running.machine.state();
            running.events.push(state);
        }
        let events = std::mem::take(&mut running.events);
        if running.machine.stopped_by().is_some() {
            running.write_tuple(self);
            running.write_waiting(self);
            return Next::Drain(events);
        }
        if events.is_empty() && self.steps.is_empty() {
            let next = running.machine.next_tick().unwrap_or(u64::MAX).min(running.next_tuple);
            let wait_ns = next.saturating_sub(now.monotonic_ns).clamp(1, LOOK_EVERY_NS);
            let wait = Duration::from_nanos(wait_ns);
            drop(self.wake.wait_timeout(running, wait));
        }
        Next::Tell(events)
    }

    /// Edges that still wait, until the deadline: a session without its end cannot be read.
    pub(crate) fn write_last_edges(&self, deadline: Duration) {
        let until = std::time::Instant::now() + deadline;
        loop {
            let mut running = lock(&self.running);
            running.write_waiting(self);
            if running.waiting.is_empty() || std::time::Instant::now() >= until {
                return;
            }
            drop(running);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What ends a session beside its schedule, and when it did.
    fn outside_cause(&self, running: &Running, now: Instant) -> Option<(String, Instant)> {
        if running.machine.state() == WorkerState::Armed {
            let deadline = running.armed_at + self.terms.commit_within_ms * NS_PER_MS;
            // A controller that is gone commits nothing.
            let alone = running.orphaned_at.map(|at| at + COMMIT_DEADLINE_MS * NS_PER_MS);
            if now.monotonic_ns >= alone.map_or(deadline, |alone| alone.min(deadline)) {
                return Some(("commit_deadline".to_owned(), now));
            }
        }
        if let Some(orphaned_at) = running.orphaned_at
            && now.monotonic_ns >= orphaned_at + ORPHAN_LIMIT_MS * NS_PER_MS
        {
            return Some(("orphan".to_owned(), now));
        }
        let progress = self.progress();
        let raw_bytes = self.terms.raw_files.bytes();
        let is_full = progress.bytes.saturating_add(raw_bytes) >= self.terms.max_bytes;
        if progress.end.is_none() && raw_bytes > 0 && is_full {
            return Some((BYTE_LIMIT.to_owned(), now));
        }
        let end = progress.end?;
        if !matches!(end, SpoolEnd::ByteLimit { .. }) {
            lock(&self.faults).fail(WorkerError::new(end.code(), end.to_string()));
        }
        Some((end.code().to_owned(), now))
    }

    /// Hands the steps that were stamped to the schedule, and writes their rows.
    fn take_steps(&self, running: &mut Running, now: Instant) {
        let mut rows = Vec::new();
        while let Some(stamp) = self.steps.pop() {
            let behind = now.monotonic_ns.saturating_sub(stamp.monotonic_ns);
            let at = Instant {
                monotonic_ns: stamp.monotonic_ns,
                realtime_ns: now.realtime_ns.saturating_sub(behind),
            };
            running.act(self, |machine, out| machine.step(stamp.number, at, out));
            rows.push(Step {
                time: stamp.monotonic_ns,
                step: stamp.number,
                thread: stamp.thread,
                reserved: 0,
            });
        }
        if !rows.is_empty() {
            // A step that a full sink did not take is counted there.
            let _emitted: Emit = self.sink.emit(&[Batch::new(OWN_STREAM, &rows)]);
        }
    }

    /// Starts what a long delay kept waiting; what cannot start ends the session, by its code.
    fn start_backends(&self) -> Option<String> {
        let mut failed = None;
        for backend in lock(&self.backends).iter_mut().filter(|backend| !backend.is_started()) {
            if let Err(error) = backend.start() {
                let message = format!(
                    "backend `{}` could not start when its delay ended: {}",
                    backend.id(),
                    profiler_core::error::chain(&error)
                );
                lock(&self.faults).fail(WorkerError::new(error.code(), message));
                failed = Some(error.code().to_owned());
            }
        }
        failed
    }

    /// The flusher's life: the only caller of `flush`; after each it looks what was written.
    pub(crate) fn flush_until_stopped(&self) {
        loop {
            let stopped = lock(&self.flusher.stopped);
            let waited = self.flusher.changed.wait_timeout_while(stopped, FLUSH_EVERY, |s| !*s);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                return;
            }
            for backend in lock(&self.backends).iter_mut().filter(|b| b.is_started()) {
                let Err(error) = backend.flush() else { continue };
                let text = format!("`{}`: {}", backend.id(), profiler_core::error::chain(&error));
                let mut faults = lock(&self.faults);
                if error.code() == "backend_panicked" {
                    faults.fail(WorkerError::new(error.code(), text));
                } else {
                    faults.note(text);
                }
            }
            self.terms.raw_files.look();
        }
    }

    pub(crate) fn stop_flusher(&self) {
        *lock(&self.flusher.stopped) = true;
        self.flusher.changed.notify_all();
    }

    /// Ends in haste: the process is about to.
    pub(crate) fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
    }
}

impl Running {
    /// Feeds the machine and takes what comes out.
    fn act(&mut self, session: &Session, feed: impl FnOnce(&mut Machine, &mut Vec<Output>)) {
        let mut out = Vec::new();
        feed(&mut self.machine, &mut out);
        for output in out {
            match output {
                Output::State(state) => {
                    let is_last = state == WorkerState::Draining;
                    if self.told < MAX_STATE_EVENTS || is_last {
                        self.told += 1;
                        self.events.push(state);
                    }
                }
                Output::Window(window) => {
                    let is_open = window.edge == WindowEdge::Open.number();
                    if !is_open || self.waiting.is_empty() {
                        self.waiting.push(window);
                    }
                    if wants_tuple(window.edge) {
                        self.write_tuple(session);
                    }
                }
                Output::Enable => self.start_backends = true,
                _ => {}
            }
        }
        self.write_waiting(session);
    }

    fn write_waiting(&mut self, session: &Session) {
        if self.waiting.is_empty() {
            return;
        }
        match session.sink.emit(&[Batch::new(OWN_STREAM, &self.waiting)]) {
            Emit::Accepted | Emit::Closed => self.waiting.clear(),
            _ => self.waiting.truncate(MAX_WAITING_EDGES),
        }
    }

    fn write_tuple(&mut self, session: &Session) {
        let tuple: ClockTuple = session.clock.tuple();
        self.next_tuple = tuple.monotonic + CLOCK_TUPLE_EVERY_NS;
        self.clock_error_ns = self.clock_error_ns.max(tuple.error_ns);
        // Another follows within a second.
        let _emitted: Emit = session.sink.emit(&[Batch::new(OWN_STREAM, &[tuple])]);
    }
}

/// Whether a clock tuple belongs beside this edge. A reader that follows goes no further than the
/// last tuple, so a window that goes on says so in vain without one.
fn wants_tuple(edge: u32) -> bool {
    let edge = WindowEdge::from_number(edge);
    matches!(edge, Some(WindowEdge::Begin | WindowEdge::End | WindowEdge::Open))
}
