//! A small pipeline whose sums are known.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::Arc;

use profiler_core::clock::{ClockDomain, Instant};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::*;
use profiler_core::sink::{StreamId, StreamInfo};
use profiler_export::capture::{Capture, CaptureOptions, Input, MemorySpool, Origin};

pub(crate) const T0: u64 = 1_000_000;
pub(crate) const T1: u64 = 2_000_000;

pub(crate) fn origin(stage: u32, role: &str, rank: u32) -> Origin {
    Origin {
        session: "20260101T000000-abcdef".to_owned(),
        prefix: Some("try".to_owned()),
        worker: WorkerIdentity {
            stage: Some(stage),
            role: Some(role.to_owned()),
            replica: Some(0),
            rank: Some(rank),
            host: "host".to_owned(),
            pid: 100 + rank,
            key: format!("key{stage}{rank}"),
            boot_id: "boot".to_owned(),
            time_namespace: 1,
            pid_namespace: 1,
            start_ticks: 1,
            program: "worker".to_owned(),
        },
        writer: "omniprof test".to_owned(),
        created: Instant { monotonic_ns: T0 - 10, realtime_ns: 1 << 60 },
    }
}

/// A spool with one window and one stream of an application.
pub(crate) struct Builder {
    pub(crate) spool: MemorySpool,
    pub(crate) stream: StreamId,
    strings: Vec<String>,
}

impl Builder {
    pub(crate) fn new(origin: Origin) -> Self {
        let mut spool = MemorySpool::new(origin);
        let agent = StreamId(0);
        spool.push(
            agent,
            &[ClockTuple {
                monotonic: T0 - 5,
                realtime: 1 << 60,
                boottime: T0 - 5,
                ..ClockTuple::default()
            }],
        );
        let window = |monotonic, edge: WindowEdge| Window {
            monotonic,
            realtime: (1 << 60) + monotonic - T0 + 5,
            step: u64::MAX,
            window: 0,
            edge: edge.number(),
        };
        spool.push(agent, &[window(T0, WindowEdge::Begin), window(T1, WindowEdge::End)]);
        let stream = spool.open_stream(StreamInfo {
            producer: "test".to_owned(),
            thread: 7,
            clock: ClockDomain::Monotonic,
        });
        Self { spool, stream, strings: Vec::new() }
    }

    pub(crate) fn string(&mut self, text: &str) -> StringId {
        if let Some(at) = self.strings.iter().position(|known| known == text) {
            return StringId(at as u32 + 1);
        }
        self.strings.push(text.to_owned());
        let id = StringId(self.strings.len() as u32);
        let mut heap = Vec::new();
        let text = HeapRef::push(&mut heap, text.as_bytes());
        self.spool.push_with_heap(self.stream, &[StringDef { text, id, reserved: 0 }], &heap);
        id
    }

    pub(crate) fn push<R: Row>(&mut self, rows: &[R]) {
        self.spool.push(self.stream, rows);
    }

    pub(crate) fn span(&mut self, name: &str, id: u64, parent: u64, start: u64, end: u64) {
        let name = self.string(name);
        self.push(&[Span {
            start: T0 + start,
            end: T0 + end,
            id,
            parent,
            name,
            thread: 7,
            ..Span::default()
        }]);
    }
}

pub(crate) fn capture(spools: Vec<Builder>) -> Capture {
    let inputs = spools.into_iter().map(|builder| Input::Memory(Arc::new(builder.spool)));
    Capture::open(inputs, CaptureOptions::default()).unwrap()
}

pub(crate) fn kernel(name: StringId, start: u64, end: u64) -> Kernel {
    Kernel { start: T0 + start, end: T0 + end, name, device: 0, stream: 7, ..Kernel::default() }
}

