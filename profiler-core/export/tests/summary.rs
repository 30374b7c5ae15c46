//! Summaries of captures whose sums are known.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use profiler_core::record::*;
use profiler_export::summary::{OTHER, Summary, SummaryOptions, summarize};
use profiler_export::tables::{TextOptions, csv_files, ops_csv, ops_text, text, write_csv};
use proptest::prelude::*;

mod tables_common;

use tables_common::{Builder, T0, capture, kernel, origin, pipeline};

fn summary(spools: Vec<Builder>) -> Summary {
    summarize(&mut capture(spools), SummaryOptions::default()).unwrap()
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
fn workers_have_their_own_part_where_it_is_wanted() {
    let mut options = TextOptions::default();
    options.workers = true;
    let text = text(&summary(pipeline()), options);
    let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("stage ")).collect();
    let titles: Vec<&str> = headings.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        titles,
        [
            "stage 0 thinker",
            "stage 0 thinker, replica 0, rank 0",
            "stage 0 thinker, replica 0, rank 1",
            "stage 1 talker",
        ]
    );
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
fn csv_files_lie_in_a_new_directory() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("trace.tables");
    let summary = summary(pipeline());
    let bytes = write_csv(&target, &summary).unwrap();
    let mut found = 0;
    for entry in std::fs::read_dir(&target).unwrap() {
        found += entry.unwrap().metadata().unwrap().len();
    }
    assert_eq!(found, bytes);
    assert!(target.join("ops.csv").is_file() && target.join("spans.csv").is_file());
    write_csv(&target, &summary).unwrap_err();
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

#[test]
fn operators_are_written_to_a_new_workbook() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operators.xlsx");
    let summary = summary(pipeline());
    profiler_export::tables::write_xlsx(&path, &summary).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.starts_with(b"PK"), "a workbook is a zip archive");
    assert!(bytes.windows(20).any(|part| part == b"xl/worksheets/sheet1"));
    let again = profiler_export::tables::write_xlsx(&path, &summary).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
}

/// An operator inside another launches two kernels, the outer one a third; a fourth nobody.
#[test]
fn work_on_a_device_counts_for_the_operators_around_its_launch() {
    let mut spool = Builder::new(origin(0, "thinker", 0));
    let linear = spool.string("aten::linear");
    let mm = spool.string("aten::mm");
    let launch = spool.string("cudaLaunchKernel");
    let gemm = spool.string("gemm");
    let operator = |name, start: u64, end: u64, depth| Operator {
        start: T0 + start,
        end: T0 + end,
        name,
        thread: 7,
        depth,
        scope: 1,
        sequence: -1,
        ..Operator::default()
    };
    let call = |start: u64, correlation| ApiCall {
        start: T0 + start,
        end: T0 + start + 1_000,
        correlation,
        name: launch,
        thread: 7,
        domain: 1,
        ..ApiCall::default()
    };
    let launched = |start, end, correlation| Kernel { correlation, ..kernel(gemm, start, end) };
    // Kernels first: in a file they may lie before the calls that launched them.
    spool.push(&[
        launched(50_000, 60_000, 1),
        launched(60_000, 90_000, 2),
        launched(90_000, 95_000, 3),
        launched(100_000, 101_000, 4),
    ]);
    spool.push(&[call(12_000, 1), call(14_000, 2), call(25_000, 3), call(45_000, 4)]);
    spool.push(&[operator(mm, 11_000, 20_000, 1), operator(linear, 10_000, 30_000, 0)]);
    let summary = summary(vec![spool]);
    let tables = &summary.workers[0].tables;
    let of = |name: &str| tables.operators.iter().find(|row| row.name == name).unwrap();
    assert_eq!((of("aten::mm").self_device_us, of("aten::mm").device_us), (Some(40.0), Some(40.0)));
    let linear = of("aten::linear");
    assert_eq!((linear.self_device_us, linear.device_us), (Some(5.0), Some(45.0)));
    assert_eq!(tables.unattributed, 1);
    let table = ops_csv(&summary);
    let line = table.lines().find(|line| line.contains("aten::linear")).unwrap();
    assert!(line.contains(",5.000,") && line.contains(",45.000,"), "{line}");
}

/// Samples lie in a matrix product inside an addition: in one stack thrice, in another once, and
/// once while the thread waited.
#[test]
fn operators_are_told_apart_by_the_stacks_that_samples_found() {
    let summary = summary(pipeline());
    let rows = |tables: &profiler_export::summary::Tables| {
        let rows = tables.operators_by_stack.iter();
        rows.map(|row| (row.name.clone(), row.stack.join(" < "), row.self_us, row.total_us))
            .collect::<Vec<_>>()
    };
    let row = |name: &str, stack: &str, own, total| (name.to_owned(), stack.to_owned(), own, total);
    assert_eq!(
        rows(&summary.workers[0].tables),
        [
            row("aten::mm", "matmul < loop_main", 30.0, 30.0),
            row("aten::mm", "loop_main", 10.0, 10.0),
            row("aten::add", "matmul < loop_main", 0.0, 30.0),
            row("aten::add", "loop_main", 0.0, 10.0),
        ]
    );
    assert_eq!(
        rows(&summary.stages[0].tables)[0],
        row("aten::mm", "matmul < loop_main", 60.0, 60.0)
    );
    let mut options = TextOptions::default();
    assert!(!text(&summary, options).contains("by stack"));
    options.by_stack = true;
    let text = text(&summary, options);
    assert!(text.contains("Operators by stack, as sampled"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operators.xlsx");
    profiler_export::tables::write_xlsx(&path, &summary).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    // No shapes were taken: the second sheet is that of stacks.
    assert!(bytes.windows(20).any(|part| part == b"xl/worksheets/sheet2"));
}
