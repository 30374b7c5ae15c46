//! Every format through the front door, whatever the capture is like.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flate2::bufread::{GzDecoder, MultiGzDecoder};
use profiler_core::clock::{ClockDomain, Instant, ManualClock};
use profiler_core::config::{EventArguments, TraceFormat};
use profiler_core::record::*;
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId, StreamInfo};
use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolWriter};
use profiler_export::export::{ExportError, ExportRequest, run};

use crate::make::*;
use crate::protobuf::Trace;

pub(crate) fn emit(sink: &dyn RecordSink, batches: &[Batch<'_>]) {
    assert_eq!(sink.emit(batches), Emit::Accepted);
}

pub(crate) fn writer(path: &Path) -> SpoolWriter {
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    let now = Instant { monotonic_ns: M0, realtime_ns: R0 };
    let header = SpoolHeader {
        session: "session-1".to_owned(),
        prefix: None,
        worker: identity(0),
        writer: "omniprof 0.1.0".to_owned(),
        created: now,
        fence: 1,
    };
    let options = SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() };
    SpoolWriter::create(file, &header, options, Arc::new(ManualClock::new(now))).unwrap()
}

pub(crate) fn edge(edge: WindowEdge, at: u64) -> Window {
    Window { monotonic: M0 + at, realtime: R0 + at, step: u64::MAX, window: 0, edge: edge.number() }
}

/// Opens a device stream and defines a name, with the id 1.
pub(crate) fn device(sink: &dyn RecordSink) -> StreamId {
    let stream = sink.open_stream(StreamInfo {
        producer: "cuda.activity".to_owned(),
        thread: 0,
        clock: ClockDomain::Realtime,
    });
    let mut heap = Vec::new();
    let text = HeapRef::push(&mut heap, b"cudaLaunchKernel");
    let name = StringDef { text, id: StringId(1), reserved: 0 };
    emit(sink, &[Batch::with_heap(stream, &[name], &heap)]);
    stream
}

/// Writes a spool of so many launches; `closed` = with an end and a footer.
fn spool(path: &Path, launches: u64, closed: bool) {
    let writer = writer(path);
    let sink = writer.sink();
    emit(&*sink, &[Batch::new(StreamId(0), &[tuple(0, 0), later()])]);
    emit(&*sink, &[Batch::new(StreamId(0), &[edge(WindowEdge::Begin, 0)])]);
    let stream = device(&*sink);
    let calls: Vec<_> = (0..launches)
        .map(|i| api(StringId(1), i + 1, R0 + 100 + i * 100, R0 + 140 + i * 100))
        .collect();
    let kernels: Vec<_> = (0..launches)
        .map(|i| kernel(StringId(1), i + 1, R0 + 150 + i * 100, R0 + 190 + i * 100))
        .collect();
    emit(&*sink, &[Batch::new(stream, &calls), Batch::new(stream, &kernels)]);
    if closed {
        emit(&*sink, &[Batch::new(StreamId(0), &[edge(WindowEdge::End, 900_000_000)])]);
    }
    writer.finish(Duration::from_secs(20));
    if !closed {
        // The last bytes were the footer's, and a part of what stood before.
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - bytes.len() / 8]).unwrap();
    }
}

fn later() -> ClockTuple {
    tuple(1_000_000_000, 0)
}

fn read_gzip(file: &[u8]) -> Vec<u8> {
    let mut rest = file;
    let mut raw = Vec::new();
    GzDecoder::new(&mut rest).read_to_end(&mut raw).unwrap();
    assert!(rest.is_empty(), "more than one member");
    let mut all = Vec::new();
    MultiGzDecoder::new(file).read_to_end(&mut all).unwrap();
    assert_eq!(raw, all);
    raw
}

