//! One capture through CUPTI: who switches what on and off, and in which order.

#![expect(unsafe_code, reason = "reads what CUPTI wrote into buffers and points to")]

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use profiler_core::backend::{DriverState, Preset, SessionSummary};
use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::error::BackendError;
use profiler_core::record::LossCause;
use profiler_core::sink::{Emit, Loss, RecordSink, StreamId, StreamInfo};
use profiler_core::thread::spawn_blocked;

use super::buffers::{self, Completed, buffer_completed, buffer_requested, pool};
use super::calls::{self, on_call};
use super::layout::{Raw, attribute, kind};
use super::library::{Cupti, Subscriber};
use super::told_calls::{self, Recorded, ToldCalls};
use crate::decode::{Calls, Decoder, Made, Names};
use crate::place::Lease;

/// `cuptiGetVersion` from which "no buffer" is safe to answer: CUDA 12.9.
const DECLINE_VERSION: u32 = 28;
/// How long the decoder sleeps when nothing is completed.
const DECODER_NAP: Duration = Duration::from_millis(calls::NAP_MS);
/// Rows that wait in the decoder before they are emitted.
const EMIT_ROWS: usize = 4096;
/// `CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM`.
const SYSTEM_THREAD_IDS: u32 = 1;
/// The smallest record of what happened; what discarded bytes are divided by.
const SMALLEST_RECORD_BYTES: u64 = 40;
/// A driver clock within this distance of CLOCK_REALTIME is CLOCK_REALTIME.
const SAME_CLOCK_NS: u64 = 1_000_000;

/// Device buffers that CUPTI may allocate a context, of 3.2 MB each; unasked it takes up to 250 and
/// the application's own memory with them.
const MOST_DEVICE_BUFFERS: usize = 20;

/// What a capture is made of.
pub(crate) struct Target {
    /// Where rows go.
    pub(crate) sink: Arc<dyn RecordSink>,
    /// The host's clocks.
    pub(crate) clock: Arc<dyn ClockSource>,
    /// How much is recorded.
    pub(crate) preset: Preset,
    /// The memory that buffers may take.
    pub(crate) max_buffer_bytes: u64,
}

/// A capture that runs.
pub(crate) struct Capture {
    cupti: Arc<Cupti>,
    sink: Arc<dyn RecordSink>,
    subscriber: Subscriber,
    enabled: Vec<u32>,
    thread_ids_before: Option<u32>,
    decoder: Option<JoinHandle<Decoded>>,
    shared: Arc<Shared>,
    stream: StreamId,
    /// When kernels were recorded, for the calls' sake.
    recorded: Option<Arc<Recorded>>,
}

/// What the decoder's thread leaves.
struct Decoded {
    decoder: Decoder,
    /// Calls that were told.
    calls: u64,
    /// The most memory that their chunks took.
    chunk_bytes: u64,
}

/// What the session's threads share.
#[derive(Default)]
struct Shared {
    /// The decoder ends when the queue is empty.
    ending: AtomicBool,
    /// One flush at a time: two deadlock inside CUPTI.
    flushing: Mutex<()>,
}

