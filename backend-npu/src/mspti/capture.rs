//! One capture through MSPTI: who switches what on and off, and in which order.

#![expect(unsafe_code, reason = "reads names where MSPTI's records point to them")]

use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use profiler_core::backend::{DriverState, Preset, SessionSummary};
use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::error::BackendError;
use profiler_core::record::LossCause;
use profiler_core::sink::{Emit, Loss, RecordSink, StreamId, StreamInfo};
use profiler_core::thread::spawn_blocked;

use super::buffers::{Completed, buffer_completed, buffer_requested, pool};
use super::layout::{self, kind, kind_name};
use super::library::{
    INVALID_PARAMETER, Mspti, SUCCESS, Subscriber, WITHOUT_LD_PRELOAD, check, result_name,
};
use super::walk::{Drift, Steps, Walked, walk};
use crate::decode::{Decoder, Devices, Names};
use crate::preload;

/// How long the decoder sleeps when nothing is completed.
const DECODER_NAP: Duration = Duration::from_millis(10);
/// Rows that wait in the decoder before they are emitted.
const EMIT_ROWS: usize = 4096;
/// How far apart looks for late records are at the stop.
const QUIET_POLL: Duration = Duration::from_millis(25);
/// After so many looks without a late record the device has handed over what it had.
const QUIET_POLLS: u32 = 3;
/// No name that a library or an application gives is longer.
const MAX_NAME_BYTES: usize = 1 << 16;

/// Why buffers of ours went to others, and records into theirs.
const TAKEN: &str = "another tool of this process took MSPTI's callback slot while it was recorded \
                     (torch_npu's profiler does so even where its own start fails)";

/// What a capture is made of.
pub(crate) struct Target {
    /// The library.
    pub(crate) mspti: Arc<Mspti>,
    /// Where rows go.
    pub(crate) sink: Arc<dyn RecordSink>,
    /// The host's clocks.
    pub(crate) clock: Arc<dyn ClockSource>,
    /// How much is recorded.
    pub(crate) preset: Preset,
    /// Allocations, copies and memsets were asked for.
    pub(crate) memory: bool,
    /// The memory that buffers may take.
    pub(crate) max_buffer_bytes: u64,
    /// What is known of the devices.
    pub(crate) devices: Devices,
}

/// A capture that runs.
pub(crate) struct Capture {
    mspti: Arc<Mspti>,
    sink: Arc<dyn RecordSink>,
    clock: Arc<dyn ClockSource>,
    subscriber: Option<Subscriber>,
    enabled: Vec<u32>,
    notes: Vec<String>,
    decoder: Option<JoinHandle<Decoder>>,
    shared: Arc<Shared>,
    stream: StreamId,
}

/// What the session's threads share.
#[derive(Default)]
struct Shared {
    /// The decoder ends when the queue is empty.
    ending: AtomicBool,
    /// Work of devices that began before this instant counts as awaited.
    awaited_until: AtomicU64,
    /// Such work that was read.
    awaited_rows: AtomicU64,
    /// Work of devices that was read.
    device_rows: AtomicU64,
    /// What did not fit, first of all.
    drift: Mutex<Option<Drift>>,
    /// The code with which the library refused to walk on, and how often.
    refused: Mutex<Option<(i32, u64)>>,
}

