//! The NPU backend on its stand-in: decoding, the completion callback, memory, the stop, losses.
//!
//! Each figure runs in a process of its own that has the stand-in loaded. Nothing here is a
//! measurement of a device.

mod bench;

use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::role::{Role, VARIABLE};
use super::{Bound, Context, FigureEntry, Measured};
use crate::npu_stand_in::NpuStandIn;

use bench::{BUFFER_BYTES, Outcome, Work};

const ANCHOR: &str = "on the stand-in for libmspti, no device";
const RUNS: usize = 3;
/// Buffers in use while the callback is measured: the fewest, and the most that a session may have.
const BUFFERS: [u64; 3] = [2, 32, 256];

/// The figures of the group `npu`.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    let entry = |name, unit, required, run| FigureEntry {
        name,
        unit,
        required: Some(required),
        anchor: ANCHOR,
        run,
    };
    vec![
        entry("decode", "records/s", Bound::AtLeast(5e6), decode),
        entry("completion callback, median", "us", Bound::AtMost(2.0), callback_median),
        entry("completion callback, p99", "us", Bound::AtMost(20.0), callback_p99),
        entry("memory over 20 M records", "MiB", Bound::AtMost(64.0), memory),
        entry("stop after the last flush", "ms", Bound::AtMost(250.0), stop),
        entry("lost at 500 k records/s", "records", Bound::AtMost(0.0), lost),
    ]
}

/// The roles that the figures play.
pub(super) fn roles() -> Vec<Role> {
    vec![(bench::ROLE, bench::play)]
}

fn decode(context: &Context) -> anyhow::Result<Measured> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let outcome = run(context, &work(4_000_000, 1_500_000))?;
        anyhow::ensure!(outcome.lost == 0, "{} records were lost", outcome.lost);
        runs.push(outcome.rows as f64 / outcome.decoder_cpu_s);
    }
    Ok(Measured::median_of(&runs))
}

fn callback_median(context: &Context) -> anyhow::Result<Measured> {
    callback(context, |outcome| outcome.callback_median_us)
}

fn callback_p99(context: &Context) -> anyhow::Result<Measured> {
    callback(context, |outcome| outcome.callback_p99_us)
}

/// The worst of the sizes: how long it takes to find a buffer depends on how many there are.
fn callback(context: &Context, of: fn(&Outcome) -> f64) -> anyhow::Result<Measured> {
    let mut worst: f64 = 0.0;
    let mut notes = Vec::new();
    for buffers in BUFFERS {
        let work = Work { buffers: Some(buffers), ..work(20_000_000, 8_000_000) };
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let outcome = run(context, &work)?;
            let used = outcome.buffer_bytes / BUFFER_BYTES;
            anyhow::ensure!(used == buffers, "{used} of {buffers} were in use");
            runs.push(of(&outcome));
        }
        runs.sort_by(f64::total_cmp);
        let median = runs[RUNS / 2];
        notes
            .push(format!("{median:.1} us with {} MiB of buffers", (buffers * BUFFER_BYTES) >> 20));
        worst = worst.max(median);
    }
    Ok(Measured::noted(worst, notes.join(", ")))
}

fn memory(context: &Context) -> anyhow::Result<Measured> {
    let outcome = run(context, &work(20_000_000, 1_500_000))?;
    anyhow::ensure!(outcome.lost == 0, "{} records were lost", outcome.lost);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(Measured::noted(
        mib(outcome.peak_bytes),
        format!(
            "the whole process, none lost; {:.1} MiB before the start, {:.1} MiB at 5 M records",
            mib(outcome.begin_bytes),
            mib(outcome.early_bytes)
        ),
    ))
}

fn stop(context: &Context) -> anyhow::Result<Measured> {
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(run(context, &work(500_000, 500_000))?.stop_ms);
    }
    Ok(Measured::median_of(&runs))
}

fn lost(context: &Context) -> anyhow::Result<Measured> {
    let outcome = run(context, &work(10_000_000, 500_000))?;
    let kept = format!("{} records in {:.1} s, all kept", outcome.rows, outcome.produced_s);
    let note = if outcome.lost == 0 { kept } else { "counted in the trace".to_owned() };
    Ok(Measured::noted(outcome.lost as f64, note))
}

fn work(records: u64, a_second: u64) -> Work {
    Work { records, a_second, buffers: None }
}

/// Runs the work in a process of its own.
fn run(context: &Context, work: &Work) -> anyhow::Result<Outcome> {
    let stand_in = NpuStandIn::install(&context.fresh_dir("npu")?)?;
    let out = Command::new(context.this_program()?)
        .env(VARIABLE, bench::ROLE)
        .env("ASCEND_HOME_PATH", stand_in.home())
        .env("OMNIPROF_NPU_ROOT", stand_in.root())
        .env(bench::LIBRARY, stand_in.library())
        .env(bench::WORK, serde_json::to_string(work)?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("this program cannot be started again")?;
    anyhow::ensure!(out.status.success(), "the bench ended with {}", out.status);
    serde_json::from_slice(&out.stdout).context("the bench gave no outcome")
}
