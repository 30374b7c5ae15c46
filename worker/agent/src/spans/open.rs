//! The spans that are open on a thread, where the collector can see them without a lock.
//!
//! A thread owns a stack of slots and writes them alone; all of it is atomics, so that the
//! collector may look at any time. A slot is published by its id, stored last, and looked at again
//! after it was copied.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_queue::SegQueue;
use profiler_core::thread::is_alive;

use super::text::Room;

/// Spans that are open in one another, at most; deeper ones are counted as lost.
const SLOTS: usize = 32;
const TEXT_WORDS: usize = 59;
/// The texts of a span, at most.
pub(super) const TEXT_BYTES: usize = TEXT_WORDS * 8;
/// Texts up to this length are copied the short way.
const SHORT_WORDS: usize = 10;

/// Stacks that stand ready for threads that need one.
const SPARE_STACKS: usize = 16;
/// Stacks that are made beforehand for the threads of a process, at most.
const MAX_EAGER_STACKS: usize = 512;
/// Stacks, at most.
const MAX_STACKS: usize = 4096;

const FREE: u64 = 0;
/// Reserved by a builder, not yet entered.
const PREPARED: u64 = u64::MAX;

/// An open span, 512 bytes.
struct Slot {
    /// [`FREE`], [`PREPARED`] or the span's id.
    id: AtomicU64,
    start: AtomicU64,
    parent: AtomicU64,
    /// The recording in which it began, and the length of its texts.
    meta: AtomicU64,
    /// Who will end it, where that is not the guard: an id of `tracing`.
    owner: AtomicU64,
    text: [AtomicU64; TEXT_WORDS],
}

const _: () = assert!(size_of::<Slot>() == 512);

/// The open spans of one thread.
pub(super) struct OpenStack {
    thread: AtomicU32,
    is_used: AtomicBool,
    depth: AtomicU32,
    last_id: AtomicU64,
    slots: [Slot; SLOTS],
}

/// Stacks that no thread has.
static READY: SegQueue<&'static OpenStack> = SegQueue::new();
/// All stacks. Only the collector's thread asks.
static ALL: Mutex<Vec<&'static OpenStack>> = Mutex::new(Vec::new());

thread_local! {
    // `const` and without a destructor: the collector takes a dead thread's stack back.
    static STACK: Cell<Option<&'static OpenStack>> = const { Cell::new(None) };
    static THREAD_ID: Cell<u32> = const { Cell::new(0) };
}

/// The calling thread's id.
#[inline]
pub(crate) fn thread_id() -> u32 {
    match THREAD_ID.get() {
        // A forked child's thread has another id than its parent's had.
        id if id == 0 || crate::fork::forks() != 0 => {
            let id = rustix::thread::gettid().as_raw_pid().unsigned_abs();
            THREAD_ID.set(id);
            id
        }
        id => id,
    }
}

fn all() -> MutexGuard<'static, Vec<&'static OpenStack>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes stacks for the threads that there are: each may begin a span at once.
pub(super) fn prepare_for_all_threads() {
    let tasks = std::fs::read_dir("/proc/self/task");
    let threads = tasks.map_or(0, |tasks| tasks.count());
    prepare_so_many(threads.min(MAX_EAGER_STACKS) + SPARE_STACKS);
}

/// Makes stacks until enough stand ready.
pub(super) fn prepare() {
    prepare_so_many(SPARE_STACKS);
}

fn prepare_so_many(spare: usize) {
    let mut all = all();
    while READY.len() < spare && all.len() < MAX_STACKS {
        // Never freed: a thread may hold it for as long as the process lives.
        let stack: &'static OpenStack = Box::leak(Box::new(OpenStack::new(all.len())));
        all.push(stack);
        READY.push(stack);
    }
}

/// The memory of all stacks.
pub(super) fn bytes() -> u64 {
    (all().len() * size_of::<OpenStack>()) as u64
}

