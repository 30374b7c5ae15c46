//! Summaries of captures whose sums are known.

use std::sync::Arc;

use profiler_core::clock::{ClockDomain, Instant};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::*;
use profiler_core::sink::{StreamId, StreamInfo};
use profiler_export::capture::{Capture, CaptureOptions, Input, MemorySpool, Origin};
use profiler_export::summary::{OTHER, Summary, SummaryOptions, summarize};
use profiler_export::tables::{TextOptions, csv_files, ops_csv, ops_text, text};
use proptest::prelude::*;

const T0: u64 = 1_000_000;
const T1: u64 = 2_000_000;

fn origin(stage: u32, role: &str, rank: u32) -> Origin {
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
struct Builder {
    spool: MemorySpool,
    stream: StreamId,
    strings: Vec<String>,
}

impl Builder {
    fn new(origin: Origin) -> Self {
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

    fn string(&mut self, text: &str) -> StringId {
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

    fn push<R: Row>(&mut self, rows: &[R]) {
        self.spool.push(self.stream, rows);
    }

    fn span(&mut self, name: &str, id: u64, parent: u64, start: u64, end: u64) {
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

fn summary(spools: Vec<Builder>) -> Summary {
    let inputs = spools.into_iter().map(|builder| Input::Memory(Arc::new(builder.spool)));
    let mut capture = Capture::open(inputs, CaptureOptions::default()).unwrap();
    summarize(&mut capture, SummaryOptions::default()).unwrap()
}

fn kernel(name: StringId, start: u64, end: u64) -> Kernel {
    Kernel { start: T0 + start, end: T0 + end, name, device: 0, stream: 7, ..Kernel::default() }
}

/// Two ranks of a thinker with spans, operators, samples and a device, and a talker with spans.
fn pipeline() -> Vec<Builder> {
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

#[test]
fn stages_add_up_their_workers() {
    let summary = summary(pipeline());
    assert_eq!(summary.workers.len(), 3);
    assert_eq!(summary.stages.len(), 2);
    let thinker = &summary.stages[0];
    let decode = &thinker.tables.spans[0];
    assert_eq!((&*decode.name, decode.count, decode.total_us), ("decode", 4, 1100.0));
    // 450 of which 350 lie in its children, and 100; twice.
    assert_eq!(decode.self_us, Some(400.0));
    assert_eq!((decode.min_us, decode.max_us, decode.avg_us), (100.0, 450.0, 275.0));
    // 550 of 1000 us.
    assert_eq!(thinker.activity.busy_percent, Some(55.0));
    assert_eq!(thinker.activity.busy_by, Some("spans"));
    assert_eq!(summary.stages[1].activity.busy_percent, Some(25.0));
    assert_eq!(thinker.tables.losses[0].count, 10);

    let add = thinker.tables.operators.iter().find(|row| row.name == "aten::add").unwrap();
    assert_eq!((add.count, add.total_us, add.self_us), (4, 240.0, Some(100.0)));
}

#[test]
fn devices_are_busy_once_however_many_kernels_run() {
    let summary = summary(pipeline());
    let device = &summary.workers[0].tables.devices[0];
    // 100..320 and 400..410 of 1000.
    assert_eq!(device.busy_percent, 23.0);
    assert_eq!(device.compute_percent, 20.0);
    assert_eq!(device.copy_percent, 5.0);
    // Of 50 us of copies, 280..300 lies under kernels.
    assert_eq!(device.copy_overlap_percent, 40.0);
    assert_eq!((device.kernels, device.kernels_us), (3, 210.0));
    let kernels = &summary.workers[0].tables.kernels;
    assert_eq!(kernels[0].name, "void gemm<float>(float const*, float const*, float*, int)");
    assert_eq!((kernels[0].count, kernels[0].total_us), (2, 160.0));
}

#[test]
fn functions_have_own_and_total_time() {
    let summary = summary(pipeline());
    let functions = &summary.workers[1].tables.functions;
    let find = |name: &str| functions.iter().find(|row| row.name == name).unwrap();
    let (inner, outer) = (find("matmul"), find("loop_main"));
    assert_eq!((inner.self_percent, inner.total_percent, inner.self_samples), (75.0, 75.0, 3));
    assert_eq!((outer.self_percent, outer.total_percent, outer.total_samples), (25.0, 100.0, 4));
    assert_eq!(outer.waiting_us, 10.0);
    assert_eq!(summary.workers[1].activity.processors, Some(0.04));
}

#[test]
fn the_text_reads_well() {
    insta::assert_snapshot!("text", text(&summary(pipeline()), TextOptions::default()));
}

#[test]
fn the_operator_table_is_that_of_servers() {
    let summary = summary(pipeline());
    insta::assert_snapshot!("ops_text", ops_text(&summary, 100));
    insta::assert_snapshot!("ops_csv", ops_csv(&summary));
}

#[test]
fn csv_has_a_file_a_table() {
    let files = csv_files(&summary(pipeline()));
    let mut all = String::new();
    for file in &files {
        all.push_str(&format!("== {}\n{}", file.name, file.text));
    }
    insta::assert_snapshot!("csv", all);
    for file in files {
        let columns = file.text.lines().next().unwrap().split(',').count();
        assert!(columns > 8, "{}", file.name);
    }
}

#[test]
fn json_has_a_fixed_layout() {
    insta::assert_json_snapshot!("json", summary(pipeline()));
}

#[test]
fn a_capture_without_rows_is_a_summary_too() {
    let summary = summary(vec![Builder::new(origin(0, "thinker", 0))]);
    assert_eq!(summary.stages[0].activity.busy_percent, None);
    insta::assert_snapshot!("empty", text(&summary, TextOptions::default()));
    assert!(csv_files(&summary).is_empty());
}

#[test]
fn names_beyond_the_bound_are_one_line_and_nothing_is_lost() {
    let mut worker = Builder::new(origin(0, "thinker", 0));
    for index in 0..1100 {
        worker.span(&format!("span {index}"), index + 1, 0, index * 10, index * 10 + 5);
    }
    let summary = summary(vec![worker]);
    let spans = &summary.workers[0].tables.spans;
    assert_eq!(spans.len(), 1025);
    let last = spans.last().unwrap();
    assert_eq!((&*last.name, last.count), (OTHER, 76));
    assert_eq!(spans.iter().map(|row| row.count).sum::<u64>(), 1100);
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let mut worker = Builder::new(origin(0, "thin\u{1b}]0;x\u{7}ker", 0));
    worker.span("a\u{1b}[31mred\nname, \"quoted\"", 1, 0, 0, 10);
    let summary = summary(vec![worker]);
    let text = text(&summary, TextOptions::default());
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    let ops = ops_text(&summary, 10);
    assert!(!ops.chars().any(|c| c.is_control() && c != '\n'));
    let spans = csv_files(&summary).into_iter().find(|file| file.name == "spans").unwrap();
    assert!(spans.text.contains("\"a\u{1b}[31mred\nname, \"\"quoted\"\"\""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever rows say, sums are those of the rows and nothing panics.
    #[test]
    fn totals_are_what_was_put_in(
        rows in prop::collection::vec((0_u64..900_000, 0_u64..100_000, 0_u32..4), 0..200)
    ) {
        let mut worker = Builder::new(origin(0, "thinker", 0));
        let names: Vec<StringId> = (0..4).map(|name| worker.string(&format!("kernel{name}"))).collect();
        let kernels: Vec<Kernel> = rows
            .iter()
            .map(|&(start, length, name)| kernel(names[name as usize], start, start + length))
            .collect();
        worker.push(&kernels);
        let summary = summary(vec![worker]);
        let table = &summary.workers[0].tables.kernels;
        let total: u64 = rows.iter().map(|row| row.1).sum();
        prop_assert_eq!(table.iter().map(|row| row.count).sum::<u64>(), rows.len() as u64);
        let sum: f64 = table.iter().map(|row| row.total_us).sum();
        prop_assert!((sum - total as f64 / 1000.0).abs() < 1e-6 * sum.max(1.0));
        for device in &summary.workers[0].tables.devices {
            prop_assert!(device.busy_percent <= 100.0 && device.busy_percent + device.idle_percent == 100.0);
        }
    }

    #[test]
    fn wild_rows_do_no_harm(
        numbers in prop::collection::vec(any::<u64>(), 40),
        small in prop::collection::vec(any::<u32>(), 40),
    ) {
        let mut worker = Builder::new(origin(0, "thinker", 0));
        let n = |at: usize| numbers[at % numbers.len()];
        let s = |at: usize| small[at % small.len()];
        for at in 0..10 {
            worker.push(&[Span {
                start: T0 + n(at) % 1000, end: n(at + 1), id: n(at + 2) % 5, parent: n(at + 3) % 5,
                name: StringId(s(at)), flags: s(at + 1), ..Span::default()
            }]);
            worker.push(&[Operator {
                start: T0 + n(at) % 1000, end: n(at + 4), depth: s(at) as u16, name: StringId(s(at + 2)),
                shapes: HeapRef { offset: s(at + 3), len: s(at + 4) }, thread: s(at + 5), ..Operator::default()
            }]);
            worker.push(&[Sample {
                time: T0 + n(at) % 1000, weight_ns: n(at + 5), stack: StackId(s(at)), thread: s(at + 1),
                cpu: 0, state: s(at + 2) % 3,
            }]);
            worker.push(&[Counter {
                time: T0 + n(at) % 1000, value: f64::from_bits(n(at + 6)), ..Counter::default()
            }]);
            worker.push(&[Memory {
                time: T0 + n(at) % 1000, size_bytes: n(at + 7), operation: s(at) as u16 % 3,
                ..Memory::default()
            }]);
            worker.push(&[Memcpy {
                start: T0 + n(at) % 1000, end: n(at + 8), size_bytes: n(at + 9), copy_kind: s(at) as u8,
                ..Memcpy::default()
            }]);
        }
        let summary = summary(vec![worker]);
        let words = [text(&summary, TextOptions::default()), ops_text(&summary, 5), ops_csv(&summary)];
        prop_assert!(words.iter().all(|text| !text.is_empty()));
        serde_json::to_string(&summary).unwrap();
    }
}
