//! What the application marks itself: spans, markers and steps.
//!
//! Free functions, so that a library can mark without knowing an agent: where none records, a span
//! is one relaxed load. A span is one row, written at its end; those that are open when the
//! recording stops are written as unfinished.
//!
//! ```
//! let _span = profiler_agent::span("decode").request("r-17").field("tokens", 12).enter();
//! profiler_agent::marker("first token").request("r-17").emit();
//! ```

mod collector;
#[cfg(feature = "tracing-layer")]
mod layer;
mod nvtx;
mod open;
mod pattern;
mod text;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use profiler_core::chunk::{ChunkPool, PoolCell};
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::schedule::StepSource;
use zerocopy::IntoBytes as _;

use crate::core::Core;
use collector::{MARKER, MarkerHead, SPAN, SpanHead};
use open::{SlotRef, SlotText};
use text::{MAX_LABEL_BYTES, MAX_NAME_BYTES, Room as _};

pub(crate) use collector::{SpanSession, most_bytes};
#[cfg(feature = "tracing-layer")]
pub use layer::TracingLayer;
pub(crate) use nvtx::{NvtxHead, NvtxOperation};
pub(crate) use open::thread_id;
pub use text::FieldValue;

/// Spans and markers are recorded.
const RECORDING: u32 = 1;
/// Names may be steps.
const STEPS: u32 = 2;
/// Above these bits stands the number of the recording.
const RECORDING_SHIFT: u32 = 8;

/// All that an idle span looks at.
static FLAGS: AtomicU32 = AtomicU32::new(0);

/// Whose steps are those of the process.
static STEPPED: ArcSwapOption<Core> = ArcSwapOption::const_empty();

static POOL: PoolCell = PoolCell::new();

/// Spans for which no slot was left, since they were asked for last.
static MISSED: AtomicU64 = AtomicU64::new(0);

/// Begins a span. Nothing is recorded before [`SpanBuilder::enter`].
#[inline]
pub fn span(name: &str) -> SpanBuilder<'_> {
    let flags = FLAGS.load(Ordering::Relaxed);
    if flags & (RECORDING | STEPS) == 0 {
        return SpanBuilder { name, flags: 0, text: None };
    }
    SpanBuilder::begin(name, flags)
}

/// Begins a marker. Nothing is recorded before [`MarkerBuilder::emit`].
#[inline]
pub fn marker(name: &str) -> MarkerBuilder<'_> {
    let flags = FLAGS.load(Ordering::Relaxed);
    if flags & (RECORDING | STEPS) == 0 {
        return MarkerBuilder { name, flags: 0, text: None, payload: 0 };
    }
    MarkerBuilder::begin(name, flags)
}

/// The application begins a step (an iteration of its engine).
pub fn step() {
    if let Some(core) = &*STEPPED.load() {
        core.step();
    }
}

/// A span to be. It stays on the thread that began it:
///
/// ```compile_fail,E0277
/// let span = profiler_agent::span("decode");
/// std::thread::spawn(move || drop(span.enter()));
/// ```
#[must_use = "a span is recorded once it was entered"]
pub struct SpanBuilder<'a> {
    name: &'a str,
    flags: u32,
    text: Option<SlotText>,
}

