//! Exporters: speed and memory, spool file to file.
//!
//! A launch is two rows and four events. Speed is events by processor time of the whole process
//! on one core: what the exporter, the reader below it and the kernel's writing took. Wall-clock
//! time is noted beside it.

mod memory;
mod spool;

use std::time::Instant;

use anyhow::Context as _;
use profiler_export::export::{ExportReport, ExportRequest, run};
use profiler_export::{EventArguments, TraceFormat};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use self::spool::Synthetic;
use super::measure::process_cpu;
use super::{Bound, Context, FigureEntry, Measured};

/// The launches of a speed's spool: small enough for a page cache, uncompressed JSON included.
const LAUNCHES: usize = 1_000_000;
const RUNS: usize = 5;

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    let mut figures = speeds();
    figures.extend(memory::figures());
    figures
}

fn speeds() -> Vec<FigureEntry> {
    vec![
        FigureEntry {
            name: "pftrace",
            unit: "events/s",
            required: Some(Bound::AtLeast(12e6)),
            anchor: "encoder alone, to nowhere: 45 M",
            run: |context| speed(context, TraceFormat::Pftrace, EventArguments::Minimal),
        },
        FigureEntry {
            name: "kineto",
            unit: "events/s",
            required: Some(Bound::AtLeast(6e6)),
            anchor: "encoder alone, to nowhere: 18 M",
            run: |context| speed(context, TraceFormat::Kineto, EventArguments::Full),
        },
        FigureEntry {
            name: "kineto_gz",
            unit: "events/s",
            required: Some(Bound::AtLeast(1e6)),
            anchor: "encoder and gzip 1 alone: 1.47 M",
            run: |context| speed(context, TraceFormat::KinetoGz, EventArguments::Full),
        },
        FigureEntry {
            name: "pftrace_gz",
            unit: "events/s",
            required: None,
            anchor: "encoder and gzip 1 alone: 10.1 M",
            run: |context| speed(context, TraceFormat::PftraceGz, EventArguments::Minimal),
        },
    ]
}

fn speed(
    context: &Context,
    format: TraceFormat,
    arguments: EventArguments,
) -> anyhow::Result<Measured> {
    let dir = context.fresh_dir("export")?;
    let spool = dir.join("a.spool");
    Synthetic::create(&spool)?.launch(LAUNCHES)?.finish()?;
    let before = sched_getaffinity(None)?;
    pin(&before)?;
    let mut runs = Vec::new();
    let mut walls = Vec::new();
    for _ in 0..RUNS {
        let output = dir.join(format!("a.{}", format.extension()));
        let mut request = ExportRequest::new(vec![spool.clone()], output.clone(), format);
        request.arguments = arguments;
        let (begin, cpu) = (Instant::now(), process_cpu());
        let report = run(&request, &mut |_| true)?;
        runs.push(report.events as f64 / (process_cpu() - cpu).as_secs_f64());
        walls.push(report.events as f64 / begin.elapsed().as_secs_f64());
        check(&report, LAUNCHES)?;
        std::fs::remove_file(&output)?;
    }
    sched_setaffinity(None, &before)?;
    std::fs::remove_file(&spool)?;
    walls.sort_by(f64::total_cmp);
    let wall = walls[walls.len() / 2] / 1e6;
    Ok(match Measured::median_of(&runs) {
        Measured::Value { value, note } => {
            Measured::noted(value, format!("{note}; {wall:.1} M by the wall clock"))
        }
        other => other,
    })
}

fn check(report: &ExportReport, launches: usize) -> anyhow::Result<()> {
    let launches = launches as u64;
    let rows: u64 = report.rows.values().sum();
    anyhow::ensure!(rows == launches * 2, "{rows} rows of {launches} launches");
    anyhow::ensure!(report.events >= launches * 4, "{} events", report.events);
    anyhow::ensure!(report.late == 0, "{} rows came too late", report.late);
    Ok(())
}

fn pin(allowed: &CpuSet) -> anyhow::Result<()> {
    let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu));
    let mut one = CpuSet::new();
    one.set(last.context("this thread may run on no processor")?);
    Ok(sched_setaffinity(None, &one)?)
}
