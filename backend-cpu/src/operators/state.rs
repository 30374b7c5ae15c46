//! What a thread needs to record its operators, where the collector can see what is open.
//!
//! Given out ready-made, so that a thread allocates nothing; without a destructor, so that a
//! thread's end does nothing: the collector takes a dead thread's state back.
#![expect(unsafe_code, reason = "a part of a shared object is one thread's own")]

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_queue::SegQueue;
use profiler_core::thread::is_alive;

use super::names::Names;
use super::shapes::MAX_PACKED_BYTES;

/// Operators that are open in one another, at most; deeper ones are counted as lost.
pub(super) const MAX_DEPTH: usize = 128;

/// States that stand ready for threads that need one.
const SPARE: usize = 64;
/// States, at most.
const MAX_STATES: usize = 4096;

const SHAPE_BYTES: usize = 8 << 10;

/// An open operator.
struct Slot {
    /// The address of its `RecordFunction`; 0 = free.
    function: AtomicUsize,
    start: AtomicU64,
    /// The name's id, and above it the scope.
    name: AtomicU64,
    /// The recording in which it began, and where its packed inputs begin.
    meta: AtomicU64,
}

/// A thread's state.
pub(super) struct ThreadState {
    thread: AtomicU32,
    is_used: AtomicBool,
    depth: AtomicU32,
    slots: [Slot; MAX_DEPTH],
    own: UnsafeCell<Own>,
}

// SAFETY: `own` is touched by the one thread whose `STATE` names the object; all else is atomics.
unsafe impl Sync for ThreadState {}

/// What the thread alone looks at.
pub(super) struct Own {
    /// The recording for which all this was made ready.
    pub(super) recording: u32,
    /// How many functions were looked at for their layout.
    pub(super) checked: u32,
    pub(super) names: Names,
    shapes: [u8; SHAPE_BYTES],
    shape_bytes: usize,
}

static READY: SegQueue<&'static ThreadState> = SegQueue::new();
/// All states. Only threads of ours ask.
static ALL: Mutex<Vec<&'static ThreadState>> = Mutex::new(Vec::new());

thread_local! {
    // `const` and without a destructor: neither the first use nor the thread's end does anything.
    static STATE: Cell<Option<&'static ThreadState>> = const { Cell::new(None) };
}

/// An operator that has ended.
pub(super) struct Ended {
    pub(super) start: u64,
    pub(super) name: u32,
    pub(super) depth: u16,
    shapes: (usize, usize),
}

/// An operator that is open, as another thread sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) thread: u32,
    pub(super) start: u64,
    pub(super) name: u32,
    pub(super) scope: u8,
    pub(super) depth: u16,
}

fn all() -> MutexGuard<'static, Vec<&'static ThreadState>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes states until enough stand ready.
pub(super) fn prepare() {
    if READY.len() >= SPARE {
        return;
    }
    let mut all = all();
    while READY.len() < SPARE && all.len() < MAX_STATES {
        // Never freed: a thread may hold it for as long as the process lives.
        let state: &'static ThreadState = Box::leak(Box::new(ThreadState::new()));
        all.push(state);
        READY.push(state);
    }
}

/// The memory of all states.
pub(super) fn bytes() -> usize {
    all().len() * size_of::<ThreadState>()
}

/// The calling thread's state; `None` where none is left.
#[inline]
pub(super) fn of_thread() -> Option<&'static ThreadState> {
    match STATE.get() {
        Some(state) => Some(state),
        None => take(),
    }
}

/// The calling thread's state, where it has recorded before.
#[inline]
pub(super) fn of_thread_if_any() -> Option<&'static ThreadState> {
    STATE.get()
}

#[cold]
fn take() -> Option<&'static ThreadState> {
    let state = READY.pop()?;
    let thread = rustix::thread::gettid().as_raw_pid().unsigned_abs();
    state.thread.store(thread, Ordering::Relaxed);
    state.is_used.store(true, Ordering::Release);
    STATE.set(Some(state));
    Some(state)
}

impl ThreadState {
    fn new() -> Self {
        Self {
            thread: AtomicU32::new(0),
            is_used: AtomicBool::new(false),
            depth: AtomicU32::new(0),
            slots: [const {
                Slot {
                    function: AtomicUsize::new(0),
                    start: AtomicU64::new(0),
                    name: AtomicU64::new(0),
                    meta: AtomicU64::new(0),
                }
            }; MAX_DEPTH],
            own: UnsafeCell::new(Own {
                recording: 0,
                checked: 0,
                names: Names::new(),
                shapes: [0; SHAPE_BYTES],
                shape_bytes: 0,
            }),
        }
    }

    /// What the thread alone looks at.
    ///
    /// # Safety
    ///
    /// * The calling thread got the state from [`of_thread`].
    /// * No other reference from this function lives.
    #[expect(clippy::mut_from_ref, reason = "the caller guarantees that it is the only one")]
    #[inline]
    pub(super) unsafe fn own(&self) -> &mut Own {
        // SAFETY: the caller guarantees that nobody else looks.
        unsafe { &mut *self.own.get() }
    }

    /// Makes the state ready for another recording. What is open stays open: its end still comes.
    #[cold]
    pub(super) fn reset(&self, own: &mut Own, recording: u32) {
        own.recording = recording;
        own.checked = 0;
        own.names.clear();
        if self.depth.load(Ordering::Relaxed) == 0 {
            own.shape_bytes = 0;
        }
    }

