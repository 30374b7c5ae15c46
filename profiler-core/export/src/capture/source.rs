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

/// What is known of a block before it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHead {
    /// The stream.
    pub stream: StreamId,
    /// The kind of all rows.
    pub kind: RecordKind,
    /// The smallest first instant of the rows, in the stream's clock; 0 = they have none.
    pub first_time: u64,
    /// The largest.
    pub last_time: u64,
    /// Whether the same rows stood in the file before.
    pub repeated: bool,
    /// What its source finds it by.
    pub(super) place: Place,
}

/// Where a block lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    File(profiler_core::spool::BlockInfo),
    Memory(usize),
}

/// A block of rows of one stream and kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceBlock<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The kind of all rows.
    pub kind: RecordKind,
    /// The size of a row in bytes.
    pub stride: u32,
    /// The rows.
    pub rows: &'a [u8],
    /// The heap that they point into.
    pub heap: &'a [u8],
}

/// What a reader had to leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Blocks or segments that were damaged.
    pub damaged: u64,
    /// Rows of kinds that this build does not know.
    pub unknown_rows: u64,
}

/// Reads the blocks of one spool in their order.
pub(super) trait BlockSource: Send {
    /// What the header says.
    fn origin(&self) -> &Origin;

    /// What is known of the next block; `None` = nothing more yet.
    ///
    /// # Errors
    ///
    /// [`CaptureError`] where the source cannot be read on.
    fn skim(&mut self) -> Result<Option<BlockHead>, CaptureError>;

    /// Reads a block that was skimmed; `false` = it is damaged, which is counted.
    ///
    /// # Errors
    ///
    /// [`CaptureError`] where the source cannot be read on.
    fn load(&mut self, head: &BlockHead) -> Result<bool, CaptureError>;

    /// The block that was loaded last.
    fn block(&self) -> Option<SourceBlock<'_>>;

    /// What is known of a stream, as far as blocks were skimmed.
    fn stream(&self, stream: StreamId) -> Option<&StreamInfo>;

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
            Self::Memory(spool) => {
                Ok(Box::new(MemoryReader { spool: Arc::clone(spool), next: 0, loaded: None }))
            }
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

impl MemoryBlock {
    /// The smallest and the largest first instant.
    fn times(&self) -> (u64, u64) {
        let field = self.kind.schema().and_then(|schema| {
            schema.fields.iter().find(|field| field.role == profiler_core::record::Role::Time)
        });
        let Some(field) = field else { return (0, 0) };
        let stride = self.stride as usize / 8;
        let times = self
            .rows
            .chunks_exact(stride.max(1))
            .filter_map(|row| row.get(field.offset as usize / 8).copied().filter(|at| *at != 0));
        times.fold((0, 0), |(first, last), at| {
            (if first == 0 { at } else { first.min(at) }, last.max(at))
        })
    }
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
    loaded: Option<usize>,
}

impl BlockSource for MemoryReader {
    fn origin(&self) -> &Origin {
        &self.spool.origin
    }

    fn skim(&mut self) -> Result<Option<BlockHead>, CaptureError> {
        let Some(block) = self.spool.blocks.get(self.next) else { return Ok(None) };
        let place = Place::Memory(self.next);
        self.next += 1;
        let (first_time, last_time) = block.times();
        Ok(Some(BlockHead {
            stream: block.stream,
            kind: block.kind,
            first_time,
            last_time,
            repeated: false,
            place,
        }))
    }

    fn load(&mut self, head: &BlockHead) -> Result<bool, CaptureError> {
        let Place::Memory(index) = head.place else { return Ok(false) };
        self.loaded = Some(index);
        Ok(true)
    }

    fn block(&self) -> Option<SourceBlock<'_>> {
        use zerocopy::IntoBytes as _;
        let block = self.spool.blocks.get(self.loaded?)?;
        Some(SourceBlock {
            stream: block.stream,
            kind: block.kind,
            stride: block.stride,
            rows: block.rows.as_bytes(),
            heap: &block.heap,
        })
    }

    fn stream(&self, stream: StreamId) -> Option<&StreamInfo> {
        self.spool.streams.get(stream.0 as usize)
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
