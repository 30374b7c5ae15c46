//! What a launch costs: recorded, unread, recorded by others, not recorded; in turn.
//!
//! Each side is a process of its own that goes on recording over all pairs.

use anyhow::Context as _;

use super::capture::{Recorder, Settings};
use super::process::Process;
use super::{entry, on_device};
use crate::figures::{Bound, Context, FigureEntry, Measured, measure_ratio};

const ONE_THREAD: &str = "run launch 100000 1";
const EIGHT_THREADS: &str = "run launch 200000 8";
const GRAPH: &str = "run graph 300000 1";

/// The figures.
pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "loop_1_floor",
            "x",
            Some(Bound::AtMost(1.10)),
            "recorded / CUPTI's floor (buffers handed back unread), 1 thread",
            |context| against_floor(context, ONE_THREAD),
        ),
        entry("loop_8_floor", "x", Some(Bound::AtMost(1.10)), "the same, 8 threads", |context| {
            against_floor(context, EIGHT_THREADS)
        }),
        entry(
            "graph_floor",
            "x",
            Some(Bound::AtMost(1.10)),
            "the same, a graph of 1000 nodes replayed, by node",
            |context| against_floor(context, GRAPH),
        ),
        entry("loop_1", "x", None, "recorded / unprofiled, 1 thread", |context| {
            against_unprofiled(context, ONE_THREAD)
        }),
        entry("loop_8", "x", None, "recorded / unprofiled, 8 threads", |context| {
            against_unprofiled(context, EIGHT_THREADS)
        }),
        entry(
            "loop_1_torch",
            "x",
            Some(Bound::AtMost(1.0)),
            "recorded / recorded by torch.profiler (CUDA only), 1 thread",
            |context| against_torch(context, ONE_THREAD),
        ),
        entry("loop_8_torch", "x", Some(Bound::AtMost(1.0)), "the same, 8 threads", |context| {
            against_torch(context, EIGHT_THREADS)
        }),
    ]
}

/// A worker that records from now on.
fn recording(context: &Context, work: &str) -> anyhow::Result<Recorder> {
    let mut recorder = Recorder::start(context, Settings::default())?;
    recorder.worker.ask(work)?;
    recorder.record()?;
    // Threads get their buffers.
    recorder.worker.ask(work)?;
    Ok(recorder)
}

fn against_floor(context: &Context, work: &str) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut ours = recording(context, work)?;
        let mut floor = Process::start(context, None)?;
        floor.ask(work)?;
        floor.ask("unread on")?;
        floor.ask(work)?;
        let ratio = measure_ratio(|| floor.kernel_ns(work), || ours.worker.kernel_ns(work))?;
        let buffers = floor.number("unread off", "buffers")?;
        anyhow::ensure!(buffers > 0.0, "CUPTI gave the floor no buffer");
        ours.stop()?;
        Ok(Measured::Ratio(ratio))
    })
}

fn against_unprofiled(context: &Context, work: &str) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut ours = recording(context, work)?;
        let mut plain = Process::start(context, None)?;
        plain.ask(work)?;
        let ratio = measure_ratio(|| plain.kernel_ns(work), || ours.worker.kernel_ns(work))?;
        ours.stop()?;
        Ok(Measured::Ratio(ratio))
    })
}

fn against_torch(context: &Context, work: &str) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut torch = match with_torch(context) {
            Ok(torch) => torch,
            Err(error) => return Ok(Measured::Skipped(format!("{error:#}"))),
        };
        let mut ours = recording(context, work)?;
        torch.ask(work)?;
        torch.ask("torch start")?;
        torch.ask("torch stop")?;
        let ratio = measure_ratio(
            || {
                torch.ask("torch start")?;
                let kernel_ns = torch.kernel_ns(work)?;
                torch.ask("torch stop").context("torch.profiler does not stop")?;
                Ok(kernel_ns)
            },
            || ours.worker.kernel_ns(work),
        )?;
        ours.stop()?;
        Ok(Measured::Ratio(ratio))
    })
}

/// A process with torch in it.
pub(super) fn with_torch(context: &Context) -> anyhow::Result<Process> {
    let mut process = Process::with_other_profiler(context)?;
    process.ask("torch use 1").context("no torch with a device here")?;
    Ok(process)
}
