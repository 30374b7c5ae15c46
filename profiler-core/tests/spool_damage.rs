//! Broken, cut, foreign and hostile files: what can be read is read, the rest is counted.

mod common;

use std::fs;
use std::path::Path;

use common::{LONG, create, create_file, header, info, options};
use profiler_core::record::{HeapRef, Marker, RecordKind, Row as _, StringDef, StringId};
use profiler_core::sink::{Batch, Emit};
use profiler_core::spool::format::{
    BLOCK_HEADER_BYTES, BlockHeader, FORMAT_VERSION, MAGIC, ParsedHeader, block_type,
};
use profiler_core::spool::{SpoolOptions, SpoolReadError, SpoolReader};
use profiler_core::synthetic::Random;

/// A file of some blocks: markers 0..rows, whose names are defined.
fn write_markers(path: &Path, rows: u64, options: SpoolOptions) {
    let writer = create(path, options);
    let sink = writer.sink();
    let stream = sink.open_stream(info("test"));
    let mut heap = Vec::new();
    let names: Vec<_> = (1..=5u32)
        .map(|id| StringDef {
            text: HeapRef::push(&mut heap, format!("name {id}").as_bytes()),
            id: StringId(id),
            reserved: 0,
        })
        .collect();
    assert_eq!(sink.emit(&[Batch::with_heap(stream, &names, &heap)]), Emit::Accepted);
    let mut random = Random::new(1);
    let mut numbers = 0..rows;
    loop {
        let part: Vec<_> = numbers
            .by_ref()
            .take(100)
            .map(|i| Marker {
                time: 1_000 + i,
                payload: i,
                name: StringId(i as u32 % 5 + 1),
                // Bytes that do not compress, so that files of several segments stay small.
                target: StringId::NONE,
                thread: random.number() as u32,
                ..Marker::default()
            })
            .collect();
        if part.is_empty() {
            break;
        }
        while sink.emit(&[Batch::new(stream, &part)]) == Emit::Full {
            std::thread::yield_now();
        }
    }
    let totals = writer.finish(LONG);
    assert!(totals.has_footer);
}

fn small_blocks() -> SpoolOptions {
    SpoolOptions { block_rows: 64, ..options() }
}

/// Everything that can be read: the markers' numbers, in order.
fn read(path: &Path) -> Result<(Vec<u64>, SpoolReader), SpoolReadError> {
    let mut reader = SpoolReader::open(path)?;
    let mut numbers = Vec::new();
    while let Some(block) = reader.next_block()? {
        if let Some(markers) = block.rows::<Marker>() {
            numbers.extend(markers.iter().map(|marker| marker.payload));
        }
    }
    Ok((numbers, reader))
}

/// The blocks of a file: where they begin, and their headers.
fn blocks(bytes: &[u8]) -> Vec<BlockHeader> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match BlockHeader::parse(&bytes[at..]) {
            ParsedHeader::Block(header) if header.offset == at as u64 => {
                at += header.block_len() as usize;
                found.push(header);
            }
            _ => at += 8,
        }
    }
    found
}

#[test]
fn a_file_cut_at_any_byte_gives_its_whole_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.spool");
    write_markers(&path, 60, SpoolOptions { block_rows: 16, ..options() });
    let bytes = fs::read(&path).unwrap();
    let blocks = blocks(&bytes);
    assert!(blocks.len() > 6, "several blocks: {}", blocks.len());
    let cut_path = folder.path().join("cut.spool");
    for cut in 0..bytes.len() {
        fs::write(&cut_path, &bytes[..cut]).unwrap();
        let first = blocks[0].offset as usize;
        let result = read(&cut_path);
        // The zeros that pad the header may be missing.
        let header_end = 24 + serde_json::to_vec(&header()).unwrap().len();
        if cut < header_end {
            let error = result.expect_err("no header").to_string();
            let expected = if cut == 0 { "not a spool" } else { "within its header" };
            assert!(error.contains(expected), "{cut}: {error}");
            continue;
        }
        let (numbers, reader) = result.unwrap();
        let whole: Vec<_> =
            blocks.iter().filter(|b| b.offset + b.block_len() <= cut as u64).collect();
        let rows: u64 = whole
            .iter()
            .filter(|b| b.block_type == block_type::ROWS && b.kind == Marker::KIND.0)
            .map(|b| u64::from(b.rows))
            .sum();
        assert_eq!(numbers, (0..rows).collect::<Vec<_>>(), "cut at {cut}");
        assert!(!reader.is_closed(), "cut at {cut}");
        let end = whole.last().map_or(first as u64, |b| b.offset + b.block_len());
        assert_eq!(reader.skipped().tail_bytes, (cut as u64).saturating_sub(end));
        assert_eq!(reader.skipped().damaged_bytes, 0);
    }
}

