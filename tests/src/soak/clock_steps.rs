//! CLOCK_REALTIME is set forth and back while a device is recorded in it, as CUPTI and MSPTI do: no
//! row is lost, none leaves or enters the window, and each lies on the axis where it was.
//!
//! The clock is stepped for controller and worker alone, by their replaced source of time; nobody
//! sets the machine's clock.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_agent::Agent;
use profiler_core::backend::{
    BackendId, BackendRole, ProfileSession, ProfilerBackend, SessionConfig, SessionSummary,
};
use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::conformance::SteppedClock;
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::record::{ApiCall, Kernel};
use profiler_core::registry::{BackendRegistry, RegisteredBackend};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId, StreamInfo};
use profiler_core::synthetic::Random;
use profiler_export::capture::{Capture, CaptureOptions, Consumer, Place};
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::start_request::StartRequest;

use super::{Line, Setting, is_whole, wait_for, worker};

const NAME: &str = "clock-steps";
const ROOT: &str = "OMNIPROF_SOAK_ROOT";
const SECONDS: &str = "OMNIPROF_SOAK_SECONDS";
const SEED: &str = "OMNIPROF_SOAK_SEED";
const DEADLINE: Duration = Duration::from_secs(60);
const SECOND_NS: u64 = 1_000_000_000;
/// How long a capture takes, and how far its steps lie apart. The clocks are read once a second, and
/// what lies between two steps of one such second is not known.
const ROUND: Duration = Duration::from_secs(10);
const APART: Duration = Duration::from_millis(2500);
/// A row may lie so far from where it was: what a step of less than this leaves unseen.
const OFF_US: f64 = 1000.0;
/// So near to an edge of the window a row may belong to either side.
const EDGE_NS: u64 = 1_000_000;

/// Steps the clock of a recorded process.
///
/// # Errors
///
/// The process with that clock fails.
pub fn run(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    let root = setting.folder(NAME)?;
    let output = worker::role(NAME)?
        .env(ROOT, &root)
        .env(SECONDS, setting.faults.as_secs().to_string())
        .env(SEED, setting.seed.to_string())
        .stderr(Stdio::piped())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}: {said}", output.status);
    let told: Vec<f64> = serde_json::from_slice(&output.stdout).context("what it told")?;
    let [rounds, steps, rows, wrong, misplaced, before, off_us] = told[..] else {
        anyhow::bail!("{told:?}")
    };
    Ok(vec![
        Line::told(NAME, "rounds", rounds, "").noted(format!("{steps} steps, {rows} kernels")),
        Line::bounded(NAME, "captures-not-whole", wrong, "", 0.0).noted("or with lost rows"),
        Line::bounded(NAME, "on-the-wrong-side-of-the-window", misplaced, "kernels", 0.0),
        Line::bounded(NAME, "before-their-launch", before, "kernels", 0.0),
        Line::bounded(NAME, "farthest-from-where-it-was", off_us, "us", OFF_US),
    ])
}

/// A device whose driver stamps with CLOCK_REALTIME. The application launches on it by hand.
struct Device(Arc<Launches>);

/// Where launches go while a session records.
#[derive(Default)]
struct Launches(Mutex<Option<(Arc<dyn RecordSink>, StreamId)>>);

impl Launches {
    fn set(&self, open: Option<(Arc<dyn RecordSink>, StreamId)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }

    fn give(&self, call: ApiCall, kernel: Kernel) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((sink, stream)) = &*open else { return };
        // What is not taken the sink counts, and the capture is not whole then.
        let _taken: Emit =
            sink.emit(&[Batch::new(*stream, &[call]), Batch::new(*stream, &[kernel])]);
    }
}

impl ProfilerBackend for Device {
    fn id(&self) -> BackendId {
        BackendId::parse("stepped").unwrap_or_else(|_| unreachable!("`stepped` is a valid id"))
    }

    fn probe(&self) -> ProbeReport {
        ProbeReport::available(Vec::new())
    }

    fn open(
        &self,
        _config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        _clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        Ok(Box::new(DeviceSession { launches: Arc::clone(&self.0), sink }))
    }
}

struct DeviceSession {
    launches: Arc<Launches>,
    sink: Arc<dyn RecordSink>,
}

