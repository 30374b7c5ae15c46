//! Where rows go.
//!
//! A producer opens a stream and emits groups of batches. It never waits for the sink, and the
//! sink never loses a row without counting it.

use serde::{Deserialize, Serialize};

use crate::clock::ClockDomain;
use crate::record::{LossCause, RecordKind, Row};

/// A stream within one sink: one producer, one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u32);

/// What is known of a stream when it is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// Who produces it (`cpu.sampler`, `cuda.activity`, `agent.spans`).
    pub producer: String,
    /// The thread whose rows it carries, 0 = several (then rows name their thread).
    pub thread: u32,
    /// The clock of its instants.
    pub clock: ClockDomain,
}

/// Rows of one kind, of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The kind of all rows.
    pub kind: RecordKind,
    /// The size of one row in bytes, a multiple of 8.
    pub stride: u32,
    /// The rows, `stride` bytes each.
    pub rows: &'a [u8],
    /// The heap that the rows' [`crate::record::HeapRef`]s point into.
    pub heap: &'a [u8],
}

impl<'a> Batch<'a> {
    /// A batch of rows that have no variable bytes.
    #[must_use]
    pub fn new<R: Row>(stream: StreamId, rows: &'a [R]) -> Self {
        Self::with_heap(stream, rows, &[])
    }

    /// A batch of rows with their heap.
    #[must_use]
    pub fn with_heap<R: Row>(stream: StreamId, rows: &'a [R], heap: &'a [u8]) -> Self {
        use zerocopy::IntoBytes as _;
        Self { stream, kind: R::KIND, stride: R::STRIDE, rows: rows.as_bytes(), heap }
    }

    /// How many rows there are; a trailing part of a row does not count.
    #[must_use]
    pub fn count(&self) -> usize {
        match self.stride {
            0 => 0,
            stride => self.rows.len() / stride as usize,
        }
    }
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Emit {
    /// The whole group was taken.
    Accepted,
    /// Nothing of the group was taken; the sink has counted the loss. Definitions in it must be
    /// sent again before their next use.
    Full,
    /// Nothing will be taken any more: stop producing.
    Closed,
}

/// Rows that a producer knows to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The stream they would have been in, `None` = several.
    pub stream: Option<StreamId>,
    /// Their kind, `None` = several or unknown.
    pub kind: Option<RecordKind>,
    /// How many.
    pub count: u64,
    /// The first instant from which rows may miss, in the stream's clock; 0 = not known.
    pub from: u64,
    /// The instant from which rows are whole again, in the stream's clock; 0 = not known.
    pub to: u64,
    /// Why.
    pub cause: LossCause,
}

/// How serious a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogLevel {
    /// For people who look for a fault in the profiler.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is less than it should be.
    Warn,
    /// Something failed.
    Error,
}

/// Takes rows.
///
/// Callable from any thread. A stream has one writer: calls of [`RecordSink::emit`] for the same
/// stream never overlap, which the caller sees to. No method blocks on the disk or on another
/// producer, and none may be called from a signal handler.
pub trait RecordSink: Send + Sync {
    /// Opens a stream. A closed sink answers with a stream that takes nothing.
    fn open_stream(&self, info: StreamInfo) -> StreamId;

    /// Takes a group of batches of one stream whole, or refuses it whole.
    ///
    /// Definitions stand in the group before the rows that use them. Malformed batches (a stride
    /// of 0 or no multiple of 8, a broken row at the end, a heap reference that leaves the heap)
    /// are refused and counted as [`LossCause::Undecodable`].
    fn emit(&self, group: &[Batch<'_>]) -> Emit;

    /// Counts rows that the producer or its driver lost.
    fn loss(&self, loss: Loss);

    /// Records something known. The last value of a key wins.
    fn fact(&self, key: &str, value: &str);

    /// Passes a line to the log of the process that owns the sink.
    fn log(&self, level: LogLevel, target: &str, message: &str);
}
