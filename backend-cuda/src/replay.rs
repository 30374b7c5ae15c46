//! Decoding records that were kept in a file, without a libcupti: for golden files and fuzzing.

use profiler_core::sink::{Emit, RecordSink, StreamId};

use crate::cupti::layout::Raw;
use crate::decode::{Calls, Decoder, Names};

/// What records point to, as it was when they were kept.
pub trait KeptNames {
    /// The text at an address.
    fn text(&self, address: u64) -> Option<&[u8]>;
}

struct Kept<'a>(&'a dyn KeptNames);

impl Names for Kept<'_> {
    fn text(&self, address: u64) -> Option<&[u8]> {
        self.0.text(address)
    }

    fn function(&self, _domain: u32, _id: u32) -> Option<String> {
        None
    }
}

/// Decodes records as a capture does, into one group of batches; returns what a capture's summary
/// would note. No bytes make it panic. Calls are no records of a capture, and are left out.
pub fn decode<'a>(
    records: impl IntoIterator<Item = &'a [u8]>,
    names: &dyn KeptNames,
    sink: &dyn RecordSink,
    stream: StreamId,
) -> (Emit, Vec<String>) {
    let mut decoder = Decoder::new(stream, Calls::None, stream);
    for record in records {
        decoder.record(Raw(record), &Kept(names));
    }
    (decoder.emit(sink), decoder.notes())
}
