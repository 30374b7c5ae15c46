//! Programs that know nothing of us: joined and idle, and recorded below `omniprof run`.

use std::sync::OnceLock;

use anyhow::Context as _;
use profiler_worker::start_request::Activity;

use super::capture::{Recorder, Settings, line};
use super::launched::Launched;
use super::loops::{on_torch, pair, ratio, settle, with_torch};
use super::process::Process;
use super::{entry, on_device};
use crate::figures::ratio::{PAIRS, median};
use crate::figures::{Bound, Context, FigureEntry, Measured, Ratio};

const LAUNCHES: &str = "run launch 10000 1";
const OPERATORS: &str = "torch use 10000";
const MANY_OPERATORS: &str = "torch use 1000000";
const SOME_STEPS: &str = "torch steps 10";

/// The figures.
pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "joined_idle",
            "x",
            Some(Bound::AtMost(1.02)),
            "a launch in a process that the file has joined and nobody records / without the file",
            idle,
        ),
        entry(
            "torch_loop",
            "x",
            Some(Bound::AtMost(1.0)),
            "small operators of unmodified PyTorch under `omniprof run` / under torch.profiler, CUDA only",
            torch_loop,
        ),
        entry(
            "torch_stop_complete",
            "ms",
            Some(Bound::AtMost(500.0)),
            "`run`: stop until the .pftrace.gz of 1 M small operators of unmodified PyTorch is whole",
            torch_stop,
        ),
        entry(
            "transformer_step",
            "x",
            Some(Bound::AtMost(0.6)),
            "what operators and kernels together add to a step / torch.profiler's, CPU and CUDA",
            |context| {
                transformer_step(context, |steps| {
                    Ok(Measured::Ratio(Ratio::of_pairs(&steps.added)?))
                })
            },
        ),
        entry(
            "transformer_step_added",
            "us",
            None,
            "operators and kernels: what they add to a step of the transformer",
            |context| transformer_step(context, |steps| added(steps, |pair| pair.1)),
        ),
        entry(
            "transformer_step_torch",
            "us",
            None,
            "torch.profiler, CPU and CUDA: what it adds to the same step",
            |context| transformer_step(context, |steps| added(steps, |pair| pair.0)),
        ),
    ]
}

fn idle(context: &Context) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut joined =
            Recorder::of(context, Settings::default(), |dir| Process::injected(context, dir))?;
        let mut alone = Process::start(context, None)?;
        settle(&mut alone, LAUNCHES)?;
        settle(&mut joined.worker, LAUNCHES)?;
        ratio(&mut alone, &mut joined.worker, LAUNCHES)
    })
}

fn torch_loop(context: &Context) -> anyhow::Result<Measured> {
    on_torch(context, |mut theirs| {
        let mut ours = Launched::torch(context, vec![Activity::Gpu])?;
        ours.record()?;
        settle(&mut ours.command, OPERATORS)?;
        settle(&mut theirs, OPERATORS)?;
        let mut pairs = Vec::with_capacity(PAIRS);
        while pairs.len() < PAIRS {
            theirs.ask("torch start")?;
            // Its first operators of a session are slower.
            theirs.ask(OPERATORS)?;
            pairs.push(pair(&mut theirs, &mut ours.command, OPERATORS)?);
            theirs.ask("torch stop").context("torch.profiler does not stop")?;
        }
        ours.stop()?;
        Ok(Measured::Ratio(Ratio::of_pairs(&pairs)?))
    })
}

fn torch_stop(context: &Context) -> anyhow::Result<Measured> {
    on_torch(context, |torch| {
        drop(torch);
        let mut ours = Launched::torch(context, vec![Activity::Gpu])?;
        ours.record()?;
        let operator_ns = ours.command.kernel_ns(MANY_OPERATORS)?;
        let (call, complete, manifest) = ours.stop()?;
        let kernels = line(&manifest)?.records.get("kernel").copied().unwrap_or(0);
        anyhow::ensure!(kernels == 1_000_000, "{kernels} kernels of 1 M operators");
        let note = format!(
            "the call {:.1} ms; {kernels} kernels; {:.2} us an operator",
            call.as_secs_f64() * 1e3,
            operator_ns / 1e3
        );
        Ok(Measured::noted(complete.as_secs_f64() * 1e3, note))
    })
}

/// What a step of the transformer takes alone, and what the two profilers add, by pairs; ns.
struct Steps {
    alone: f64,
    /// torch.profiler's and ours.
    added: Vec<(f64, f64)>,
}

fn transformer_step(
    context: &Context,
    told: impl Fn(&Steps) -> anyhow::Result<Measured>,
) -> anyhow::Result<Measured> {
    static STEPS: OnceLock<Steps> = OnceLock::new();
    if let Some(steps) = STEPS.get() {
        return told(steps);
    }
    on_torch(context, |alone| {
        let steps = measure_steps(context, alone)?;
        told(STEPS.get_or_init(|| steps))
    })
}

fn measure_steps(context: &Context, mut alone: Process) -> anyhow::Result<Steps> {
    let mut theirs = with_torch(context)?;
    let mut ours = Launched::torch(context, vec![Activity::Cpu, Activity::Gpu])?;
    for process in [&mut alone, &mut theirs, &mut ours.command] {
        settle(process, SOME_STEPS)?;
    }
    ours.record()?;
    settle(&mut ours.command, SOME_STEPS)?;
    let mut steps = Steps { alone: 0.0, added: Vec::with_capacity(PAIRS) };
    while steps.added.len() < PAIRS {
        theirs.ask("torch start cpu")?;
        // The first of a session are slower.
        theirs.ask(SOME_STEPS)?;
        let (alone_ns, theirs_ns) = pair(&mut alone, &mut theirs, SOME_STEPS)?;
        theirs.ask("torch stop").context("torch.profiler does not stop")?;
        let (again_ns, ours_ns) = pair(&mut alone, &mut ours.command, SOME_STEPS)?;
        steps.alone = f64::midpoint(alone_ns, again_ns);
        steps.added.push((theirs_ns - alone_ns, ours_ns - again_ns));
    }
    let (_, _, manifest) = ours.stop()?;
    let records = &line(&manifest)?.records;
    for kind in ["operator", "kernel"] {
        anyhow::ensure!(records.contains_key(kind), "no {kind} among {records:?}");
    }
    Ok(steps)
}

/// The median of what one side added, us, with what a step takes alone.
fn added(steps: &Steps, side: impl Fn(&(f64, f64)) -> f64) -> anyhow::Result<Measured> {
    let mut us: Vec<f64> = steps.added.iter().map(|pair| side(pair) / 1e3).collect();
    us.sort_by(f64::total_cmp);
    let note = format!("a step alone {:.0} us", steps.alone / 1e3);
    Ok(Measured::noted(median(&us), note))
}
