//! What a launch costs: recorded, unread, recorded by others, not recorded; in turn.
//!
//! Each side is a process of its own that goes on recording over all pairs. The cost of a launch
//! drifts by a tenth within seconds there, so that each pair is made of many short runs in turn,
//! on the same processors.

use anyhow::Context as _;

use super::capture::{Recorder, Settings};
use super::process::Process;
use super::{entry, on_device};
use crate::figures::ratio::{PAIRS, median};
use crate::figures::{Bound, Context, FigureEntry, Measured, Ratio};

const ONE_THREAD: &str = "run launch 10000 1";
const EIGHT_THREADS: &str = "run launch 24000 8";
const GRAPH: &str = "run graph 30000 1";
/// Runs of each side in a pair.
const RUNS: usize = 10;

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
        entry(
            "loop_1_null",
            "x",
            None,
            "two processes that nobody records, 1 thread: what the rows above cannot tell apart",
            |context| against_itself(context, ONE_THREAD),
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
    settle(&mut recorder.worker, work)?;
    recorder.record()?;
    settle(&mut recorder.worker, work)?;
    Ok(recorder)
}

/// Threads and buffers come to be, on the processors that the other side will use as well.
pub(super) fn settle(process: &mut Process, work: &str) -> anyhow::Result<()> {
    process.ask("pin")?;
    for _ in 0..RUNS {
        process.ask(work)?;
    }
    Ok(())
}

/// A pair: what a kernel cost on either side, ns, the median of runs in turn.
pub(super) fn pair(
    without: &mut Process,
    with: &mut Process,
    work: &str,
) -> anyhow::Result<(f64, f64)> {
    let (mut costs_without, mut costs_with) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        if run % 2 == 0 {
            costs_without.push(without.kernel_ns(work)?);
            costs_with.push(with.kernel_ns(work)?);
        } else {
            costs_with.push(with.kernel_ns(work)?);
            costs_without.push(without.kernel_ns(work)?);
        }
    }
    for costs in [&mut costs_without, &mut costs_with] {
        costs.sort_by(f64::total_cmp);
    }
    Ok((median(&costs_without), median(&costs_with)))
}

/// The ratio of what a kernel costs in two processes.
pub(super) fn ratio(
    without: &mut Process,
    with: &mut Process,
    work: &str,
) -> anyhow::Result<Measured> {
    let mut pairs = Vec::with_capacity(PAIRS);
    while pairs.len() < PAIRS {
        pairs.push(pair(without, with, work)?);
    }
    Ok(Measured::Ratio(Ratio::of_pairs(&pairs)?))
}

fn against_floor(context: &Context, work: &str) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut ours = recording(context, work)?;
        let mut floor = Process::start(context, None)?;
        settle(&mut floor, work)?;
        floor.ask("unread on")?;
        settle(&mut floor, work)?;
        let measured = ratio(&mut floor, &mut ours.worker, work)?;
        let buffers = floor.number("unread off", "buffers")?;
        anyhow::ensure!(buffers > 0.0, "CUPTI gave the floor no buffer");
        ours.stop()?;
        Ok(measured)
    })
}

fn against_unprofiled(context: &Context, work: &str) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut ours = recording(context, work)?;
        let mut plain = Process::start(context, None)?;
        settle(&mut plain, work)?;
        let measured = ratio(&mut plain, &mut ours.worker, work)?;
        ours.stop()?;
        Ok(measured)
    })
}

/// Two processes that are not profiled: how far apart equals are.
fn against_itself(context: &Context, work: &str) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut first = Process::start(context, None)?;
        let mut second = Process::start(context, None)?;
        settle(&mut first, work)?;
        settle(&mut second, work)?;
        ratio(&mut first, &mut second, work)
    })
}

fn against_torch(context: &Context, work: &str) -> anyhow::Result<Measured> {
    on_torch(context, |mut torch| {
        let mut ours = recording(context, work)?;
        settle(&mut torch, work)?;
        torch.ask("torch start")?;
        settle(&mut torch, work)?;
        torch.ask("torch stop")?;
        let mut pairs = Vec::with_capacity(PAIRS);
        while pairs.len() < PAIRS {
            torch.ask("torch start")?;
            pairs.push(pair(&mut torch, &mut ours.worker, work)?);
            // It keeps all in memory, so it is stopped after each pair.
            torch.ask("torch stop").context("torch.profiler does not stop")?;
        }
        ours.stop()?;
        Ok(Measured::Ratio(Ratio::of_pairs(&pairs)?))
    })
}

/// Measures beside a process with torch in it, if there is a torch with a device.
pub(super) fn on_torch(
    context: &Context,
    run: impl FnOnce(Process) -> anyhow::Result<Measured>,
) -> anyhow::Result<Measured> {
    on_device(context, || match with_torch(context) {
        Ok(torch) => run(torch),
        Err(error) => Ok(Measured::Skipped(format!("{error:#}"))),
    })
}

/// A process with torch in it.
pub(super) fn with_torch(context: &Context) -> anyhow::Result<Process> {
    let mut process = Process::with_other_profiler(context)?;
    process.ask("torch use 1").context("no torch with a device here")?;
    Ok(process)
}