impl std::fmt::Debug for SpanBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpanBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> SpanBuilder<'a> {
    fn begin(name: &'a str, flags: u32) -> Self {
        Self { name, flags, text: begin_text(name, flags) }
    }

    /// The request that the span serves.
    #[inline]
    pub fn request(mut self, request: &str) -> Self {
        if let Some(text) = &mut self.text {
            text::push(text, text::REQUEST, request, MAX_LABEL_BYTES);
        }
        self
    }

    /// The pipeline stage that the span belongs to.
    #[inline]
    pub fn stage(mut self, stage: &str) -> Self {
        if let Some(text) = &mut self.text {
            text::push(text, text::STAGE, stage, MAX_LABEL_BYTES);
        }
        self
    }

    /// The module or domain that makes the span.
    #[inline]
    pub fn target(mut self, target: &str) -> Self {
        if let Some(text) = &mut self.text {
            text::push(text, text::TARGET, target, MAX_LABEL_BYTES);
        }
        self
    }

    /// A further fact. Where a span's texts have no room any more it is left out, and the row
    /// says so.
    #[inline]
    pub fn field(mut self, key: &str, value: impl FieldValue) -> Self {
        if let Some(text) = &mut self.text {
            text::push_field(text, key, &value);
        }
        self
    }

    /// Begins the span; it ends with the value that is returned.
    #[inline]
    pub fn enter(mut self) -> SpanGuard {
        if self.flags == 0 {
            return SpanGuard { slot: None, not_send: PhantomData };
        }
        self.enter_recorded()
    }

    fn enter_recorded(&mut self) -> SpanGuard {
        if self.flags & STEPS != 0 {
            pattern::begin(self.name);
        }
        let slot = self.text.take().map(|text| {
            let slot = text.slot();
            slot.open(self.flags >> RECORDING_SHIFT, now(), text.len(), 0);
            slot
        });
        SpanGuard { slot, not_send: PhantomData }
    }
}

impl Drop for SpanBuilder<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(text) = &self.text {
            text.slot().release();
        }
    }
}

/// An open span: ends when it is dropped, on the thread that began it.
#[must_use = "a span lasts as long as its guard"]
pub struct SpanGuard {
    slot: Option<SlotRef>,
    /// The span stands in its thread's stack.
    not_send: PhantomData<*const ()>,
}

impl std::fmt::Debug for SpanGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpanGuard").finish_non_exhaustive()
    }
}

impl Drop for SpanGuard {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            end_span(slot);
        }
    }
}

/// A marker to be. It stays on the thread that began it:
///
/// ```compile_fail,E0277
/// let marker = profiler_agent::marker("first token");
/// std::thread::spawn(move || marker.emit());
/// ```
#[must_use = "a marker is recorded once it was emitted"]
pub struct MarkerBuilder<'a> {
    name: &'a str,
    flags: u32,
    text: Option<SlotText>,
    payload: u64,
}

impl std::fmt::Debug for MarkerBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MarkerBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> MarkerBuilder<'a> {
    fn begin(name: &'a str, flags: u32) -> Self {
        Self { name, flags, text: begin_text(name, flags), payload: 0 }
    }

    /// The request that the marker serves.
    #[inline]
    pub fn request(mut self, request: &str) -> Self {
        if let Some(text) = &mut self.text {
            text::push(text, text::REQUEST, request, MAX_LABEL_BYTES);
        }
        self
    }

    /// The module or domain that makes the marker.
    #[inline]
    pub fn target(mut self, target: &str) -> Self {
        if let Some(text) = &mut self.text {
            text::push(text, text::TARGET, target, MAX_LABEL_BYTES);
        }
        self
    }

    /// A number of the application's choice.
    #[inline]
    pub fn payload(mut self, payload: u64) -> Self {
        self.payload = payload;
        self
    }

    /// A further fact, as in a span.
    #[inline]
    pub fn field(mut self, key: &str, value: impl FieldValue) -> Self {
        if let Some(text) = &mut self.text {
            text::push_field(text, key, &value);
        }
        self
    }

    /// Records the marker.
    #[inline]
    pub fn emit(mut self) {
        if self.flags != 0 {
            self.emit_recorded();
        }
    }

    fn emit_recorded(&mut self) {
        if self.flags & STEPS != 0 {
            pattern::begin(self.name);
        }
        let Some(text) = self.text.take() else { return };
        let head = MarkerHead { time: now(), payload: self.payload };
        text.slot().with_text(text.len(), |bytes| append(MARKER, head.as_bytes(), bytes));
        text.slot().release();
    }
}

impl Drop for MarkerBuilder<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(text) = &self.text {
            text.slot().release();
        }
    }
}

