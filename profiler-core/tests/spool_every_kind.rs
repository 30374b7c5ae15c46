//! Random rows of every kind, of strides shorter and longer than known, come back as they were.

mod common;

use std::collections::BTreeMap;

use common::{LONG, create, info, options};
use profiler_core::record::{HeapRef, RecordKind, Role, Schema, schemas};
use profiler_core::sink::{Batch, Emit, StreamId};
use profiler_core::spool::{SpoolOptions, SpoolReader};
use profiler_core::synthetic::Random;
use proptest::prelude::*;

/// Rows of one batch with what their heap references hold, field by field.
struct Rows {
    kind: RecordKind,
    stride: usize,
    rows: Vec<u8>,
    heap: Vec<u8>,
}

/// One row as others see it: bytes of plain fields, heap bytes of references.
type Seen = Vec<Vec<u8>>;

fn number(random: &mut Random, style: u64, before: u64) -> u64 {
    match style {
        0 => 0,
        1 => before,
        2 => before.wrapping_add(random.below(10_000)),
        3 => before.wrapping_add(random.below(1 << 40)).wrapping_sub(1 << 39),
        4 => random.below(4),
        5 => [0, 1, u64::MAX, u64::MAX - 1, 1 << 63][random.below(5) as usize],
        _ => random.number(),
    }
}

/// The strides in which a kind may come: as known, cut after a field, longer.
fn strides(schema: &Schema) -> Vec<usize> {
    let mut strides = vec![schema.stride as usize];
    for field in schema.fields {
        let end = (field.offset + field.width) as usize;
        if end.is_multiple_of(8) && end < schema.stride as usize {
            strides.push(end);
        }
    }
    strides.extend([schema.stride as usize + 8, schema.stride as usize + 40]);
    strides
}

fn make(schema: &Schema, random: &mut Random, count: usize) -> Rows {
    let strides = strides(schema);
    let stride = strides[random.below(strides.len() as u64) as usize];
    let mut rows = vec![0u8; stride * count];
    let mut heap = Vec::new();
    // A heap may begin with bytes that nobody names, and be shared by rows.
    let shared = HeapRef::push(&mut heap, b"shared bytes");
    let styles: Vec<u64> = schema.fields.iter().map(|_| random.below(7)).collect();
    let mut before = vec![random.number(); schema.fields.len()];
    for row in rows.chunks_exact_mut(stride) {
        for (index, field) in schema.fields.iter().enumerate() {
            let (at, width) = (field.offset as usize, field.width as usize);
            if at + width > stride {
                break;
            }
            let value = match (field.role, styles[index]) {
                (Role::Heap, style) => {
                    let place = match (style, random.below(4)) {
                        (0, _) => shared,
                        (_, 0) => HeapRef { offset: random.number() as u32, len: 0 },
                        (_, len) => {
                            let bytes = random.number().to_le_bytes();
                            HeapRef::push(&mut heap, &bytes[..len as usize * 2])
                        }
                    };
                    u64::from(place.offset) | u64::from(place.len) << 32
                }
                (_, style) => number(random, style, before[index]),
            };
            before[index] = value;
            row[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        for byte in row.iter_mut().skip(schema.stride as usize) {
            *byte = random.number() as u8;
        }
    }
    if !schema.fields.iter().any(|field| field.role == Role::Heap) {
        heap.clear();
    }
    Rows { kind: schema.kind, stride, rows, heap }
}

fn see(schema: &Schema, stride: usize, rows: &[u8], heap: &[u8], known: usize) -> Vec<Seen> {
    let view = |row: &[u8]| {
        schema
            .fields
            .iter()
            .map(|field| {
                let (at, width) = (field.offset as usize, field.width as usize);
                // A field that the writer did not know is zero.
                let bytes = match at + width <= known {
                    true => row[at..at + width].to_vec(),
                    false => vec![0; width],
                };
                if field.role != Role::Heap {
                    return bytes;
                }
                let part = |at: usize| {
                    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
                };
                let place = HeapRef { offset: part(0), len: part(4) };
                if place.len == 0 {
                    Vec::new()
                } else {
                    place.of(heap).expect("a sound reference").to_vec()
                }
            })
            .collect()
    };
    rows.chunks_exact(stride).map(view).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_rows_come_back(seed: u64, block_rows in 1usize..200) {
        let mut random = Random::new(seed);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.spool");
        let options = SpoolOptions {
            block_rows,
            segment_bytes: 1 + random.below(40_000),
            ..options()
        };
        let writer = create(&path, options);
        let sink = writer.sink();
        let streams: Vec<_> = (0..3).map(|_| sink.open_stream(info("test"))).collect();
        let mut expected: BTreeMap<(StreamId, RecordKind), Vec<Seen>> = BTreeMap::new();
        for schema in schemas() {
            for _ in 0..random.below(4) {
                let stream = streams[random.below(3) as usize];
                let count = random.below(300) as usize;
                let rows = make(schema, &mut random, count);
                let batch = Batch {
                    stream,
                    kind: rows.kind,
                    stride: rows.stride as u32,
                    rows: &rows.rows,
                    heap: &rows.heap,
                };
                assert_eq!(sink.emit(&[batch]), Emit::Accepted, "{}", rows.kind);
                let seen = see(schema, rows.stride, &rows.rows, &rows.heap, rows.stride);
                expected.entry((stream, rows.kind)).or_default().extend(seen);
            }
        }
        expected.retain(|_, rows| !rows.is_empty());
        let totals = writer.finish(LONG);
        prop_assert!(totals.has_footer);
        prop_assert_eq!(totals.lost.total(), 0);

        let mut reader = SpoolReader::open(&path).unwrap();
        let mut found: BTreeMap<(StreamId, RecordKind), Vec<Seen>> = BTreeMap::new();
        while let Some(block) = reader.next_block().unwrap() {
            let schema = block.kind().schema().unwrap();
            let seen = see(
                schema,
                block.stride(),
                block.row_bytes(),
                block.heap(),
                schema.stride as usize,
            );
            prop_assert_eq!(seen.len(), block.count());
            found.entry((block.stream(), block.kind())).or_default().extend(seen);
        }
        prop_assert!(reader.skipped().is_empty(), "{:?}", reader.skipped());
        prop_assert!(reader.is_closed());
        prop_assert_eq!(&found, &expected);
        let rows: BTreeMap<RecordKind, u64> = totals.rows.clone();
        let mut counted: BTreeMap<RecordKind, u64> = BTreeMap::new();
        for ((_, kind), rows) in &expected {
            *counted.entry(*kind).or_default() += rows.len() as u64;
        }
        prop_assert_eq!(&rows, &counted);
        prop_assert_eq!(&reader.footer().unwrap().rows, &counted);

        // Segment by segment, in any order, the same rows.
        let mut by_segment: BTreeMap<(StreamId, RecordKind), Vec<Seen>> = BTreeMap::new();
        let segments = reader.segments().unwrap();
        for segment in &segments {
            let mut part = reader.segment(segment).unwrap();
            while let Some(block) = part.next_block().unwrap() {
                if block.info().unwrap().is_repeated {
                    continue;
                }
                let schema = block.kind().schema().unwrap();
                let seen = see(
                    schema,
                    block.stride(),
                    block.row_bytes(),
                    block.heap(),
                    schema.stride as usize,
                );
                by_segment.entry((block.stream(), block.kind())).or_default().extend(seen);
            }
            prop_assert!(part.skipped().is_empty(), "{:?}", part.skipped());
        }
        prop_assert_eq!(&by_segment, &expected);
    }
}
