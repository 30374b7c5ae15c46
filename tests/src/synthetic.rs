//! A spool as a device backend and an application would fill it, made without either.
//!
//! Every number in it is chosen here, so a test can say what an exporter or an outside tool must
//! find: so many launches, copies and operators, four steps, no overlap on a device stream.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use profiler_core::clock::{ClockDomain, ClockSource, Instant, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{
    ApiCall, ApiDomain, ContextDef, CopyKind, DeviceDef, DeviceVendor, HeapRef, Kernel,
    LaunchConfigDef, LaunchConfigId, Memcpy, MemoryKind, Operator, OperatorScope, ProcessDef,
    RecordKind, Row, Span, StackId, StreamDef, StringDef, StringId, ThreadDef, Window, WindowEdge,
};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId, StreamInfo};
use profiler_core::spool::{RowSource, SpoolHeader, SpoolOptions, SpoolTotals, SpoolWriter};

/// Distinct kernel names and launch configurations.
pub const NAMES: u64 = 400;

/// Steps over which the launches are spread.
pub const STEPS: u64 = 4;

/// One launch in so many is a copy and not a kernel.
pub const COPY_EVERY: u64 = 50;

/// The operating system's id of the launching thread.
pub const THREAD: u32 = 4242;

const SPACING_NS: u64 = 12_000;
const STREAM: u32 = 7;
const BATCH: u64 = 4096;

/// Writes a spool of so many launches, each an operator, an API call and a kernel or a copy.
///
/// # Errors
///
/// The file cannot be made or written.
pub fn write(path: &Path, worker: WorkerIdentity, launches: u64) -> anyhow::Result<SpoolTotals> {
    let file = File::create_new(path).with_context(|| path.display().to_string())?;
    let clock = SystemClock::new();
    let now = clock.now();
    let begin = earlier(now, launches * SPACING_NS + 1_000_000_000);
    let header = SpoolHeader {
        session: "synthetic".to_owned(),
        prefix: None,
        worker,
        writer: format!("omniprof {}", env!("CARGO_PKG_VERSION")),
        created: begin,
        fence: 1,
    };
    let process = header.worker.pid;
    let options = SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() };
    let writer = SpoolWriter::create(file, &header, options, Arc::new(clock))?;
    writer.add_source(Box::new(Workload { begin, launches, process, done: false }));
    Ok(writer.finish(Duration::from_secs(300)))
}

fn earlier(now: Instant, ns: u64) -> Instant {
    Instant {
        monotonic_ns: now.monotonic_ns.saturating_sub(ns),
        realtime_ns: now.realtime_ns.saturating_sub(ns),
    }
}

/// Kernels among so many launches.
#[must_use]
pub fn kernels(launches: u64) -> u64 {
    launches - copies(launches)
}

/// Copies among so many launches.
#[must_use]
pub fn copies(launches: u64) -> u64 {
    launches / COPY_EVERY
}

struct Workload {
    begin: Instant,
    launches: u64,
    process: u32,
    done: bool,
}

impl RowSource for Workload {
    fn drain(&mut self, sink: &dyn RecordSink) {
        if !self.done {
            self.done = true;
            self.window(sink, WindowEdge::Begin, 0);
            self.application(sink);
            self.device(sink);
            self.window(sink, WindowEdge::End, self.launches * SPACING_NS + 500_000);
        }
    }
}

impl Workload {
    fn window(&self, sink: &dyn RecordSink, edge: WindowEdge, after_ns: u64) {
        let row = Window {
            monotonic: self.begin.monotonic_ns + after_ns,
            realtime: self.begin.realtime_ns + after_ns,
            step: u64::MAX,
            window: 0,
            edge: edge.number(),
        };
        emit(sink, &[Batch::new(StreamId(0), &[row])]);
    }

