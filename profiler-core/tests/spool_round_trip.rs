//! What goes into a spool comes out of it.

mod common;

use common::{LONG, create, header, info, options};
use profiler_core::record::{HeapRef, Kernel, Marker, RecordKind, Row as _, StringDef, StringId};
use profiler_core::sink::{Batch, Emit};
use profiler_core::spool::SpoolReader;

#[test]
fn rows_come_back_with_their_definitions_before_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let writer = create(&path, options());
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    let mut heap = Vec::new();
    let names: Vec<_> = (1..=3u32)
        .map(|id| StringDef {
            text: HeapRef::push(&mut heap, format!("kernel {id}").as_bytes()),
            id: StringId(id),
            reserved: 0,
        })
        .collect();
    let kernels: Vec<_> = (0..20_000u64)
        .map(|i| Kernel {
            start: 1_000_000 + i * 977,
            end: if i % 100 == 0 { 0 } else { 1_000_000 + i * 977 + 500 + i % 7 },
            correlation: i + 1,
            name: StringId((i % 3) as u32 + 1),
            device: 1,
            ..Kernel::default()
        })
        .collect();
    let group = [Batch::with_heap(stream, &names, &heap), Batch::new(stream, &kernels)];
    assert_eq!(sink.emit(&group), Emit::Accepted);
    sink.fact("a.key", "a value");
    let totals = writer.finish(LONG);
    assert!(totals.has_footer);
    assert_eq!(totals.rows[&RecordKind(1)], 20_000);
    assert_eq!(totals.lost.total(), 0);
    assert_eq!(totals.bytes, path.metadata().unwrap().len());
    assert_eq!(totals.crc32, crc32fast::hash(&std::fs::read(&path).unwrap()));

    let mut reader = SpoolReader::open(&path).unwrap();
    assert_eq!(*reader.header(), header());
    let mut seen = Vec::new();
    let mut texts = Vec::new();
    let mut facts = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        if let Some(rows) = block.rows::<Kernel>() {
            assert_eq!(texts.len(), 3, "definitions stand before their use");
            assert_eq!(block.stream(), stream);
            seen.extend_from_slice(rows);
        } else if let Some(rows) = block.rows::<StringDef>() {
            texts.extend(rows.iter().map(|d| d.text.text(block.heap()).unwrap().into_owned()));
        } else if let Some(rows) = block.rows::<profiler_core::record::Fact>() {
            facts.extend(rows.iter().map(|f| f.value.text(block.heap()).unwrap().into_owned()));
        }
    }
    assert_eq!(seen, kernels);
    assert_eq!(texts, ["kernel 1", "kernel 2", "kernel 3"]);
    assert_eq!(facts, ["a value"]);
    assert!(reader.is_closed());
    assert!(reader.skipped().is_empty(), "{:?}", reader.skipped());
    assert_eq!(*reader.stream(stream).unwrap(), info("test"));
    assert_eq!(Marker::KIND, RecordKind(11));
}