/// A slot that the calling thread fills or ends.
#[derive(Clone, Copy)]
pub(super) struct SlotRef {
    stack: &'static OpenStack,
    index: u32,
}

/// A span as it stood in its slot.
pub(super) struct OpenSpan {
    pub(super) id: u64,
    pub(super) start: u64,
    pub(super) parent: u64,
    pub(super) thread: u32,
    pub(super) text: Vec<u8>,
}

impl OpenStack {
    fn new(number: usize) -> Self {
        Self {
            thread: AtomicU32::new(0),
            is_used: AtomicBool::new(false),
            depth: AtomicU32::new(0),
            // Ids are unique in a stream that all threads share; they grow on each thread.
            last_id: AtomicU64::new((number as u64) << 40),
            slots: [const {
                Slot {
                    id: AtomicU64::new(FREE),
                    start: AtomicU64::new(0),
                    parent: AtomicU64::new(0),
                    meta: AtomicU64::new(0),
                    owner: AtomicU64::new(0),
                    text: [const { AtomicU64::new(0) }; TEXT_WORDS],
                }
            }; SLOTS],
        }
    }

    fn slot(&self, index: u32) -> &Slot {
        // The index comes from `depth`, which stays within the slots.
        &self.slots[index as usize % SLOTS]
    }

    /// Gives up what lies free on top.
    #[inline]
    fn pop(&self) {
        let mut depth = self.depth.load(Ordering::Relaxed);
        while depth > 0 && self.slot(depth - 1).id.load(Ordering::Relaxed) == FREE {
            depth -= 1;
        }
        self.depth.store(depth, Ordering::Release);
    }
}

#[inline]
fn own_stack() -> Option<&'static OpenStack> {
    match STACK.get() {
        Some(stack) => Some(stack),
        None => take_stack(),
    }
}

#[cold]
fn take_stack() -> Option<&'static OpenStack> {
    let stack = READY.pop()?;
    stack.thread.store(thread_id(), Ordering::Relaxed);
    stack.is_used.store(true, Ordering::Release);
    STACK.set(Some(stack));
    Some(stack)
}

/// Reserves the next slot of the calling thread; `None` where there is none left.
#[inline]
pub(super) fn reserve() -> Option<SlotRef> {
    let stack = own_stack()?;
    let depth = stack.depth.load(Ordering::Relaxed);
    if depth as usize >= SLOTS {
        return None;
    }
    stack.slot(depth).id.store(PREPARED, Ordering::Relaxed);
    stack.depth.store(depth + 1, Ordering::Release);
    Some(SlotRef { stack, index: depth })
}

/// The topmost slot of the calling thread that `owner` began.
#[cfg(feature = "tracing-layer")]
pub(super) fn of_owner(owner: u64) -> Option<SlotRef> {
    let stack = STACK.get()?;
    let depth = stack.depth.load(Ordering::Relaxed);
    (0..depth).rev().map(|index| SlotRef { stack, index }).find(|slot| {
        let slot = slot.slot();
        slot.owner.load(Ordering::Relaxed) == owner
            && !matches!(slot.id.load(Ordering::Relaxed), FREE | PREPARED)
    })
}