impl Target {
    /// Switches on what the target asks for.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; nothing stays switched on.
    pub(crate) fn begin(
        &self,
        cupti: &Arc<Cupti>,
        lease: &mut Lease,
    ) -> Result<Capture, BackendError> {
        // The subscription is the lock: nothing process-wide is touched before it is held.
        let subscriber = cupti.subscribe(on_call)?;
        lease.attach(cupti);
        let mut undo =
            Undo { cupti, subscriber: Some(subscriber), enabled: Vec::new(), threads: None };

        pool().arm(self.max_buffer_bytes, cupti.version >= DECLINE_VERSION);
        // What a library does not know only makes it slower or larger.
        let device_buffers = &mut MOST_DEVICE_BUFFERS.to_ne_bytes();
        drop(cupti.set_attribute(attribute::DEVICE_BUFFER_POOL_LIMIT, device_buffers));
        drop(cupti.set_attribute(attribute::ZEROED_OUT_BUFFER, &mut [1]));
        drop(cupti.set_attribute(attribute::PER_THREAD_BUFFER, &mut [1]));
        cupti.register_callbacks(buffer_requested, buffer_completed)?;
        // What a session left behind whose stop failed is no part of this one.
        cupti.flush_all(true)?;
        while let Some(buffer) = pool().completed() {
            pool().recycle(buffer);
        }
        drop(cupti.dropped_records());
        if let Ok(before) = cupti.thread_id_type() {
            cupti.set_thread_id_type(SYSTEM_THREAD_IDS)?;
            undo.threads = Some(before);
        }
        let stream = self.sink.open_stream(StreamInfo {
            producer: "cuda.activity".to_owned(),
            thread: 0,
            clock: self.clock_domain(cupti),
        });
        self.sink.fact("cuda.libcupti", &cupti.found);
        self.sink.fact("cuda.libcupti_version", &cupti.version.to_string());
        let calls = match self.preset {
            Preset::Gpu => Calls::None,
            Preset::Full => Calls::All,
            _ => Calls::Launches,
        };
        let mut told = None;
        if calls != Calls::None
            && let Some(subscriber) = &undo.subscriber
        {
            let inner = calls == Calls::All;
            told = Some(ToldCalls::begin(cupti, subscriber, inner, self.sink.as_ref())?);
        }
        // Behind the calls: what is recorded of the device has its call.
        self.enable_kinds(cupti, &mut undo.enabled)?;
        let recorded = told.as_ref().map(|told| Arc::clone(&told.recorded));
        if let Some(recorded) = &recorded {
            recorded.begins();
        }
        let shared = Arc::new(Shared::default());
        let calls_stream = told.as_ref().map_or(stream, |told| told.stream);
        let decoder = spawn_decoder(
            Arc::clone(cupti),
            Arc::clone(&self.sink),
            Arc::clone(&shared),
            Decoder::new(stream, calls, calls_stream),
            told,
        )?;
        let (subscriber, enabled, thread_ids_before) = undo.keep();
        Ok(Capture {
            cupti: Arc::clone(cupti),
            sink: Arc::clone(&self.sink),
            subscriber,
            enabled,
            thread_ids_before,
            decoder: Some(decoder),
            shared,
            stream,
            recorded,
        })
    }

    /// Switches on what the preset asks for.
    fn enable_kinds(&self, cupti: &Cupti, enabled: &mut Vec<u32>) -> Result<(), BackendError> {
        let mut enable = |kind: u32, dump: bool| {
            if dump {
                cupti.enable_and_dump(kind)?
            } else {
                cupti.enable(kind)?
            }
            enabled.push(kind);
            Ok::<(), BackendError>(())
        };
        for existing in [kind::DEVICE, kind::CONTEXT, kind::STREAM] {
            enable(existing, true)?;
        }
        // MEMCPY_PEER gives records only where MEMCPY is on as well.
        for work in [kind::CONCURRENT_KERNEL, kind::MEMCPY, kind::MEMCPY_PEER, kind::MEMSET] {
            enable(work, false)?;
        }
        if self.preset != Preset::Gpu {
            enable(kind::OVERHEAD, false)?;
        }
        if self.preset == Preset::Full {
            enable(kind::SYNCHRONIZATION, false)?;
        }
        Ok(())
    }

    /// The clock of the records: CUPTI's default on Linux is CLOCK_REALTIME, but another client
    /// may have registered its own.
    fn clock_domain(&self, cupti: &Cupti) -> ClockDomain {
        let Ok(driver) = cupti.timestamp() else { return ClockDomain::Realtime };
        let host = self.clock.realtime_ns();
        if driver.abs_diff(host) < SAME_CLOCK_NS {
            ClockDomain::Realtime
        } else {
            ClockDomain::Driver
        }
    }
}

/// Undoes a start that failed half-way.
struct Undo<'a> {
    cupti: &'a Cupti,
    subscriber: Option<Subscriber>,
    enabled: Vec<u32>,
    threads: Option<u32>,
}