impl Target {
    fn begin(&self) -> Result<Capture, BackendError> {
        let mspti = &self.mspti;
        // The subscription is the lock: nothing process-wide is touched before it is held.
        let subscriber = mspti.subscribe()?;
        let mut undo = Undo { mspti, subscriber: Some(subscriber), enabled: Vec::new() };
        pool().arm(self.max_buffer_bytes);
        mspti.register_callbacks(buffer_requested, buffer_completed)?;
        // What a session left behind whose stop failed is no part of this one.
        mspti.flush_all()?;
        while let Some(buffer) = pool().completed() {
            pool().recycle(buffer);
        }
        pool().take_declined();
        let mut notes = Vec::new();
        let (foreign, _bytes) = pool().take_foreign();
        if foreign > 0 {
            notes.push(
                "a buffer of another MSPTI client of this process came back at the start and was \
                 left alone: what it held is that client's, which records nothing any more"
                    .to_owned(),
            );
        }
        if mspti.is_late {
            notes.push(format!(
                "libmspti was loaded when libascendcl had been: kernels that were registered \
                 before that have no type for it, and are not recorded; load it first: {}",
                preload::remedy(&mspti.path)
            ));
        }
        self.enable_kinds(&mut undo.enabled, &mut notes)?;

        let stream = self.sink.open_stream(StreamInfo {
            producer: "npu.activity".to_owned(),
            thread: 0,
            // MSPTI's instants are CLOCK_REALTIME, the device's as well as the host's.
            clock: ClockDomain::Realtime,
        });
        self.sink.fact("npu.path", "mspti");
        self.sink.fact("npu.libmspti", &mspti.path.display().to_string());
        let kinds: Vec<&str> = undo.enabled.iter().map(|kind| kind_name(*kind)).collect();
        self.sink.fact("npu.kinds", &kinds.join(", "));
        let shared = Arc::new(Shared::default());
        shared.awaited_until.store(u64::MAX, Ordering::Relaxed);
        let decoder = spawn_decoder(
            Arc::clone(mspti),
            Arc::clone(&self.sink),
            Arc::clone(&shared),
            Decoder::new(stream, self.devices.clone()),
        )?;
        let (subscriber, enabled) = undo.keep();
        Ok(Capture {
            mspti: Arc::clone(mspti),
            sink: Arc::clone(&self.sink),
            clock: Arc::clone(&self.clock),
            subscriber: Some(subscriber),
            enabled,
            notes,
            decoder: Some(decoder),
            shared,
            stream,
        })
    }

    fn enable_kinds(
        &self,
        enabled: &mut Vec<u32>,
        notes: &mut Vec<String>,
    ) -> Result<(), BackendError> {
        self.refuse_without_preload()?;
        check("msptiActivityEnable", self.enable(kind::KERNEL, enabled))?;
        if self.enable(kind::COMMUNICATION, enabled) != SUCCESS {
            // Before CANN 8.2 collectives are records of another kind.
            self.enable_or_note(kind::HCCL, enabled, notes);
        }
        self.enable_or_note(kind::MARKER, enabled, notes);
        if self.preset != Preset::Gpu {
            self.enable_or_note(kind::API, enabled, notes);
            self.enable_or_note(kind::EXTERNAL_CORRELATION, enabled, notes);
        }
        if self.preset == Preset::Full {
            for kind in [kind::ACL_API, kind::NODE_API, kind::RUNTIME_API] {
                self.enable_or_note(kind, enabled, notes);
            }
        }
        if self.memory {
            for kind in [kind::MEMORY, kind::MEMSET, kind::MEMCPY] {
                match self.enable(kind, enabled) {
                    SUCCESS => {}
                    WITHOUT_LD_PRELOAD => {
                        return Err(BackendError::InvalidConfig {
                            field: "memory".to_owned(),
                            reason: format!(
                                "MSPTI records allocations and copies only where it was loaded \
                                 first: {}",
                                preload::remedy(&self.mspti.path)
                            ),
                        });
                    }
                    code => check("msptiActivityEnable", code)?,
                }
            }
        } else if self.preset == Preset::Full {
            for kind in [kind::MEMSET, kind::MEMCPY] {
                self.enable_or_note(kind, enabled, notes);
            }
        }
        Ok(())
    }

    /// Before CANN 9 devices are found by functions that only a preloaded library can interpose:
    /// without, every call succeeds and no record comes.
    fn refuse_without_preload(&self) -> Result<(), BackendError> {
        // This kind is as old as that change.
        let code = self.mspti.enable(kind::RUNTIME_API);
        if code == SUCCESS {
            return self.mspti.disable(kind::RUNTIME_API);
        }
        if code == INVALID_PARAMETER && !preload::is_preloaded() {
            return Err(preload::needed(&self.mspti.path));
        }
        Ok(())
    }

    fn enable(&self, kind: u32, enabled: &mut Vec<u32>) -> i32 {
        let code = self.mspti.enable(kind);
        if code == SUCCESS {
            enabled.push(kind);
        }
        code
    }