fn begin_text(name: &str, flags: u32) -> Option<SlotText> {
    if flags & RECORDING == 0 {
        return None;
    }
    let Some(slot) = open::reserve() else {
        MISSED.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    let mut text = SlotText::new(slot);
    text::push(&mut text, text::NAME, name, MAX_NAME_BYTES);
    Some(text)
}

/// Writes a span's row, where the recording in which it began goes on, and gives its slot back.
fn end_span(slot: SlotRef) {
    let flags = FLAGS.load(Ordering::Relaxed);
    if flags & RECORDING != 0 && slot.recording() == flags >> RECORDING_SHIFT {
        let (id, start, parent) = slot.head();
        let head = SpanHead { id, start, end: now(), parent };
        slot.with_text(slot.text_len(), |bytes| append(SPAN, head.as_bytes(), bytes));
    }
    // Given back after the row is in its chunk: whoever looks finds the one or the other.
    slot.release();
}

#[inline]
fn append(kind: u16, head: &[u8], text: &[u8]) {
    if let Some(pool) = POOL.get() {
        // What is not taken is counted in the pool.
        let _taken: bool = pool.append(kind, head, text);
    }
}

/// The recording that goes on, if one does.
#[inline]
pub(crate) fn recording() -> Option<u32> {
    let flags = FLAGS.load(Ordering::Relaxed);
    (flags & RECORDING != 0).then_some(flags >> RECORDING_SHIFT)
}

/// Something of this name begins, which may be a step.
#[inline]
pub(crate) fn begin_step(name: &str) {
    if FLAGS.load(Ordering::Relaxed) & STEPS != 0 {
        pattern::begin(name);
    }
}

/// Says what NVTX was told, now, with the name that it was given.
#[inline]
pub(crate) fn append_nvtx(operation: NvtxOperation, head: NvtxHead, name: &str) {
    let head = NvtxHead { time: now(), operation: operation as u16, ..head };
    append(nvtx::NVTX, head.as_bytes(), name.as_bytes());
}

/// CLOCK_MONOTONIC, whatever clock the agent was given: an application has none but the machine's.
#[inline]
fn now() -> u64 {
    SystemClock::new().monotonic_ns()
}

/// Spans are recorded from now on; the number of the recording.
fn switch_on(pool: ChunkPool) -> u32 {
    POOL.set(Some(pool));
    let mut recording = 0;
    update_flags(|flags| {
        recording = ((flags >> RECORDING_SHIFT) + 1) & (u32::MAX >> RECORDING_SHIFT);
        (recording << RECORDING_SHIFT) | (flags & STEPS) | RECORDING
    });
    recording
}

fn switch_off_recording(recording: u32) {
    update_flags(|flags| match flags >> RECORDING_SHIFT == recording {
        true => flags & !RECORDING,
        false => flags,
    });
}

fn drop_pool(recording: u32) {
    if FLAGS.load(Ordering::Acquire) >> RECORDING_SHIFT == recording {
        POOL.set(None);
    }
}

fn update_flags(mut update: impl FnMut(u32) -> u32) {
    // The closure always has a value, so that this cannot fail.
    let _previous: Result<u32, u32> =
        FLAGS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |flags| Some(update(flags)));
}

/// In a forked child nothing is recorded. Async-signal-safe.
pub(crate) fn switch_off() {
    FLAGS.store(0, Ordering::Release);
}

fn take_missed() -> u64 {
    MISSED.swap(0, Ordering::Relaxed)
}

/// Steps of the process are those of `core`, until they are cleared.
pub(crate) fn set_steps(core: &Arc<Core>) {
    STEPPED.store(Some(Arc::clone(core)));
    if let StepSource::Marker(pattern) = &core.step_source {
        pattern::set(core, pattern::StepPattern::parse(pattern));
        // Ranges of libtorch and NVTX are told by their names, too.
        profiler_core::step_names::listen(pattern::begin);
        update_flags(|flags| flags | STEPS);
    }
}

pub(crate) fn clear_steps() {
    STEPPED.store(None);
    profiler_core::step_names::ignore();
    pattern::clear();
    update_flags(|flags| flags & !STEPS);
}
