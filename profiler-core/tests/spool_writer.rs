//! The writer: nothing lost uncounted, the process lives on, whatever the disk does.

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{LONG, create, create_file, header, info, options, read, wait_for};
use profiler_core::clock::SystemClock;
use profiler_core::record::{
    Fact, Frame, HeapRef, LossCause, Marker, RecordKind, Row as _, Sample, StackDef, StackId,
    StringDef, StringId,
};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId};
use profiler_core::spool::{
    RowSource, SpoolEnd, SpoolOptions, SpoolReader, SpoolWriteError, SpoolWriter,
};
use zerocopy::IntoBytes as _;

fn markers(from: u64, count: u64) -> Vec<Marker> {
    (from..from + count)
        .map(|i| Marker { time: 1_000 + i * 10, payload: i, ..Marker::default() })
        .collect()
}

/// A source that runs a closure on the writer's thread.
struct Source<F>(F);

impl<F: FnMut(&dyn RecordSink) + Send> RowSource for Source<F> {
    fn drain(&mut self, sink: &dyn RecordSink) {
        (self.0)(sink);
    }
}

#[test]
fn a_full_queue_refuses_whole_groups_and_counts_them_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let writer = create(&path, SpoolOptions { queue_bytes: 64 << 10, ..options() });
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    // The writer stands still inside a source for as long as the queue is being filled.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = std::sync::mpsc::channel();
    writer.add_source(Box::new(Source(move |_: &dyn RecordSink| {
        entered.send(()).ok();
        wait.recv().ok();
    })));
    inside.recv().unwrap();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for group in 0..200u64 {
        let rows = markers(group * 50, 50);
        let loss = [profiler_core::record::Counter::default()];
        match sink.emit(&[Batch::new(stream, &rows), Batch::new(stream, &loss)]) {
            Emit::Accepted => accepted.extend(rows.iter().map(|row| row.payload)),
            Emit::Full => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && !accepted.is_empty());
    let lost = writer.progress().lost;
    assert_eq!(lost.of(Marker::KIND, LossCause::SinkFull), refused * 50);
    assert_eq!(lost.of(RecordKind(12), LossCause::SinkFull), refused);
    assert_eq!(lost.total(), refused * 51);
    drop(go);
    let totals = writer.finish(LONG);
    assert_eq!(totals.rows[&Marker::KIND], accepted.len() as u64);
    let (numbers, losses, reader) = read(&path);
    assert_eq!(numbers, accepted);
    let of_markers = losses.iter().filter(|loss| loss.kind == Marker::KIND.0);
    assert_eq!(of_markers.map(|loss| loss.count).sum::<u64>(), refused * 50);
    let loss = losses.iter().find(|loss| loss.kind == Marker::KIND.0).unwrap();
    assert_eq!(loss.stream, stream.0);
    assert_eq!(LossCause::from_number(loss.cause), Some(LossCause::SinkFull));
    assert!(loss.from >= 1_000 && loss.to <= 1_000 + 10_000 * 10 && loss.from < loss.to);
    assert_eq!(reader.footer().unwrap().lost, totals.lost);
}

#[test]
fn malformed_groups_are_refused_whole_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let writer = create(&path, options());
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    let other = sink.open_stream(info("other"));
    let good = markers(0, 10);
    let good_batch = Batch::new(stream, &good);
    let bytes = good.as_bytes();
    let bad_ref = [Fact { key: HeapRef { offset: 3, len: 2 }, ..Fact::default() }];
    let far_ref = [Fact { key: HeapRef { offset: u32::MAX, len: u32::MAX }, ..Fact::default() }];
    let bad: Vec<(&str, Batch<'_>)> = vec![
        ("no stride", Batch { stride: 0, ..good_batch }),
        ("odd stride", Batch { stride: 12, ..good_batch }),
        ("endless stride", Batch { stride: 1 << 20, ..good_batch }),
        ("a broken row", Batch { rows: &bytes[..bytes.len() - 8], ..good_batch }),
        ("another stream", Batch { stream: other, ..good_batch }),
        ("no stream", Batch { stream: StreamId(99), ..good_batch }),
        ("a reference past the heap", Batch::with_heap(stream, &bad_ref, b"abcd")),
        ("a reference past everything", Batch::with_heap(stream, &far_ref, b"abcd")),
        ("a reference without a heap", Batch::new(stream, &bad_ref)),
    ];
    let mut expected = 0;
    for (what, batch) in &bad {
        assert_eq!(sink.emit(&[good_batch, *batch]), Emit::Full, "{what}");
        expected += 10 + batch.count().max(1) as u64;
        let lost = writer.progress().lost;
        assert_eq!(lost.by_cause()[&LossCause::Undecodable], expected, "{what}");
    }
    assert_eq!(sink.emit(&[]), Emit::Accepted);
    assert_eq!(sink.emit(&[Batch::new::<Marker>(stream, &[])]), Emit::Accepted);
    let totals = writer.finish(LONG);
    assert!(!totals.rows.contains_key(&Marker::KIND), "nothing of those groups was taken");
    assert_eq!(sink.emit(&[good_batch]), Emit::Closed);
    assert_eq!(sink.open_stream(info("late")), StreamId(u32::MAX));
}

