//! The spool: speed, size, memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{ApiCall, Kernel};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};
use profiler_core::spool::{Block, SpoolHeader, SpoolReader, SpoolTotals, SpoolWriter};
use profiler_core::synthetic::Launches;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::context::spool_options;
use super::measure::process_cpu;
use super::{Bound, Context, FigureEntry, Measured, rss_bytes};

/// Launches in a group, as a driver's buffer holds them.
const GROUP: usize = 2048;
/// Device rows that come late, in percent.
const LATE_PERCENT: u64 = 1;
const DEVICES: usize = 2;
const FINISH: Duration = Duration::from_secs(120);

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    vec![
        // First, before others leave memory behind that would be used again.
        FigureEntry {
            name: "memory",
            unit: "MiB",
            required: Some(Bound::AtMost(32.0)),
            anchor: "constant at any length: growth of the process over 20 M launches",
            run: memory,
        },
        FigureEntry {
            name: "writer",
            unit: "launches/s",
            required: Some(Bound::AtLeast(5e6)),
            anchor: "proof encoder on one core: 12.5 M",
            run: |context| {
                let runs = (0..5).map(|_| writer_speed(context)).collect::<Result<Vec<_>, _>>()?;
                Ok(Measured::median_of(&runs))
            },
        },
        FigureEntry {
            name: "bytes_a_launch",
            unit: "bytes",
            required: Some(Bound::AtMost(16.0)),
            anchor: "proof encoder: 12 bytes",
            run: bytes_a_launch,
        },
        FigureEntry {
            name: "reader",
            unit: "rows/s",
            required: Some(Bound::AtLeast(10e6)),
            anchor: "export to .pftrace needs 6 M rows/s (12 M events/s, 2 a row)",
            run: reader_speed,
        },
    ]
}

/// Launches in memory, so that a measurement contains nothing of their making.
struct Prepared {
    devices: [Launches; DEVICES],
    groups: Vec<(Vec<ApiCall>, Vec<Kernel>)>,
}

impl Prepared {
    fn new(groups: usize) -> Self {
        let mut devices =
            [0, 1].map(|device| Launches::new(device, 1_000_000_000_000, LATE_PERCENT));
        let groups = (0..groups)
            .map(|group| {
                let (mut calls, mut kernels) = (Vec::new(), Vec::new());
                devices[group % DEVICES].append(GROUP, &mut calls, &mut kernels);
                (calls, kernels)
            })
            .collect();
        Self { devices, groups }
    }
}

/// Launches in a second of processor time, which other programs on the machine do not change.
fn writer_speed(context: &Context) -> anyhow::Result<f64> {
    const LAUNCHES: usize = 10_000_000;
    let prepared = Prepared::new(256);
    let path = context.fresh_dir("spool-writer")?.join("a.spool");
    let pinned = OneCore::pin()?;
    let begin = process_cpu();
    let writer = create(&path)?;
    let sink = writer.sink();
    let streams = begin_streams(sink.as_ref(), &prepared.devices);
    let mut sent = 0;
    for index in 0.. {
        if sent >= LAUNCHES {
            break;
        }
        let (calls, kernels) = &prepared.groups[index % prepared.groups.len()];
        send(sink.as_ref(), streams[index % DEVICES], calls, kernels);
        sent += calls.len();
    }
    let totals = finish(writer)?;
    let took = process_cpu() - begin;
    drop(pinned);
    anyhow::ensure!(totals.has_footer, "the spool has no footer");
    std::fs::remove_file(&path)?;
    Ok(sent as f64 / took.as_secs_f64())
}

fn bytes_a_launch(context: &Context) -> anyhow::Result<Measured> {
    let path = context.fresh_dir("spool-bytes")?.join("a.spool");
    let (launches, totals) = write_fresh(&path, 2_000_000, || Ok(()))?;
    Ok(Measured::noted(
        totals.bytes as f64 / launches as f64,
        format!("{launches} launches, {} bytes", totals.bytes),
    ))
}

