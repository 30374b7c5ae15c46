//! A version-1 file is read by every later build.
//!
//! The file holds a kernel row that is longer than this build's, a marker row that is shorter, and
//! a kind that this build does not know. `make_the_golden_file` wrote it; it stays as it is.

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{LONG, create_file, header, info, options};
use profiler_core::clock::{Instant, ManualClock};
use profiler_core::record::{
    Fact, HeapRef, Kernel, Marker, RecordKind, Row as _, StringDef, StringId,
};
use profiler_core::sink::{Batch, Emit, StreamId};
use profiler_core::spool::{SpoolEnd, SpoolReader, SpoolWriter};
use zerocopy::IntoBytes as _;

const UNKNOWN_KIND: RecordKind = RecordKind(240);

fn golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/spool/version1.spool"))
}

fn kernel(index: u64) -> Kernel {
    Kernel {
        start: 1_000_000 + index * 5_000,
        end: if index == 2 { 0 } else { 1_000_000 + index * 5_000 + 1_234 },
        correlation: 77 + index,
        graph_node: 0,
        name: StringId(1 + index as u32 % 2),
        device: 3,
        context: 1,
        stream: 7,
        ..Kernel::default()
    }
}

#[test]
fn the_golden_file_of_version_1_is_read() {
    let mut reader = SpoolReader::open(&golden()).unwrap();
    assert_eq!(*reader.header(), header());
    let mut kernels = Vec::new();
    let mut names = Vec::new();
    let mut markers = Vec::new();
    let mut facts = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        kernels.extend_from_slice(block.rows::<Kernel>().unwrap_or_default());
        markers.extend_from_slice(block.rows::<Marker>().unwrap_or_default());
        for name in block.rows::<StringDef>().unwrap_or_default() {
            names.push((name.id.0, name.text.text(block.heap()).unwrap().into_owned()));
        }
        for fact in block.rows::<Fact>().unwrap_or_default() {
            let text = |place: HeapRef| place.text(block.heap()).unwrap().into_owned();
            facts.push((fact.time, text(fact.key), text(fact.value)));
        }
    }
    assert_eq!(kernels, (0..5).map(kernel).collect::<Vec<_>>());
    assert_eq!(names, [(1, "void gemm<float>()".to_owned()), (2, "größer".to_owned())]);
    assert_eq!(markers.len(), 3);
    for (index, marker) in markers.iter().enumerate() {
        let expected =
            Marker { time: 9_000 + index as u64, payload: 1 << index, ..Marker::default() };
        assert_eq!(*marker, expected, "fields that the writer did not know are zero");
    }
    assert_eq!(facts, [(5, "test.key".to_owned(), "a value".to_owned())]);
    let skipped = reader.skipped();
    assert_eq!(skipped.unknown_kinds[&UNKNOWN_KIND], 4);
    assert_eq!(skipped.unknown_kinds.len(), 1);
    assert_eq!((skipped.damaged_ranges, skipped.tail_bytes, skipped.missing_blocks), (0, 0, 0));
    assert_eq!(*reader.stream(StreamId(1)).unwrap(), info("test"));
    let footer = reader.footer().unwrap();
    assert_eq!(footer.end, SpoolEnd::Finished);
    assert_eq!(footer.rows[&UNKNOWN_KIND], 4);
    assert_eq!(footer.ended, Instant { monotonic_ns: 5, realtime_ns: 6 });
}

#[test]
#[ignore = "writes the golden file; an existing one is not replaced"]
fn make_the_golden_file() {
    let clock = Arc::new(ManualClock::new(Instant { monotonic_ns: 5, realtime_ns: 6 }));
    let file = create_file(&golden());
    let writer = SpoolWriter::create(file, &header(), options(), clock).unwrap();
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    let mut heap = Vec::new();
    let names = [(1, "void gemm<float>()"), (2, "größer")].map(|(id, text)| StringDef {
        text: HeapRef::push(&mut heap, text.as_bytes()),
        id: StringId(id),
        reserved: 0,
    });
    let mut longer = Vec::new();
    for index in 0..5 {
        longer.extend_from_slice(kernel(index).as_bytes());
        longer.extend_from_slice(&[0xab; 16]);
    }
    let mut shorter = Vec::new();
    for index in 0..3u64 {
        shorter.extend_from_slice(&(9_000 + index).to_le_bytes());
        shorter.extend_from_slice(&(1u64 << index).to_le_bytes());
    }
    let unknown: Vec<u8> = (0..4 * 24).collect();
    let group = [
        Batch::with_heap(stream, &names, &heap),
        Batch { stream, kind: Kernel::KIND, stride: Kernel::STRIDE + 16, rows: &longer, heap: &[] },
        Batch { stream, kind: Marker::KIND, stride: 16, rows: &shorter, heap: &[] },
        Batch { stream, kind: UNKNOWN_KIND, stride: 24, rows: &unknown, heap: b"its heap" },
    ];
    assert_eq!(sink.emit(&group), Emit::Accepted);
    sink.fact("test.key", "a value");
    assert!(writer.finish(LONG).has_footer);
}