#[test]
fn the_byte_limit_ends_the_spool_with_its_losses_and_footer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let max_bytes = 512 << 10;
    let writer = create(&path, SpoolOptions { max_bytes, ..options() });
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    let mut random = 1u64;
    let mut sent = 0;
    let mut refused = 0;
    wait_for("the limit", || {
        let rows: Vec<_> = (0..1000)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                Marker { time: random, payload: random, ..Marker::default() }
            })
            .collect();
        sent += 1000;
        match sink.emit(&[Batch::new(stream, &rows)]) {
            Emit::Accepted => false,
            Emit::Full => {
                std::thread::yield_now();
                false
            }
            _ => {
                refused += 1000;
                true
            }
        }
    });
    wait_for("the footer", || writer.progress().has_footer);
    let progress = writer.progress();
    assert_eq!(progress.end, Some(SpoolEnd::ByteLimit { max_bytes }));
    let totals = writer.finish(LONG);
    assert!(totals.has_footer && totals.bytes <= max_bytes);
    assert_eq!(totals.bytes, path.metadata().unwrap().len());
    let in_file = totals.rows[&Marker::KIND];
    let lost: u64 = totals.lost.total();
    assert_eq!(in_file + lost, sent, "every row is in the file or counted");
    assert!(totals.lost.of(Marker::KIND, LossCause::ByteLimit) >= refused);
    let (numbers, losses, reader) = read(&path);
    assert_eq!(numbers.len() as u64, in_file);
    assert!(losses.iter().any(|loss| loss.cause == LossCause::ByteLimit.number()));
    let footer = reader.footer().unwrap();
    assert_eq!(footer.end, SpoolEnd::ByteLimit { max_bytes });
    assert!(reader.skipped().is_empty(), "{:?}", reader.skipped());

    let file = create_file(&folder.path().join("b.spool"));
    let options = SpoolOptions { max_bytes: 1000, ..options() };
    let error = SpoolWriter::create(file, &header(), options, Arc::new(SystemClock::new()));
    assert!(matches!(error, Err(SpoolWriteError::LimitTooSmall { max_bytes: 1000, .. })));
}

#[test]
fn too_little_free_room_ends_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    // With a file on it that has blocks, no file system is all free: the very first look says so.
    let mut other = create_file(&folder.path().join("other"));
    other.write_all(&[1; 64 << 10]).unwrap();
    other.sync_all().unwrap();
    let options = SpoolOptions { min_free_percent: 100, ..SpoolOptions::default() };
    let file = create_file(&path);
    let error = SpoolWriter::create(file, &header(), options, Arc::new(SystemClock::new()));
    let Err(error) = error else { panic!("a spool was begun") };
    let SpoolWriteError::NoRoom { end } = &error else { panic!("{error:?}") };
    assert_eq!(end.code(), "disk_full");
    assert!(error.to_string().contains("100 % are to stay free"), "{error}");
    assert_eq!(path.metadata().unwrap().len(), 0, "nothing was written");
}