impl Undo<'_> {
    fn keep(mut self) -> (Subscriber, Vec<u32>, Option<u32>) {
        let subscriber = self.subscriber.take().unwrap_or_else(|| unreachable!("taken once"));
        (subscriber, std::mem::take(&mut self.enabled), self.threads)
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(subscriber) = self.subscriber.take() else { return };
        told_calls::disable(self.cupti, &subscriber);
        for kind in self.enabled.drain(..).rev() {
            drop(self.cupti.disable(kind));
        }
        if let Some(before) = self.threads {
            drop(self.cupti.set_thread_id_type(before));
        }
        drop(self.cupti.unsubscribe(&subscriber));
        pool().disarm();
    }
}

impl Shared {
    fn one_flush(&self) -> MutexGuard<'_, ()> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Capture {
    /// Makes CUPTI hand over what is complete.
    pub(crate) fn flush(&self) -> Result<(), BackendError> {
        let _one = self.shared.one_flush();
        let flushed = self.cupti.flush_all(false);
        flushed?;
        // Told as it happens: a process that is killed tells nothing at its stop.
        let dropped = self.cupti.dropped_records().unwrap_or(0);
        if dropped > 0 {
            self.sink.loss(self.loss(dropped, LossCause::DriverDropped));
        }
        if let Some(decoder) = &self.decoder {
            decoder.thread().unpark();
        }
        Ok(())
    }

