//! What CUPTI calls when a function of the runtime or the driver begins and when it ends.
//!
//! Records of calls would tell the same. But with their kinds on, CUPTI goes through every call of
//! the runtime and the driver, wanted or not: on one H200 (libcupti 13.0) a launch took 5 us longer
//! for kernels and calls together, where kernels alone and callbacks of single functions take 2 us.
//!
//! Nothing here locks, allocates, logs or panics.
#![expect(unsafe_code, reason = "called by a foreign library")]

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use profiler_core::chunk::{ChunkPool, PoolCell, SPARE_BYTES};
use profiler_core::clock::{ClockSource as _, SystemClock};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::layout::{Raw, callback, domain, site};

/// The kind of entries in a chunk.
pub(crate) const CALL: u16 = 1;
/// The memory of chunks, at most.
pub(crate) const POOL_BYTES: usize = 48 << 20;
/// The longest that chunks may wait for the decoder: what comes until then must fit into those that
/// stand ready.
pub(crate) const LONGEST_NAP_MS: u64 = 10;
/// What a call's two callbacks are taken to cost, rather than measured each time.
pub(crate) const CALL_NS: u64 = 100;

/// Calls that all threads together can make in a millisecond: a launch takes 2 us at least.
const MOST_CALLS_A_MS: u64 = 16 * 500;
const _: () =
    assert!(MOST_CALLS_A_MS * LONGEST_NAP_MS * size_of::<CallEntry>() as u64 <= SPARE_BYTES as u64);

/// A call, as it stands in a chunk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct CallEntry {
    /// In the clock of the calls' stream.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// `CUpti_CallbackId`, within the domain.
    pub(crate) function: u32,
    pub(crate) correlation: u32,
    pub(crate) result: u32,
    /// `CUpti_CallbackDomain`.
    pub(crate) domain: u32,
}

/// What is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Driver calls inside of a runtime call, too.
    pub(crate) inner: bool,
    /// Stamps are ticks of the processor's counter, else CLOCK_MONOTONIC.
    pub(crate) ticks: bool,
}

const INNER: u32 = 1;
const TICKS: u32 = 2;
/// Above these bits stands the number of the recording.
const RECORDING_SHIFT: u32 = 8;

/// All that a callback looks at; 0 = nothing is recorded.
static FLAGS: AtomicU32 = AtomicU32::new(0);
static POOL: PoolCell = PoolCell::new();
static RECORDINGS: AtomicU32 = AtomicU32::new(0);
/// Calls inside of so many others that they were not followed.
static MISSED: AtomicU64 = AtomicU64::new(0);

/// Calls are written to the pool from now on.
pub(crate) fn switch_on(wanted: Wanted, pool: ChunkPool) {
    MISSED.store(0, Ordering::Relaxed);
    POOL.set(Some(pool));
    let limit = u32::MAX >> RECORDING_SHIFT;
    let recording = (RECORDINGS.fetch_add(1, Ordering::Relaxed) % (limit - 1)) + 1;
    let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    let flags = bit(wanted.inner, INNER) | bit(wanted.ticks, TICKS);
    FLAGS.store((recording << RECORDING_SHIFT) | flags, Ordering::Release);
}

/// No call is written from now on; those that are open are not told.
pub(crate) fn switch_off() {
    FLAGS.store(0, Ordering::Release);
    POOL.set(None);
}

/// Calls that were not followed, since they were asked for last.
pub(crate) fn take_missed() -> u64 {
    MISSED.swap(0, Ordering::Relaxed)
}

/// The subscriber's callback. CUPTI calls it on the thread that makes the call.
pub(crate) extern "C" fn on_call(
    _data: *mut c_void,
    domain: u32,
    function: u32,
    info: *const c_void,
) {
    let flags = FLAGS.load(Ordering::Relaxed);
    if flags == 0 || info.is_null() || ![domain::RUNTIME, domain::DRIVER].contains(&domain) {
        return;
    }
    // SAFETY: for the two domains of calls CUPTI passes a `CUpti_CallbackData`, which has SIZE
    // bytes in every version and lives until this function returns.
    let info = unsafe { std::slice::from_raw_parts(info.cast::<u8>(), callback::SIZE) };
    let info = Raw(info);
    let call = Open {
        start: 0,
        function,
        domain,
        correlation: info.u32(callback::CORRELATION),
        recording: flags >> RECORDING_SHIFT,
    };
    match info.u32(callback::SITE) {
        site::ENTER => begin(call, flags),
        site::EXIT => end(call, flags, info.u64(callback::RESULT)),
        _ => {}
    }
}

