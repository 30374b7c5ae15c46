//! Exports of spools that are still being written.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use profiler_core::config::TraceFormat;
use profiler_core::record::*;
use profiler_core::sink::{Batch, StreamId};
use profiler_export::export::{ExportRequest, run};

use crate::formats::{device, edge, emit, writer};
use crate::make::*;
use crate::protobuf::Trace;

const SECOND: u64 = 1_000_000_000;
const DEADLINE: Duration = Duration::from_secs(60);

/// A writer that goes on in steps, an export that follows it, and the same export afterwards.
#[test]
fn what_was_followed_is_what_is_there_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.spool");
    let writer = writer(&path);
    let sink = writer.sink();
    emit(&*sink, &[Batch::new(StreamId(0), &[tuple(0, 0)])]);
    let (seen, progress) = mpsc::channel();
    let followed = directory.path().join("followed.pftrace");
    let mut request =
        ExportRequest::new(vec![path.clone()], followed.clone(), TraceFormat::Pftrace);
    request.follow = true;
    let export = std::thread::Builder::new()
        .spawn(move || {
            run(&request, &mut |counts| {
                // Nobody listens any more once the test has seen enough.
                let _sent = seen.send(counts.total());
                true
            })
        })
        .unwrap();
    emit(&*sink, &[Batch::new(StreamId(0), &[edge(WindowEdge::Begin, SECOND / 2)])]);
    let stream = device(&*sink);
    let mut id = 0;
    for second in 0..6 {
        let mut calls = Vec::new();
        let mut kernels = Vec::new();
        for i in 0..1_000 {
            id += 1;
            let at = R0 + second * SECOND + i * 900_000;
            calls.push(api(StringId(1), id, at, at + 300));
            kernels.push(kernel(StringId(1), id, at + 400, at + 700));
        }
        emit(&*sink, &[Batch::new(stream, &kernels), Batch::new(stream, &calls)]);
        let now = (second + 1) * SECOND;
        let open = edge(WindowEdge::Open, now);
        emit(
            &*sink,
            &[Batch::new(StreamId(0), &[tuple(now, 0)]), Batch::new(StreamId(0), &[open])],
        );
    }
    // While the spool is open, rows some time behind what was declared open are exported already,
    // and none beyond.
    let deadline = Instant::now() + DEADLINE;
    let mut newest = 0;
    while newest < 6_000 {
        assert!(Instant::now() < deadline, "only {newest} rows came");
        newest = progress.recv_timeout(DEADLINE).unwrap();
    }
    assert!(newest < 11_000, "{newest} rows: the last second is not settled");
    let end = edge(WindowEdge::End, 6 * SECOND + SECOND / 10);
    emit(&*sink, &[Batch::new(StreamId(0), &[end])]);
    writer.finish(Duration::from_secs(20));
    let report = export.join().unwrap().unwrap();

    let again = directory.path().join("again.pftrace");
    let request = ExportRequest::new(vec![path], again.clone(), TraceFormat::Pftrace);
    let unfollowed = run(&request, &mut |_| true).unwrap();
    assert_eq!(report.rows, unfollowed.rows);
    assert_eq!(report.drops, unfollowed.drops);
    assert_eq!((report.late, report.clamped), (0, 0));
    assert_eq!(report.events, unfollowed.events);
    let trace = Trace::parse(&std::fs::read(followed).unwrap());
    assert_eq!(trace.unmatched, 0);
    assert_eq!(trace.linked() as u64, report.rows["kernel"]);
    assert!(trace.slices.iter().all(|s| s.category != "kernel" || s.start >= M0 + SECOND / 2));
}

/// T1 may come later than promised: what was written until then is thrown away.
#[test]
fn a_late_end_begins_the_export_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.spool");
    let writer = writer(&path);
    let sink = writer.sink();
    let tuples: Vec<ClockTuple> = (0..9).map(|s| tuple(s * SECOND, 0)).collect();
    emit(&*sink, &[Batch::new(StreamId(0), &tuples)]);
    emit(
        &*sink,
        &[Batch::new(
            StreamId(0),
            &[edge(WindowEdge::Begin, 0), edge(WindowEdge::Open, 8 * SECOND)],
        )],
    );
    let stream = device(&*sink);
    let calls: Vec<_> = (0..50)
        .map(|i| api(StringId(1), i + 1, R0 + i * SECOND / 10, R0 + i * SECOND / 10 + 5))
        .collect();
    emit(&*sink, &[Batch::new(stream, &calls)]);
    let (seen, progress) = mpsc::channel();
    let output = directory.path().join("a.pftrace");
    let mut request = ExportRequest::new(vec![path], output, TraceFormat::Pftrace);
    request.follow = true;
    let export = std::thread::Builder::new()
        .spawn(move || {
            run(&request, &mut |counts| {
                let _sent = seen.send(counts.total());
                true
            })
        })
        .unwrap();
    while progress.recv_timeout(DEADLINE).unwrap() < 50 {}
    // The end lies before rows that were handed out.
    emit(&*sink, &[Batch::new(StreamId(0), &[edge(WindowEdge::End, 2 * SECOND)])]);
    writer.finish(Duration::from_secs(20));
    let report = export.join().unwrap().unwrap();
    assert_eq!(report.rows["api_call"], 20);
    assert_eq!(report.drops["outside_window"], 30);
}