#[test]
fn a_flipped_bit_costs_its_block_alone_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.spool");
    write_markers(&path, 2_000, small_blocks());
    let (all, _) = read(&path).unwrap();
    assert_eq!(all, (0..2_000).collect::<Vec<_>>());
    let bytes = fs::read(&path).unwrap();
    let blocks = blocks(&bytes);
    let mut random = Random::new(42);
    let flipped_path = folder.path().join("flipped.spool");
    for _ in 0..600 {
        let bit = random.below(bytes.len() as u64 * 8);
        let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        let mut flipped = bytes.clone();
        flipped[at] ^= mask;
        fs::write(&flipped_path, &flipped).unwrap();
        let hit =
            blocks.iter().find(|b| (b.offset..b.offset + b.block_len()).contains(&(at as u64)));
        let result = read(&flipped_path);
        let Some(hit) = hit else {
            // The file's header: either it is repaired from a segment, or the version is another,
            // or the bit lies in bytes that mean nothing.
            if let Ok((numbers, _)) = result {
                assert_eq!(numbers, all, "byte {at}");
            } else {
                assert!((8..12).contains(&at), "byte {at}: {result:?}");
            }
            continue;
        };
        let (numbers, reader) = result.unwrap();
        let payload_end = hit.offset + u64::from(hit.header_len) + u64::from(hit.stored_len);
        let spare = (hit.offset + 84..hit.offset + 88).contains(&(at as u64));
        if at as u64 >= payload_end || spare {
            assert_eq!(numbers, all, "byte {at} means nothing");
            continue;
        }
        let lost = match hit.block_type == block_type::ROWS && hit.kind == Marker::KIND.0 {
            true => hit.rows as usize,
            false => 0,
        };
        assert_eq!(numbers.len(), all.len() - lost, "byte {at} of {hit:?}");
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert_eq!(reader.is_closed(), hit.block_type != block_type::FOOTER);
        let skipped = reader.skipped();
        match hit.block_type == block_type::FOOTER && skipped.damaged.is_empty() {
            // The damage reaches the file's end, where a writer could go on.
            true => assert_eq!(skipped.tail_bytes, hit.block_len()),
            false => {
                assert_eq!(skipped.damaged_ranges, 1, "byte {at}");
                assert_eq!(skipped.damaged[0].offset, hit.offset);
                assert_eq!(skipped.damaged_bytes, hit.block_len());
            }
        }
    }
}

#[test]
fn many_flipped_bits_never_panic_or_hang() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.spool");
    write_markers(&path, 3_000, small_blocks());
    let bytes = fs::read(&path).unwrap();
    let broken_path = folder.path().join("broken.spool");
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut broken = bytes.clone();
        for _ in 0..=random.below(200) {
            let at = random.below(broken.len() as u64) as usize;
            match random.below(4) {
                0 => broken[at] ^= 1 << random.below(8),
                1 => broken[at] = random.number() as u8,
                2 => {
                    let end = (at + random.below(300) as usize).min(broken.len());
                    broken[at..end].fill(0);
                }
                _ => {
                    let end = (at + random.below(100) as usize).min(broken.len());
                    broken.drain(at..end);
                }
            }
        }
        fs::write(&broken_path, &broken).unwrap();
        let Ok((numbers, reader)) = read(&broken_path) else { continue };
        assert!(numbers.is_sorted_by(|a, b| a < b), "seed {seed}");
        let skipped = reader.skipped();
        assert!(skipped.damaged_bytes + skipped.tail_bytes <= broken.len() as u64);
    }
}

