//! Decoding records that are given as bytes, without a libmspti: for fuzzing.

use profiler_core::sink::{Emit, RecordSink, StreamId};

use crate::decode::{Decoder, Devices, Names};
use crate::mspti::layout::Raw;

/// What records point to.
struct Fixed;

impl Names for Fixed {
    fn text(&self, address: u64) -> Option<&[u8]> {
        // Some point nowhere, some to no text, and the others to texts that are no words.
        match address % 5 {
            0 => None,
            1 => Some(b""),
            2 => Some(&[0xff, 0xfe, b'x']),
            _ => Some(b"MatMulV2_ND_bf16"),
        }
    }
}

/// Decodes records into one group of batches; returns what a capture's summary would note. No bytes
/// make it panic.
pub fn decode<'a>(
    records: impl IntoIterator<Item = &'a [u8]>,
    sink: &dyn RecordSink,
    stream: StreamId,
) -> (Emit, Vec<String>) {
    let mut decoder = Decoder::new(stream, Devices::default());
    for record in records {
        decoder.record(Raw(record), &Fixed);
    }
    decoder.finish();
    (decoder.emit(sink), decoder.notes())
}
