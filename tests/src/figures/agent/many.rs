//! Windows of sixteen workers on one machine, idle and beside the demo's pipeline at work.
//!
//! The workers are processes with the real agent; the load is `omniprof demo --serve`, which must
//! have done requests before, within and after the windows. What is judged is read from their spools: when
//! each was armed, where its window begins, and when each saw one and the same event (the end of a
//! pipe that all of them read), which it marks. How far those markers lie apart is how well the
//! traces of several processes can be compared; the machine's own waking of sixteen processes is
//! part of it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use profiler_agent::Agent;
use profiler_core::record::{Fact, Marker, Row as _, Window, WindowEdge};
use profiler_core::spool::SpoolReader;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::manifest::Manifest;
use profiler_worker::start_request::StartRequest;

use super::super::role::VARIABLE;
use super::super::{Bound, Context, FigureEntry, Measured};
use super::SOCKET_DIR;
use super::demo_load::DemoLoad;

const WORKERS: u32 = 16;
const RANK: &str = "OMNIPROF_FIGURES_RANK";
const DEADLINE: Duration = Duration::from_secs(60);
/// What each worker marks.
const SIGNAL: &str = "common signal";

pub(super) fn figures() -> Vec<FigureEntry> {
    let clock = "the greatest of all workers' bounds";
    let late = "of 16; armed instants and begins as the spools have them";
    let spread = "markers on one common signal";
    vec![
        FigureEntry {
            name: "windows-clock-error-idle",
            unit: "us",
            required: Some(Bound::AtMost(50.0)),
            anchor: clock,
            run: |context| Ok(Seen::of(context, false)?.clock_error()),
        },
        FigureEntry {
            name: "windows-clock-error-loaded",
            unit: "us",
            required: Some(Bound::AtMost(50.0)),
            anchor: clock,
            run: |context| Ok(Seen::of(context, true)?.clock_error()),
        },
        FigureEntry {
            name: "windows-armed-late-idle",
            unit: "workers",
            required: Some(Bound::AtMost(0.0)),
            anchor: late,
            run: |context| Ok(Seen::of(context, false)?.armed_late()),
        },
        FigureEntry {
            name: "windows-armed-late-loaded",
            unit: "workers",
            required: Some(Bound::AtMost(0.0)),
            anchor: late,
            run: |context| Ok(Seen::of(context, true)?.armed_late()),
        },
        FigureEntry {
            name: "windows-marker-spread-idle",
            unit: "us",
            required: None,
            anchor: spread,
            run: |context| Ok(Seen::of(context, false)?.spread()),
        },
        FigureEntry {
            name: "windows-marker-spread-loaded",
            unit: "us",
            required: None,
            anchor: spread,
            run: |context| Ok(Seen::of(context, true)?.spread()),
        },
    ]
}

/// What the spools of all workers say, in ns of CLOCK_MONOTONIC.
struct Seen {
    clock_error: u64,
    /// Requests that the demo did within the windows, where it ran.
    requests: Option<u64>,
    /// Of each worker: armed, begin of the window, marker.
    workers: Vec<(u64, u64, u64)>,
}

