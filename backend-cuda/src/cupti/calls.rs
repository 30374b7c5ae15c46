//! What CUPTI calls when a function of the runtime or the driver begins and when it ends.
//!
//! Records of calls would tell the same. But with their kinds on, CUPTI goes through every call of
//! the runtime and the driver, wanted or not, of which PyTorch makes twenty for a kernel: on one H200
//! (libcupti 13.0) a step of a transformer with 114 kernels took 0.9 ms longer for kernels and calls
//! together, where kernels alone and callbacks of single functions take 0.3 ms.
//!
//! Nothing here locks, logs or panics, and nothing allocates but the C library, for the
//! thread-local state of a library that was loaded late.
#![expect(unsafe_code, reason = "called by a foreign library")]

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use profiler_core::chunk::{ChunkPool, Recording, RecordingFlags};
use profiler_core::clock::{ClockSource as _, SystemClock};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::layout::{Raw, callback, domain, site};

/// The kind of entries in a chunk.
pub(crate) const CALL: u16 = 1;
/// The memory of chunks, at most.
pub(crate) const POOL_BYTES: usize = 48 << 20;
/// What stands ready: launches of two threads for half a second, should the decoder find no
/// processor so long.
pub(crate) const SPARE_BYTES: usize = 16 << 20;
/// How long the decoder sleeps: what comes until then must fit into what stands ready.
pub(crate) const NAP_MS: u64 = 10;
/// What a call's two callbacks are taken to cost, rather than measured each time.
pub(crate) const CALL_NS: u64 = 100;

/// Calls that all threads together can make in a millisecond: a launch takes 2 us at least, and is
/// three of them where inner ones are told.
const MOST_CALLS_A_MS: u64 = 16 * 500 * 3;
/// With what stands before an entry in a chunk.
const ENTRY_BYTES: u64 = size_of::<CallEntry>() as u64 + 8;
const _: () = assert!(MOST_CALLS_A_MS * NAP_MS * ENTRY_BYTES <= SPARE_BYTES as u64);

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

const INNER: u8 = 1;
const TICKS: u8 = 2;
/// No call begins any more; those that are open are told at their end.
const ENDING: u8 = 4;

static RECORDING: Recording = Recording::new();
/// Calls inside of so many others that they were not followed.
static MISSED: AtomicU64 = AtomicU64::new(0);

/// Calls are written to the pool from now on.
pub(crate) fn switch_on(wanted: Wanted, pool: ChunkPool) {
    MISSED.store(0, Ordering::Relaxed);
    let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    RECORDING.switch_on(bit(wanted.inner, INNER) | bit(wanted.ticks, TICKS), pool);
}

/// Calls that begin from now on are not written; those that are open are, if they end in time.
pub(crate) fn finish() {
    RECORDING.add(ENDING);
}

/// No call is written from now on. Before the pool's collector goes.
pub(crate) fn switch_off() {
    RECORDING.switch_off();
    RECORDING.forget_pool();
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
    let flags = RECORDING.flags();
    if flags.is_off() || info.is_null() || ![domain::RUNTIME, domain::DRIVER].contains(&domain) {
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
        recording: flags.number(),
    };
    match info.u32(callback::SITE) {
        site::ENTER => begin(call, flags),
        site::EXIT => end(call, flags, info.u64(callback::RESULT)),
        _ => {}
    }
}

fn begin(call: Open, flags: RecordingFlags) {
    if flags.has(ENDING) {
        return;
    }
    THREAD.with(|thread| {
        if thread.is_left_out(&call, flags) {
            return;
        }
        // The clock is read last: the rest is no part of the call.
        if !thread.push(Open { start: now(flags.has(TICKS)), ..call }) {
            MISSED.fetch_add(1, Ordering::Relaxed);
        }
    });
}

