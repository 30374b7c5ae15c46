//! Exporters: speed and memory, spool file to file.
//!
//! A launch is two rows and four events. Speed is events by processor time of the whole process
//! on one core: what the exporter, the reader below it and the kernel's writing took. Wall-clock
//! time is noted beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{Window, WindowEdge};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};
use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolWriter};
use profiler_core::synthetic::Launches;
use profiler_export::capture::{Capture, CaptureOptions};
use profiler_export::export::{ExportReport, ExportRequest, run, write_to};
use profiler_export::{EventArguments, TraceFormat};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::measure::{process_cpu, rss_bytes};
use super::{Bound, Context, FigureEntry, Measured};

/// Launches in a group, as a driver's buffer holds them.
const GROUP: usize = 2048;
/// Device rows that come late, in percent.
const LATE_PERCENT: u64 = 1;
/// The launches of a speed's spool: small enough for a page cache, uncompressed JSON included.
const LAUNCHES: usize = 1_000_000;
/// The launches of a memory's spool.
const MANY_LAUNCHES: usize = 20_000_000;
const RUNS: usize = 5;
/// An instant long after any machine's boot.
const BEGIN: u64 = 1_000_000_000_000;

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
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
        FigureEntry {
            name: "pftrace_memory",
            unit: "MiB",
            required: Some(Bound::AtMost(64.0)),
            anchor: "constant at any length: the process at 20 M launches",
            run: |context| memory(context, TraceFormat::Pftrace),
        },
        FigureEntry {
            name: "pftrace_gz_memory",
            unit: "MiB",
            required: Some(Bound::AtMost(64.0)),
            anchor: "constant at any length: the process at 20 M launches",
            run: |context| memory(context, TraceFormat::PftraceGz),
        },
        FigureEntry {
            name: "kineto_memory",
            unit: "MiB",
            required: Some(Bound::AtMost(64.0)),
            anchor: "constant at any length: the process at 20 M launches",
            run: |context| memory(context, TraceFormat::Kineto),
        },
        FigureEntry {
            name: "kineto_gz_memory",
            unit: "MiB",
            required: Some(Bound::AtMost(64.0)),
            anchor: "constant at any length: the process at 20 M launches",
            run: |context| memory(context, TraceFormat::KinetoGz),
        },
    ]
}

fn speed(
    context: &Context,
    format: TraceFormat,
    arguments: EventArguments,
) -> anyhow::Result<Measured> {
    let dir = context.fresh_dir("export")?;
    let spool = write_spool(&dir, LAUNCHES)?;
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

fn memory(context: &Context, format: TraceFormat) -> anyhow::Result<Measured> {
    let dir = context.fresh_dir("export-memory")?;
    let spool = write_spool(&dir, MANY_LAUNCHES)?;
    let before = rss_bytes()?;
    let mut peak = before;
    let mut failed = None;
    let capture = Capture::open([spool.clone()], CaptureOptions::default())?;
    let request = ExportRequest::new(vec![spool.clone()], PathBuf::from("a"), format);
    // Uncompressed, this many launches would fill a disk; the exporter keeps nothing of them.
    let (_, report) = write_to(capture, &request, std::io::sink(), &mut |_| {
        match rss_bytes() {
            Ok(now) => peak = peak.max(now),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    check(&report, MANY_LAUNCHES)?;
    std::fs::remove_file(&spool)?;
    let mib = f64::from(1 << 20);
    Ok(Measured::noted(
        peak as f64 / mib,
        format!("{MANY_LAUNCHES} launches, to nowhere; {:.0} MiB before", before as f64 / mib),
    ))
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

/// Writes a spool of so many launches, all of them in its window.
fn write_spool(dir: &Path, launches: usize) -> anyhow::Result<PathBuf> {
    let path = dir.join("a.spool");
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path)?;
    let clock = Arc::new(SystemClock::new());
    let header = SpoolHeader {
        session: "figures".to_owned(),
        prefix: None,
        worker: WorkerIdentity::of_this_process(Some(0), None, Some(0), Some(0)),
        writer: "figures".to_owned(),
        created: clock.now(),
        fence: 1,
    };
    let options = SpoolOptions { max_bytes: 16 << 30, ..SpoolOptions::default() };
    let writer = SpoolWriter::create(file, &header, options, clock)?;
    let sink = writer.sink();
    let mut device = Launches::new(0, BEGIN, LATE_PERCENT);
    let stream = sink.open_stream(device.stream_info());
    while device.define(sink.as_ref(), stream) == Emit::Full {
        std::thread::sleep(Duration::from_millis(1));
    }
    let edge = |edge: WindowEdge, monotonic: u64| Window {
        monotonic,
        realtime: monotonic,
        step: u64::MAX,
        window: 0,
        edge: edge.number(),
    };
    send(sink.as_ref(), &[Batch::new(StreamId(0), &[edge(WindowEdge::Begin, BEGIN)])]);
    let (mut calls, mut kernels) = (Vec::new(), Vec::new());
    let mut sent = 0;
    while sent < launches {
        calls.clear();
        kernels.clear();
        device.append(GROUP.min(launches - sent), &mut calls, &mut kernels);
        sent += calls.len();
        if sent == launches {
            device.rest(&mut kernels);
        }
        send(sink.as_ref(), &[Batch::new(stream, &calls), Batch::new(stream, &kernels)]);
    }
    let end = calls.last().map_or(BEGIN, |call| call.end) + 1;
    send(sink.as_ref(), &[Batch::new(StreamId(0), &[edge(WindowEdge::End, end)])]);
    match writer.finish(Duration::from_secs(120)).end {
        Some(end) if end.code() != "finished" => anyhow::bail!("the spool ended early: {end}"),
        _ => Ok(path),
    }
}

fn send(sink: &dyn RecordSink, group: &[Batch<'_>]) {
    while sink.emit(group) == Emit::Full {
        std::thread::sleep(Duration::from_millis(1));
    }
}
