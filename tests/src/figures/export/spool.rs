//! The spools that exports are measured on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backend_cpu::CpuBackend;
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::{ClockDomain, ClockSource, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{
    Frame, HeapRef, Module, Sample, StackDef, StackId, ThreadDef, Window, WindowEdge,
};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId, StreamInfo};
use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolReader, SpoolWriter};
use profiler_core::synthetic::{Launches, Random};
use zerocopy::IntoBytes as _;

use super::super::context::spool_options;

/// Launches in a group, as a driver's buffer holds them.
const GROUP: usize = 2048;
/// Device rows that come late, in percent.
const LATE_PERCENT: u64 = 1;
/// An instant long after any machine's boot.
const BEGIN: u64 = 1_000_000_000_000;
/// Samples a second and thread.
const SAMPLE_HZ: u64 = 99;
/// Threads that are sampled.
const SAMPLED_THREADS: u32 = 4;
/// Distinct stacks: what a server shows in some minutes.
const STACKS: u32 = 8_192;
const STACK_FRAMES: usize = 24;
/// Distinct instructions in them.
const ADDRESSES: u64 = 4_096;
const FIRST_SAMPLED_THREAD: u32 = 42_000;

/// A spool of launches that is being written; all of them lie in its window.
pub(super) struct Synthetic {
    writer: SpoolWriter,
    sink: Arc<dyn RecordSink>,
    launches: Launches,
    stream: StreamId,
    /// Where everything that was written ends.
    end: u64,
    samples: Option<Samples>,
}

/// Samples beside the launches.
struct Samples {
    stream: StreamId,
    random: Random,
    next: u64,
}

impl Synthetic {
    /// Begins a spool.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(path)?;
        let clock = Arc::new(SystemClock::new());
        let header = SpoolHeader {
            session: "figures".to_owned(),
            prefix: None,
            worker: WorkerIdentity::of_this_process(Some(0), None, Some(0), Some(0)),
            writer: "figures".to_owned(),
            created: clock.now(),
            fence: 1,
        };
        let options = SpoolOptions { max_bytes: 16 << 30, ..spool_options() };
        let writer = SpoolWriter::create(file, &header, options, clock)?;
        let sink = writer.sink();
        let launches = Launches::new(0, BEGIN, LATE_PERCENT);
        let stream = sink.open_stream(launches.stream_info());
        while launches.define(sink.as_ref(), stream) == Emit::Full {
            std::thread::sleep(Duration::from_millis(1));
        }
        let begin = edge(WindowEdge::Begin, BEGIN);
        send(sink.as_ref(), &[Batch::new(StreamId(0), &[begin])]);
        Ok(Self { writer, sink, launches, stream, end: BEGIN, samples: None })
    }

    /// Puts samples beside the launches that follow: stacks of addresses all over the files that
    /// this process has mapped, so that exporters look for names in real symbol tables.
    pub(super) fn with_samples(mut self) -> anyhow::Result<Self> {
        let modules = own_modules()?;
        let stream = self.sink.open_stream(StreamInfo {
            producer: "cpu.sampler".to_owned(),
            thread: 0,
            clock: ClockDomain::Monotonic,
        });
        let process = std::process::id();
        let mut heap = Vec::new();
        let rows: Vec<Module> = modules
            .iter()
            .map(|(row, path, build_id)| Module {
                time: BEGIN,
                path: HeapRef::push(&mut heap, path),
                build_id: HeapRef::push(&mut heap, build_id),
                ..*row
            })
            .collect();
        send(self.sink.as_ref(), &[Batch::with_heap(stream, &rows, &heap)]);
        let threads: Vec<ThreadDef> = (0..SAMPLED_THREADS)
            .map(|thread| ThreadDef {
                thread: FIRST_SAMPLED_THREAD + thread,
                process,
                ..ThreadDef::default()
            })
            .collect();
        send(self.sink.as_ref(), &[Batch::new(stream, &threads)]);
        let mut random = Random::new(7);
        let addresses: Vec<u64> = (0..ADDRESSES)
            .map(|_| {
                let (module, ..) = &modules[random.below(modules.len() as u64) as usize];
                module.start_address + random.below(module.end_address - module.start_address)
            })
            .collect();
        for first in (1..=STACKS).step_by(256) {
            let mut heap = Vec::new();
            let mut stacks = Vec::new();
            for id in first..(first + 256).min(STACKS + 1) {
                let offset = heap.len() as u32;
                // The outer frames are few, as in a real program: they come last.
                for depth in 0..STACK_FRAMES {
                    let choices = (ADDRESSES >> (depth / 2)).max(1);
                    let address = addresses[random.below(choices) as usize];
                    heap.extend_from_slice(Frame { address, ..Frame::default() }.as_bytes());
                }
                let frames = HeapRef { offset, len: heap.len() as u32 - offset };
                stacks.push(StackDef { frames, id: StackId(id), process });
            }
            send(self.sink.as_ref(), &[Batch::with_heap(stream, &stacks, &heap)]);
        }
        self.samples = Some(Samples { stream, random, next: self.end });
        Ok(self)
    }

    /// Writes so many launches more.
    pub(super) fn launch(mut self, count: usize) -> anyhow::Result<Self> {
        let (mut calls, mut kernels) = (Vec::new(), Vec::new());
        let mut sent = 0;
        while sent < count {
            calls.clear();
            kernels.clear();
            self.launches.append(GROUP.min(count - sent), &mut calls, &mut kernels);
            sent += calls.len();
            if sent == count {
                self.launches.rest(&mut kernels);
            }
            let group = [Batch::new(self.stream, &calls), Batch::new(self.stream, &kernels)];
            send(self.sink.as_ref(), &group);
            self.end = calls.last().map_or(self.end, |call| call.end + 1);
            self.sample();
        }
        Ok(self)
    }

    /// Samples up to where the launches are.
    fn sample(&mut self) {
        let Some(samples) = &mut self.samples else { return };
        let mut rows = Vec::new();
        while samples.next < self.end {
            for thread in 0..SAMPLED_THREADS {
                rows.push(Sample {
                    time: samples.next,
                    weight_ns: 1_000_000_000 / SAMPLE_HZ,
                    stack: StackId(1 + samples.random.below(u64::from(STACKS)) as u32),
                    thread: FIRST_SAMPLED_THREAD + thread,
                    ..Sample::default()
                });
            }
            samples.next += 1_000_000_000 / SAMPLE_HZ;
        }
        if !rows.is_empty() {
            send(self.sink.as_ref(), &[Batch::new(samples.stream, &rows)]);
        }
    }

    /// Ends the window and the spool.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let end = edge(WindowEdge::End, self.end);
        send(self.sink.as_ref(), &[Batch::new(StreamId(0), &[end])]);
        match self.writer.finish(Duration::from_secs(120)).end {
            Some(end) if end.code() != "finished" => anyhow::bail!("the spool ended early: {end}"),
            _ => Ok(()),
        }
    }
}