#[test]
fn foreign_files_are_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreign");
    for content in [&b""[..], b"\x7fELF", b"OMNISPOL", b"{\"traceEvents\": []}", &[0; 100_000]] {
        fs::write(&path, content).unwrap();
        let error = SpoolReader::open(&path).expect_err("foreign");
        assert!(matches!(error, SpoolReadError::NotASpool), "{error}");
    }
    // The magic of blocks everywhere, but no block.
    let mut content = b"OSB1\x01\x01\x58\x00".repeat(200_000);
    content.extend_from_slice(b"rest");
    fs::write(&path, &content).unwrap();
    assert!(matches!(SpoolReader::open(&path), Err(SpoolReadError::NotASpool)));
    let error = SpoolReader::open(&folder.path().join("missing")).expect_err("missing");
    assert!(matches!(error, SpoolReadError::Io { action: "open", .. }));
}

#[test]
fn a_newer_format_is_refused_by_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.spool");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    bytes.extend_from_slice(&[0; 100]);
    fs::write(&path, &bytes).unwrap();
    let error = SpoolReader::open(&path).expect_err("newer");
    assert!(matches!(error, SpoolReadError::Version { version: 2 }), "{error}");
    assert!(error.to_string().contains("offset 8"));
}

/// A block whose checksums are right and whose content is not.
fn crafted(offset: u64, change: impl FnOnce(&mut BlockHeader), payload: &[u8]) -> Vec<u8> {
    let mut header = BlockHeader {
        block_type: block_type::ROWS,
        stored_len: payload.len() as u32,
        raw_len: payload.len() as u32,
        offset,
        kind: Marker::KIND.0,
        stride: Marker::STRIDE,
        rows: 10,
        payload_crc: crc32fast::hash(payload),
        ..BlockHeader::default()
    };
    change(&mut header);
    let mut block = header.to_bytes().to_vec();
    block.extend_from_slice(payload);
    block.resize(block.len().next_multiple_of(8), 0);
    block
}

#[test]
fn hostile_lengths_take_no_memory_and_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.spool");
    write_markers(&path, 100, small_blocks());
    let bytes = fs::read(&path).unwrap();
    let footer = *blocks(&bytes).last().unwrap();
    let base = &bytes[..footer.offset as usize];
    let column = |count: u16, width: u8, transform: u8, planes: u8, offset: u16| {
        let mut payload = vec![0; 8];
        payload[..2].copy_from_slice(&count.to_le_bytes());
        let mut entry = [0u8; 32];
        entry[..2].copy_from_slice(&offset.to_le_bytes());
        entry[2] = width;
        entry[3] = transform;
        entry[4] = planes;
        payload.extend_from_slice(&entry);
        payload
    };
    let bomb = zstd::bulk::compress(&vec![0u8; 64 << 20], 1).unwrap();
    type Change = Box<dyn FnOnce(&mut BlockHeader)>;
    let cases: Vec<(&str, Vec<u8>, Change)> = vec![
        ("rows", column(1, 8, 0, 0, 0), Box::new(|h| h.rows = u32::MAX)),
        ("stride", column(1, 8, 0, 0, 0), Box::new(|h| h.stride = u32::MAX)),
        ("no stride", column(1, 8, 0, 0, 0), Box::new(|h| h.stride = 0)),
        ("odd stride", vec![0; 8], Box::new(|h| h.stride = 3)),
        (
            "unpacked length",
            bomb.clone(),
            Box::new(|h| {
                h.flags = 1;
                h.raw_len = u32::MAX;
            }),
        ),
        (
            "longer than it says",
            bomb,
            Box::new(|h| {
                h.flags = 1;
                h.raw_len = 100;
            }),
        ),
        ("no zstd", vec![1; 50], Box::new(|h| h.flags = 1)),
        ("heap", column(1, 8, 3, 0, 16), Box::new(|h| h.heap_len = u32::MAX)),
        ("many columns", column(u16::MAX, 8, 0, 0, 0), Box::new(|_| ())),
        ("wide column", column(1, 9, 0, 0, 0), Box::new(|_| ())),
        ("far column", column(1, 8, 0, 0, u16::MAX), Box::new(|_| ())),
        ("many planes", column(1, 8, 0, 9, 0), Box::new(|_| ())),
        ("missing planes", column(1, 8, 0, 8, 0), Box::new(|_| ())),
        ("unknown transform", column(1, 8, 77, 0, 0), Box::new(|_| ())),
        ("empty", Vec::new(), Box::new(|_| ())),
        ("one byte", vec![1], Box::new(|_| ())),
    ];
    for (what, payload, change) in cases {
        let mut hostile = base.to_vec();
        let block = crafted(footer.offset, change, &payload);
        hostile.extend_from_slice(&block);
        let path = folder.path().join("hostile.spool");
        fs::write(&path, &hostile).unwrap();
        let (numbers, reader) = read(&path).unwrap();
        // A stride that is odd but short still has its rows, all zeros.
        let extra = if what == "odd stride" { 10 } else { 0 };
        assert_eq!(numbers.len(), 100 + extra, "{what}");
        assert_eq!(reader.skipped().damaged_ranges, u64::from(extra == 0), "{what}");
    }
}