    /// The host's side: steps as spans, and an operator around each launch.
    fn application(&self, sink: &dyn RecordSink) {
        let stream = sink.open_stream(StreamInfo {
            producer: "synthetic.application".to_owned(),
            thread: THREAD,
            clock: ClockDomain::Monotonic,
        });
        let mut names = Strings::default();
        let step_names: Vec<_> =
            (0..STEPS).map(|step| names.define(&format!("ProfilerStep#{step}"))).collect();
        let operators: Vec<_> = ["aten::linear", "aten::add_", "aten::mul", "aten::copy_"]
            .into_iter()
            .map(|name| names.define(name))
            .collect();
        let mut heap = Vec::new();
        let thread = ThreadDef {
            name: HeapRef::push(&mut heap, b"launcher"),
            thread: THREAD,
            process: self.process,
        };
        let process = ProcessDef {
            name: HeapRef::push(&mut heap, b"synthetic"),
            process: self.process,
            ..ProcessDef::default()
        };
        emit(
            sink,
            &[
                Batch::with_heap(stream, &names.rows, &names.heap),
                Batch::with_heap(stream, &[thread], &heap),
                Batch::with_heap(stream, &[process], &heap),
            ],
        );
        let per_step = self.launches.div_ceil(STEPS);
        let mut spans = Vec::new();
        for (step, name) in (0..STEPS).zip(step_names) {
            spans.push(Span {
                start: self.begin.monotonic_ns + step * per_step * SPACING_NS + 100,
                end: self.begin.monotonic_ns + (step + 1) * per_step * SPACING_NS,
                id: step + 1,
                name,
                thread: THREAD,
                ..Span::default()
            });
        }
        emit(sink, &[Batch::new(stream, &spans)]);
        self.in_batches(|launches| {
            let rows: Vec<_> = launches
                .map(|launch| {
                    let start = self.begin.monotonic_ns + launch * SPACING_NS + 1_000;
                    Operator {
                        start,
                        end: start + 8_000,
                        sequence: -1,
                        name: operators[(launch % operators.len() as u64) as usize],
                        thread: THREAD,
                        stack: StackId::NONE,
                        scope: OperatorScope::Function.number(),
                        ..Operator::default()
                    }
                })
                .collect();
            emit(sink, &[Batch::new(stream, &rows)]);
        });
    }