/// Two ranks of a thinker with spans, operators, samples and a device, and a talker with spans.
pub(crate) fn pipeline() -> Vec<Builder> {
    let mut builders = Vec::new();
    for rank in 0..2 {
        let mut worker = Builder::new(origin(0, "thinker", rank));
        worker.span("attention", 2, 1, 100_000, 300_000);
        worker.span("mlp", 3, 1, 300_000, 450_000);
        worker.span("decode", 1, 0, 50_000, 500_000);
        worker.span("decode", 4, 0, 500_000, 600_000);

        let (add, mm) = (worker.string("aten::add"), worker.string("aten::mm"));
        let operator = |name, start, end, depth| Operator {
            start: T0 + start,
            end: T0 + end,
            sequence: -1,
            name,
            thread: 7,
            scope: 1,
            depth,
            ..Operator::default()
        };
        worker.push(&[
            operator(mm, 110_000, 150_000, 1),
            operator(mm, 160_000, 190_000, 1),
            operator(add, 100_000, 200_000, 0),
            operator(add, 300_000, 320_000, 0),
        ]);

        let gemm = worker.string("_Z4gemmIfEvPKT_S2_PS0_i");
        let copy = worker.string("softmax");
        worker.push(&[
            kernel(gemm, 100_000, 200_000),
            kernel(gemm, 200_000, 260_000),
            kernel(copy, 250_000, 300_000),
        ]);
        worker.push(&[Memcpy {
            start: T0 + 280_000,
            end: T0 + 320_000,
            size_bytes: 4_000_000,
            copy_kind: CopyKind::HostToDevice.number(),
            ..Memcpy::default()
        }]);
        worker.push(&[Memset {
            start: T0 + 400_000,
            end: T0 + 410_000,
            size_bytes: 100,
            ..Memset::default()
        }]);
        let launch = worker.string("cudaLaunchKernel");
        worker.push(&[ApiCall {
            start: T0 + 90_000,
            end: T0 + 95_000,
            name: launch,
            thread: 7,
            domain: 1,
            ..ApiCall::default()
        }]);
        let (rss, bytes) = (worker.string("resident memory"), worker.string("bytes"));
        let counter = |time, value| Counter {
            time: T0 + time,
            value,
            name: rss,
            unit: bytes,
            device: u32::MAX,
            thread: 0,
        };
        worker.push(&[counter(1, 1000.0), counter(100_000, 3000.0), counter(200_000, 2000.0)]);
        worker.push(&[1, 2, 3].map(|step| Step {
            time: T0 + step * 100_000,
            step,
            thread: 7,
            reserved: 0,
        }));
        let outer = worker.string("loop_main");
        let inner = worker.string("matmul");
        let frame = |function| Frame { function, ..Frame::default() };
        let stacks = [vec![frame(inner), frame(outer)], vec![frame(outer)]];
        for (index, frames) in stacks.iter().enumerate() {
            use zerocopy::IntoBytes as _;
            let mut heap = Vec::new();
            let frames = HeapRef::push(&mut heap, frames.as_bytes());
            let stack = StackDef { frames, id: StackId(index as u32 + 1), process: 100 };
            worker.spool.push_with_heap(worker.stream, &[stack], &heap);
        }
        let sample = |time, stack, state| Sample {
            time: T0 + time,
            weight_ns: 10_000,
            stack: StackId(stack),
            thread: 7,
            cpu: 0,
            state,
        };
        worker.push(&[
            sample(110_000, 1, 0),
            sample(120_000, 1, 0),
            sample(130_000, 1, 0),
            sample(140_000, 2, 0),
            sample(150_000, 2, 1),
        ]);
        worker.spool.push(
            StreamId(0),
            &[Loss {
                from: T0 + 10,
                to: T0 + 20,
                count: 5,
                stream: 1,
                kind: Kernel::KIND.0,
                cause: LossCause::SinkFull.number(),
            }],
        );
        builders.push(worker);
    }
    let mut talker = Builder::new(origin(1, "talker", 0));
    talker.span("speak", 1, 0, 0, 250_000);
    builders.push(talker);
    builders
}