    /// Whether another operator can be open.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        (self.depth.load(Ordering::Relaxed) as usize) < MAX_DEPTH
    }

    /// An operator begins, of which `shape_bytes` bytes of packed inputs were put to
    /// [`Own::shape_room`]. There must be room.
    #[inline]
    pub(super) fn push(
        &self,
        own: &mut Own,
        function: usize,
        name: (u32, u8),
        shape_bytes: usize,
        start: u64,
    ) {
        let depth = self.depth.load(Ordering::Relaxed);
        let slot = &self.slots[depth as usize % MAX_DEPTH];
        let meta = (u64::from(own.recording) << 32) | own.shape_bytes as u64;
        own.shape_bytes += shape_bytes;
        slot.start.store(start, Ordering::Relaxed);
        slot.name.store(u64::from(name.0) | (u64::from(name.1) << 32), Ordering::Relaxed);
        slot.meta.store(meta, Ordering::Relaxed);
        slot.function.store(function, Ordering::Release);
        self.depth.store(depth + 1, Ordering::Release);
    }

    /// An operator ends; `None` where it did not begin on this thread and in this recording.
    ///
    /// What lies above it ended on another thread, and is let go.
    #[inline]
    pub(super) fn pop(&self, own: &mut Own, function: usize) -> Option<Ended> {
        let depth = self.depth.load(Ordering::Relaxed) as usize;
        let mut index = depth.checked_sub(1)?;
        if self.slots[index % MAX_DEPTH].function.load(Ordering::Relaxed) != function {
            index = self.below(index, function)?;
        }
        let slot = &self.slots[index % MAX_DEPTH];
        let meta = slot.meta.load(Ordering::Relaxed);
        let begin = meta as u32 as usize;
        let ended = Ended {
            start: slot.start.load(Ordering::Relaxed),
            name: slot.name.load(Ordering::Relaxed) as u32,
            depth: index as u16,
            shapes: (begin, own.shape_bytes),
        };
        own.shape_bytes = begin;
        let began_in = (meta >> 32) as u32;
        (began_in == own.recording).then_some(ended)
    }

    #[cold]
    fn below(&self, top: usize, function: usize) -> Option<usize> {
        let is_it = |index: &usize| {
            self.slots[index % MAX_DEPTH].function.load(Ordering::Relaxed) == function
        };
        (0..top).rev().find(is_it)
    }

    /// Gives up the slots from `depth` on, once the row is in its chunk: whoever looks finds the
    /// one or the other.
    #[inline]
    pub(super) fn release(&self, depth: u16) {
        let open = usize::from(depth)..self.depth.load(Ordering::Relaxed) as usize;
        for slot in self.slots.get(open).unwrap_or_default() {
            slot.function.store(0, Ordering::Release);
        }
        self.depth.store(u32::from(depth), Ordering::Release);
    }

    /// Gives up a slot whose operator is of another recording.
    #[cold]
    pub(super) fn forget(&self, function: usize) {
        let depth = self.depth.load(Ordering::Relaxed) as usize;
        if let Some(index) = self.below(depth, function) {
            self.release(index as u16);
        }
    }

    fn look(&self, recording: u32, open: &mut Vec<Open>) {
        let thread = self.thread.load(Ordering::Relaxed);
        for (index, slot) in self.slots.iter().enumerate() {
            let function = slot.function.load(Ordering::Acquire);
            let start = slot.start.load(Ordering::Relaxed);
            let name = slot.name.load(Ordering::Relaxed);
            let meta = slot.meta.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            let is_whole = slot.function.load(Ordering::Relaxed) == function
                && slot.start.load(Ordering::Relaxed) == start;
            if function == 0 || !is_whole || (meta >> 32) as u32 != recording {
                continue;
            }
            let scope = (name >> 32) as u8;
            open.push(Open { thread, start, name: name as u32, scope, depth: index as u16 });
        }
    }
}

impl Own {
    /// Where packed inputs go; shorter where the operators around have taken much.
    #[inline]
    pub(super) fn shape_room(&mut self) -> &mut [u8] {
        let begin = self.shape_bytes.min(SHAPE_BYTES);
        let end = (begin + MAX_PACKED_BYTES).min(SHAPE_BYTES);
        &mut self.shapes[begin..end]
    }

    /// The packed inputs of an operator that has just ended.
    #[inline]
    pub(super) fn shapes_of(&self, ended: &Ended) -> &[u8] {
        self.shapes.get(ended.shapes.0..ended.shapes.1).unwrap_or_default()
    }
}

/// All operators that are open now and began in `recording`.
pub(super) fn open_operators(recording: u32) -> Vec<Open> {
    let states = all().clone();
    let mut open = Vec::new();
    for state in states.into_iter().filter(|state| state.is_used.load(Ordering::Acquire)) {
        state.look(recording, &mut open);
    }
    open
}

/// Takes back the states of dead threads, and gives the operators that were open there.
pub(super) fn reclaim(recording: u32) -> Vec<Open> {
    let states = all().clone();
    let mut open = Vec::new();
    for state in states.into_iter().filter(|state| state.is_used.load(Ordering::Acquire)) {
        if is_alive(state.thread.load(Ordering::Relaxed)) {
            continue;
        }
        state.look(recording, &mut open);
        for slot in &state.slots {
            slot.function.store(0, Ordering::Relaxed);
        }
        state.depth.store(0, Ordering::Relaxed);
        state.is_used.store(false, Ordering::Release);
        READY.push(state);
    }
    open
}
