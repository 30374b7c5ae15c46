use proptest::prelude::*;

use super::*;

/// Names by address, as far as a test gives them.
struct Fixed;

impl Names for Fixed {
    fn text(&self, address: u64) -> Option<&[u8]> {
        match address {
            0 => None,
            1 => Some(b""),
            _ => Some(b"name"),
        }
    }
}

fn decoder() -> Decoder {
    Decoder::new(StreamId(1), Devices::default())
}

/// A record of `size` bytes with fields of 4 or 8 bytes at their offsets.
fn record(size: usize, fields: &[(usize, u64, usize)]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for &(offset, value, width) in fields {
        bytes[offset..offset + width].copy_from_slice(&value.to_ne_bytes()[..width]);
    }
    bytes
}

fn kernel_record(start: u64, end: u64, launch: u64, name: u64) -> Vec<u8> {
    record(
        56,
        &[
            (0, 2, 4),
            (4, start, 8),
            (12, end, 8),
            (20, 3, 4),
            (24, 7, 4),
            (28, launch, 8),
            (44, name, 8),
        ],
    )
}

#[test]
fn a_kernel_is_a_row_of_its_device_and_stream() {
    let mut decoder = decoder();
    decoder.record(Raw(&kernel_record(100, 150, 9, 64)), &Fixed);
    let row = decoder.rows.kernels[0];
    assert_eq!((row.start, row.end, row.correlation), (100, 150, 9));
    assert_eq!((row.device, row.stream, row.flags), (3, 7, 0));
    assert_eq!((decoder.rows.streams.len(), decoder.rows.devices.len()), (1, 1));
}

#[test]
fn null_and_empty_names_are_no_names() {
    let mut decoder = decoder();
    for name in [0, 1] {
        decoder.record(Raw(&kernel_record(1, 2, 0, name)), &Fixed);
    }
    assert!(decoder.rows.kernels.iter().all(|row| row.name.is_none()));
    assert!(decoder.rows.strings.is_empty());
}

#[test]
fn a_clock_that_steps_back_leaves_no_negative_duration() {
    let mut decoder = decoder();
    decoder.record(Raw(&kernel_record(200, 150, 1, 64)), &Fixed);
    let row = decoder.rows.kernels[0];
    assert_eq!((row.start, row.end, row.flags), (200, 200, 0));
    assert!(decoder.notes()[0].contains("ended before they began"));
}

#[test]
fn a_replay_is_no_child_of_the_launch_that_captured_it() {
    let mut decoder = decoder();
    for start in [100, 200] {
        decoder.record(Raw(&kernel_record(start, start + 10, 42, 64)), &Fixed);
    }
    let [first, again] = decoder.rows.kernels[..] else { panic!() };
    assert_eq!((first.correlation, first.flags), (42, 0));
    assert_eq!((again.correlation, again.graph_node, again.flags), (0, 42, flag::GRAPH));
}

fn marker_record(flag: u64, source: u64, time: u64, id: u64, name: u64) -> Vec<u8> {
    record(
        56,
        &[
            (0, 1, 4),
            (4, flag, 4),
            (8, source, 4),
            (12, time, 8),
            (20, id, 8),
            (28, 2, 4),
            (32, 5, 4),
            (36, name, 8),
        ],
    )
}

#[test]
fn ranges_are_spans_by_source_and_number() {
    let mut decoder = decoder();
    for (flag, source, time) in [(16, 0, 10), (16, 1, 12), (32, 1, 30), (32, 0, 40)] {
        let name = if flag == 16 { 64 } else { 1 };
        decoder.record(Raw(&marker_record(flag, source, time, 77, name)), &Fixed);
    }
    decoder.record(Raw(&marker_record(2, 0, 50, 78, 64)), &Fixed);
    decoder.record(Raw(&marker_record(4, 0, 55, 79, 1)), &Fixed);
    decoder.finish();
    let spans: Vec<_> =
        decoder.rows.spans.iter().map(|s| (s.start, s.end, s.thread, s.flags)).collect();
    let device_timeline = DEVICE_TIMELINE | 2 << 16 | 5;
    assert_eq!(spans, [(12, 30, device_timeline, 0), (10, 40, 5, 0), (50, 0, 5, flag::UNFINISHED)]);
    assert_eq!(decoder.notes(), ["1 marker ranges ended that had begun before the capture"]);
    assert_eq!(decoder.waiting(), 3);
}

#[test]
fn copies_carry_the_drivers_number_of_their_device() {
    let known = Devices { visible: VisibleDevices::parse(Some("4,6")), ..Devices::default() };
    let mut decoder = Decoder::new(StreamId(1), known);
    let bytes = record(
        56,
        &[
            (0, 7, 4),
            (4, 2, 4),
            (8, 4096, 8),
            (16, 1, 8),
            (24, 3, 8),
            (32, 1, 4),
            (40, 5, 8),
            (48, 1, 1),
        ],
    );
    decoder.record(Raw(&bytes), &Fixed);
    let row = decoder.rows.copies[0];
    assert_eq!((row.device, row.size_bytes, row.correlation), (6, 4096, 5));
    assert_eq!((row.copy_kind, row.flags), (CopyKind::HostToDevice.number(), flag::ASYNC));
}

proptest! {
    /// Whatever bytes come, the decoder neither panics nor makes more than a row of each.
    #[test]
    fn hostile_records(
        kind in prop_oneof![0u32..16, any::<u32>()],
        tail in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(tail);
        let mut decoder = decoder();
        for end in 0..bytes.len() {
            decoder.record(Raw(&bytes[..end]), &Fixed);
        }
        decoder.finish();
        prop_assert!(decoder.waiting() <= bytes.len());
    }
}