fn edge(edge: WindowEdge, monotonic: u64) -> Window {
    Window { monotonic, realtime: monotonic, step: u64::MAX, window: 0, edge: edge.number() }
}

fn send(sink: &dyn RecordSink, group: &[Batch<'_>]) {
    while sink.emit(group) == Emit::Full {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A mapping with its path and build id.
type Mapped = (Module, Vec<u8>, Vec<u8>);

/// The files that this process has mapped, as the CPU backend finds them.
fn own_modules() -> anyhow::Result<Vec<Mapped>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("own.spool");
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path)?;
    let clock: Arc<dyn ClockSource> = Arc::new(SystemClock::new());
    let header = SpoolHeader {
        session: "figures".to_owned(),
        prefix: None,
        worker: WorkerIdentity::of_this_process(None, None, None, None),
        writer: "figures".to_owned(),
        created: clock.now(),
        fence: 1,
    };
    let writer = SpoolWriter::create(file, &header, spool_options(), Arc::clone(&clock))?;
    let mut session = CpuBackend::new().open(&SessionConfig::default(), writer.sink(), clock)?;
    session.start()?;
    session.stop(Duration::from_secs(2))?;
    drop(session);
    drop(writer.finish(Duration::from_secs(5)));
    let mut modules = Vec::new();
    let mut reader = SpoolReader::open(&path)?;
    while let Some(block) = reader.next_block()? {
        for row in block.rows::<Module>().unwrap_or_default() {
            let bytes = |place: HeapRef| place.of(block.heap()).unwrap_or_default().to_vec();
            if row.end_address > row.start_address {
                modules.push((*row, bytes(row.path), bytes(row.build_id)));
            }
        }
    }
    anyhow::ensure!(!modules.is_empty(), "the CPU backend names no mapped file");
    Ok(modules)
}