    fn enable_or_note(&self, kind: u32, enabled: &mut Vec<u32>, notes: &mut Vec<String>) {
        let why = match self.enable(kind, enabled) {
            SUCCESS => return,
            INVALID_PARAMETER => "this CANN does not have it".to_owned(),
            WITHOUT_LD_PRELOAD => preload::remedy(&self.mspti.path),
            code => format!("msptiActivityEnable answered {code} ({})", result_name(code)),
        };
        notes.push(format!("MSPTI's kind `{}` is not recorded: {why}", kind_name(kind)));
    }
}

/// Undoes a start that failed half-way.
struct Undo<'a> {
    mspti: &'a Mspti,
    subscriber: Option<Subscriber>,
    enabled: Vec<u32>,
}

impl Undo<'_> {
    fn keep(mut self) -> (Subscriber, Vec<u32>) {
        let subscriber = self.subscriber.take().unwrap_or_else(|| unreachable!("taken once"));
        (subscriber, std::mem::take(&mut self.enabled))
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(subscriber) = self.subscriber.take() else { return };
        // Kinds outlive a subscription.
        for kind in self.enabled.drain(..).rev() {
            drop(self.mspti.disable(kind));
        }
        drop(self.mspti.unsubscribe(subscriber));
        pool().disarm();
    }
}

impl Capture {
    /// Switches on what the target asks for.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; nothing stays switched on.
    pub(crate) fn begin(target: &Target) -> Result<Self, BackendError> {
        target.begin()
    }

    /// Makes MSPTI hand over what it holds.
    ///
    /// The callbacks are one slot of the process, and the last writer has it, a subscriber or not.
    /// So it is taken back first: a buffer of ours comes to us, whoever had the slot meanwhile, and
    /// what went into another client's buffer is seen. A client that took the slot and for which
    /// nothing was recorded until then has cost nothing, and is not noticed; buffers of its own that
    /// were full before the next flush went to it alone.
    pub(crate) fn flush(&self) -> Result<(), BackendError> {
        self.mspti.register_callbacks(buffer_requested, buffer_completed)?;
        self.mspti.flush_all()?;
        if let Some(decoder) = &self.decoder {
            decoder.thread().unpark();
        }
        Ok(())
    }

    /// Drains until the device is quiet, switches off, hands over the last rows.
    pub(crate) fn end(mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        let deadline = Instant::now() + drain;
        let mut first_error = None;
        let mut note = |outcome: Result<(), BackendError>| {
            if let Err(error) = outcome {
                first_error.get_or_insert(error);
            }
        };
        note(self.drain_to_quiet(deadline));
        for kind in self.enabled.drain(..).rev() {
            note(self.mspti.disable(kind));
        }
        // As long as the subscription is ours: afterwards another client may hold it and the slot.
        note(self.flush());
        if let Some(subscriber) = self.subscriber.take() {
            note(self.mspti.unsubscribe(subscriber));
        }
        note(self.mspti.flush_all());
        // Full buffers come back on threads of the library's own.
        while pool().lent() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let missing = pool().disarm();
        let mut notes = std::mem::take(&mut self.notes);
        self.shared.ending.store(true, Ordering::Release);
        if let Some(decoder) = self.decoder.take() {
            decoder.thread().unpark();
            match decoder.join() {
                Ok(decoder) => notes.extend(decoder.notes()),
                Err(_) => notes.push("the NPU decoder panicked; rows are missing".to_owned()),
            }
        }
        pool().trim();
        let declined = pool().take_declined();
        if declined > 0 {
            self.sink.loss(self.loss(declined, LossCause::BufferExhausted));
        }
        note(self.judge(missing, &mut notes));
        match first_error {
            Some(error) => Err(error),
            None => Ok(SessionSummary {
                device_used: self.device_used(),
                // The callback slot stays taken; nothing is on that would ask it for a buffer.
                driver: Some(DriverState::Detached),
                notes,
                own_memory_bytes: pool().peak_bytes(),
                ..SessionSummary::default()
            }),
        }
    }

    /// Whether a device was used: by its records, else by what the process has open.
    fn device_used(&self) -> Option<bool> {
        let has_rows = self.shared.device_rows.load(Ordering::Relaxed) > 0;
        Some(has_rows || crate::machine::has_device_open())
    }