#[test]
fn definitions_in_use_are_repeated_in_every_segment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let options = SpoolOptions { segment_bytes: 8 << 10, block_rows: 256, ..options() };
    let writer = create(&path, options);
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    sink.fact("cpu.sampler", "first");
    let facts_are = |count| {
        wait_for("the fact's block", || writer.progress().rows.get(&Fact::KIND) == Some(&count));
    };
    facts_are(1);
    let mut heap = Vec::new();
    let names: Vec<_> = (1..=20u32)
        .map(|id| StringDef {
            text: HeapRef::push(&mut heap, format!("function {id}").as_bytes()),
            id: StringId(id),
            reserved: 0,
        })
        .collect();
    let mut frames = Vec::new();
    let stacks: Vec<_> = (1..=10u32)
        .map(|id| {
            let two = [1, 2].map(|n| Frame {
                function: StringId(id * n),
                file: StringId(id),
                ..Frame::default()
            });
            StackDef {
                frames: HeapRef::push(&mut frames, two.as_bytes()),
                id: StackId(id),
                process: 5,
            }
        })
        .collect();
    let group =
        [Batch::with_heap(stream, &names, &heap), Batch::with_heap(stream, &stacks, &frames)];
    assert_eq!(sink.emit(&group), Emit::Accepted);
    let mut random = 1u64;
    for part in 0..200u64 {
        let rows: Vec<_> = (0..100)
            .map(|i| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                Sample {
                    time: part * 100 + i + 1,
                    weight_ns: random >> 20,
                    // The last stack is used at the very end only.
                    stack: StackId(if part < 190 { 1 + (random >> 60) as u32 % 9 } else { 10 }),
                    ..Sample::default()
                }
            })
            .collect();
        while sink.emit(&[Batch::new(stream, &rows)]) == Emit::Full {
            std::thread::yield_now();
        }
        if part == 100 {
            sink.fact("cpu.sampler", "last");
            facts_are(2);
        }
    }
    assert!(writer.finish(LONG).has_footer);

    let reader = SpoolReader::open(&path).unwrap();
    let segments = reader.segments().unwrap();
    assert!(segments.len() > 4, "{}", segments.len());
    let mut samples = 0;
    for (index, segment) in segments.iter().enumerate() {
        assert!(segment.is_complete);
        let mut part = reader.segment(segment).unwrap();
        let mut text_of = BTreeMap::new();
        let mut frames_of: BTreeMap<StackId, Vec<Frame>> = BTreeMap::new();
        let mut fact = None;
        while let Some(block) = part.next_block().unwrap() {
            for name in block.rows::<StringDef>().unwrap_or_default() {
                text_of.insert(name.id, name.text.text(block.heap()).unwrap().into_owned());
            }
            for stack in block.rows::<StackDef>().unwrap_or_default() {
                let bytes = stack.frames.of(block.heap()).unwrap();
                let frames = bytes.chunks_exact(size_of::<Frame>());
                let frames: Vec<Frame> =
                    frames.map(|f| zerocopy::FromBytes::read_from_bytes(f).unwrap()).collect();
                frames_of.insert(stack.id, frames);
            }
            for row in block.rows::<Fact>().unwrap_or_default() {
                fact = Some(row.value.text(block.heap()).unwrap().into_owned());
            }
            for sample in block.rows::<Sample>().unwrap_or_default() {
                let frames = &frames_of[&sample.stack];
                assert_eq!(frames.len(), 2);
                assert_eq!(
                    text_of[&frames[1].function],
                    format!("function {}", sample.stack.0 * 2)
                );
                assert_eq!(text_of[&frames[0].file], format!("function {}", sample.stack.0));
                samples += 1;
            }
        }
        let last_index = segments.len() - 1;
        assert!(fact.is_some(), "segment {index} tells the facts");
        if index == last_index {
            assert_eq!(fact.as_deref(), Some("last"));
            assert!(part.is_closed());
        }
        assert_eq!(*part.stream(stream).unwrap(), info("test"));
    }
    assert_eq!(samples, 20_000);

    // Read from the beginning, nothing is told twice.
    let mut whole = SpoolReader::open(&path).unwrap();
    let mut names = 0;
    while let Some(block) = whole.next_block().unwrap() {
        names += block.rows::<StringDef>().map_or(0, <[StringDef]>::len);
    }
    assert_eq!(names, 20);
}