    /// The driver's side, on the clock that CUPTI uses.
    fn device(&self, sink: &dyn RecordSink) {
        let stream = sink.open_stream(StreamInfo {
            producer: "synthetic.activity".to_owned(),
            thread: 0,
            clock: ClockDomain::Realtime,
        });
        let mut names = Strings::default();
        let launch_name = names.define("cudaLaunchKernel");
        let copy_name = names.define("cudaMemcpyAsync");
        let kernel_names: Vec<_> = (0..NAMES)
            .map(|number| {
                names.define(&format!(
                    "void at::native::vectorized_elementwise_kernel<4, \
                     at::native::CUDAFunctor_{number}<float>, std::array<char*, 3ul> >\
                     (int, at::native::CUDAFunctor_{number}<float>, std::array<char*, 3ul>)"
                ))
            })
            .collect();
        let configs: Vec<_> = (1..=NAMES as u32)
            .map(|number| LaunchConfigDef {
                id: LaunchConfigId(number),
                grid_x: number,
                grid_y: 1,
                grid_z: 1,
                block_x: 128,
                block_y: 1,
                block_z: 1,
                registers: 32,
                ..LaunchConfigDef::default()
            })
            .collect();
        let mut heap = Vec::new();
        let device = DeviceDef {
            name: HeapRef::push(&mut heap, b"NVIDIA H100 80GB HBM3"),
            memory_bytes: 80 << 30,
            vendor: DeviceVendor::Nvidia.number(),
            capability_major: 9,
            multiprocessors: 132,
            warp_size: 32,
            max_threads_per_block: 1024,
            max_threads_per_multiprocessor: 2048,
            ..DeviceDef::default()
        };
        emit(
            sink,
            &[
                Batch::with_heap(stream, &names.rows, &names.heap),
                Batch::new(stream, &configs),
                Batch::with_heap(stream, &[device], &heap),
                Batch::new(stream, &[ContextDef { context: 1, device: 0 }]),
                Batch::new(
                    stream,
                    &[StreamDef { stream: STREAM, context: 1, ..StreamDef::default() }],
                ),
            ],
        );
        self.in_batches(|launches| {
            let (mut calls, mut kernels, mut copies) = (Vec::new(), Vec::new(), Vec::new());
            for launch in launches {
                let is_copy = launch % COPY_EVERY == COPY_EVERY - 1;
                let start = self.begin.realtime_ns + launch * SPACING_NS + 2_000;
                calls.push(ApiCall {
                    start,
                    end: start + 5_000,
                    correlation: launch + 1,
                    name: if is_copy { copy_name } else { launch_name },
                    thread: THREAD,
                    domain: ApiDomain::CudaRuntime.number(),
                    ..ApiCall::default()
                });
                // Between 3 and 11 us long, and over before the next begins.
                let begin = start + 6_000;
                let end = begin + 3_000 + launch * 7919 % 8_000;
                if is_copy {
                    copies.push(Memcpy {
                        start: begin,
                        end,
                        correlation: launch + 1,
                        size_bytes: 4096,
                        context: 1,
                        stream: STREAM,
                        copy_kind: CopyKind::HostToDevice.number(),
                        source_kind: MemoryKind::Pinned.number(),
                        target_kind: MemoryKind::Device.number(),
                        ..Memcpy::default()
                    });
                    continue;
                }
                let which = (launch % NAMES) as usize;
                kernels.push(Kernel {
                    start: begin,
                    end,
                    correlation: launch + 1,
                    name: kernel_names[which],
                    config: LaunchConfigId(which as u32 + 1),
                    context: 1,
                    stream: STREAM,
                    ..Kernel::default()
                });
            }
            emit(
                sink,
                &[
                    Batch::new(stream, &calls),
                    Batch::new(stream, &kernels),
                    Batch::new(stream, &copies),
                ],
            );
        });
    }

    fn in_batches(&self, mut each: impl FnMut(std::ops::Range<u64>)) {
        let mut first = 0;
        while first < self.launches {
            let next = (first + BATCH).min(self.launches);
            each(first..next);
            first = next;
        }
    }
}

#[derive(Default)]
struct Strings {
    rows: Vec<StringDef>,
    heap: Vec<u8>,
}

impl Strings {
    fn define(&mut self, text: &str) -> StringId {
        let id = StringId(self.rows.len() as u32 + 1);
        let text = HeapRef::push(&mut self.heap, text.as_bytes());
        self.rows.push(StringDef { text, id, reserved: 0 });
        id
    }
}

fn emit(sink: &dyn RecordSink, group: &[Batch<'_>]) {
    // What a source gives never meets a full queue; a full disk is counted in the totals.
    match sink.emit(group) {
        Emit::Accepted | Emit::Full | Emit::Closed => {}
        other => unreachable!("{other:?}"),
    }
}

/// The kinds of rows of a synthetic spool and how many of each there are.
#[must_use]
pub fn expected_rows(launches: u64) -> Vec<(RecordKind, u64)> {
    vec![
        (Kernel::KIND, kernels(launches)),
        (Memcpy::KIND, copies(launches)),
        (ApiCall::KIND, launches),
        (Operator::KIND, launches),
        (Span::KIND, STEPS),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spool_holds_what_was_promised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.spool");
        let worker = WorkerIdentity::of_this_process(Some(0), Some("thinker"), Some(0), Some(0));
        let totals = write(&path, worker, 10_000).unwrap();
        for (kind, count) in expected_rows(10_000) {
            assert_eq!(totals.rows.get(&kind), Some(&count), "{kind}");
        }
    }
}
