//! The calls of a session, on their way from the callbacks to the decoder.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use profiler_core::chunk::{ChunkCollector, chunks_with_spare};
use profiler_core::clock::ClockDomain;
use profiler_core::error::BackendError;
use profiler_core::record::{ApiCall, LossCause, Row as _};
use profiler_core::sink::{Loss, RecordSink, StreamId, StreamInfo};
use zerocopy::FromBytes as _;

use super::calls::{self, CallEntry, Wanted};
use super::layout::{DRIVER_LAUNCHES, LAST_RUNTIME_FUNCTION, NOISY_RUNTIME_FUNCTIONS, domain};
use super::library::{Cupti, Subscriber};

/// `CUPTI_ERROR_INVALID_PARAMETER`.
const INVALID_PARAMETER: i64 = 1;

/// When kernels were recorded, in the clock of calls. Callbacks come on before, and go off after.
pub(crate) struct Recorded {
    ticks: bool,
    begin: AtomicU64,
    /// 0 = not yet.
    end: AtomicU64,
}

impl Recorded {
    /// From now on they are.
    pub(crate) fn begins(&self) {
        self.begin.store(calls::now(self.ticks), Ordering::Release);
    }

    /// From now on they are no more.
    pub(crate) fn ends(&self) {
        self.end.store(calls::now(self.ticks), Ordering::Release);
    }

    /// Whether they were then; not before they began.
    fn contains(&self, instant: u64) -> bool {
        let (begin, end) = (self.begin.load(Ordering::Acquire), self.end.load(Ordering::Acquire));
        begin != 0 && begin <= instant && (end == 0 || instant < end)
    }
}

/// The calls that callbacks tell.
pub(crate) struct ToldCalls {
    chunks: ChunkCollector,
    /// Where their rows go.
    pub(crate) stream: StreamId,
    /// They are stamped by ticks of the processor's counter.
    ticks: bool,
    /// When they were taken last, in their clock.
    looked_at: u64,
    pub(crate) recorded: Arc<Recorded>,
}

impl ToldCalls {
    /// Makes CUPTI tell calls; those of the driver inside of a runtime call too if `inner`.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; what is switched on goes off with the subscription.
    pub(crate) fn begin(
        cupti: &Cupti,
        subscriber: &Subscriber,
        inner: bool,
        sink: &dyn RecordSink,
    ) -> Result<Self, BackendError> {
        let ticks = profiler_core::tsc::is_steady();
        let clock = if ticks { ClockDomain::Tsc } else { ClockDomain::Monotonic };
        let producer = "cuda.calls".to_owned();
        let stream = sink.open_stream(StreamInfo { producer, thread: 0, clock });
        let (pool, chunks) = chunks_with_spare(calls::POOL_BYTES, calls::SPARE_BYTES);
        calls::switch_on(Wanted { inner, ticks }, pool);
        let recorded =
            Arc::new(Recorded { ticks, begin: AtomicU64::new(0), end: AtomicU64::new(0) });
        let this = Self { chunks, stream, ticks, looked_at: calls::now(ticks), recorded };
        if inner {
            for domain in [domain::RUNTIME, domain::DRIVER] {
                cupti.enable_domain(subscriber, domain, true)?;
            }
            return Ok(this);
        }
        // Only what is called back for costs the application time.
        let runtime = (1..=LAST_RUNTIME_FUNCTION)
            .filter(|function| !NOISY_RUNTIME_FUNCTIONS.contains(function))
            .map(|function| (domain::RUNTIME, function));
        let driver = DRIVER_LAUNCHES.iter().map(|function| (domain::DRIVER, *function));
        for (domain, function) in runtime.chain(driver) {
            match cupti.enable_callback(subscriber, domain, function) {
                // A number that this library does not have.
                Ok(()) | Err(BackendError::Vendor { code: INVALID_PARAMETER, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(this)
    }

    /// Gives each call that callbacks left, with its thread and whether kernels were recorded when
    /// it began; how many calls that were.
    pub(crate) fn drain(
        &mut self,
        sink: &dyn RecordSink,
        mut take: impl FnMut(&CallEntry, u32, bool),
    ) -> u64 {
        let now = calls::now(self.ticks);
        let mut calls = 0;
        self.chunks.drain(|entry| {
            let Ok(call) = CallEntry::read_from_bytes(entry.payload) else { return };
            calls += 1;
            // Asked for each: the end may come while these are read.
            take(&call, entry.thread, self.recorded.contains(call.start));
        });
        let dropped = self.chunks.take_dropped().iter().map(|(_, count)| count).sum::<u64>();
        let lost = dropped + calls::take_missed();
        if lost > 0 {
            sink.loss(Loss {
                stream: Some(self.stream),
                kind: Some(ApiCall::KIND),
                count: lost,
                from: self.looked_at,
                to: now,
                cause: LossCause::ChunksExhausted,
            });
        }
        self.looked_at = now;
        calls
    }

    /// The memory of their chunks.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.bytes() as u64
    }
}

impl Drop for ToldCalls {
    /// Whatever ends the decoder: callbacks never find the place of a pool that another has taken.
    fn drop(&mut self) {
        calls::switch_off();
    }
}

/// Makes CUPTI call back no more. The subscription's end does the same, whatever fails here.
pub(crate) fn disable(cupti: &Cupti, subscriber: &Subscriber) {
    for domain in [domain::RUNTIME, domain::DRIVER] {
        drop(cupti.enable_domain(subscriber, domain, false));
    }
}