#[test]
fn more_definitions_than_are_kept_are_said_to_be_incomplete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let options =
        SpoolOptions { segment_bytes: 4 << 10, block_rows: 256, kept_bytes: 10_000, ..options() };
    let writer = create(&path, options);
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    for part in 0..20u32 {
        let mut heap = Vec::new();
        let names: Vec<_> = (0..100)
            .map(|i| StringDef {
                text: HeapRef::push(&mut heap, format!("name {part} {i}").as_bytes()),
                id: StringId(part * 100 + i + 1),
                reserved: 0,
            })
            .collect();
        assert_eq!(sink.emit(&[Batch::with_heap(stream, &names, &heap)]), Emit::Accepted);
    }
    assert!(writer.finish(LONG).has_footer);
    let segments = SpoolReader::open(&path).unwrap().segments().unwrap();
    assert!(segments.len() > 1);
    assert!(segments[0].is_complete && !segments.last().unwrap().is_complete);
}

#[test]
fn a_source_gives_more_than_the_queue_holds_and_a_panicking_one_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = {
        let lines = Arc::clone(&lines);
        move |level: LogLevel, target: &str, text: &str| {
            lines.lock().unwrap().push((level, target.to_owned(), text.to_owned()));
        }
    };
    let options = SpoolOptions { queue_bytes: 64 << 10, log: Some(Arc::new(log)), ..options() };
    let writer = create(&path, options);
    let given = Arc::new(AtomicU64::new(0));
    let mut stream = None;
    let counter = Arc::clone(&given);
    writer.add_source(Box::new(Source(move |sink: &dyn RecordSink| {
        let stream = *stream.get_or_insert_with(|| sink.open_stream(info("source")));
        let before = counter.load(Ordering::SeqCst);
        for part in 0..20 {
            let rows = markers(before + part * 1000, 1000);
            assert_eq!(sink.emit(&[Batch::new(stream, &rows)]), Emit::Accepted);
        }
        counter.fetch_add(20_000, Ordering::SeqCst);
    })));
    writer.add_source(Box::new(Source(|_: &dyn RecordSink| panic!("a broken source"))));
    wait_for("a few rounds", || given.load(Ordering::SeqCst) >= 100_000);
    let totals = writer.finish(LONG);
    assert_eq!(totals.lost.total(), 0);
    let (numbers, _, _) = read(&path);
    assert_eq!(numbers, (0..given.load(Ordering::SeqCst)).collect::<Vec<_>>());
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 1, "a source that panicked is not called again: {lines:?}");
    assert_eq!(lines[0].0, LogLevel::Error);
    assert!(lines[0].2.contains("a broken source"));
}

#[test]
fn rows_are_readable_half_a_second_after_they_were_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let writer = create(&path, options());
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    let mut reader = SpoolReader::open(&path).unwrap();
    assert!(reader.next_block().unwrap().is_none());
    for round in 0..3u64 {
        assert_eq!(sink.emit(&[Batch::new(stream, &markers(round, 1))]), Emit::Accepted);
        let mut seen = None;
        wait_for("the row", || {
            while let Some(block) = reader.next_block().unwrap() {
                seen = block.rows::<Marker>().map(|rows| rows[0].payload).or(seen);
            }
            seen == Some(round)
        });
        assert!(reader.writer_alive().unwrap() && !reader.is_closed());
    }
    assert_eq!(*reader.stream(stream).unwrap(), info("test"));
    drop(writer);
    while reader.next_block().unwrap().is_some() {}
    assert!(reader.is_closed());
}

#[test]
fn losses_lie_in_the_stream_that_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let writer = create(&path, options());
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    let loss = Loss {
        stream: Some(stream),
        kind: Some(Marker::KIND),
        count: 7,
        from: 100,
        to: 200,
        cause: LossCause::DriverDropped,
    };
    sink.loss(loss);
    sink.loss(Loss { count: 5, from: 50, to: 150, ..loss });
    sink.loss(Loss { stream: None, kind: None, count: 3, from: 0, to: 0, ..loss });
    sink.loss(Loss { count: 0, ..loss });
    let totals = writer.finish(LONG);
    assert_eq!(totals.lost.by_cause()[&LossCause::DriverDropped], 15);
    let (_, losses, _) = read(&path);
    let sum = |stream: u32| {
        losses.iter().filter(|loss| loss.stream == stream).map(|loss| loss.count).sum::<u64>()
    };
    assert_eq!((sum(stream.0), sum(0)), (12, 3));
    let range = losses
        .iter()
        .filter(|loss| loss.stream == stream.0)
        .fold((u64::MAX, 0), |(from, to), loss| (from.min(loss.from), to.max(loss.to)));
    assert_eq!(range, (50, 200));
}

