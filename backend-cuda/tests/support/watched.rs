//! A sink that counts, and shows a test what it is given.
#![allow(dead_code, reason = "each test crate uses a part")]

use profiler_core::conformance::MemorySink;
use profiler_core::record::RecordKind;
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

/// What looks on.
pub(crate) trait Watch: Send + Sync {
    fn opened(&self, _info: &StreamInfo) {}
    /// Before the group is counted.
    fn see(&self, group: &[Batch<'_>]);
}

/// A sink that takes everything, before the eyes of `watch`.
#[derive(Default)]
pub(crate) struct Watched<W> {
    pub(crate) counted: MemorySink,
    pub(crate) watch: W,
}

impl<W: Watch> RecordSink for Watched<W> {
    fn open_stream(&self, info: StreamInfo) -> StreamId {
        self.watch.opened(&info);
        self.counted.open_stream(info)
    }
    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        self.watch.see(group);
        self.counted.emit(group)
    }
    fn loss(&self, loss: Loss) {
        self.counted.loss(loss);
    }
    fn fact(&self, key: &str, value: &str) {
        self.counted.fact(key, value);
    }
    fn log(&self, level: LogLevel, target: &str, message: &str) {
        self.counted.log(level, target, message);
    }
}

impl<W> Watched<W> {
    pub(crate) fn rows(&self, kind: RecordKind) -> u64 {
        self.counted.rows(kind)
    }
}

/// A row's field, where its kind has one of that name.
pub(crate) fn field(batch: &Batch<'_>, row: &[u8], name: &str) -> Option<u64> {
    let schema = batch.kind.schema().expect("a known kind");
    let field = schema.fields.iter().find(|field| field.name == name)?;
    let (at, width) = (field.offset as usize, field.width as usize);
    let mut value = [0; 8];
    value[..width].copy_from_slice(&row[at..at + width]);
    Some(u64::from_le_bytes(value))
}