fn begin(call: Open, flags: u32) {
    THREAD.with(|thread| {
        let outer = thread.innermost(call.recording);
        // CUPTI gives a runtime call and the driver call inside of it the same number.
        let is_inner = call.domain == domain::DRIVER
            && outer.is_some_and(|outer| outer.correlation == call.correlation);
        if is_inner && flags & INNER == 0 {
            return;
        }
        // The clock is read last: the rest is no part of the call.
        if !thread.push(Open { start: now(flags), ..call }) {
            MISSED.fetch_add(1, Ordering::Relaxed);
        }
    });
}

fn end(call: Open, flags: u32, result: u64) {
    let end = now(flags);
    let Some(open) = THREAD.with(|thread| thread.pop(&call)) else { return };
    let Some(pool) = POOL.get() else { return };
    let result = std::ptr::with_exposed_provenance::<u32>(result as usize);
    let result = if result.is_null() {
        0
    } else {
        // SAFETY: at the end of a call CUPTI points to what the function returns: a `CUresult` or
        // a `cudaError_t`, both of which are C enums of four bytes.
        unsafe { result.read() }
    };
    let entry = CallEntry {
        start: open.start,
        end,
        function: call.function,
        correlation: call.correlation,
        result,
        domain: call.domain,
    };
    // What is not taken is counted in the pool.
    let _taken: bool = pool.append(CALL, entry.as_bytes(), &[]);
}

#[inline]
fn now(flags: u32) -> u64 {
    match flags & TICKS != 0 {
        true => profiler_core::tsc::read(),
        false => SystemClock::new().monotonic_ns(),
    }
}

/// Calls inside of each other that are followed.
const DEPTH: usize = 8;

/// A call that has begun.
#[derive(Clone, Copy)]
struct Open {
    start: u64,
    function: u32,
    domain: u32,
    correlation: u32,
    recording: u32,
}

const NONE: Open = Open { start: 0, function: 0, domain: 0, correlation: 0, recording: 0 };

/// The calls that are open on a thread, the innermost last.
struct Thread {
    open: [Cell<Open>; DEPTH],
    depth: Cell<usize>,
}

thread_local! {
    // `const` and without a destructor: neither the first use nor the thread's end does anything.
    static THREAD: Thread =
        const { Thread { open: [const { Cell::new(NONE) }; DEPTH], depth: Cell::new(0) } };
}

impl Thread {
    /// The innermost call of the recording; those of earlier ones, whose end nobody told, go.
    fn innermost(&self, recording: u32) -> Option<Open> {
        let innermost = self.open.get(self.depth.get().checked_sub(1)?)?.get();
        if innermost.recording != recording {
            self.depth.set(0);
            return None;
        }
        Some(innermost)
    }

    /// Whether there was room.
    fn push(&self, call: Open) -> bool {
        let depth = self.depth.get();
        let Some(place) = self.open.get(depth) else { return false };
        place.set(call);
        self.depth.set(depth + 1);
        true
    }

    /// The call as it began, with all inside of it whose end nobody told.
    fn pop(&self, call: &Open) -> Option<Open> {
        let open = self.open.get(..self.depth.get())?;
        let at = open.iter().rposition(|place| {
            let open = place.get();
            open.recording == call.recording
                && open.correlation == call.correlation
                && (open.domain, open.function) == (call.domain, call.function)
        })?;
        self.depth.set(at);
        Some(open.get(at)?.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(domain: u32, function: u32, correlation: u32) -> Open {
        Open { start: 0, function, domain, correlation, recording: 1 }
    }

    #[test]
    fn calls_end_by_their_own_numbers() {
        THREAD.with(|thread| {
            assert!(thread.innermost(1).is_none());
            assert!(thread.push(call(2, 211, 7)));
            assert!(thread.push(call(1, 307, 7)));
            assert!(thread.pop(&call(1, 307, 8)).is_none(), "another call's end");
            assert_eq!(thread.pop(&call(2, 211, 7)).map(|open| open.function), Some(211));
            assert!(thread.pop(&call(1, 307, 7)).is_none(), "it was inside, and went with it");
            assert!(thread.push(call(2, 211, 9)));
            assert!(thread.innermost(2).is_none(), "an earlier recording's");
            assert!(thread.pop(&call(2, 211, 9)).is_none());
            for depth in 0..DEPTH as u32 {
                assert!(thread.push(call(2, 1, depth + 1)));
            }
            assert!(!thread.push(call(2, 1, 100)));
        });
    }
}
