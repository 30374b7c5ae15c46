//! What libtorch calls when a function begins and when it ends.
//!
//! Nothing here locks, allocates, logs or panics. A call costs the application some tens of
//! nanoseconds while a session records, and none otherwise: the callbacks are taken out.
#![expect(unsafe_code, reason = "called by a foreign library, and calls it")]

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use profiler_core::chunk::{ChunkPool, Recording, RecordingFlags};
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::step_names;
use zerocopy::IntoBytes as _;

use super::entry::{NAME, OPERATOR, OperatorHead, THREAD};
use super::layout::{RecordFunction, RecordFunctionCallback, SCOPES, USER_SCOPE};
use super::library::Symbols;
use super::names::MAX_NAME_BYTES;
use super::shapes;
use super::state::{self, Own};

/// Rows are written.
const ROWS: u8 = 1;
/// With the shapes of inputs.
const SHAPES: u8 = 2;
/// Ranges may be steps.
const STEPS: u8 = 4;
/// Stamps are ticks of the processor's counter, else CLOCK_MONOTONIC.
const TICKS: u8 = 8;

/// How many functions of each thread are looked at.
const CHECKED: u32 = 64;

static RECORDING: Recording = Recording::new();
static SYMBOLS: AtomicPtr<Symbols> = AtomicPtr::new(std::ptr::null_mut());
/// Objects that did not look as they must.
static LAYOUT_FAULTS: AtomicU64 = AtomicU64::new(0);
/// Operators for which there was no state or no slot.
static MISSED: AtomicU64 = AtomicU64::new(0);
static WATCH_FORKS: Once = Once::new();

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) rows: bool,
    pub(super) shapes: bool,
    pub(super) steps: bool,
    /// Stamps are ticks of the processor's counter.
    pub(super) ticks: bool,
}

/// Callbacks that libtorch has.
pub(super) struct Attached {
    symbols: &'static Symbols,
    handle: u64,
}

/// Operators are recorded as `wanted` once libtorch has the callbacks; the recording's number.
pub(super) fn switch_on(wanted: Wanted, pool: ChunkPool) -> u32 {
    WATCH_FORKS.call_once(|| {
        // SAFETY: the handler stores one atomic, which is allowed after a fork; the library that
        // holds it is never unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(forget_in_child)) };
    });
    LAYOUT_FAULTS.store(0, Ordering::Relaxed);
    MISSED.store(0, Ordering::Relaxed);
    shapes::reset();
    state::prepare();
    let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let bits = bit(wanted.rows, ROWS)
        | bit(wanted.shapes, SHAPES)
        | bit(wanted.steps, STEPS)
        | bit(wanted.ticks, TICKS);
    RECORDING.switch_on(bits, pool)
}

/// Nothing is recorded any more; ends of operators that are open change nothing.
pub(super) fn switch_off() {
    RECORDING.switch_off();
}

/// The recording is over, and its pool.
pub(super) fn forget_pool() {
    RECORDING.forget_pool();
}

/// Gives libtorch the callbacks.
pub(super) fn attach(symbols: Symbols, wanted: Wanted) -> Attached {
    // Never freed: a thread may run a callback for as long as the process lives. Sessions are few.
    let symbols: &'static Symbols = Box::leak(Box::new(symbols));
    SYMBOLS.store(std::ptr::from_ref(symbols).cast_mut(), Ordering::Release);
    let mut scopes = [wanted.rows; SCOPES];
    scopes[usize::from(USER_SCOPE)] = true;
    let callback = RecordFunctionCallback {
        start: on_start,
        end: on_end,
        sampling_probability: 1.0,
        scopes,
        needs_inputs: wanted.shapes,
        needs_outputs: false,
        needs_ids: false,
    };
    // SAFETY: the callbacks have the types that libtorch calls and are never unloaded.
    let handle = unsafe { (symbols.add_global_callback)(callback) };
    Attached { symbols, handle }
}

impl Attached {
    pub(super) fn symbols(&self) -> Symbols {
        *self.symbols
    }

    /// Takes the callbacks out. Functions that run call the end callback all the same.
    pub(super) fn detach(self) {
        // SAFETY: the handle is of this libtorch, and `self` is gone afterwards.
        unsafe { (self.symbols.remove_callback)(self.handle) };
    }
}

/// Objects that did not look as they must; then only names and times are recorded.
pub(super) fn layout_faults() -> u64 {
    LAYOUT_FAULTS.load(Ordering::Relaxed)
}

/// Operators for which there was no state or no slot, since they were asked for last.
pub(super) fn take_missed() -> u64 {
    MISSED.swap(0, Ordering::Relaxed)
}

extern "C" fn forget_in_child() {
    RECORDING.switch_off();
}