    /// Waits until no more record comes of what began before now.
    fn drain_to_quiet(&self, deadline: Instant) -> Result<(), BackendError> {
        let shared = &self.shared;
        shared.awaited_until.store(self.clock.realtime_ns(), Ordering::Relaxed);
        let mut quiet = 0;
        let mut seen = (shared.awaited_rows.load(Ordering::Relaxed), pool().waiting());
        while quiet < QUIET_POLLS && Instant::now() < deadline {
            self.flush()?;
            std::thread::sleep(QUIET_POLL.min(deadline.saturating_duration_since(Instant::now())));
            let now = (shared.awaited_rows.load(Ordering::Relaxed), pool().waiting());
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
        Ok(())
    }

    /// What a person must know: layouts that drifted, buffers that others took.
    fn judge(&self, missing: usize, notes: &mut Vec<String>) -> Result<(), BackendError> {
        let refused = *self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((code, times)) = refused {
            notes.push(format!(
                "libmspti refused to read on in {times} buffers: msptiActivityGetNextRecord \
                 answered {code} ({}); about as many records as are counted as undecodable are \
                 missing",
                result_name(code)
            ));
        }
        if missing > 0 {
            notes.push(format!(
                "{missing} buffers of up to {} records each never came back: {TAKEN}; each counts as \
                 one lost record, for nobody can tell how many it held",
                super::buffers::BUFFER_BYTES / layout::kernel::SIZE
            ));
            self.sink.loss(self.loss(missing as u64, LossCause::DriverDropped));
        }
        let (foreign, foreign_bytes) = pool().take_foreign();
        if foreign > 0 {
            // A guess: records are one to three times as long as the smallest.
            let records = foreign_bytes.div_ceil(layout::SMALLEST_RECORD_BYTES as u64 * 2);
            notes.push(format!(
                "{TAKEN}; it was taken back, and {foreign} buffers of the other's came with about \
                 {records} records, which are lost; stop that tool, or start it when this capture \
                 is over"
            ));
            self.sink.loss(self.loss(records.max(1), LossCause::DriverDropped));
        }
        let drift = *self.shared.drift.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Drift { kind, expected, found }) = drift {
            return Err(BackendError::Unavailable {
                code: "abi_drift".to_owned(),
                message: format!(
                    "records of kind {kind} ({}) are {found} bytes long in {}, and {expected} are \
                     known: this CANN is newer than this release reads; its records were counted \
                     and not kept",
                    kind_name(kind),
                    self.mspti.path.display()
                ),
            });
        }
        let was_taken = missing > 0 || foreign > 0;
        if was_taken && self.shared.device_rows.load(Ordering::Relaxed) == 0 {
            return Err(BackendError::Busy { holder: Some(TAKEN.to_owned()) });
        }
        Ok(())
    }

    fn loss(&self, count: u64, cause: LossCause) -> Loss {
        Loss { stream: Some(self.stream), kind: None, count, from: 0, to: 0, cause }
    }
}

fn spawn_decoder(
    mspti: Arc<Mspti>,
    sink: Arc<dyn RecordSink>,
    shared: Arc<Shared>,
    decoder: Decoder,
) -> Result<JoinHandle<Decoder>, BackendError> {
    let body = move || {
        let mut reader = Reader { mspti, sink, shared, decoder, closed: false, cursor_lost: false };
        reader.read_until_end();
        reader.decoder
    };
    spawn_blocked("omniprof-npu", body)
        .map_err(|source| BackendError::Io { what: "starting the NPU decoder".to_owned(), source })
}

/// The decoder thread's work.
struct Reader {
    mspti: Arc<Mspti>,
    sink: Arc<dyn RecordSink>,
    shared: Arc<Shared>,
    decoder: Decoder,
    /// The sink takes nothing any more.
    closed: bool,
    /// This thread's cursor inside the library stands in the middle of a buffer.
    cursor_lost: bool,
}

impl Reader {
    fn read_until_end(&mut self) {
        loop {
            // Read before the queue: a buffer completed before the end was told is never missed.
            let ending = self.shared.ending.load(Ordering::Acquire);
            match pool().completed() {
                Some(buffer) => {
                    self.read(&buffer);
                    pool().recycle(buffer);
                }
                None if ending => break,
                None => {
                    self.emit();
                    pool().replenish();
                    std::thread::park_timeout(DECODER_NAP);
                }
            }
            if !ending {
                pool().replenish();
            }
        }
        self.decoder.finish();
        self.emit();
    }