fn memory(context: &Context) -> anyhow::Result<Measured> {
    let path = context.fresh_dir("spool-memory")?.join("a.spool");
    let before = rss_bytes()?;
    let mut peak = before;
    let (launches, totals) = write_fresh(&path, 20_000_000, || {
        peak = peak.max(rss_bytes()?);
        Ok(())
    })?;
    std::fs::remove_file(&path)?;
    Ok(Measured::noted(
        (peak - before) as f64 / f64::from(1 << 20),
        format!("{launches} launches, a file of {} MiB", totals.bytes >> 20),
    ))
}

fn reader_speed(context: &Context) -> anyhow::Result<Measured> {
    let path = context.fresh_dir("spool-reader")?.join("a.spool");
    write_fresh(&path, 2_000_000, || Ok(()))?;
    let _pinned = OneCore::pin()?;
    let mut runs = Vec::new();
    for _ in 0..5 {
        let begin = process_cpu();
        let mut reader = SpoolReader::open(&path)?;
        let mut block = Block::new();
        let mut rows = 0;
        while reader.next_into(&mut block)? {
            rows += block.count();
        }
        anyhow::ensure!(reader.is_closed() && reader.skipped().is_empty(), "not read whole");
        runs.push(rows as f64 / (process_cpu() - begin).as_secs_f64());
    }
    Ok(Measured::median_of(&runs))
}

/// Writes launches that are made on the way; looks at `observe` every few groups.
fn write_fresh(
    path: &Path,
    launches: usize,
    mut observe: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<(usize, SpoolTotals)> {
    let mut devices = [0, 1].map(|device| Launches::new(device, 1_000_000_000_000, LATE_PERCENT));
    let writer = create(path)?;
    let sink = writer.sink();
    let streams = begin_streams(sink.as_ref(), &devices);
    let (mut calls, mut kernels) = (Vec::new(), Vec::new());
    let mut sent = 0;
    let mut index = 0;
    while sent < launches {
        calls.clear();
        kernels.clear();
        devices[index % DEVICES].append(GROUP, &mut calls, &mut kernels);
        send(sink.as_ref(), streams[index % DEVICES], &calls, &kernels);
        sent += calls.len();
        index += 1;
        if index % 64 == 0 {
            observe()?;
        }
    }
    observe()?;
    let totals = finish(writer)?;
    observe()?;
    Ok((sent, totals))
}

fn create(path: &Path) -> anyhow::Result<SpoolWriter> {
    let clock = Arc::new(SystemClock::new());
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| path.display().to_string())?;
    let header = SpoolHeader {
        session: "figures".to_owned(),
        prefix: None,
        worker: WorkerIdentity::of_this_process(None, None, None, None),
        writer: "figures".to_owned(),
        created: clock.now(),
        fence: 1,
    };
    Ok(SpoolWriter::create(file, &header, spool_options(), clock)?)
}

fn begin_streams(sink: &dyn RecordSink, devices: &[Launches; DEVICES]) -> [StreamId; DEVICES] {
    let streams = [0, 1].map(|device| sink.open_stream(devices[device].stream_info()));
    for (device, stream) in devices.iter().zip(streams) {
        while device.define(sink, stream) == Emit::Full {
            wait_for_the_writer();
        }
    }
    streams
}

fn send(sink: &dyn RecordSink, stream: StreamId, calls: &[ApiCall], kernels: &[Kernel]) {
    let group = [Batch::new(stream, calls), Batch::new(stream, kernels)];
    while sink.emit(&group) == Emit::Full {
        wait_for_the_writer();
    }
}

fn wait_for_the_writer() {
    std::thread::sleep(Duration::from_micros(200));
}

fn finish(writer: SpoolWriter) -> anyhow::Result<SpoolTotals> {
    let totals = writer.finish(FINISH);
    match &totals.end {
        Some(end) if end.code() != "finished" => anyhow::bail!("the spool ended early: {end}"),
        _ => Ok(totals),
    }
}

/// Keeps the calling thread, and those it starts, on one processor.
struct OneCore {
    before: CpuSet,
}

impl OneCore {
    fn pin() -> anyhow::Result<Self> {
        let before = sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| before.is_set(cpu));
        let mut one = CpuSet::new();
        one.set(last.context("this thread may run on no processor")?);
        sched_setaffinity(None, &one)?;
        Ok(Self { before })
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        // A thread that stays on one processor is slower, and correct.
        sched_setaffinity(None, &self.before).ok();
    }
}
