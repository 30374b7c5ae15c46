//! The thread that finds libtorch, gives it the callbacks and makes rows of what they leave.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use profiler_core::chunk::{ChunkCollector, ChunkPool, SPARE_BYTES, chunks};
use profiler_core::clock::ClockSource;
use profiler_core::sink::RecordSink;

use super::callbacks::{self, Attached, Wanted};
use super::entry::OperatorHead;
use super::library::{self, Found};
use super::rows::{self, Rows, drain};
use super::session::Lease;
use super::{OperatorSummary, entry, shapes, state};

/// The memory of chunks, at most.
const POOL_BYTES: usize = 48 << 20;

/// How often chunks are emptied under load, and how often else: a load begins without notice, and
/// what comes until the next round must fit into the chunks that stand ready.
const BUSY_PERIOD: Duration = Duration::from_millis(10);
const QUIET_PERIOD: Duration = Duration::from_millis(20);
/// The same where no operators are recorded.
const IDLE_PERIOD: Duration = Duration::from_millis(100);
/// What makes a load, in bytes a round.
const BUSY_BYTES: u64 = 256 << 10;

/// Small operators that two threads can run in a millisecond.
const MOST_OPERATORS_A_MS: usize = 2 * 1_000;
const _: () = {
    let bytes = MOST_OPERATORS_A_MS * QUIET_PERIOD.as_millis() as usize * size_of::<OperatorHead>();
    assert!(bytes <= SPARE_BYTES);
};

/// How often libtorch is looked for while it is not there.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Dead threads are looked for so often.
const RECLAIM_PERIOD: Duration = Duration::from_secs(1);

/// What the session and the thread tell each other.
#[derive(Default)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rows: bool,
    is_ready: bool,
    has_ended: bool,
    stop: bool,
    flush_asked: u64,
    flush_done: u64,
}

impl Control {
    /// Rows are wanted from now on, not steps alone.
    pub(super) fn start_rows(&self) {
        {
            let mut state = self.lock();
            state.rows = true;
            state.is_ready = false;
        }
        self.changed.notify_all();
    }