    fn emit(&mut self) {
        if self.decoder.waiting() > 0 {
            self.closed |= self.decoder.emit(self.sink.as_ref()) == Emit::Closed;
        }
    }

    fn read(&mut self, buffer: &Completed) {
        let walked = if self.cursor_lost {
            // The library's cursor belongs to the thread, and only the end of a buffer resets it:
            // a thread that has none yet begins at the beginning.
            std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().name("omniprof-npu-w".to_owned());
                let walk = thread.spawn_scoped(scope, || {
                    let _blocked = profiler_core::thread::block_signals();
                    self.walk(buffer)
                });
                walk.ok().and_then(|walk| walk.join().ok())
            })
        } else {
            Some(self.walk(buffer))
        };
        let Some(walked) = walked else {
            let records = buffer.bytes().len() / layout::SMALLEST_RECORD_BYTES / 2;
            self.lose(records as u64);
            return;
        };
        self.cursor_lost |= walked.cursor_lost;
        if let Some(drift) = walked.drift {
            let mut first = self.shared.drift.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(drift);
        }
        if let Some(code) = walked.refused {
            let mut refused = self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let (_, times) = refused.get_or_insert((code, 0));
            *times += 1;
        }
        self.lose(walked.undecodable);
    }

    fn lose(&self, count: u64) {
        if count > 0 {
            self.sink.loss(Loss {
                stream: None,
                kind: None,
                count,
                from: 0,
                to: 0,
                cause: LossCause::Undecodable,
            });
        }
    }

    fn walk(&mut self, buffer: &Completed) -> Walked {
        let bytes = buffer.bytes();
        let mut steps = LibrarySteps { mspti: Arc::clone(&self.mspti), buffer };
        let awaited_until = self.shared.awaited_until.load(Ordering::Relaxed);
        let (mut device_rows, mut awaited_rows) = (0, 0);
        let walked = walk(bytes, &mut steps, &mut |record| {
            let start = match record.kind() {
                kind::KERNEL => Some(layout::kernel::START),
                kind::HCCL => Some(layout::hccl::START),
                kind::COMMUNICATION => Some(layout::communication::START),
                _ => None,
            };
            if let Some(start) = start {
                device_rows += 1;
                awaited_rows += u64::from(record.u64(start) < awaited_until);
            }
            if self.closed {
                return;
            }
            self.decoder.record(record, &LiveNames);
            if self.decoder.waiting() >= EMIT_ROWS {
                self.emit();
            }
        });
        self.shared.device_rows.fetch_add(device_rows, Ordering::Relaxed);
        self.shared.awaited_rows.fetch_add(awaited_rows, Ordering::Relaxed);
        walked
    }
}

/// The steps that libmspti makes over a buffer of its own.
struct LibrarySteps<'a> {
    mspti: Arc<Mspti>,
    buffer: &'a Completed,
}

impl Steps for LibrarySteps<'_> {
    fn next(&mut self) -> (i32, Option<usize>) {
        let start = self.buffer.address();
        let valid = self.buffer.bytes().len();
        let (code, record) = self.mspti.next_record(start, valid);
        let place = record.addr().wrapping_sub(start.addr());
        (code, (place < valid).then_some(place))
    }
}

/// Names where MSPTI's records point to them.
struct LiveNames;

impl Names for LiveNames {
    fn text(&self, address: u64) -> Option<&[u8]> {
        // The first page is never mapped: such a number is no pointer.
        if address < 4096 {
            return None;
        }
        let text: *const c_char = std::ptr::with_exposed_provenance(address as usize);
        // SAFETY: a record's name points to a NUL-terminated string that MSPTI keeps for the
        // process's life.
        let bytes = unsafe { libc::strnlen(text, MAX_NAME_BYTES) };
        // SAFETY: so many bytes were just found to be there.
        Some(unsafe { std::slice::from_raw_parts(text.cast::<u8>(), bytes) })
    }
}
