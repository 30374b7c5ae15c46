//! Captures in memory, made row by row.

use std::sync::Arc;

use profiler_core::clock::{ClockDomain, Instant};
use profiler_core::config::{EventArguments, TraceFormat};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::*;
use profiler_core::sink::{StreamId, StreamInfo};
use profiler_export::capture::{Capture, CaptureOptions, Input, MemorySpool, Origin};
use profiler_export::export::{ExportReport, ExportRequest, write_to};

pub(crate) const PID: u32 = 4000;
pub(crate) const THREAD: u32 = 4001;
/// CLOCK_MONOTONIC and CLOCK_REALTIME at the beginning of made captures.
pub(crate) const M0: u64 = 5_000_000_000_000;
pub(crate) const R0: u64 = 1_780_000_000_000_000_000;

pub(crate) fn identity(rank: u32) -> WorkerIdentity {
    WorkerIdentity {
        stage: Some(0),
        role: Some("thinker".to_owned()),
        replica: Some(0),
        rank: Some(rank),
        host: "host-a".to_owned(),
        pid: PID + rank * 100,
        key: format!("key{rank}"),
        boot_id: "boot-a".to_owned(),
        time_namespace: 1,
        pid_namespace: 1,
        start_ticks: 1,
        program: "python3".to_owned(),
    }
}

/// Spools of a pipeline, its workers thrown together, and their stages, replicas and ranks in the
/// order in which they belong: by number, those that are not known last.
pub(crate) fn shuffled_pipeline() -> (Vec<Input>, Vec<[Option<u32>; 3]>) {
    let ordered = [
        [Some(0), Some(0), Some(0)],
        [Some(0), Some(0), Some(1)],
        [Some(0), Some(0), Some(2)],
        [Some(0), Some(0), Some(10)],
        [Some(0), Some(1), Some(0)],
        [Some(0), Some(1), Some(1)],
        [Some(1), Some(0), Some(0)],
        [Some(2), Some(0), Some(0)],
        [Some(2), Some(2), Some(0)],
        [Some(2), Some(11), Some(0)],
        [Some(10), Some(0), Some(0)],
        [None, None, Some(0)],
        [None, None, None],
    ];
    let mut spools = Vec::new();
    for (index, [stage, replica, rank]) in (0..).zip(ordered) {
        // Nothing but the place tells the order: pids and keys run against it.
        let mut worker = identity(0);
        (worker.stage, worker.replica, worker.rank) = (stage, replica, rank);
        worker.pid = 9000 - index;
        worker.key = format!("key{}", worker.pid);
        let mut spool = Spool::with_window(worker, 1_000_000);
        let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
        let name = spool.string(stream, "gemm");
        spool.memory.push(stream, &[kernel(name, 1, R0 + 10, R0 + 20)]);
        spools.push(spool.done());
    }
    // Each fifth of them: all come, and no two that belong together stand together.
    let count = spools.len();
    let shuffled = (0..count).map(|index| spools[index * 5 % count].clone()).collect();
    (shuffled, ordered.into())
}

/// A spool in the making.
pub(crate) struct Spool {
    pub(crate) memory: MemorySpool,
    strings: u32,
}

impl Spool {
    pub(crate) fn new(identity: WorkerIdentity) -> Self {
        let memory = MemorySpool::new(Origin {
            session: "session-1".to_owned(),
            prefix: None,
            worker: identity,
            writer: "omniprof 0.1.0".to_owned(),
            created: Instant { monotonic_ns: M0, realtime_ns: R0 },
        });
        Self { memory, strings: 0 }
    }

    /// With clock tuples each second and one window over `[0, to)` ns.
    pub(crate) fn with_window(identity: WorkerIdentity, to: u64) -> Self {
        let mut spool = Self::new(identity);
        let tuples: Vec<ClockTuple> = (0..4).map(|s| tuple(s * 1_000_000_000, 0)).collect();
        spool.memory.push(StreamId(0), &tuples);
        spool.window(WindowEdge::Begin, 0, 0);
        spool.window(WindowEdge::End, 0, to);
        spool
    }

    pub(crate) fn window(&mut self, edge: WindowEdge, window: u32, at: u64) {
        self.memory.push(
            StreamId(0),
            &[Window {
                monotonic: M0 + at,
                realtime: R0 + at,
                step: u64::MAX,
                window,
                edge: edge.number(),
            }],
        );
    }

    pub(crate) fn stream(&mut self, producer: &str, clock: ClockDomain) -> StreamId {
        self.memory.open_stream(StreamInfo { producer: producer.to_owned(), thread: 0, clock })
    }

    pub(crate) fn string(&mut self, stream: StreamId, text: &str) -> StringId {
        self.strings += 1;
        let id = StringId(self.strings);
        let mut heap = Vec::new();
        let text = HeapRef::push(&mut heap, text.as_bytes());
        self.memory.push_with_heap(stream, &[StringDef { text, id, reserved: 0 }], &heap);
        id
    }

    pub(crate) fn done(self) -> Input {
        Input::Memory(Arc::new(self.memory))
    }
}

/// All clocks at `at` ns, CLOCK_REALTIME having been stepped by so much.
pub(crate) fn tuple(at: u64, stepped: i64) -> ClockTuple {
    ClockTuple {
        monotonic: M0 + at,
        realtime: (R0 + at).saturating_add_signed(stepped),
        tsc: 1_000 + at * 2,
        boottime: M0 + at + 7_000,
        error_ns: 60,
        ..ClockTuple::default()
    }
}

pub(crate) fn api(name: StringId, correlation: u64, start: u64, end: u64) -> ApiCall {
    ApiCall {
        start,
        end,
        correlation,
        name,
        thread: THREAD,
        function: 211,
        domain: ApiDomain::CudaRuntime.number(),
        ..ApiCall::default()
    }
}

pub(crate) fn kernel(name: StringId, correlation: u64, start: u64, end: u64) -> Kernel {
    Kernel { start, end, correlation, name, context: 1, stream: 7, ..Kernel::default() }
}

/// A capture of one worker in which `launches` calls launch a kernel each, a microsecond apart.
pub(crate) fn launches(rank: u32, launches: u64) -> Spool {
    let mut spool = Spool::with_window(identity(rank), 2_000_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let launch = spool.string(stream, "cudaLaunchKernel");
    let gemm = spool.string(stream, "_Z4gemmPfS_i");
    let calls: Vec<_> = (0..launches)
        .map(|i| api(launch, i + 1, R0 + 1_000 + i * 1_000, R0 + 1_400 + i * 1_000))
        .collect();
    let kernels: Vec<_> = (0..launches)
        .map(|i| kernel(gemm, i + 1, R0 + 1_600 + i * 1_000, R0 + 2_400 + i * 1_000))
        .collect();
    spool.memory.push(stream, &calls);
    spool.memory.push(stream, &kernels);
    spool
}

pub(crate) fn open(inputs: Vec<Input>) -> Capture {
    Capture::open(inputs, CaptureOptions::default()).unwrap()
}

pub(crate) fn export(
    inputs: Vec<Input>,
    format: TraceFormat,
    arguments: EventArguments,
) -> (Vec<u8>, ExportReport) {
    let mut request = ExportRequest::new(Vec::new(), "trace.json".into(), format);
    request.arguments = arguments;
    write_to(open(inputs), &request, Vec::new(), &mut |_| true).unwrap()
}

pub(crate) fn pftrace(inputs: Vec<Input>) -> (Vec<u8>, ExportReport) {
    export(inputs, TraceFormat::Pftrace, EventArguments::Minimal)
}