impl ProfileSession for DeviceSession {
    fn start(&mut self) -> Result<(), BackendError> {
        let stream = self.sink.open_stream(StreamInfo {
            producer: "stepped".to_owned(),
            thread: 0,
            clock: ClockDomain::Realtime,
        });
        self.launches.set(Some((Arc::clone(&self.sink), stream)));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn stop(&mut self, _drain: Duration) -> Result<SessionSummary, BackendError> {
        self.launches.set(None);
        Ok(SessionSummary::default())
    }
}

/// What was seen in all rounds.
#[derive(Default)]
struct Seen {
    rounds: u32,
    steps: u32,
    rows: usize,
    wrong: u32,
    misplaced: usize,
    before: usize,
    off_ns: u64,
}

/// The process whose clock is stepped.
pub(super) fn be_stepped() -> anyhow::Result<ExitCode> {
    let root = std::env::var_os(ROOT).context("no root")?;
    let seconds: u64 = std::env::var(SECONDS)?.parse()?;
    let mut dice = Random::new(std::env::var(SEED)?.parse()?);
    let clock = Arc::new(SteppedClock::new());
    let source = Arc::clone(&clock) as Arc<dyn ClockSource>;
    let controller = Controller::builder()
        .root(&root)
        .without_exporter()
        .options(|options| {
            options.retention = None;
            options.clock = Arc::clone(&source);
        })
        .build()?;
    let dir = controller.socket_dir().context("the controller does not listen")?;
    let launches = Arc::new(Launches::default());
    let mut registry = BackendRegistry::empty();
    registry.add(RegisteredBackend {
        role: BackendRole::Device,
        priority: 1,
        backend: Box::new(Device(Arc::clone(&launches))),
    })?;
    let agent = Agent::builder().stage(0).role("stepped").registry(registry).clock(source);
    let _agent = agent.socket_dir(dir).connect()?;
    anyhow::ensure!(controller.wait_for_workers(1, DEADLINE), "it does not join");

    let mut seen = Seen::default();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) || seen.rounds < 1 {
        seen.rounds += 1;
        record(&controller, &clock, &launches, &mut dice, &mut seen)?;
    }
    let told = serde_json::to_string(&[
        f64::from(seen.rounds),
        f64::from(seen.steps),
        seen.rows as f64,
        f64::from(seen.wrong),
        seen.misplaced as f64,
        seen.before as f64,
        seen.off_ns as f64 / 1e3,
    ])?;
    // The only line of this role.
    std::io::Write::write_all(&mut std::io::stdout(), told.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A capture with steps in it, compared with when its rows were made.
fn record(
    controller: &Controller,
    clock: &SteppedClock,
    launches: &Launches,
    dice: &mut Random,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    controller.start(&StartRequest::default())?;
    // When each launch and its kernel were, on a clock that is never set.
    let mut made: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let (began, mut stepped) = (Instant::now(), Instant::now());
    while began.elapsed() < ROUND {
        let correlation = made.len() as u64 + 1;
        let launched = clock.monotonic_ns();
        let start = clock.realtime_ns();
        let call = ApiCall { start, end: start + 1_000, correlation, ..ApiCall::default() };
        if stepped.elapsed() >= APART {
            stepped = Instant::now();
            seen.steps += 1;
            let ns = i64::try_from(2 * SECOND_NS + dice.below(3_600 * SECOND_NS))?;
            clock.step_realtime(if dice.below(2) == 0 { ns } else { -ns });
        }
        let ran = clock.monotonic_ns();
        let start = clock.realtime_ns();
        let kernel = Kernel { start, end: start + 1_000, correlation, ..Kernel::default() };
        launches.give(call, kernel);
        made.insert(correlation, (launched, ran));
        std::thread::sleep(Duration::from_micros(500));
    }
    let wait_ms = u64::try_from(DEADLINE.as_millis())?;
    let manifest = controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
    let line = manifest.workers.first().context("no worker")?;
    seen.wrong += u32::from(!is_whole(line) || !line.drops.is_empty());
    let window = line.windows.first().context("no window")?;
    let (begin, end) = (window.begin.context("no begin")?, window.end.context("no end")?);
    let spool = line.files.iter().find(|file| file.format == "spool").context("no spool")?;
    let spool = Path::new(&manifest.directory).join(&spool.path);
    let mut read = Kernels::default();
    Capture::open([spool], CaptureOptions::default())?.read(&mut read)?;

    seen.rows += read.kernels.len();
    for (correlation, (launched, ran)) in &made {
        let Some(&kernel) = read.kernels.get(correlation) else {
            let inside = begin.monotonic_ns + EDGE_NS..end.monotonic_ns.saturating_sub(EDGE_NS);
            seen.misplaced += usize::from(inside.contains(launched));
            continue;
        };
        let outside =
            *launched + EDGE_NS < begin.monotonic_ns || *launched > end.monotonic_ns + EDGE_NS;
        seen.misplaced += usize::from(outside);
        seen.off_ns = seen.off_ns.max(kernel.abs_diff(*ran));
        let call = read.calls.get(correlation).copied().unwrap_or(u64::MAX);
        seen.before += usize::from(kernel < call);
    }
    anyhow::ensure!(controller.wait_until_idle(DEADLINE), "the controller stays busy");
    wait_for("an empty folder", DEADLINE, || std::fs::remove_dir_all(&manifest.directory).ok())
}

/// Where calls and kernels begin on the axis, by their number.
#[derive(Default)]
struct Kernels {
    calls: BTreeMap<u64, u64>,
    kernels: BTreeMap<u64, u64>,
}

impl Consumer for Kernels {
    fn api_calls(&mut self, _place: &Place<'_>, rows: &[ApiCall]) -> std::io::Result<()> {
        self.calls.extend(rows.iter().map(|row| (row.correlation, row.start)));
        Ok(())
    }

    fn kernels(&mut self, _place: &Place<'_>, rows: &[Kernel]) -> std::io::Result<()> {
        self.kernels.extend(rows.iter().map(|row| (row.correlation, row.start)));
        Ok(())
    }
}
