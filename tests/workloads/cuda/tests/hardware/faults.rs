//! What befalls a device and its program while they are recorded. One process a case: some of them
//! lose the device for the process.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use backend_cuda::CudaBackend;
use cuda_workload::Commands;
use profiler_core::backend::{ProfileSession, ProfilerBackend as _, SessionConfig, SessionSummary};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::{Answer, MemorySink};
use profiler_core::record::{Kernel, RecordKind, Row as _};
use profiler_core::sink::RecordSink;

/// How long a session may drain at its stop.
const DRAIN: Duration = Duration::from_millis(500);
/// What a stop may take beyond that, whatever became of the device.
const BOUND: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;

/// A case: its name, and what it asserts.
pub(crate) type Case = (&'static str, fn() -> anyhow::Result<()>);

pub(crate) const CASES: &[Case] = &[
    ("a_session_that_starts_before_the_device_is_used", before_the_device),
    ("a_kernel_runs_across_the_stop", long_kernel),
    ("99_percent_of_the_memory_are_taken", memory_is_short),
    ("all_memory_is_taken", memory_is_gone),
    ("the_device_is_lost", lost),
    ("the_process_exits", exits),
];

/// Runs a case in a process of its own.
pub(crate) fn run(name: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let status = Command::new(program).args(["--case", name]).status()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

struct Recorded {
    session: Box<dyn ProfileSession>,
    sink: Arc<MemorySink>,
}

impl Recorded {
    fn open(config: &SessionConfig) -> anyhow::Result<Self> {
        let sink = Arc::new(MemorySink::new(Answer::Accept));
        let taken = Arc::clone(&sink) as Arc<dyn RecordSink>;
        let clock = Arc::new(SystemClock::new());
        let session = CudaBackend::new().open(config, taken, clock)?;
        Ok(Self { session, sink })
    }

    fn start() -> anyhow::Result<Self> {
        let mut this = Self::open(&SessionConfig::default())?;
        this.session.start()?;
        Ok(this)
    }

    /// Stops within the bound.
    fn stop(&mut self) -> anyhow::Result<SessionSummary> {
        let begin = Instant::now();
        let summary = self.session.stop(DRAIN);
        let spent = begin.elapsed();
        ensure!(spent < DRAIN + BOUND, "the stop took {spent:?}");
        Ok(summary?)
    }

    fn kernels(&self) -> u64 {
        self.sink.rows(Kernel::KIND)
    }

    /// Flushes until there are rows of a kind.
    fn wait_for(&mut self, kind: RecordKind) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.sink.rows(kind) == 0 {
            ensure!(Instant::now() < deadline, "no row of {kind} comes");
            self.session.flush()?;
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn before_the_device() -> anyhow::Result<()> {
    let mut recorded = Recorded::start()?;
    let mut commands = Commands::new();
    commands.ask("memory")?;
    // The agent's flusher: it attaches as it finds the driver.
    recorded.session.flush()?;
    commands.ask("run launch 1000 1")?;
    recorded.stop()?;
    ensure!(recorded.kernels() == 1000, "{} kernels of 1000", recorded.kernels());
    Ok(())
}

/// The stop is bound, the kernel that has not ended is told, and the next capture has only its own.
fn long_kernel() -> anyhow::Result<()> {
    let mut commands = Commands::new();
    commands.ask("run launch 10 1")?;
    let mut recorded = Recorded::start()?;
    commands.ask("run launch 100 1")?;
    commands.ask("spin")?;
    let notes = recorded.stop()?.notes;
    ensure!(recorded.kernels() == 101, "{} kernels of 101", recorded.kernels());
    ensure!(
        notes.iter().any(|note| note.contains("1 rows of the device had not ended")),
        "{notes:?}"
    );
    commands.ask("join")?;
    let mut next = Recorded::start()?;
    commands.ask("run launch 1000 1")?;
    next.stop()?;
    ensure!(next.kernels() == 1000, "{} kernels of 1000", next.kernels());
    Ok(())
}

/// The program gets what was free before, less what the documentation says that CUPTI takes.
fn memory_is_short() -> anyhow::Result<()> {
    const LEFT: u64 = 1500 * MIB;
    let mut commands = Commands::new();
    commands.ask("run mixed 100 1")?;
    commands.ask(&format!("take-all-but {LEFT}"))?;
    let before = free_bytes(&mut commands)?;
    ensure!(before <= LEFT + 2 * MIB, "{before} bytes are free");
    let mut recorded = Recorded::start()?;
    commands.ask("run launch 10000 4")?;
    let taken = before.saturating_sub(free_bytes(&mut commands)?);
    ensure!(taken <= 32_000_000, "the capture took {taken} bytes");
    commands.ask("take-all-but 0")?;
    commands.ask("run launch 10000 4")?;
    recorded.stop()?;
    ensure!(recorded.kernels() == 20_000, "{} kernels of 20,000", recorded.kernels());
    Ok(())
}

/// A first start is refused where the program could run out of memory by it; told to start all the
/// same, it harms nothing and loses nothing uncounted.
fn memory_is_gone() -> anyhow::Result<()> {
    let mut commands = Commands::new();
    commands.ask("run launch 10 4")?;
    commands.ask("take-all-but 0")?;
    let before = free_bytes(&mut commands)?;
    match Recorded::start() {
        Ok(_) => anyhow::bail!("it started with {before} bytes free"),
        Err(error) => ensure!(error.to_string().contains("of free memory"), "{error:#}"),
    }
    ensure!(free_bytes(&mut commands)? == before, "the refused start took memory");
    let mut config = SessionConfig::default();
    config.options.insert("cuda.min_free_bytes".to_owned(), 0.into());
    let mut recorded = Recorded::open(&config)?;
    let started = recorded.session.start();
    let launched = commands.ask("run launch 10000 4")?["kernels"].as_u64();
    ensure!(launched == Some(10_000), "the program launched {launched:?}");
    if let Err(error) = started {
        // As good: a typed refusal.
        println!("without memory CUPTI refuses: {error}");
        return Ok(());
    }
    recorded.stop()?;
    let lost: u64 = recorded.sink.losses().values().sum();
    println!("without memory {} kernels of 10,000 and {lost} lost rows", recorded.kernels());
    ensure!(recorded.kernels() == 10_000 || lost > 0, "{} kernels of 10,000", recorded.kernels());
    Ok(())
}

fn free_bytes(commands: &mut Commands) -> anyhow::Result<u64> {
    commands.ask("memory")?["device_free_bytes"].as_u64().context("no number")
}

/// By a fault of the program's own: what came before is kept, the stop is bound, and a next start
/// is an error or an empty capture.
fn lost() -> anyhow::Result<()> {
    let mut commands = Commands::new();
    commands.ask("run launch 10 1")?;
    let mut recorded = Recorded::start()?;
    commands.ask("run launch 1000 1")?;
    recorded.wait_for(Kernel::KIND)?;
    commands.ask("lose")?;
    ensure!(commands.ask("run launch 1000 1").is_err(), "the device works");
    match recorded.stop() {
        Ok(_) => {}
        Err(error) => println!("the stop without a device: {error:#}"),
    }
    ensure!(recorded.kernels() >= 1000, "{} kernels of 1000", recorded.kernels());
    if let Ok(mut next) = Recorded::start() {
        next.stop()?;
        ensure!(next.kernels() == 0, "{} kernels without a device", next.kernels());
    }
    Ok(())
}

/// While a thread launches, the session is not stopped and nothing is waited for.
#[expect(clippy::exit, reason = "what the case is about")]
fn exits() -> anyhow::Result<()> {
    let mut commands = Commands::new();
    commands.ask("run launch 10 1")?;
    let mut recorded = Recorded::start()?;
    commands.ask("begin")?;
    recorded.wait_for(Kernel::KIND)?;
    std::process::exit(0);
}