    /// Switches off, drains, hands over the last rows.
    pub(crate) fn end(mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        let cupti = Arc::clone(&self.cupti);
        let sink = Arc::clone(&self.sink);
        let deadline = Instant::now() + drain;
        let mut first_error = None;
        let mut note = |outcome: Result<(), BackendError>| {
            if let Err(error) = outcome {
                first_error.get_or_insert(error);
            }
        };
        if let Some(recorded) = &self.recorded {
            recorded.ends();
        }
        for kind in self.enabled.drain(..).rev() {
            note(cupti.disable(kind));
        }
        // Behind them: what was launched while they were on has its call, if it returns while the
        // device's records are waited for.
        calls::finish();
        // Disabling delivers; what still runs on the device keeps its buffer until it ends.
        while pool().lent() > 0 && Instant::now() < deadline {
            let lent = pool().lent();
            note({
                let _one = self.shared.one_flush();
                cupti.flush_all(false)
            });
            if pool().lent() == lent {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        note({
            let _one = self.shared.one_flush();
            cupti.flush_all(true)
        });
        let dropped = cupti.dropped_records().unwrap_or(0);
        told_calls::disable(&cupti, &self.subscriber);
        note(cupti.unsubscribe(&self.subscriber));
        if let Some(before) = self.thread_ids_before {
            note(cupti.set_thread_id_type(before));
        }
        let mut notes = Vec::new();
        let mut device_used = None;
        let (mut own_memory_bytes, mut own_cpu_ns_elsewhere) = (0, 0);
        self.shared.ending.store(true, Ordering::Release);
        if let Some(decoder) = self.decoder.take() {
            decoder.thread().unpark();
            match decoder.join() {
                Ok(decoded) => {
                    device_used = decoded.decoder.device_used();
                    notes.extend(decoded.decoder.notes());
                    own_memory_bytes += decoded.chunk_bytes;
                    own_cpu_ns_elsewhere += decoded.calls * calls::CALL_NS;
                }
                Err(_) => notes.push("the CUDA decoder panicked; rows are missing".to_owned()),
            }
        }
        if dropped > 0 {
            sink.loss(self.loss(dropped, LossCause::DriverDropped));
        }
        let uncounted = pool().take_uncounted_bytes();
        if uncounted > 0 {
            sink.loss(self.loss(uncounted / SMALLEST_RECORD_BYTES, LossCause::BufferExhausted));
        }
        if pool().stalls() > 0 {
            notes.push(format!("{} buffers were mapped on application threads", pool().stalls()));
        }
        own_memory_bytes += pool().most_bytes();
        own_cpu_ns_elsewhere += pool().spent_ns();
        pool().disarm();
        match first_error {
            Some(error) => Err(error),
            None => Ok(SessionSummary {
                device_used,
                driver: Some(DriverState::Residue),
                notes,
                own_memory_bytes,
                own_cpu_ns_elsewhere,
            }),
        }
    }

    fn loss(&self, count: u64, cause: LossCause) -> Loss {
        Loss { stream: Some(self.stream), kind: None, count, from: 0, to: 0, cause }
    }
}

fn spawn_decoder(
    cupti: Arc<Cupti>,
    sink: Arc<dyn RecordSink>,
    shared: Arc<Shared>,
    decoder: Decoder,
    told: Option<ToldCalls>,
) -> Result<JoinHandle<Decoded>, BackendError> {
    let body = move || decode_until_end(&cupti, sink.as_ref(), &shared, decoder, told);
    spawn_blocked("omniprof-cuda", body)
        .map_err(|source| BackendError::Io { what: "starting the CUDA decoder".to_owned(), source })
}

fn decode_until_end(
    cupti: &Cupti,
    sink: &dyn RecordSink,
    shared: &Shared,
    mut decoder: Decoder,
    mut told: Option<ToldCalls>,
) -> Decoded {
    let mut closed = false;
    let mut calls = 0;
    let mut chunk_bytes = 0;
    loop {
        // Read before the queue and the chunks: what was there before the end was told is never
        // missed.
        let ending = shared.ending.load(Ordering::Acquire);
        pool().replenish();
        if let Some(told) = &mut told {
            calls += told.drain(sink, |call, thread, is_recorded| {
                if !closed {
                    decoder.call(call, Made { thread, is_recorded }, &LiveNames { cupti });
                }
                if decoder.waiting() >= EMIT_ROWS {
                    closed |= decoder.emit(sink) == Emit::Closed;
                }
            });
            chunk_bytes = chunk_bytes.max(told.bytes());
        }
        if closed {
            calls::switch_off();
        }
        match pool().completed() {
            Some(buffer) => {
                read_buffer(cupti, sink, &mut decoder, &buffer, &mut closed);
                pool().recycle(buffer);
            }
            None if ending => break,
            None => {
                if decoder.waiting() > 0 {
                    closed |= decoder.emit(sink) == Emit::Closed;
                }
                std::thread::park_timeout(DECODER_NAP);
            }
        }
    }
    if decoder.waiting() > 0 {
        // At the end there is nothing left to do about a sink that closed.
        let _last: Emit = decoder.emit(sink);
    }
    Decoded { decoder, calls, chunk_bytes }
}

fn read_buffer(
    cupti: &Cupti,
    sink: &dyn RecordSink,
    decoder: &mut Decoder,
    buffer: &Completed,
    closed: &mut bool,
) {
    let names = LiveNames { cupti };
    let start = buffer.address();
    let valid = buffer.valid();
    let mut record = std::ptr::null_mut();
    let mut discarded = 0;
    while let Some(next) = cupti.next_record(start, valid, record) {
        record = next;
        let offset = (next as usize).wrapping_sub(start as usize);
        if offset >= valid {
            break;
        }
        // SAFETY: CUPTI wrote `valid` bytes from `start` and gave the buffer back; the record lies
        // `offset` bytes into it, which was checked.
        let bytes = unsafe { std::slice::from_raw_parts(next.cast_const(), valid - offset) };
        let raw = Raw(bytes);
        if buffer.discard {
            discarded += u64::from(![kind::RUNTIME, kind::DRIVER].contains(&raw.kind()));
        } else if !*closed {
            decoder.record(raw, &names);
        }
        if decoder.waiting() >= EMIT_ROWS {
            *closed |= decoder.emit(sink) == Emit::Closed;
        }
    }
    if discarded > 0 {
        sink.loss(Loss {
            stream: None,
            kind: None,
            count: discarded,
            from: 0,
            to: 0,
            cause: LossCause::BufferExhausted,
        });
    }
}

/// Names where CUPTI's records point to them.
struct LiveNames<'a> {
    cupti: &'a Cupti,
}

impl Names for LiveNames<'_> {
    fn text(&self, address: u64) -> Option<&[u8]> {
        if address == 0 {
            return None;
        }
        // SAFETY: a record's name points to a NUL-terminated string that CUPTI keeps at least
        // until the buffer that holds the record is recycled.
        let text = unsafe { CStr::from_ptr(address as *const c_char) };
        Some(text.to_bytes())
    }

    fn function(&self, domain: u32, id: u32) -> Option<String> {
        self.cupti.callback_name(domain, id)
    }
}

const _: () = assert!(buffers::BUFFER_BYTES >= 64 << 10, "a kernel record must fit many times");