#[test]
fn a_block_longer_than_the_file_is_a_tail() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.spool");
    write_markers(&path, 100, small_blocks());
    let mut bytes = fs::read(&path).unwrap();
    let footer = *blocks(&bytes).last().unwrap();
    bytes.truncate(footer.offset as usize);
    let block = crafted(footer.offset, |h| h.stored_len = 1 << 20, &[0; 64]);
    bytes.extend_from_slice(&block);
    fs::write(&path, &bytes).unwrap();
    let (numbers, reader) = read(&path).unwrap();
    assert_eq!(numbers.len(), 100);
    assert_eq!(reader.skipped().tail_bytes, block.len() as u64);
}

#[test]
fn blocks_of_unknown_types_and_kinds_are_passed_over_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.spool");
    write_markers(&path, 100, small_blocks());
    let mut bytes = fs::read(&path).unwrap();
    let footer = *blocks(&bytes).last().unwrap();
    bytes.truncate(footer.offset as usize);
    let unknown_type = crafted(footer.offset, |h| h.block_type = 99, b"anything");
    bytes.extend_from_slice(&unknown_type);
    let unknown_kind = crafted(bytes.len() as u64, |h| h.kind = 250, b"anything");
    bytes.extend_from_slice(&unknown_kind);
    fs::write(&path, &bytes).unwrap();
    let (numbers, reader) = read(&path).unwrap();
    assert_eq!(numbers.len(), 100);
    assert_eq!(reader.skipped().unknown_blocks, 1);
    assert_eq!(reader.skipped().unknown_kinds[&RecordKind(250)], 10);
    assert_eq!(reader.skipped().damaged_ranges, 0);
}

#[test]
fn a_lost_beginning_is_found_again_at_the_next_segment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.spool");
    let options = SpoolOptions { segment_bytes: 16 << 10, ..small_blocks() };
    write_markers(&path, 20_000, options);
    let mut bytes = fs::read(&path).unwrap();
    let markers: Vec<_> =
        blocks(&bytes).into_iter().filter(|b| b.block_type == block_type::SEGMENT).collect();
    assert!(markers.len() > 3);
    // Everything up to the middle of the first segment is gone.
    bytes[..markers[1].offset as usize - 100].fill(0xee);
    fs::write(&path, &bytes).unwrap();
    let mut reader = SpoolReader::open(&path).unwrap();
    assert_eq!(*reader.header(), header());
    assert_eq!(reader.skipped().damaged_bytes, markers[1].offset);
    let mut defined = std::collections::BTreeSet::new();
    let mut numbers = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        if let Some(names) = block.rows::<StringDef>() {
            assert!(block.info().unwrap().is_repeated);
            for name in names {
                let text = name.text.text(block.heap()).unwrap();
                assert_eq!(text, format!("name {}", name.id.0));
                defined.insert(name.id);
            }
        }
        for marker in block.rows::<Marker>().unwrap_or_default() {
            assert!(defined.contains(&marker.name), "every name is defined again");
            numbers.push(marker.payload);
        }
    }
    assert!(!numbers.is_empty());
    assert_eq!(numbers.last(), Some(&19_999));
    assert!(reader.is_closed());
}

#[test]
fn two_writers_of_one_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let file = create_file(&path);
    let again = file.try_clone().unwrap();
    let clock = || std::sync::Arc::new(profiler_core::clock::SystemClock::new());
    let first =
        profiler_core::spool::SpoolWriter::create(file, &header(), options(), clock()).unwrap();
    let second = profiler_core::spool::SpoolWriter::create(again, &header(), options(), clock());
    assert!(matches!(second, Err(profiler_core::spool::SpoolWriteError::Locked)));
    let reader = SpoolReader::open(&path).unwrap();
    assert!(reader.writer_alive().unwrap());
    assert!(first.finish(LONG).has_footer);
    assert!(!reader.writer_alive().unwrap());
    assert_eq!(BLOCK_HEADER_BYTES % 8, 0);
}