    /// Whether libtorch was looked for in time.
    pub(super) fn wait_ready(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.is_ready || state.has_ended)
    }

    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let number = {
            let mut state = self.lock();
            state.flush_asked += 1;
            state.flush_asked
        };
        self.changed.notify_all();
        self.wait(timeout, |state| state.flush_done >= number || state.has_ended)
    }

    /// Whether the thread ended in time.
    pub(super) fn stop(&self, timeout: Duration) -> bool {
        self.lock().stop = true;
        self.changed.notify_all();
        self.wait(timeout, |state| state.has_ended)
    }

    pub(super) fn tell_ended(&self) {
        self.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// What is wanted was begun, as far as it can be.
    fn tell_ready(&self, rows: bool) {
        let mut state = self.lock();
        if state.rows == rows {
            state.is_ready = true;
            self.changed.notify_all();
        }
    }

    fn wait(&self, timeout: Duration, is_done: impl Fn(&State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, |state| !is_done(state));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that the thread works with.
pub(super) struct Collector {
    /// Given back when the callbacks are out.
    _lease: Lease,
    wanted: Wanted,
    sink: Arc<dyn RecordSink>,
    clock: Arc<dyn ClockSource>,
    control: Arc<Control>,
    rows: Rows,
    attached: Option<Attached>,
    /// Libraries loaded when libtorch was looked for last.
    loads: u64,
    found: Option<Found>,
    /// Why libtorch cannot be used; then it is not looked for again.
    refusal: Option<String>,
    told_faults: bool,
    looked_at: u64,
}

impl Collector {
    pub(super) fn new(
        lease: Lease,
        wanted: Wanted,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
        control: Arc<Control>,
        rows: Rows,
    ) -> Self {
        Self {
            _lease: lease,
            wanted,
            sink,
            clock,
            control,
            rows,
            attached: None,
            loads: 0,
            found: None,
            refusal: None,
            told_faults: false,
            looked_at: 0,
        }
    }

    /// Records until the session says stop.
    pub(super) fn run(mut self) -> OperatorSummary {
        let (pool, mut chunks) = chunks(POOL_BYTES);
        self.looked_at = self.instant();
        let mut recording = None;
        let mut next_look = Instant::now();
        let mut next_reclaim = Instant::now() + RECLAIM_PERIOD;
        loop {
            let started = self.control.lock().rows;
            let rows_wanted = self.wanted.rows && started;
            if self.attached.is_none() && self.refusal.is_none() && Instant::now() >= next_look {
                next_look = Instant::now() + LOOK_PERIOD;
                self.look(rows_wanted, pool, &mut recording);
            } else if rows_wanted && self.attached.is_some() && recording.is_none() {
                self.attach_for_rows(pool, &mut recording);
            }
            self.control.tell_ready(started);
            let asked = self.control.lock().flush_asked;
            let bytes = drain(&mut chunks, &mut self.rows, &mut HashSet::new());
            if Instant::now() >= next_reclaim {
                next_reclaim = Instant::now() + RECLAIM_PERIOD;
                for open in state::reclaim(recording.unwrap_or(0)) {
                    self.rows.unfinished(&open);
                }
            }
            self.finish_round(&mut chunks);
            let period = match recording {
                Some(_) if bytes >= BUSY_BYTES => BUSY_PERIOD,
                Some(_) => QUIET_PERIOD,
                None => IDLE_PERIOD,
            };
            if self.rows.is_closed() {
                callbacks::switch_off();
            }
            if self.sleep(period, asked) {
                break;
            }
        }
        self.end(&mut chunks, recording)
    }

    /// Sleeps; whether the session said stop.
    fn sleep(&self, period: Duration, flushed: u64) -> bool {
        let mut state = self.control.lock();
        if flushed > state.flush_done {
            state.flush_done = flushed;
            self.control.changed.notify_all();
        }
        let wakes = |state: &State| state.stop || state.flush_asked > flushed;
        let rows_before = state.rows;
        let waited = self
            .control
            .changed
            .wait_timeout_while(state, period, |state| !wakes(state) && state.rows == rows_before);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    /// Looks for libtorch, where something was loaded since.
    fn look(&mut self, rows: bool, pool: ChunkPool, recording: &mut Option<u32>) {
        let loads = library::loads();
        if loads == self.loads {
            return;
        }
        self.loads = loads;
        let Some(found) = library::find() else { return };
        let symbols = match found.symbols() {
            Ok(symbols) => symbols,
            Err(error) => {
                self.found = Some(found);
                self.refusal = Some(error.to_string());
                return self.tell("none", &error.to_string());
            }
        };
        if self.wanted.shapes && symbols.tensors.is_none() {
            self.wanted.shapes = false;
            let what = "this libtorch exports nothing by which shapes can be read";
            self.sink.fact("cpu.operators.shapes", what);
        }
        self.found = Some(found);
        let wanted = Wanted { rows, ..self.wanted };
        let number = callbacks::switch_on(wanted, pool);
        self.attached = Some(callbacks::attach(symbols, wanted));
        if rows {
            *recording = Some(number);
            self.tell_found();
        }
    }

    /// Ranges were steps so far; now operators are recorded as well.
    fn attach_for_rows(&mut self, pool: ChunkPool, recording: &mut Option<u32>) {
        let Some(attached) = self.attached.take() else { return };
        let symbols = attached.symbols();
        let wanted = Wanted { rows: true, ..self.wanted };
        // Never both at once: a function that begins between would be told twice.
        attached.detach();
        *recording = Some(callbacks::switch_on(wanted, pool));
        self.attached = Some(callbacks::attach(symbols, wanted));
        self.tell_found();
    }

    fn tell_found(&self) {
        let Some(found) = &self.found else { return };
        let version = found.version.as_deref().unwrap_or("unknown");
        self.sink.fact("cpu.operators.libtorch", version);
        self.sink.fact("cpu.operators.path", &found.path.to_string_lossy());
        let mut reason = format!("libtorch {version} calls back");
        if found.copies > 1 {
            self.sink.fact("cpu.operators.copies", &found.copies.to_string());
            reason.push_str("; it is loaded more than once, and the first copy is recorded");
        }
        self.tell("recorded", &reason);
    }

    fn tell(&self, what: &str, reason: &str) {
        if self.wanted.rows {
            self.sink.fact("cpu.operators", what);
            self.sink.fact("cpu.operators.reason", reason);
        }
    }

    fn finish_round(&mut self, chunks: &mut ChunkCollector) {
        self.rows.flush();
        state::prepare();
        if !self.told_faults && callbacks::layout_faults() > 0 {
            self.told_faults = true;
            self.tell("names only", LAYOUT);
        }
        let dropped = chunks.take_dropped();
        let operators = dropped.iter().filter(|(kind, _)| *kind == entry::OPERATOR);
        let lost = operators.map(|(_, count)| count).sum::<u64>() + callbacks::take_missed();
        let now = self.instant();
        let from = std::mem::replace(&mut self.looked_at, now);
        self.rows.lost(lost, from, now);
    }

    fn end(mut self, chunks: &mut ChunkCollector, recording: Option<u32>) -> OperatorSummary {
        if let Some(attached) = self.attached.take() {
            attached.detach();
        }
        callbacks::switch_off();
        drain(chunks, &mut self.rows, &mut HashSet::new());
        // One that ends while it is looked for is in a chunk by then, and is not written twice.
        let open = state::open_operators(recording.unwrap_or(0));
        let mut left: HashSet<(u32, u64)> =
            open.iter().map(|open| (open.thread, open.start)).collect();
        drain(chunks, &mut self.rows, &mut left);
        for open in open.iter().filter(|open| left.contains(&(open.thread, open.start))) {
            self.rows.unfinished(open);
        }
        self.finish_round(chunks);
        callbacks::forget_pool();
        let memory_bytes = (chunks.bytes() + state::bytes()) as u64;
        OperatorSummary { notes: self.notes(memory_bytes), memory_bytes }
    }

    fn notes(&self, memory_bytes: u64) -> Vec<String> {
        if !self.wanted.rows {
            return Vec::new();
        }
        self.sink.fact("cpu.operators.memory_bytes", &memory_bytes.to_string());
        self.sink.fact("cpu.operators.rows", &self.rows.taken.to_string());
        let mut notes = Vec::new();
        if let Some(refusal) = &self.refusal {
            notes.push(format!("no operators: {refusal}"));
        } else if self.found.is_none() {
            let reason = "the process has no libtorch loaded";
            self.tell("none", reason);
            notes.push(format!("no operators: {reason}"));
        }
        if self.told_faults {
            notes.push(LAYOUT.to_owned());
        }
        if shapes::are_given_up() {
            let reason = "libtorch refused to tell the sizes of some tensors (nested or symbolic \
                          ones); shapes were taken up to there";
            self.sink.fact("cpu.operators.shapes", reason);
            notes.push(reason.to_owned());
        }
        notes
    }

    fn instant(&self) -> u64 {
        rows::instant(&*self.clock, self.wanted.ticks)
    }
}

impl Drop for Collector {
    /// After a panic the callbacks come out, too.
    fn drop(&mut self) {
        if let Some(attached) = self.attached.take() {
            attached.detach();
            callbacks::switch_off();
            callbacks::forget_pool();
        }
    }
}

const LAYOUT: &str = "the layout of this libtorch is not known: of operators only names and times \
                      are recorded";
