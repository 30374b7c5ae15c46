//! Where blocks come from: a spool, or memory in tests.

use std::path::PathBuf;
use std::sync::Arc;

use profiler_core::clock::Instant;
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{RecordKind, Row};
use profiler_core::sink::{Batch, StreamId, StreamInfo};

use super::CaptureError;

/// What a spool's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The session.
    pub session: String,
    /// The label that the user gave it.
    pub prefix: Option<String>,
    /// The worker.
    pub worker: WorkerIdentity,
    /// Who wrote the spool (`omniprof 0.1.0`).
    pub writer: String,
    /// When it was made.
    pub created: Instant,
}

/// A block of rows of one stream and kind.
#[derive(Clone, Copy, Debug)]
pub struct SourceBlock<'a> {
    /// The stream.
    pub stream: StreamId,
    /// What is known of the stream, `None` where the file does not tell.
    pub info: Option<&'a StreamInfo>,
    /// The kind of all rows.
    pub kind: RecordKind,
    /// The size of a row in bytes.
    pub stride: u32,
    /// The rows.
    pub rows: &'a [u8],
    /// The heap that they point into.
    pub heap: &'a [u8],
    /// The largest first instant of the rows, in the stream's clock; 0 = they have none.
    pub last_time: u64,
    /// Whether the same rows stood in the file before.
    pub repeated: bool,
}

/// What a reader had to leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Blocks or segments that were damaged.
    pub damaged: u64,
    /// Rows of kinds that this build does not know.
    pub unknown_rows: u64,
}

/// Reads the blocks of one spool in their order.
pub trait BlockSource: Send {
    /// What the header says.
    fn origin(&self) -> &Origin;

    /// Goes on to the next block of a kind that is `wanted`; `false` = nothing more yet.
    ///
    /// # Errors
    ///
    /// [`CaptureError`] where the source cannot be read on.
    fn advance(&mut self, wanted: &dyn Fn(RecordKind) -> bool) -> Result<bool, CaptureError>;

    /// The block that [`BlockSource::advance`] went to last.
    fn block(&self) -> Option<SourceBlock<'_>>;

    /// Whether nothing will follow: the footer was read.
    fn is_closed(&self) -> bool;

    /// Whether somebody may still write.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Lock`].
    fn writer_alive(&self) -> Result<bool, CaptureError>;

    /// What had to be left out so far.
    fn left_out(&self) -> LeftOut;
}

/// A spool to read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// A spool file.
    Spool(PathBuf),
    /// Blocks in memory.
    Memory(Arc<MemorySpool>),
}

impl Input {
    pub(super) fn open(&self) -> Result<Box<dyn BlockSource>, CaptureError> {
        match self {
            Self::Spool(path) => super::spool::open(path),
            Self::Memory(spool) => Ok(Box::new(MemoryReader { spool: Arc::clone(spool), next: 0 })),
        }
    }
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Self {
        Self::Spool(path)
    }
}

/// Blocks in memory: for tests, and for whoever has rows but no file.
#[derive(Clone, Debug)]
pub struct MemorySpool {
    origin: Origin,
    streams: Vec<StreamInfo>,
    blocks: Vec<MemoryBlock>,
}

#[derive(Clone, Debug)]
struct MemoryBlock {
    stream: StreamId,
    kind: RecordKind,
    stride: u32,
    /// In words, so that rows are aligned.
    rows: Vec<u64>,
    heap: Vec<u8>,
}

impl MemorySpool {
    /// An empty spool; stream 0 is the agent's.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        let agent = StreamInfo {
            producer: "agent".to_owned(),
            thread: 0,
            clock: profiler_core::clock::ClockDomain::Monotonic,
        };
        Self { origin, streams: vec![agent], blocks: Vec::new() }
    }

    /// Opens a stream.
    pub fn open_stream(&mut self, info: StreamInfo) -> StreamId {
        self.streams.push(info);
        StreamId(self.streams.len() as u32 - 1)
    }

    /// Appends a block.
    pub fn push<R: Row>(&mut self, stream: StreamId, rows: &[R]) {
        self.push_batch(&Batch::new(stream, rows));
    }

    /// Appends a block with a heap.
    pub fn push_with_heap<R: Row>(&mut self, stream: StreamId, rows: &[R], heap: &[u8]) {
        self.push_batch(&Batch::with_heap(stream, rows, heap));
    }

    /// Appends a block.
    pub fn push_batch(&mut self, batch: &Batch<'_>) {
        let rows = batch
            .rows
            .chunks(8)
            .map(|bytes| {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                u64::from_ne_bytes(word)
            })
            .collect();
        self.blocks.push(MemoryBlock {
            stream: batch.stream,
            kind: batch.kind,
            stride: batch.stride,
            rows,
            heap: batch.heap.to_vec(),
        });
    }
}

struct MemoryReader {
    spool: Arc<MemorySpool>,
    next: usize,
}

impl BlockSource for MemoryReader {
    fn origin(&self) -> &Origin {
        &self.spool.origin
    }

    fn advance(&mut self, wanted: &dyn Fn(RecordKind) -> bool) -> Result<bool, CaptureError> {
        while let Some(block) = self.spool.blocks.get(self.next) {
            self.next += 1;
            if wanted(block.kind) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn block(&self) -> Option<SourceBlock<'_>> {
        use zerocopy::IntoBytes as _;
        let block = self.spool.blocks.get(self.next.checked_sub(1)?)?;
        Some(SourceBlock {
            stream: block.stream,
            info: self.spool.streams.get(block.stream.0 as usize),
            kind: block.kind,
            stride: block.stride,
            rows: block.rows.as_bytes(),
            heap: &block.heap,
            last_time: 0,
            repeated: false,
        })
    }

    fn is_closed(&self) -> bool {
        self.next >= self.spool.blocks.len()
    }

    fn writer_alive(&self) -> Result<bool, CaptureError> {
        Ok(false)
    }

    fn left_out(&self) -> LeftOut {
        LeftOut::default()
    }
}
