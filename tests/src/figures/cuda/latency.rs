//! What a launching thread feels: its slowest launches, and the starts and stops.

use std::time::Duration;

use super::capture::{Recorder, Settings};
use super::process::Process;
use super::{entry, on_device};
use crate::figures::ratio::median;
use crate::figures::{Bound, Context, FigureEntry, Measured};

const LATENCIES: &str = "latencies 300000";
const ROUNDS: usize = 5;
/// How long the thread launches around a start or stop.
const AROUND: Duration = Duration::from_millis(200);

/// The figures.
pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "slowest_launches",
            "us",
            Some(Bound::AtMost(50.0)),
            "p99.99 of a launch while recording, above that of an unprofiled process",
            slowest,
        ),
        entry(
            "stall",
            "ms",
            Some(Bound::AtMost(20.0)),
            "longest launch while a capture starts or stops; torch.profiler's first start: 6.4 s",
            |context| stalls(context, |stalls| stalls.later),
        ),
        entry("first_stall", "ms", None, "the same at the first start in a process", |context| {
            stalls(context, |stalls| stalls.first)
        }),
        entry(
            "arm",
            "ms",
            Some(Bound::AtMost(50.0)),
            "the start's whole call on a live context; 2 ms of it lie before T0",
            |context| stalls(context, |stalls| stalls.arm),
        ),
        entry("first_arm", "ms", None, "the same, the first in a process", |context| {
            stalls(context, |stalls| stalls.first_arm)
        }),
    ]
}

fn slowest(context: &Context) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut ours = Recorder::start(context, Settings::default())?;
        let mut plain = Process::start(context, None)?;
        plain.ask("run launch 100000 1")?;
        ours.record()?;
        ours.worker.ask("run launch 100000 1")?;
        let (mut recorded, mut unprofiled) = (Vec::new(), Vec::new());
        let mut longest = [0.0_f64; 2];
        for _ in 0..ROUNDS {
            for (index, (process, values)) in
                [(&mut plain, &mut unprofiled), (&mut ours.worker, &mut recorded)]
                    .into_iter()
                    .enumerate()
            {
                let answer = process.ask(LATENCIES)?;
                values.push(answer["p9999_ns"].as_f64().unwrap_or(f64::NAN) / 1e3);
                longest[index] =
                    longest[index].max(answer["longest_ns"].as_f64().unwrap_or(f64::NAN) / 1e3);
            }
        }
        ours.stop()?;
        for values in [&mut recorded, &mut unprofiled] {
            values.sort_by(f64::total_cmp);
        }
        let (recorded, unprofiled) = (median(&recorded), median(&unprofiled));
        let note = format!(
            "{recorded:.1} us recorded, {unprofiled:.1} us unprofiled, medians of {ROUNDS} rounds; \
             longest {:.0} and {:.0} us",
            longest[1], longest[0]
        );
        Ok(Measured::noted(recorded - unprofiled, note))
    })
}

/// What starts and stops took, ms.
#[derive(Clone, Default)]
struct Stalls {
    first: f64,
    first_arm: f64,
    later: f64,
    arm: f64,
    /// The longest launch over the same time without a start or stop.
    unprofiled: f64,
}

fn stalls(context: &Context, value: impl Fn(&Stalls) -> f64) -> anyhow::Result<Measured> {
    static MEASURED: std::sync::OnceLock<Stalls> = std::sync::OnceLock::new();
    on_device(context, || {
        let stalls = match MEASURED.get() {
            Some(stalls) => stalls,
            None => {
                let stalls = measure_stalls(context)?;
                MEASURED.get_or_init(|| stalls)
            }
        };
        let note = format!("longest launch without a start or stop {:.2} ms", stalls.unprofiled);
        Ok(Measured::noted(value(stalls), note))
    })
}

fn measure_stalls(context: &Context) -> anyhow::Result<Stalls> {
    let mut recorder = Recorder::start(context, Settings::default())?;
    recorder.worker.ask("run launch 100000 1")?;
    let mut stalls = Stalls::default();
    for _ in 0..ROUNDS {
        stalls.unprofiled = stalls.unprofiled.max(around(&mut recorder, |_| Ok(()))?);
    }
    for round in 0..=ROUNDS {
        let mut arm = 0.0;
        let start = around(&mut recorder, |recorder| {
            arm = recorder.record()?.as_secs_f64() * 1e3;
            Ok(())
        })?;
        let stop = around(&mut recorder, |recorder| recorder.stop().map(drop))?;
        if round == 0 {
            stalls.first = start;
            stalls.first_arm = arm;
            stalls.later = stop;
        } else {
            stalls.later = stalls.later.max(start).max(stop);
            stalls.arm = stalls.arm.max(arm);
        }
    }
    Ok(stalls)
}

/// The longest launch, ms, of a thread that launches before, while and after something is done.
fn around(
    recorder: &mut Recorder,
    act: impl FnOnce(&mut Recorder) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    recorder.worker.ask("begin")?;
    std::thread::sleep(AROUND);
    let outcome = act(recorder);
    std::thread::sleep(AROUND);
    let longest = recorder.worker.number("end", "longest_ns")? / 1e6;
    outcome?;
    Ok(longest)
}