#[test]
fn eight_producers_lose_nothing_uncounted() {
    const ROWS: u64 = 40_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let writer = create(&path, SpoolOptions { queue_bytes: 256 << 10, ..options() });
    let sink = writer.sink();
    std::thread::scope(|scope| {
        for producer in 0..8u64 {
            let sink = Arc::clone(&sink);
            scope.spawn(move || {
                let stream = sink.open_stream(info(&format!("producer {producer}")));
                let mut number = 0;
                while number < ROWS {
                    let count = 1 + number % 300;
                    // Whether it was taken is what the sink counts.
                    let rows = markers(number, count.min(ROWS - number));
                    number += rows.len() as u64;
                    let emit = sink.emit(&[Batch::new(stream, &rows)]);
                    assert!(matches!(emit, Emit::Accepted | Emit::Full), "{emit:?}");
                }
            });
        }
    });
    let totals = writer.finish(LONG);
    let lost = totals.lost.of(Marker::KIND, LossCause::SinkFull);
    assert_eq!(totals.rows[&Marker::KIND] + lost, 8 * ROWS);
    let mut reader = SpoolReader::open(&path).unwrap();
    let mut last: BTreeMap<StreamId, u64> = BTreeMap::new();
    while let Some(block) = reader.next_block().unwrap() {
        for marker in block.rows::<Marker>().unwrap_or_default() {
            let before = last.insert(block.stream(), marker.time);
            assert!(before.is_none_or(|before| before < marker.time), "order within a stream");
        }
    }
    assert_eq!(reader.streams().count(), 9);
}

#[test]
fn a_panic_of_the_writers_thread_is_counted_and_the_process_lives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let log: Arc<profiler_core::spool::LogFn> = Arc::new(|_, _, _| panic!("a broken log"));
    let writer = create(&path, SpoolOptions { log: Some(log), ..options() });
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    assert_eq!(sink.emit(&[Batch::new(stream, &markers(0, 10))]), Emit::Accepted);
    // The panic of the source is caught and logged, that of the log is the writer's own.
    writer.add_source(Box::new(Source(|_: &dyn RecordSink| panic!("a broken source"))));
    wait_for("the end", || writer.progress().end.is_some());
    assert_eq!(sink.emit(&[Batch::new(stream, &markers(10, 5))]), Emit::Closed);
    let totals = writer.finish(LONG);
    assert_eq!(totals.end, Some(SpoolEnd::Panicked { message: "a broken log".to_owned() }));
    let lost = totals.lost.of(Marker::KIND, LossCause::SinkPanicked);
    assert_eq!(totals.rows.get(&Marker::KIND).copied().unwrap_or(0) + lost, 15);
    let (_, _, reader) = read(&path);
    assert_eq!(reader.footer().unwrap().end.code(), "writer_panicked");
}

#[test]
fn a_file_that_holds_something_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    std::fs::write(&path, b"precious").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let options = options();
    let error = SpoolWriter::create(file, &header(), options, Arc::new(SystemClock::new()));
    assert!(matches!(error, Err(SpoolWriteError::NotEmpty { bytes: 8 })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_finish_does_not_outlast_its_deadline_and_counts_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let writer = create(&path, options());
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    // A source that does not come back stands for a disk that hangs.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = std::sync::mpsc::channel();
    writer.add_source(Box::new(Source(move |_: &dyn RecordSink| {
        entered.send(()).ok();
        wait.recv().ok();
    })));
    inside.recv().unwrap();
    assert_eq!(sink.emit(&[Batch::new(stream, &markers(0, 10))]), Emit::Accepted);
    let totals = writer.finish(Duration::from_millis(50));
    assert!(!totals.has_footer && totals.end.is_none());
    drop(go);
    wait_for("the thread's end", || {
        let mut reader = SpoolReader::open(&path).unwrap();
        while reader.next_block().unwrap().is_some() {}
        reader.is_closed()
    });
    let (numbers, losses, _) = read(&path);
    let lost: u64 = losses.iter().map(|loss| loss.count).sum();
    assert_eq!(numbers.len() as u64 + lost, 10);
}