fn end(call: Open, flags: RecordingFlags, result: u64) {
    if THREAD.with(|thread| thread.is_left_out(&call, flags)) {
        return;
    }
    let end = now(flags.has(TICKS));
    let Some(open) = THREAD.with(|thread| thread.pop(&call)) else { return };
    let Some(pool) = RECORDING.pool() else { return };
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

/// The clock of calls: ticks of the processor's counter, or ns of CLOCK_MONOTONIC.
#[inline]
pub(crate) fn now(ticks: bool) -> u64 {
    match ticks {
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
    // `const` and without a destructor: the thread's end does nothing.
    static THREAD: Thread =
        const { Thread { open: [const { Cell::new(NONE) }; DEPTH], depth: Cell::new(0) } };
}

impl Thread {
    /// Whether it is a driver call inside of a runtime call, and these are not wanted. CUPTI gives
    /// both the same number.
    fn is_left_out(&self, call: &Open, flags: RecordingFlags) -> bool {
        !flags.has(INNER)
            && call.domain == domain::DRIVER
            && self.innermost(call.recording).is_some_and(|outer| {
                outer.domain == domain::RUNTIME && outer.correlation == call.correlation
            })
    }

    /// The innermost call of the recording.
    fn innermost(&self, recording: u32) -> Option<Open> {
        let innermost = self.open.get(self.depth.get().checked_sub(1)?)?.get();
        (innermost.recording == recording).then_some(innermost)
    }

    /// Whether there was room. Calls of earlier recordings, whose end nobody told, go.
    fn push(&self, call: Open) -> bool {
        if self.innermost(call.recording).is_none() {
            self.depth.set(0);
        }
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
    use profiler_core::chunk::chunks;

    use super::*;

    /// CUPTI calls back for a runtime call.
    fn told(site: u32, correlation: u32) {
        let mut info = [0_u8; callback::SIZE];
        info[callback::SITE..][..4].copy_from_slice(&site.to_ne_bytes());
        info[callback::CORRELATION..][..4].copy_from_slice(&correlation.to_ne_bytes());
        on_call(std::ptr::null_mut(), domain::RUNTIME, 211, info.as_ptr().cast());
    }

    #[test]
    fn what_is_open_at_the_end_is_told_and_what_is_open_at_a_begin_is_not() {
        let wanted = Wanted { inner: false, ticks: false };
        let (pool, mut collector) = chunks(1 << 20);
        switch_on(wanted, pool);
        for (site, correlation) in [(site::ENTER, 1), (site::EXIT, 1), (site::ENTER, 2)] {
            told(site, correlation);
        }
        finish();
        told(site::ENTER, 3);
        told(site::EXIT, 3);
        told(site::EXIT, 2);
        let mut correlations = Vec::new();
        let mut take = |entry: profiler_core::chunk::Entry<'_>| {
            let call = CallEntry::read_from_bytes(entry.payload).expect("a call");
            assert!(0 < call.start && call.start <= call.end);
            correlations.push(call.correlation);
        };
        collector.drain(&mut take);
        assert_eq!(correlations, [1, 2], "3 began behind the end");

        let (pool, mut collector) = chunks(1 << 20);
        switch_on(wanted, pool);
        told(site::ENTER, 4);
        switch_off();
        told(site::EXIT, 4);
        switch_on(wanted, pool);
        told(site::EXIT, 4);
        switch_off();
        collector.drain(|entry| panic!("{entry:?} is of another recording"));
    }

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
            assert!(thread.pop(&Open { recording: 2, ..call(2, 211, 9) }).is_none());
            assert!(thread.pop(&call(2, 211, 9)).is_some());
            for depth in 0..DEPTH as u32 {
                assert!(thread.push(call(2, 1, depth + 1)));
            }
            assert!(!thread.push(call(2, 1, 100)));
            for recording in 2..20 {
                let next = Open { recording, ..call(2, 211, 1) };
                assert!(thread.push(next), "those of earlier recordings are gone");
            }
        });
    }
}
