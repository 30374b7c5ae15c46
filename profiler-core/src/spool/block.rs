//! A block as a reader gives it.

use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::record::{RecordKind, Row};
use crate::sink::StreamId;
use crate::spool::format::BlockHeader;

/// What is known of a block of rows before its payload is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// The stream.
    pub stream: StreamId,
    /// The kind of all rows.
    pub kind: RecordKind,
    /// How many rows there are.
    pub rows: u32,
    /// The size of a row as it was written.
    pub stride: u32,
    /// The smallest instant of the rows in the stream's clock, 0 = they have none.
    pub first_time: u64,
    /// The largest.
    pub last_time: u64,
    /// The number of the segment.
    pub segment: u32,
    /// Where the block lies in the file.
    pub offset: u64,
    /// Its length in the file.
    pub bytes: u64,
    /// The rows stand in an earlier segment, too.
    pub is_repeated: bool,
}

impl BlockInfo {
    pub(super) fn of(header: &BlockHeader) -> Self {
        Self {
            stream: StreamId(header.stream),
            kind: RecordKind(header.kind),
            rows: header.rows,
            stride: header.stride,
            first_time: header.first_time,
            last_time: header.last_time,
            segment: header.segment,
            offset: header.offset,
            bytes: header.block_len(),
            is_repeated: header.is_repeated(),
        }
    }
}

/// Rows of one stream and kind, unpacked. May be used again for the next block.
#[derive(Debug, Default)]
pub struct Block {
    pub(super) info: Option<BlockInfo>,
    pub(super) stride: usize,
    pub(super) rows: Vec<u64>,
    pub(super) heap: Vec<u8>,
}

impl Block {
    /// A block without rows, to be filled by a reader.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.info.map_or(StreamId(0), |info| info.stream)
    }

    /// The kind of all rows, 0 for a block that was never filled.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        self.info.map_or(RecordKind(0), |info| info.kind)
    }

    /// How many rows there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.info.map_or(0, |info| info.rows as usize)
    }

    /// What the file says of the block, `None` for one that was never filled.
    #[must_use]
    pub fn info(&self) -> Option<&BlockInfo> {
        self.info.as_ref()
    }

    /// The rows as `R`, `None` where they are of another kind. Fields that the writer did not
    /// know are zero, those that this build does not know are cut.
    #[must_use]
    pub fn rows<R: Row>(&self) -> Option<&[R]> {
        if self.kind() != R::KIND || self.stride != R::STRIDE as usize {
            return None;
        }
        <[R]>::ref_from_bytes(self.row_bytes()).ok()
    }

    /// The size of a row in [`Block::row_bytes`]: that of the layout which this build knows.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The rows' bytes, aligned to 8.
    #[must_use]
    pub fn row_bytes(&self) -> &[u8] {
        self.rows.as_slice().as_bytes()
    }

    /// What the rows' heap references point into.
    #[must_use]
    pub fn heap(&self) -> &[u8] {
        &self.heap
    }
}
