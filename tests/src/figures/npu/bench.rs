//! A process that has the stand-in loaded, records its records and tells what that took.

#![expect(unsafe_code, reason = "plays an application that calls a C library")]
#![expect(clippy::print_stdout, reason = "the outcome goes to whoever started this process")]

use std::ffi::{c_char, c_void};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use backend_npu::NpuBackend;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::backend::{Preset, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::record::{Kernel, Row as _};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};
use serde::{Deserialize, Serialize};

use super::super::measure::threads_of;
use super::super::{peak_rss_bytes, rss_bytes};

pub(super) const ROLE: &str = "npu-bench";
pub(super) const LIBRARY: &str = "OMNIPROF_FIGURES_LIBMSPTI";
pub(super) const WORK: &str = "OMNIPROF_FIGURES_NPU_WORK";

/// The size of a buffer.
pub(super) const BUFFER_BYTES: u64 = 2 << 20;
/// As the agent's flusher does it.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// What is produced between two looks at the clock.
const PORTION: u64 = 1_000;
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a sink takes for a group of rows that shall hold the decoder up.
const HOLD_UP: Duration = Duration::from_millis(5);

/// What the process shall do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) records: u64,
    pub(super) a_second: u64,
    /// The most buffers that the session may have, all of which shall be in use: the sink holds the
    /// decoder up as long as records are produced. `None` = as it is by default.
    pub(super) buffers: Option<u64>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) rows: u64,
    pub(super) lost: u64,
    pub(super) produced_s: f64,
    pub(super) decoder_cpu_s: f64,
    pub(super) callback_median_us: f64,
    pub(super) callback_p99_us: f64,
    /// The memory that buffers took.
    pub(super) buffer_bytes: u64,
    pub(super) begin_bytes: u64,
    /// When a quarter of the records was read.
    pub(super) early_bytes: u64,
    pub(super) peak_bytes: u64,
    pub(super) stop_ms: f64,
}

/// Counts rows and losses, and keeps nothing.
#[derive(Default)]
struct Counting {
    kernels: AtomicU64,
    lost: AtomicU64,
    holds_up: AtomicBool,
}

impl RecordSink for Counting {
    fn open_stream(&self, _info: StreamInfo) -> StreamId {
        StreamId(1)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        if self.holds_up.load(Ordering::Relaxed) {
            std::thread::sleep(HOLD_UP);
        }
        for batch in group.iter().filter(|batch| batch.kind == Kernel::KIND) {
            self.kernels.fetch_add(batch.count() as u64, Ordering::Relaxed);
        }
        Emit::Accepted
    }

    fn loss(&self, loss: Loss) {
        self.lost.fetch_add(loss.count, Ordering::Relaxed);
    }

    fn fact(&self, _key: &str, _value: &str) {}

    fn log(&self, _level: LogLevel, _target: &str, _message: &str) {}
}

/// The stand-in's own functions.
struct StandIn {
    burst: extern "C" fn(*const c_char, *const c_char, u64),
    completion_ns: unsafe extern "C" fn(*mut u32, usize) -> usize,
}

impl StandIn {
    fn load() -> anyhow::Result<Self> {
        let path = std::env::var_os(LIBRARY).context("no library is named")?;
        // SAFETY: our own library, whose companions lie beside it.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }?;
        // SAFETY: the stand-in gives the symbol this type.
        let burst = *unsafe { library.get(b"fake_burst\0") }?;
        // SAFETY: likewise.
        let completion_ns = *unsafe { library.get(b"fake_completion_ns\0") }?;
        let _loaded: *mut c_void = library.into_raw();
        Ok(Self { burst, completion_ns })
    }

    /// How long the completion callbacks took so far, in order.
    fn take_completions(&self) -> Vec<u32> {
        let mut times = vec![0; 1 << 20];
        // SAFETY: so many numbers have room.
        let count = unsafe { (self.completion_ns)(times.as_mut_ptr(), times.len()) };
        times.truncate(count);
        times.sort_unstable();
        times
    }
}