impl Seen {
    fn of(context: &Context, loaded: bool) -> anyhow::Result<Self> {
        let controller = Controller::builder()
            .root(context.fresh_dir("windows")?)
            .without_exporter()
            .options(|options| options.retention = None)
            .build()?;
        let dir = controller.socket_dir().context("the controller does not listen")?;
        let (signal, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let _workers = (0..WORKERS)
            .map(|rank| Worker::start(context, &dir, rank, &signal))
            .collect::<Result<Vec<_>, _>>()?;
        let count = WORKERS as usize;
        anyhow::ensure!(controller.wait_for_workers(count, DEADLINE), "the workers do not join");
        let mut load = loaded.then(|| DemoLoad::start(context)).transpose()?;
        if let Some(load) = &mut load {
            load.wait_for_more(1)?;
        }
        controller.start(&StartRequest::default())?;
        let done_before = load.as_ref().map(DemoLoad::requests_done);
        std::thread::sleep(Duration::from_millis(500));
        drop(end);
        // Long enough for the last of them to be given a processor, and for the demo to work.
        std::thread::sleep(Duration::from_secs(2));
        if let Some(load) = &mut load {
            load.wait_for_more(1)?;
        }
        let done_within = load.as_ref().map(DemoLoad::requests_done);
        let wait_ms = u64::try_from(DEADLINE.as_millis())?;
        let manifest = controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
        if let Some(load) = &mut load {
            load.wait_for_more(1)?;
        }
        let mut seen = Self::read(&manifest)?;
        seen.requests = done_before.zip(done_within).map(|(before, within)| within - before);
        Ok(seen)
    }

    fn read(manifest: &Manifest) -> anyhow::Result<Self> {
        let mut seen =
            Self { clock_error: manifest.clock_error_ns, requests: None, workers: Vec::new() };
        for line in &manifest.workers {
            let spool = line.files.iter().find(|file| file.format == "spool");
            let spool = spool.with_context(|| format!("{} has no spool: {line:?}", line.name()))?;
            let path = Path::new(&manifest.directory).join(&spool.path);
            let worker = read_spool(&path).with_context(|| path.display().to_string())?;
            seen.workers.push(worker);
        }
        anyhow::ensure!(seen.workers.len() == WORKERS as usize, "{} lines", seen.workers.len());
        Ok(seen)
    }

    fn clock_error(&self) -> Measured {
        self.noted(self.clock_error as f64 / 1e3, format!("{WORKERS} workers"))
    }

    fn armed_late(&self) -> Measured {
        let late = self.workers.iter().filter(|(armed, begin, _)| armed > begin).count();
        let least = self.workers.iter().map(|(armed, begin, _)| begin.saturating_sub(*armed)).min();
        let least_ms = least.unwrap_or(0) as f64 / 1e6;
        self.noted(late as f64, format!("the last one {least_ms:.1} ms before"))
    }

    fn noted(&self, value: f64, mut note: String) -> Measured {
        if let Some(requests) = self.requests {
            note.push_str(&format!("; the demo did {requests} requests meanwhile"));
        }
        Measured::noted(value, note)
    }

    fn spread(&self) -> Measured {
        let markers = || self.workers.iter().map(|(_, _, marker)| *marker);
        let spread = markers().max().unwrap_or(0) - markers().min().unwrap_or(0);
        let begins = || self.workers.iter().map(|(_, begin, _)| *begin);
        let skew = begins().max().unwrap_or(0) - begins().min().unwrap_or(0);
        self.noted(spread as f64 / 1e3, format!("begins {skew} ns apart"))
    }
}

fn read_spool(path: &Path) -> anyhow::Result<(u64, u64, u64)> {
    let (mut armed, mut begin, mut marker) = (None, None, None);
    let mut reader = SpoolReader::open(path)?;
    while let Some(block) = reader.next_block()? {
        match block.kind() {
            kind if kind == Fact::KIND => {
                for row in block.rows::<Fact>().context("facts")?.iter() {
                    if row.key.text(block.heap()).is_some_and(|key| key == "agent.armed_ns") {
                        armed = row.value.text(block.heap()).and_then(|text| text.parse().ok());
                    }
                }
            }
            kind if kind == Window::KIND => {
                for row in block.rows::<Window>().context("windows")?.iter() {
                    if row.edge == WindowEdge::Begin.number() {
                        begin = Some(row.monotonic);
                    }
                }
            }
            kind if kind == Marker::KIND => {
                for row in block.rows::<Marker>().context("markers")?.iter() {
                    marker = Some(row.time);
                }
            }
            _ => {}
        }
    }
    Ok((
        armed.context("nothing says when it was armed")?,
        begin.context("the window has no begin")?,
        marker.context("the signal is not marked")?,
    ))
}

struct Worker(Child);

impl Worker {
    fn start(context: &Context, dir: &Path, rank: u32, signal: &OwnedFd) -> anyhow::Result<Self> {
        let mut command = Command::new(context.this_program()?);
        command.env(VARIABLE, "agent-worker").env(SOCKET_DIR, dir).env(RANK, rank.to_string());
        // All read the same pipe, so that its end wakes all.
        let child = command
            .stdin(Stdio::from(File::from(signal.try_clone()?)))
            .spawn()
            .context("a worker does not start")?;
        Ok(Self(child))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _killed: std::io::Result<()> = self.0.kill();
        let _waited: std::io::Result<_> = self.0.wait();
    }
}

/// A worker: marks the end of its input, then waits to be ended.
pub(super) fn be_worker() -> anyhow::Result<ExitCode> {
    let dir = std::env::var_os(SOCKET_DIR).context("no directory for the socket")?;
    let rank = std::env::var(RANK)?.parse()?;
    let agent = Agent::builder().stage(0).role("figure").rank(rank).socket_dir(dir).connect()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    agent.marker(SIGNAL).emit();
    std::thread::sleep(DEADLINE);
    Ok(ExitCode::SUCCESS)
}
