//! A million launches, and thirty: how long the stop takes, and what it all costs.

use std::sync::{Mutex, OnceLock, PoisonError};

use profiler_core::config::TraceFormat;

use super::capture::{Cost, Settings};
use super::{MB, entry, on_device};
use crate::figures::{Bound, Context, FigureEntry, Measured};

const LAUNCHES: u64 = 1_000_000;
const MANY_LAUNCHES: u64 = 30_000_000;
/// Launching threads of the capture of many.
const THREADS: u64 = 8;
const RUNS: usize = 3;

/// The figures of a million.
pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "stop_complete",
            "ms",
            Some(Bound::AtMost(500.0)),
            "1 M launches, .pftrace.gz, followed; torch.profiler and Proton: see their rows",
            |context| ours(context, |cost| cost.complete.as_secs_f64() * 1e3),
        ),
        entry(
            "stop_call",
            "ms",
            Some(Bound::AtMost(20.0)),
            "the call itself with wait_ms=0",
            |context| ours(context, |cost| cost.call.as_secs_f64() * 1e3),
        ),
        entry(
            "stop_complete_unfollowed",
            "ms",
            None,
            "the same without following: all is exported after the stop",
            |context| {
                on_device(context, || {
                    let settings = Settings { follow: false, ..Settings::default() };
                    let cost = Cost::of(context, settings, LAUNCHES, 1)?;
                    Ok(Measured::value(cost.complete.as_secs_f64() * 1e3))
                })
            },
        ),
        entry(
            "kineto_complete",
            "ms",
            Some(Bound::AtMost(1500.0)),
            "stop until Kineto JSON.gz is whole, followed",
            |context| kineto(context, true),
        ),
        entry("kineto_complete_unfollowed", "ms", None, "the same without following", |context| {
            kineto(context, false)
        }),
        entry(
            "memory",
            "MB",
            Some(Bound::AtMost(100.0)),
            "peak resident memory added to the process at 1 M launches",
            |context| ours(context, |cost| cost.added_bytes as f64 / MB),
        ),
        entry(
            "exporter_memory",
            "MiB",
            Some(Bound::AtMost(64.0)),
            "peak resident memory of the exporter that follows, 1 M launches",
            |context| ours(context, |cost| cost.exporter_bytes as f64 / f64::from(1 << 20)),
        ),
        entry(
            "cpu",
            "s",
            Some(Bound::AtMost(1.5)),
            "decoder, writer, flusher and exporter, 1 M launches",
            |context| ours(context, |cost| (cost.worker_cpu + cost.exporter_cpu).as_secs_f64()),
        ),
        entry(
            "worker_cpu",
            "s",
            None,
            "of that, the profiler's threads in the profiled process",
            |context| ours(context, |cost| cost.worker_cpu.as_secs_f64()),
        ),
        entry("spool_bytes", "MB", Some(Bound::AtMost(16.0)), "1 M launches", |context| {
            ours(context, |cost| cost.spool_bytes as f64 / MB)
        }),
        entry("pftrace_gz_bytes", "MB", Some(Bound::AtMost(32.0)), "1 M launches", |context| {
            ours(context, |cost| cost.trace_bytes as f64 / MB)
        }),
        entry(
            "uncounted",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "launched less recorded, either way, plus rows lost; 1 M launches",
            |context| ours(context, missing),
        ),
        entry(
            "device_memory",
            "MB",
            Some(Bound::AtMost(32.0)),
            "taken of the device while recording, 1 M launches",
            |context| ours(context, |cost| cost.device_bytes as f64 / MB),
        ),
        entry(
            "stop_complete_8_threads",
            "ms",
            Some(Bound::AtMost(500.0)),
            "as stop_complete, launched by 8 threads",
            |context| {
                on_device(context, || {
                    let cost = Cost::of(context, Settings::default(), LAUNCHES, THREADS)?;
                    let note = format!(
                        "{:.0} MB added, {:.1} s cpu, {:.0} missing",
                        cost.added_bytes as f64 / MB,
                        (cost.worker_cpu + cost.exporter_cpu).as_secs_f64(),
                        missing(&cost)
                    );
                    Ok(Measured::noted(cost.complete.as_secs_f64() * 1e3, note))
                })
            },
        ),
    ]
}

/// The figures of thirty million.
pub(super) fn long_figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "memory_30m",
            "MB",
            Some(Bound::AtMost(100.0)),
            "peak resident memory added to the process at 30 M launches, 8 threads",
            |context| many(context, |cost| cost.added_bytes as f64 / MB),
        ),
        entry(
            "exporter_memory_30m",
            "MiB",
            Some(Bound::AtMost(64.0)),
            "of the exporter that follows, 30 M launches",
            |context| many(context, |cost| cost.exporter_bytes as f64 / f64::from(1 << 20)),
        ),
        entry(
            "lost_30m",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "launched less recorded, either way, plus rows lost; 30 M launches, 8 threads",
            |context| many(context, missing),
        ),
        entry(
            "stop_complete_30m",
            "ms",
            None,
            "stop until the .pftrace.gz of 30 M launches is whole, followed",
            |context| many(context, |cost| cost.complete.as_secs_f64() * 1e3),
        ),
    ]
}

fn missing(cost: &Cost) -> f64 {
    (cost.launched.abs_diff(cost.kernels) + cost.lost) as f64
}

fn kineto(context: &Context, follow: bool) -> anyhow::Result<Measured> {
    on_device(context, || {
        let formats = vec![TraceFormat::KinetoGz];
        let settings = Settings { follow, formats, ..Settings::default() };
        let cost = Cost::of(context, settings, LAUNCHES, 1)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let note = format!(
            "{} threads, {:.1} s cpu, {:.1} MB, exporter {:.0} MiB",
            (processors / 4).max(1),
            cost.exporter_cpu.as_secs_f64(),
            cost.trace_bytes as f64 / MB,
            cost.exporter_bytes as f64 / f64::from(1 << 20)
        );
        Ok(Measured::noted(cost.complete.as_secs_f64() * 1e3, note))
    })
}

/// All figures of one setting are read off the same captures.
fn ours(context: &Context, value: impl Fn(&Cost) -> f64) -> anyhow::Result<Measured> {
    static COSTS: Mutex<Vec<Cost>> = Mutex::new(Vec::new());
    on_device(context, || {
        let mut costs = COSTS.lock().unwrap_or_else(PoisonError::into_inner);
        while costs.len() < RUNS {
            costs.push(Cost::of(context, Settings::default(), LAUNCHES, 1)?);
        }
        let values: Vec<f64> = costs.iter().map(value).collect();
        Ok(Measured::median_of(&values))
    })
}

fn many(context: &Context, value: impl Fn(&Cost) -> f64) -> anyhow::Result<Measured> {
    static COST: OnceLock<Cost> = OnceLock::new();
    on_device(context, || {
        let cost = match COST.get() {
            Some(cost) => cost,
            None => {
                let cost = Cost::of(context, Settings::default(), MANY_LAUNCHES, THREADS)?;
                COST.get_or_init(|| cost)
            }
        };
        let note = format!(
            "{:.2} us a launch, spool {:.0} MB, trace {:.0} MB, {:.1} s cpu",
            cost.kernel_ns / 1e3,
            cost.spool_bytes as f64 / MB,
            cost.trace_bytes as f64 / MB,
            (cost.worker_cpu + cost.exporter_cpu).as_secs_f64()
        );
        Ok(Measured::noted(value(cost), note))
    })
}