impl SlotRef {
    #[inline]
    fn slot(&self) -> &'static Slot {
        self.stack.slot(self.index)
    }

    /// Publishes the span.
    #[inline]
    pub(super) fn open(self, recording: u32, start: u64, text_len: usize, owner: u64) {
        let slot = self.slot();
        let id = self.stack.last_id.load(Ordering::Relaxed) + 1;
        self.stack.last_id.store(id, Ordering::Relaxed);
        slot.start.store(start, Ordering::Relaxed);
        slot.parent.store(self.parent(recording), Ordering::Relaxed);
        slot.meta.store(meta(recording, text_len), Ordering::Relaxed);
        slot.owner.store(owner, Ordering::Relaxed);
        slot.id.store(id, Ordering::Release);
    }

    /// The innermost open span below that began in the same recording.
    #[inline]
    pub(super) fn parent(self, recording: u32) -> u64 {
        for index in (0..self.index).rev() {
            let below = self.stack.slot(index);
            let id = below.id.load(Ordering::Relaxed);
            let began_in = (below.meta.load(Ordering::Relaxed) >> 32) as u32;
            if id != FREE && id != PREPARED && began_in == recording {
                return id;
            }
        }
        0
    }

    /// The recording in which the span began.
    #[inline]
    pub(super) fn recording(self) -> u32 {
        (self.slot().meta.load(Ordering::Relaxed) >> 32) as u32
    }

    /// Id, start and parent.
    #[inline]
    pub(super) fn head(self) -> (u64, u64, u64) {
        let slot = self.slot();
        (
            slot.id.load(Ordering::Relaxed),
            slot.start.load(Ordering::Relaxed),
            slot.parent.load(Ordering::Relaxed),
        )
    }

    /// Gives `take` the texts.
    #[inline]
    pub(super) fn with_text<T>(self, len: usize, take: impl FnOnce(&[u8]) -> T) -> T {
        let slot = self.slot();
        if len <= SHORT_WORDS * 8 {
            take(slot.copy_text::<SHORT_WORDS>(len).as_bytes_of(len))
        } else {
            take(slot.copy_text::<TEXT_WORDS>(len).as_bytes_of(len))
        }
    }

    /// The length of the texts of an open span.
    #[inline]
    pub(super) fn text_len(self) -> usize {
        text_len(self.slot().meta.load(Ordering::Relaxed))
    }

    /// Gives the slot back, whether it was entered or not.
    #[inline]
    pub(super) fn release(self) {
        self.slot().id.store(FREE, Ordering::Release);
        self.stack.pop();
    }
}

#[inline]
fn meta(recording: u32, text_len: usize) -> u64 {
    (u64::from(recording) << 32) | text_len as u64
}

#[inline]
fn text_len(meta: u64) -> usize {
    ((meta & 0xFFFF_FFFF) as usize).min(TEXT_BYTES)
}

struct Words<const N: usize>([u64; N]);

impl<const N: usize> Words<N> {
    #[inline]
    fn as_bytes_of(&self, len: usize) -> &[u8] {
        use zerocopy::IntoBytes as _;
        &self.0.as_bytes()[..len]
    }
}

impl Slot {
    #[inline]
    fn copy_text<const N: usize>(&self, len: usize) -> Words<N> {
        let mut words = [0; N];
        for (word, shared) in words.iter_mut().zip(&self.text).take(len.div_ceil(8)) {
            *word = shared.load(Ordering::Relaxed);
        }
        Words(words)
    }
}

/// Writes texts into a slot, on the thread that reserved it: its stack has one writer.
pub(super) struct SlotText {
    slot: SlotRef,
    len: usize,
    not_send: PhantomData<*const ()>,
}

impl SlotText {
    #[inline]
    pub(super) fn new(slot: SlotRef) -> Self {
        Self { slot, len: 0, not_send: PhantomData }
    }

    #[inline]
    pub(super) fn slot(&self) -> SlotRef {
        self.slot
    }
}

impl Room for SlotText {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > TEXT_BYTES - self.len {
            return false;
        }
        let words = &self.slot.slot().text;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = self.len % 8;
            let (now, later) = rest.split_at(rest.len().min(8 - within));
            let word = &words[self.len / 8];
            let mut bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            bytes[within..within + now.len()].copy_from_slice(now);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
            self.len += now.len();
            rest = later;
        }
        true
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

/// All spans that are open now and began in `recording`, of threads dead and alive.
pub(super) fn open_spans(recording: u32) -> Vec<OpenSpan> {
    let stacks = all().clone();
    let mut spans = Vec::new();
    for stack in stacks.into_iter().filter(|stack| stack.is_used.load(Ordering::Acquire)) {
        look_at(stack, recording, &mut spans);
    }
    spans
}

