//! Records the operators of the process that loads it, through the CPU backend alone.
//!
//! A program in any language opens this file, begins a recording by `probe_start` and ends it by
//! `probe_stop`. Rows go to memory, and are told as lines of JSON, or to a spool.
#![expect(unsafe_code, reason = "called from other languages")]

mod memory;

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use backend_cpu::CpuBackend;
use profiler_core::backend::{ProfileSession, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{Window, WindowEdge};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};
use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolWriter};

use memory::MemorySink;

/// The stream that every spool has.
const OWN_STREAM: StreamId = StreamId(0);

/// A recording.
pub struct Probe {
    session: Box<dyn ProfileSession>,
    memory: Option<Arc<MemorySink>>,
    spool: Option<(SpoolWriter, Arc<dyn RecordSink>)>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

/// Ranges whose names begin with `step`, counted since [`probe_listen`].
static STEPS: AtomicI64 = AtomicI64::new(0);

/// From now on ranges whose names begin with `step` are counted while there is a recording.
#[unsafe(no_mangle)]
pub extern "C" fn probe_listen() {
    profiler_core::step_names::listen(|name| {
        STEPS.fetch_add(i64::from(name.starts_with("step")), Ordering::Relaxed);
    });
}

/// How many there were.
#[unsafe(no_mangle)]
pub extern "C" fn probe_steps() -> i64 {
    STEPS.load(Ordering::Relaxed)
}

/// Begins a recording, with the inputs' shapes where `shapes` is above 0, of no operators where it
/// is below (ranges are listened to all the same). With a `spool` the rows go
/// to a new file of that name, else to memory. Null = it could not begin.
///
/// # Safety
///
/// * `spool` is null or a text that ends in a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probe_start(shapes: i32, spool: *const c_char) -> *mut Probe {
    // SAFETY: the caller guarantees the text.
    let path = unsafe { path_of(spool) };
    Probe::start(shapes, path).map_or(std::ptr::null_mut(), |probe| Box::into_raw(Box::new(probe)))
}

/// Hands over what there is, and says how many operators came so far (to memory).
///
/// # Safety
///
/// * `probe` is a recording that has begun and not ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probe_flush(probe: *mut Probe) -> i64 {
    // SAFETY: the caller guarantees the recording.
    let probe = unsafe { &mut *probe };
    probe.flush()
}

/// Ends a recording; the number of its operators, -1 = it failed. What came to memory is written
/// to `dump`, if that is not null.
///
/// # Safety
///
/// * `probe` is a recording that has begun and not ended; it is gone afterwards.
/// * `dump` is null or a text that ends in a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probe_stop(probe: *mut Probe, dump: *const c_char) -> i64 {
    // SAFETY: the caller guarantees that it came from `probe_start` and was not given before.
    let probe = unsafe { Box::from_raw(probe) };
    // SAFETY: the caller guarantees the text.
    let dump = unsafe { path_of(dump) };
    probe.stop(dump.as_deref())
}

/// # Safety
///
/// * `text` is null or ends in a zero.
unsafe fn path_of(text: *const c_char) -> Option<PathBuf> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller guarantees the text.
    let text = unsafe { CStr::from_ptr(text) };
    Some(Path::new(OsStr::from_bytes(text.to_bytes())).to_path_buf())
}

impl Probe {
    fn start(shapes: i32, spool: Option<PathBuf>) -> Option<Self> {
        let config = SessionConfig {
            samples: false,
            counters: false,
            operators: shapes >= 0,
            record_shapes: shapes > 0,
            ..SessionConfig::default()
        };
        let clock = Arc::new(SystemClock::new());
        let mut memory = None;
        let mut writer = None;
        let sink: Arc<dyn RecordSink> = match spool {
            Some(path) => {
                let header = SpoolHeader {
                    session: "probe".to_owned(),
                    prefix: None,
                    worker: WorkerIdentity::of_this_process(None, None, None, None),
                    writer: concat!("torch-probe ", env!("CARGO_PKG_VERSION")).to_owned(),
                    created: clock.now(),
                    fence: 1,
                };
                let file = std::fs::File::create_new(path).ok()?;
                let options = SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() };
                let clock: Arc<SystemClock> = Arc::clone(&clock);
                let spool = SpoolWriter::create(file, &header, options, clock).ok()?;
                let sink = spool.sink();
                writer = Some((spool, Arc::clone(&sink)));
                sink
            }
            None => {
                let sink = Arc::new(MemorySink::default());
                memory = Some(Arc::clone(&sink));
                sink
            }
        };
        let mut session = CpuBackend::new().open(&config, sink, clock).ok()?;
        session.start().ok()?;
        let mut probe = Self { session, memory, spool: writer };
        probe.edge(WindowEdge::Begin);
        Some(probe)
    }

    fn flush(&mut self) -> i64 {
        self.session.flush().ok();
        self.edge(WindowEdge::Open);
        self.memory.as_ref().map_or(0, |memory| memory.operator_count() as i64)
    }

    fn stop(mut self, dump: Option<&Path>) -> i64 {
        self.edge(WindowEdge::End);
        let Ok(summary) = self.session.stop(Duration::from_secs(5)) else { return -1 };
        if let Some((spool, _)) = self.spool.take() {
            let totals = spool.finish(Duration::from_secs(60));
            let kind = profiler_core::record::RecordKind(9);
            return totals.rows.get(&kind).map_or(0, |rows| *rows as i64);
        }
        let Some(memory) = &self.memory else { return -1 };
        if let Some(dump) = dump
            && std::fs::write(dump, memory.json(&summary.notes)).is_err()
        {
            return -1;
        }
        memory.operator_count() as i64
    }

    /// Writes what bounds the window, and the clocks beside it.
    fn edge(&mut self, edge: WindowEdge) {
        let Some((_, sink)) = &self.spool else { return };
        let tuple = SystemClock::new().tuple();
        let window = Window {
            monotonic: tuple.monotonic,
            realtime: tuple.realtime,
            step: u64::MAX,
            window: 0,
            edge: edge.number(),
        };
        // What a full sink does not take it counts.
        let _tuple: Emit = sink.emit(&[Batch::new(OWN_STREAM, &[tuple])]);
        let _window: Emit = sink.emit(&[Batch::new(OWN_STREAM, &[window])]);
    }
}
