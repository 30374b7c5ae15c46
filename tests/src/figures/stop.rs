//! Stopping four workers of a million rows each: the answer, and the whole manifest.
//!
//! The workers are processes with the real agent; each writes its rows in ten seconds, spread
//! evenly, and the stop comes when the last is written. The children that export follow the
//! spools, as they do by default.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_agent::Agent;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::manifest::{LineState, Manifest};
use profiler_worker::start_request::StartRequest;

use super::role::{Role, VARIABLE};
use super::{Bound, Context, FigureEntry, Measured};

const WORKERS: usize = 4;
const ROWS: u64 = 1_000_000;
/// So many are written, for a busy machine may lose some, which is counted.
const WRITTEN: u64 = 1_050_000;
/// Over so long each worker spreads its rows.
const RECORDED: Duration = Duration::from_secs(10);
const RUNS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(60);

const SOCKET_DIR: &str = "OMNIPROF_FIGURES_SOCKET_DIR";
const RANK: &str = "OMNIPROF_FIGURES_RANK";
const ROLE: &str = "stop-worker";

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    vec![
        FigureEntry {
            name: "answer",
            unit: "ms",
            required: Some(Bound::AtMost(100.0)),
            anchor: "4 workers of 1 M rows, wait_ms=0; peers: 3.5 s to minutes",
            run: |context| several(context, answer),
        },
        FigureEntry {
            name: "complete-followed",
            unit: "ms",
            required: Some(Bound::AtMost(1000.0)),
            anchor: "4 workers of 1 M rows, all default files whole",
            run: |context| several(context, |context| complete(context, true)),
        },
        FigureEntry {
            name: "complete-unfollowed",
            unit: "ms",
            required: None,
            anchor: "the same without following: all is exported after the stop",
            run: |context| several(context, |context| complete(context, false)),
        },
    ]
}

/// Processes of these figures' own.
#[must_use]
pub fn roles() -> Vec<Role> {
    vec![(ROLE, be_worker)]
}

fn several(
    context: &Context,
    run: impl Fn(&Context) -> anyhow::Result<f64>,
) -> anyhow::Result<Measured> {
    let runs = (0..RUNS).map(|_| run(context)).collect::<Result<Vec<_>, _>>()?;
    Ok(Measured::median_of(&runs))
}

fn answer(context: &Context) -> anyhow::Result<f64> {
    let capture = Capture::record(context, true)?;
    let begin = Instant::now();
    capture.controller.stop(&StopRequest { wait_ms: 0, ..StopRequest::default() })?;
    let took = begin.elapsed();
    // The answer counts only where the rest keeps what it promised.
    check(&capture.stop()?)?;
    Ok(took.as_secs_f64() * 1e3)
}

fn complete(context: &Context, follow: bool) -> anyhow::Result<f64> {
    let capture = Capture::record(context, follow)?;
    let begin = Instant::now();
    let manifest = capture.stop()?;
    let took = begin.elapsed();
    check(&manifest)?;
    Ok(took.as_secs_f64() * 1e3)
}

fn check(manifest: &Manifest) -> anyhow::Result<()> {
    for line in &manifest.workers {
        let spans = line.records.get("span").copied().unwrap_or(0);
        anyhow::ensure!(line.state == LineState::Complete, "{}: {line:?}", line.name());
        let lost: u64 = line.drops.get("chunks_exhausted").copied().unwrap_or(0);
        anyhow::ensure!(spans >= ROWS, "{}: {spans} spans of {ROWS}", line.name());
        anyhow::ensure!(
            spans + lost == WRITTEN,
            "{}: {spans} spans and {lost} lost of {WRITTEN}",
            line.name()
        );
    }
    anyhow::ensure!(manifest.workers.len() == WORKERS, "{} lines", manifest.workers.len());
    Ok(())
}

/// Four workers that have just written their last row.
struct Capture {
    controller: Controller,
    _workers: Vec<Worker>,
}

impl Capture {
    fn record(context: &Context, follow: bool) -> anyhow::Result<Self> {
        let controller = Controller::builder()
            .root(context.fresh_dir("stop")?)
            .exporter(context.omniprof()?)
            .options(|options| {
                options.follow = follow;
                options.retention = None;
            })
            .build()?;
        let dir = controller.socket_dir().context("the controller does not listen")?;
        let mut workers = (0..WORKERS)
            .map(|rank| Worker::start(context, &dir, rank))
            .collect::<Result<Vec<_>, _>>()?;
        anyhow::ensure!(controller.wait_for_workers(WORKERS, DEADLINE), "the workers do not join");
        controller.start(&StartRequest::default())?;
        for worker in &mut workers {
            writeln!(worker.input, "go")?;
        }
        for worker in &mut workers {
            worker.heard("written")?;
        }
        Ok(Self { controller, _workers: workers })
    }

    fn stop(&self) -> anyhow::Result<Manifest> {
        let wait_ms = u64::try_from(DEADLINE.as_millis())?;
        Ok(self.controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?)
    }
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(context: &Context, dir: &Path, rank: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(context.this_program()?)
            .env(VARIABLE, ROLE)
            .env(SOCKET_DIR, dir)
            .env(RANK, rank.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a worker does not start")?;
        let input = child.stdin.take().context("the worker has no input")?;
        let output = BufReader::new(child.stdout.take().context("the worker has no output")?);
        Ok(Self { child, input, output })
    }

    fn heard(&mut self, word: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        anyhow::ensure!(line.trim() == word, "the worker said {line:?}");
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _killed: std::io::Result<()> = self.child.kill();
        let _waited: std::io::Result<_> = self.child.wait();
    }
}

fn be_worker() -> anyhow::Result<ExitCode> {
    let dir = std::env::var_os(SOCKET_DIR).context("no directory for the socket")?;
    let rank = std::env::var(RANK)?.parse()?;
    let _agent =
        Agent::builder().stage(0).role("writer").replica(0).rank(rank).socket_dir(dir).connect()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    write_rows();
    writeln!(std::io::stdout(), "written")?;
    // The end of its input, or a signal, ends it.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes its rows in bursts, so that they are spread over the time.
fn write_rows() {
    const BURST: u64 = 1000;
    let names: Vec<String> = (0..400).map(|number| format!("operator_{number}")).collect();
    let begin = Instant::now();
    let mut written = 0;
    while written < WRITTEN {
        for row in written..written + BURST {
            drop(profiler_agent::span(&names[(row % 400) as usize]).enter());
        }
        written += BURST;
        let due = RECORDED.mul_f64(written as f64 / WRITTEN as f64);
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
    }
}