unsafe extern "C" fn on_start(context: *mut *mut c_void, function: *const u8) -> *mut *mut c_void {
    // SAFETY: libtorch passes the place of the context that it gets; none is made.
    unsafe { context.write(std::ptr::null_mut()) };
    // SAFETY: libtorch passes the running function, and this callback has not returned.
    begin(unsafe { RecordFunction::new(function) }, function);
    context
}

unsafe extern "C" fn on_end(function: *const u8, _context: *mut c_void) {
    // SAFETY: libtorch passes the running function, and this callback has not returned.
    end(unsafe { RecordFunction::new(function) });
}

#[inline]
fn symbols() -> Option<&'static Symbols> {
    let symbols = NonNull::new(SYMBOLS.load(Ordering::Relaxed))?;
    // SAFETY: `attach` puts in what is never freed.
    Some(unsafe { symbols.as_ref() })
}

#[inline]
fn begin(function: RecordFunction, address: *const u8) {
    let flags = RECORDING.flags();
    if flags.is_off() {
        return;
    }
    let Some(symbols) = symbols() else { return };
    // SAFETY: the object is the running function.
    let name = unsafe { (symbols.name)(address) };
    if name.is_null() {
        return;
    }
    if flags.has(STEPS) {
        tell_step(function, name);
    }
    if !flags.has(ROWS) {
        return;
    }
    let Some(pool) = RECORDING.pool() else { return };
    let Some(state) = state::of_thread().filter(|state| state.has_room()) else {
        MISSED.fetch_add(1, Ordering::Relaxed);
        return;
    };
    // SAFETY: the state is this thread's, and this is the only reference to its own part.
    let own = unsafe { state.own() };
    if own.recording != flags.number() {
        state.reset(own, flags.number());
        tell(pool, THREAD, &function.thread().to_ne_bytes(), &[]);
    }
    if own.checked < CHECKED {
        check(function, symbols, flags, own);
    }
    let tell_name = |id: u32, text: &[u8]| tell(pool, NAME, &id.to_ne_bytes(), text);
    // SAFETY: libtorch's names end in a zero and live as long as the function.
    let name = unsafe { own.names.id(name, tell_name) };
    if name == 0 {
        MISSED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let is_as_expected = LAYOUT_FAULTS.load(Ordering::Relaxed) == 0;
    let scope = if is_as_expected { function.scope() } else { 0 };
    let mut shape_bytes = 0;
    if flags.has(SHAPES)
        && is_as_expected
        && let Some(tensors) = &symbols.tensors
    {
        shape_bytes = shapes::pack(function, tensors, own.shape_room());
    }
    let start = now(flags);
    state.push(own, function.address(), (name, scope), shape_bytes, start);
}

#[inline]
fn end(function: RecordFunction) {
    let flags = RECORDING.flags();
    let end = now(flags);
    let Some(state) = state::of_thread_if_any() else { return };
    // SAFETY: the state is this thread's, and this is the only reference to its own part.
    let own = unsafe { state.own() };
    let Some(ended) = state.pop(own, function.address()) else {
        state.forget(function.address());
        return;
    };
    if flags.number() == own.recording && flags.has(ROWS) {
        let mut head = OperatorHead {
            start: ended.start,
            end,
            sequence: -1,
            forward_thread: 0,
            name: ended.name,
            depth: ended.depth,
            scope: 0,
            reserved: 0,
        };
        if LAYOUT_FAULTS.load(Ordering::Relaxed) == 0 {
            head.sequence = function.sequence();
            head.forward_thread = function.forward_thread() as u32;
            head.scope = u16::from(function.scope());
        }
        write(&head, own.shapes_of(&ended));
    }
    state.release(ended.depth);
}

/// What is told once or seldom.
#[cold]
fn tell(pool: ChunkPool, kind: u16, head: &[u8], tail: &[u8]) -> bool {
    pool.append(kind, head, tail)
}

#[inline]
fn write(head: &OperatorHead, shapes: &[u8]) {
    let Some(pool) = RECORDING.pool() else { return };
    // What is not taken is counted in the pool.
    let _taken: bool = pool.append(OPERATOR, head.as_bytes(), shapes);
}

#[inline]
fn now(flags: RecordingFlags) -> u64 {
    match flags.has(TICKS) {
        true => profiler_core::tsc::read(),
        false => SystemClock::new().monotonic_ns(),
    }
}

#[cold]
fn check(function: RecordFunction, symbols: &Symbols, flags: RecordingFlags, own: &mut Own) {
    own.checked += 1;
    if !function.is_as_expected(symbols, flags.has(SHAPES)) {
        LAYOUT_FAULTS.fetch_add(1, Ordering::Relaxed);
    }
}

#[cold]
fn tell_step(function: RecordFunction, name: *const c_char) {
    if function.scope() != USER_SCOPE {
        return;
    }
    // SAFETY: libtorch's names end in a zero and live as long as the function.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_bytes();
    let name = &name[..name.len().min(MAX_NAME_BYTES)];
    if let Ok(name) = std::str::from_utf8(name) {
        step_names::range_begins(name);
    }
}