/// The role.
pub(super) fn play() -> anyhow::Result<ExitCode> {
    let work: Work = serde_json::from_str(&std::env::var(WORK).context("no work is named")?)?;
    let outcome = record(&work)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(ExitCode::SUCCESS)
}

fn record(work: &Work) -> anyhow::Result<Outcome> {
    let stand_in = StandIn::load()?;
    let sink = Arc::new(Counting::default());
    let mut config = SessionConfig { preset: Preset::Gpu, ..SessionConfig::default() };
    if let Some(buffers) = work.buffers {
        config.max_buffer_bytes = buffers * BUFFER_BYTES;
        sink.holds_up.store(true, Ordering::Relaxed);
    }
    let begin_bytes = rss_bytes()?;
    let clock = Arc::new(SystemClock::new());
    let mut session = NpuBackend::new().open(&config, Arc::clone(&sink) as _, clock)?;
    session.start()?;

    let begin = Instant::now();
    let is_done = AtomicBool::new(false);
    let mut early_bytes = 0;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        scope.spawn(|| {
            produce(&stand_in, work, begin);
            is_done.store(true, Ordering::Release);
        });
        let mut next = begin + FLUSH_EVERY;
        while !is_done.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
            if early_bytes == 0 && sink.kernels.load(Ordering::Relaxed) >= work.records / 4 {
                early_bytes = rss_bytes()?;
            }
            if Instant::now() >= next {
                session.flush()?;
                next += FLUSH_EVERY;
            }
        }
        Ok(())
    })?;
    let produced_s = begin.elapsed().as_secs_f64();
    sink.holds_up.store(false, Ordering::Relaxed);
    session.flush()?;
    let deadline = Instant::now() + DEADLINE;
    let kept = || sink.kernels.load(Ordering::Relaxed) + sink.lost.load(Ordering::Relaxed);
    // What found no buffer is told at the stop, so that all is not waited for.
    let mut seen = u64::MAX;
    while kept() < work.records && kept() != seen && Instant::now() < deadline {
        seen = kept();
        std::thread::sleep(Duration::from_millis(100));
    }
    let decoder = threads_of(std::process::id())?;
    let decoder = decoder.iter().find(|thread| thread.name == "omniprof-npu");
    let decoder_cpu_s = decoder.context("the decoder does not run")?.cpu.as_secs_f64();
    let last_flush = Instant::now();
    let summary = session.stop(Duration::from_millis(config.drain_ms))?;
    let stop_ms = last_flush.elapsed().as_secs_f64() * 1_000.0;

    let times = stand_in.take_completions();
    anyhow::ensure!(!times.is_empty(), "no buffer came back");
    let at = |share: usize| f64::from(times[(times.len() - 1) * share / 100]) / 1_000.0;
    let rows = sink.kernels.load(Ordering::Relaxed);
    let told = sink.lost.load(Ordering::Relaxed);
    // What was neither kept nor told would be the worst of all: it counts as lost.
    let lost = work.records.saturating_sub(rows);
    anyhow::ensure!(told == lost, "{lost} records are missing, and {told} were told to be");
    Ok(Outcome {
        rows,
        lost,
        produced_s,
        decoder_cpu_s,
        callback_median_us: at(50),
        callback_p99_us: at(99),
        buffer_bytes: summary.own_memory_bytes,
        begin_bytes,
        early_bytes,
        peak_bytes: peak_rss_bytes()?,
        stop_ms,
    })
}

/// Records at an even pace, as far as the machine allows.
fn produce(stand_in: &StandIn, work: &Work, begin: Instant) {
    let (name, kind) = (c"MatMulV2_ND_bf16".as_ptr(), c"KERNEL_AICORE".as_ptr());
    let mut done = 0;
    while done < work.records {
        let due = (begin.elapsed().as_secs_f64() * work.a_second as f64) as u64;
        if done >= due {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        let portion = PORTION.min(work.records - done);
        (stand_in.burst)(name, kind, portion);
        done += portion;
    }
}