#[test]
fn every_format_is_valid_for_every_sort_of_capture() {
    let directory = tempfile::tempdir().unwrap();
    for (name, launches, closed) in [("whole", 500, true), ("empty", 0, true), ("cut", 500, false)]
    {
        let path = directory.path().join(format!("{name}.spool"));
        spool(&path, launches, closed);
        for format in TraceFormat::ALL {
            let output = directory.path().join(format!("{name}.{}", format.extension()));
            let request = ExportRequest::new(vec![path.clone()], output.clone(), format);
            let report = run(&request, &mut |_| true).unwrap();
            assert_eq!(report.path, output);
            if output.is_dir() {
                assert!(report.bytes > 0 && report.crc32.is_none());
                continue;
            }
            let bytes = fs::read(&output).unwrap();
            assert_eq!(report.bytes, bytes.len() as u64);
            let crc = format!("{:08x}", crc32fast::hash(&bytes));
            assert_eq!(report.crc32.as_deref(), Some(crc.as_str()));
            check(format, &bytes, name, launches);
        }
    }
    let left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn check(format: TraceFormat, bytes: &[u8], name: &str, launches: u64) {
    let Some(trace) = check_valid(format, bytes) else { return };
    if name == "whole" {
        assert_eq!(trace.linked(), launches as usize);
    }
    assert_eq!(trace.slices.iter().filter(|s| s.name == "window 0").count(), 1);
}

/// Whether the bytes are what the format says; a Perfetto trace is given back.
fn check_valid(format: TraceFormat, bytes: &[u8]) -> Option<Trace> {
    let raw = match format {
        TraceFormat::PftraceGz | TraceFormat::KinetoGz => read_gzip(bytes),
        _ => bytes.to_vec(),
    };
    match format {
        TraceFormat::Pftrace | TraceFormat::PftraceGz => {
            let trace = Trace::parse(&raw);
            assert_eq!(trace.unmatched, 0);
            return Some(trace);
        }
        TraceFormat::Kineto | TraceFormat::KinetoGz | TraceFormat::Speedscope => {
            let _: serde_json::Value = serde_json::from_slice(&raw).unwrap();
        }
        _ => {
            let _: &str = str::from_utf8(&raw).unwrap();
        }
    }
    None
}

/// Bits flipped and bytes cut anywhere: an export or an error that says why, and nothing else.
#[test]
fn damaged_spools_give_a_valid_export_or_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.spool");
    spool(&path, 2_000, true);
    let whole = fs::read(&path).unwrap();
    let (mut exported, mut refused, mut damaged) = (0, 0, 0);
    for turn in 0..48_usize {
        let mut bytes = whole.clone();
        let at = turn * 7_919 % whole.len();
        match turn % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << (turn % 8),
            _ => {
                let end = (at + 700).min(bytes.len());
                bytes[at..end].fill(0xff);
            }
        }
        let broken = directory.path().join(format!("{turn}.spool"));
        fs::write(&broken, &bytes).unwrap();
        let format = TraceFormat::ALL[turn % TraceFormat::ALL.len()];
        let output = directory.path().join(format!("{turn}.{}", format.extension()));
        let request = ExportRequest::new(vec![broken], output.clone(), format);
        match run(&request, &mut |_| true) {
            Ok(report) => {
                exported += 1;
                damaged += report.drops.get("damaged_blocks").copied().unwrap_or(0);
                if output.is_file() {
                    check_valid(format, &fs::read(&output).unwrap());
                }
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.code(), "spool_unreadable", "{error:?}");
                assert!(!output.exists());
            }
        }
    }
    assert!(exported > 30 && refused > 0 && damaged > 0, "{exported} {refused} {damaged}");
}

#[test]
fn a_capture_without_a_window_is_a_valid_trace_that_says_so() {
    let mut spool = Spool::new(identity(0));
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    spool.memory.push(stream, &[Span { start: M0 + 1, end: M0 + 2, ..Span::default() }]);
    let input = spool.done();
    let (bytes, report) = pftrace(vec![input.clone()]);
    let trace = Trace::parse(&bytes);
    assert!(trace.slices.is_empty());
    assert_eq!(trace.instants[0].name, "no window");
    assert_eq!(report.drops["outside_window"], 1);
    assert!(report.notes[0].contains("no window began"));
    let (bytes, _) = export(vec![input], TraceFormat::Kineto, EventArguments::Minimal);
    let _: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
}

#[test]
fn nothing_is_replaced_and_nothing_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (path, output) = (directory.path().join("a.spool"), directory.path().join("a.pftrace"));
    spool(&path, 10, true);
    fs::write(&output, b"mine").unwrap();
    let request = ExportRequest::new(vec![path.clone()], output.clone(), TraceFormat::Pftrace);
    let error = run(&request, &mut |_| true).unwrap_err();
    assert_eq!(error.code(), "export_exists");
    assert_eq!(fs::read(&output).unwrap(), b"mine");
    let table = directory.path().join("taken.parquet");
    fs::create_dir(&table).unwrap();
    let request = ExportRequest::new(vec![path.clone()], table, TraceFormat::Parquet);
    assert!(matches!(run(&request, &mut |_| true), Err(ExportError::Exists { .. })));
    // What is no spool, and an export that is called off.
    let request =
        ExportRequest::new(vec![output], directory.path().join("b.pftrace"), TraceFormat::Pftrace);
    assert_eq!(run(&request, &mut |_| true).unwrap_err().code(), "spool_unreadable");
    let names: std::collections::BTreeSet<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a.pftrace", "a.spool", "taken.parquet"]);
}

#[test]
fn the_formats_are_pinned() {
    let input = || vec![launches(0, 2).done()];
    let (json, _) = export(input(), TraceFormat::Kineto, EventArguments::Full);
    insta::assert_snapshot!("kineto", String::from_utf8(json).unwrap());
    let (bytes, _) = export(input(), TraceFormat::Pftrace, EventArguments::Full);
    let trace = Trace::parse(&bytes);
    let mut text = String::new();
    for (uuid, track) in &trace.tracks {
        text.push_str(&format!("{uuid}: {track:?}\n"));
    }
    for slice in &trace.slices {
        text.push_str(&format!("{slice:?}\n"));
    }
    insta::assert_snapshot!("pftrace", text);
    insta::assert_snapshot!("pftrace_bytes", hex(&pftrace(input()).0));
}

fn hex(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .chunks(32)
        .map(|chunk| chunk.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    lines.join("\n")
}