fn look_at(stack: &OpenStack, recording: u32, spans: &mut Vec<OpenSpan>) {
    let depth = stack.depth.load(Ordering::Acquire);
    for index in 0..depth.min(SLOTS as u32) {
        let slot = stack.slot(index);
        let id = slot.id.load(Ordering::Acquire);
        let meta = slot.meta.load(Ordering::Relaxed);
        if matches!(id, FREE | PREPARED) || (meta >> 32) as u32 != recording {
            continue;
        }
        let len = text_len(meta);
        let span = OpenSpan {
            id,
            start: slot.start.load(Ordering::Relaxed),
            parent: slot.parent.load(Ordering::Relaxed),
            thread: stack.thread.load(Ordering::Relaxed),
            text: slot.copy_text::<TEXT_WORDS>(len).as_bytes_of(len).to_vec(),
        };
        // A slot that was used again meanwhile has another id by now: ids never come twice.
        fence(Ordering::Acquire);
        if slot.id.load(Ordering::Relaxed) == id {
            spans.push(span);
        }
    }
}

/// Takes back the stacks of dead threads, and gives the spans that were open there.
pub(super) fn reclaim(recording: u32) -> Vec<OpenSpan> {
    let stacks = all().clone();
    let mut spans = Vec::new();
    for stack in stacks.into_iter().filter(|stack| stack.is_used.load(Ordering::Acquire)) {
        let thread = stack.thread.load(Ordering::Relaxed);
        if is_alive(thread) {
            continue;
        }
        look_at(stack, recording, &mut spans);
        for slot in &stack.slots {
            slot.id.store(FREE, Ordering::Relaxed);
        }
        stack.depth.store(0, Ordering::Relaxed);
        stack.is_used.store(false, Ordering::Release);
        READY.push(stack);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> SlotRef {
        prepare();
        reserve().unwrap()
    }

    #[test]
    fn bytes_come_back_whatever_the_pieces() {
        let slot = fresh();
        // What an earlier span left behind must not shine through.
        for word in &slot.slot().text {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        let mut text = SlotText::new(slot);
        let mut expected = Vec::new();
        for len in [1usize, 7, 8, 3, 13, 16, 2, 64, 5] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
            assert!(text.append(&bytes));
            expected.extend_from_slice(&bytes);
            let keep = text.len();
            assert!(text.append(b"taken back"));
            text.truncate(keep);
            slot.with_text(text.len(), |found| assert_eq!(found, expected));
        }
        assert!(!text.append(&[0; TEXT_BYTES]), "no room");
        slot.release();
    }

    #[test]
    fn a_slot_given_back_out_of_order_is_free_when_those_above_are() {
        let (below, above) = (fresh(), fresh());
        below.open(7, 1, 0, 0);
        above.open(7, 2, 0, 0);
        assert_eq!(above.parent(7), below.head().0);
        below.release();
        assert_eq!(above.parent(7), 0);
        let top = fresh();
        assert_eq!(top.index, above.index + 1);
        top.release();
        above.release();
        let again = fresh();
        assert_eq!(again.index, below.index);
        again.release();
    }

    #[test]
    fn a_dead_threads_stack_comes_back_with_its_open_spans() {
        let recording = 991;
        let thread = std::thread::Builder::new()
            .spawn(move || {
                let slot = fresh();
                slot.open(recording, 5, 0, 0);
                thread_id()
            })
            .unwrap()
            .join()
            .unwrap();
        let mut found = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // A joined thread may be seen for another moment.
        while found.is_empty() && std::time::Instant::now() < deadline {
            found = reclaim(recording);
        }
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].thread, found[0].start), (thread, 5));
        assert!(open_spans(recording).is_empty());
    }

    #[test]
    fn the_deepest_span_has_no_slot() {
        let slots: Vec<SlotRef> = (0..SLOTS).map(|_| fresh()).collect();
        assert!(reserve().is_none());
        for slot in slots.into_iter().rev() {
            slot.release();
        }
        fresh().release();
    }
}
