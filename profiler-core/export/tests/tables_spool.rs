//! A spool file of this very process, through the front door.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use profiler_core::clock::{ClockDomain, ClockSource as _, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::*;
use profiler_core::sink::{Batch, Emit, StreamId, StreamInfo};
use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolWriter};
use profiler_export::{ExportRequest, TraceFormat, run};
use zerocopy::IntoBytes as _;

#[inline(never)]
fn a_hot_function(number: u64) -> u64 {
    std::hint::black_box(number).rotate_left(7)
}

/// An address that no file is mapped at.
const GENERATED: u64 = 0x10_0000;

/// Records two samples of this process: in a function of its own, called by generated code.
fn spool(directory: &Path) -> PathBuf {
    let path = directory.join("replica0.rank0.host.1-key.spool");
    let clock = SystemClock::new();
    let worker = WorkerIdentity::of_this_process(Some(1), Some("talker"), Some(0), Some(0));
    let pid = worker.pid;
    let header = SpoolHeader {
        session: "session".to_owned(),
        prefix: None,
        worker,
        writer: "test".to_owned(),
        created: clock.now(),
        fence: 1,
    };
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let options = SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() };
    let writer = SpoolWriter::create(file, &header, options, Arc::new(SystemClock::new())).unwrap();
    let sink = writer.sink();
    let stream = sink.open_stream(StreamInfo {
        producer: "cpu.sampler".to_owned(),
        thread: 0,
        clock: ClockDomain::Monotonic,
    });
    let emit = |group: &[Batch<'_>]| assert_eq!(sink.emit(group), Emit::Accepted);

    let begin = clock.now();
    let edge = |instant: profiler_core::clock::Instant, edge: WindowEdge| Window {
        monotonic: instant.monotonic_ns,
        realtime: instant.realtime_ns,
        step: u64::MAX,
        window: 0,
        edge: edge.number(),
    };
    emit(&[Batch::new(StreamId(0), &[edge(begin, WindowEdge::Begin)])]);

    let exe = fs::read_link("/proc/self/exe").unwrap();
    let bytes = fs::read(&exe).unwrap();
    let note = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];
    let at = bytes.windows(16).position(|window| window == note).unwrap();
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(5).is_none_or(|path| Path::new(path) != exe) {
            continue;
        }
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = words[0].split_once('-').unwrap();
        let mut heap = Vec::new();
        let module = Module {
            time: begin.monotonic_ns,
            start_address: hex(start),
            end_address: hex(end),
            file_offset: hex(words[2]),
            path: HeapRef::push(&mut heap, words[5].as_bytes()),
            build_id: HeapRef::push(&mut heap, &bytes[at + 16..at + 36]),
            process: pid,
            reserved: 0,
        };
        emit(&[Batch::with_heap(StreamId(0), &[module], &heap)]);
    }

    let frames = [
        Frame { address: a_hot_function as *const () as u64 + 1, ..Frame::default() },
        Frame { address: GENERATED + 8, ..Frame::default() },
    ];
    let mut heap = Vec::new();
    let frames = HeapRef::push(&mut heap, frames.as_bytes());
    let stack = StackDef { frames, id: StackId(1), process: pid };
    let sample = |after: u64| Sample {
        time: begin.monotonic_ns + after,
        weight_ns: 10_000_000,
        stack: StackId(1),
        thread: pid,
        cpu: 0,
        state: 0,
    };
    let mut thread_heap = Vec::new();
    let name = HeapRef::push(&mut thread_heap, b"main");
    emit(&[
        Batch::with_heap(stream, &[ThreadDef { name, thread: pid, process: pid }], &thread_heap),
        Batch::with_heap(stream, &[stack], &heap),
        Batch::new(stream, &[sample(100), sample(200)]),
    ]);
    let mut end = begin;
    end.monotonic_ns += 40_000_000;
    end.realtime_ns += 40_000_000;
    emit(&[Batch::new(StreamId(0), &[edge(end, WindowEdge::End)])]);
    writer.finish(Duration::from_secs(30));

    let map = format!("{GENERATED:x} 40 py::forward:model.py\n");
    fs::write(path.with_extension("perf-map"), map).unwrap();
    path
}

fn export(spool: &Path, format: TraceFormat) -> PathBuf {
    let output = spool.with_extension(format.extension());
    let report =
        run(&ExportRequest::new(vec![spool.to_owned()], output.clone(), format), &mut |_| true)
            .unwrap();
    assert!(report.bytes > 0);
    output
}

#[test]
fn own_and_generated_code_have_their_names_in_every_format() {
    let function = "tables_spool::a_hot_function";
    assert_ne!(a_hot_function(1), 1);
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());

    let folded = fs::read_to_string(export(&spool, TraceFormat::Folded)).unwrap();
    let pid = std::process::id();
    assert_eq!(
        folded,
        format!(
            "stage 1 talker, replica 0, rank 0;main ({pid});py::forward:model.py;{function} 20000\n"
        )
    );
    let speedscope = fs::read_to_string(export(&spool, TraceFormat::Speedscope)).unwrap();
    let speedscope: serde_json::Value = serde_json::from_str(&speedscope).unwrap();
    let frames = speedscope["shared"]["frames"].as_array().unwrap();
    assert_eq!(frames[0]["name"], "py::forward:model.py");
    assert_eq!(frames[1]["name"], function);
    assert!(frames[1]["file"].as_str().unwrap().ends_with("tests/tables_spool.rs"));

    let table = fs::read_to_string(export(&spool, TraceFormat::Table)).unwrap();
    // 20 of 40 ms; the two samples reach back over each other.
    assert!(table.contains("(by samples), 0.50 processors"), "{table}");
    assert!(table.contains(function) && table.contains("py::forward:model.py"), "{table}");

    let csv = export(&spool, TraceFormat::Csv);
    assert!(fs::read_to_string(csv.join("functions.csv")).unwrap().contains(function));

    let parquet = export(&spool, TraceFormat::Parquet);
    assert!(parquet.join("frames.parquet").is_file() && parquet.join("sample.parquet").is_file());
    for directory in [csv, parquet] {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        for entry in fs::read_dir(&directory).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
    }
}
