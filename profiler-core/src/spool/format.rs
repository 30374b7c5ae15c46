//! The bytes of a spool, version 1.
//!
//! All numbers are little endian; offsets count from the start of the structure at hand.
//!
//! ```text
//! file      = preamble, block*
//! preamble  =  0  8  magic "OMNISPL\n"
//!              8  4  format version, 1
//!             12  4  length of the header's JSON
//!             16  4  CRC-32 of the bytes 0..16 and the JSON
//!             20  4  zero
//!             24  …  SpoolHeader as JSON, then zeros up to a multiple of 8
//! block     =  0  4  magic "OSB1"
//!              4  1  version of this block header, 1
//!              5  1  type: 1 rows, 2 segment, 3 footer, 4 streams
//!              6  2  length of this block header, 88 or more (later versions append)
//!              8  4  length of the payload as stored
//!             12  4  length of the payload when unpacked
//!             16  8  sequence number in the file, from 0
//!             24  8  offset of this block in the file
//!             32  4  stream                                  (rows; else 0)
//!             36  2  kind                                    (rows; else 0)
//!             38  2  flags: bit 0 = the payload is one zstd frame,
//!                           bit 1 = repeats rows of an earlier segment
//!             40  4  stride                                  (rows; else 0)
//!             44  4  rows                                    (rows; else 0)
//!             48  8  the smallest first-Time of the rows, 0 = they have none
//!             56  8  the largest
//!             64  4  number of the segment, from 0
//!             68  4  length of the heap, the payload's tail  (rows; else 0)
//!             72  4  CRC-32 of the stored payload
//!             76  4  zero
//!             80  4  CRC-32 of the bytes 0..80 and of those from 88 to the header's end
//!             84  4  zero
//!             88  …  payload, then zeros up to a multiple of 8
//! ```
//!
//! Payloads of the types *segment*, *footer* and *streams* are JSON. That of *rows* is columnar:
//!
//! ```text
//! payload   =  0  2  number of columns
//!              2  2  zero
//!              4  4  zero
//!              8 32  column directory entry, one a column
//!              …  …  each column's planes, in the directory's order: plane 0 holds the lowest
//!                    byte of each row's stored number, plane 1 the next …
//!              …  …  the heap
//! entry     =  0  2  offset of the field in the row
//!              2  1  width of the field: 1, 2, 4 or 8
//!              3  1  transform
//!              4  1  planes, 0..=8
//!              5  1  zero
//!              6  2  reference: the offset of another field (transform 2; else 0)
//!              8  8  base
//!             16  8  bias
//!             24  8  zero
//! ```
//!
//! With `s[i]` the number stored for row `i` (0 where there are no planes) and
//! `t[i] = s[i] + bias` (wrapping), the field's value `v[i]` is
//!
//! | transform | value |
//! |---|---|
//! | 0 plain | `t[i]` |
//! | 1 delta | `v[i-1] + unzigzag(t[i])`, where `v[-1]` is `base` |
//! | 2 end   | `0` where `t[i]` is 0, else the 8-byte field at `reference` of the same row, plus `t[i] - 1`; it stands earlier in the directory |
//! | 3 heap  | a reference whose length is `t[i]` and whose offset is the sum of the lengths of all transform-3 fields before it, row by row and within a row in the directory's order; an empty one has offset 0 |
//!
//! all wrapping, cut to the field's width. Bytes of a row that no column covers are zero.

use crate::spool::error::SpoolReadError;

/// The first bytes of a spool.
pub const MAGIC: [u8; 8] = *b"OMNISPL\n";
/// The version of the format that this build writes.
pub const FORMAT_VERSION: u32 = 1;
/// The length of what stands before the header's JSON.
pub const PREAMBLE_BYTES: usize = 24;
/// The longest header that a reader takes.
pub const MAX_HEADER_BYTES: usize = 1 << 20;

/// The first bytes of a block.
pub const BLOCK_MAGIC: [u8; 4] = *b"OSB1";
/// The version of the block header that this build writes.
pub const BLOCK_VERSION: u8 = 1;
/// The length of the block header that this build writes.
pub const BLOCK_HEADER_BYTES: usize = 88;
/// The longest block header that a reader takes.
pub const MAX_BLOCK_HEADER_BYTES: usize = 1024;
/// Blocks begin at multiples of this.
pub const ALIGNMENT: usize = 8;

/// The longest payload, stored or unpacked, that a reader takes.
pub const MAX_PAYLOAD_BYTES: usize = 32 << 20;
/// The most rows of a block.
pub const MAX_BLOCK_ROWS: usize = 1 << 16;
/// The longest row, in bytes.
pub const MAX_STRIDE: usize = 4096;

/// The payload is one zstd frame.
pub const FLAG_ZSTD: u16 = 1;
/// The rows stand in an earlier segment, too.
pub const FLAG_REPEATED: u16 = 1 << 1;

/// The length of what stands before the column directory.
pub(crate) const PAYLOAD_HEADER_BYTES: usize = 8;
/// The length of a column directory entry.
pub(crate) const COLUMN_BYTES: usize = 32;

pub(crate) const TRANSFORM_PLAIN: u8 = 0;
pub(crate) const TRANSFORM_DELTA: u8 = 1;
pub(crate) const TRANSFORM_END: u8 = 2;
pub(crate) const TRANSFORM_HEAP: u8 = 3;

const _: () = assert!(cfg!(target_endian = "little"), "rows are stored as they lie in memory");

/// The types of blocks.
pub mod block_type {
    /// Rows of one stream and kind.
    pub const ROWS: u8 = 1;
    /// The beginning of a segment.
    pub const SEGMENT: u8 = 2;
    /// The end of a clean file.
    pub const FOOTER: u8 = 3;
    /// Streams opened since the last segment or streams block.
    pub const STREAMS: u8 = 4;
}

/// What stands before a block's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockHeader {
    /// One of [`block_type`].
    pub block_type: u8,
    /// The length of the header itself.
    pub header_len: u16,
    /// The length of the payload as stored.
    pub stored_len: u32,
    /// The length of the payload when unpacked.
    pub raw_len: u32,
    /// The block's number in the file.
    pub sequence: u64,
    /// Where the block lies in the file.
    pub offset: u64,
    /// The stream of the rows.
    pub stream: u32,
    /// The kind of the rows.
    pub kind: u16,
    /// [`FLAG_ZSTD`], [`FLAG_REPEATED`].
    pub flags: u16,
    /// The size of a row in bytes.
    pub stride: u32,
    /// How many rows there are.
    pub rows: u32,
    /// The smallest first-Time of the rows, 0 = none.
    pub first_time: u64,
    /// The largest.
    pub last_time: u64,
    /// The number of the segment.
    pub segment: u32,
    /// The length of the heap.
    pub heap_len: u32,
    /// CRC-32 of the stored payload.
    pub payload_crc: u32,
}

impl BlockHeader {
    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0u8; BLOCK_HEADER_BYTES];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &BLOCK_MAGIC);
        put(4, &[BLOCK_VERSION, self.block_type]);
        put(6, &(BLOCK_HEADER_BYTES as u16).to_le_bytes());
        put(8, &self.stored_len.to_le_bytes());
        put(12, &self.raw_len.to_le_bytes());
        put(16, &self.sequence.to_le_bytes());
        put(24, &self.offset.to_le_bytes());
        put(32, &self.stream.to_le_bytes());
        put(36, &self.kind.to_le_bytes());
        put(38, &self.flags.to_le_bytes());
        put(40, &self.stride.to_le_bytes());
        put(44, &self.rows.to_le_bytes());
        put(48, &self.first_time.to_le_bytes());
        put(56, &self.last_time.to_le_bytes());
        put(64, &self.segment.to_le_bytes());
        put(68, &self.heap_len.to_le_bytes());
        put(72, &self.payload_crc.to_le_bytes());
        let crc = header_crc(&bytes);
        bytes[80..84].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header that may stand at the beginning of `bytes`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> ParsedHeader {
        if bytes.len() < BLOCK_HEADER_BYTES {
            let cut = bytes.len().min(BLOCK_MAGIC.len());
            return match bytes[..cut] == BLOCK_MAGIC[..cut] {
                true => ParsedHeader::Incomplete,
                false => ParsedHeader::Invalid,
            };
        }
        if bytes[..4] != BLOCK_MAGIC || bytes[4] == 0 {
            return ParsedHeader::Invalid;
        }
        let header_len = u16_at(bytes, 6);
        let plausible = (BLOCK_HEADER_BYTES..=MAX_BLOCK_HEADER_BYTES)
            .contains(&usize::from(header_len))
            && usize::from(header_len) % ALIGNMENT == 0;
        if !plausible {
            return ParsedHeader::Invalid;
        }
        let Some(whole) = bytes.get(..usize::from(header_len)) else {
            return ParsedHeader::Incomplete;
        };
        if header_crc(whole) != u32_at(bytes, 80) {
            return ParsedHeader::Invalid;
        }
        let header = Self {
            block_type: bytes[5],
            header_len,
            stored_len: u32_at(bytes, 8),
            raw_len: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            offset: u64_at(bytes, 24),
            stream: u32_at(bytes, 32),
            kind: u16_at(bytes, 36),
            flags: u16_at(bytes, 38),
            stride: u32_at(bytes, 40),
            rows: u32_at(bytes, 44),
            first_time: u64_at(bytes, 48),
            last_time: u64_at(bytes, 56),
            segment: u32_at(bytes, 64),
            heap_len: u32_at(bytes, 68),
            payload_crc: u32_at(bytes, 72),
        };
        if header.stored_len as usize > MAX_PAYLOAD_BYTES {
            return ParsedHeader::Invalid;
        }
        ParsedHeader::Block(header)
    }

    /// The length of the whole block in the file.
    #[must_use]
    pub fn block_len(&self) -> u64 {
        (u64::from(self.header_len) + u64::from(self.stored_len)).next_multiple_of(ALIGNMENT as u64)
    }

    /// Whether the rows stand in an earlier segment, too.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.flags & FLAG_REPEATED != 0
    }
}

/// What [`BlockHeader::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these three are all there is to find")]
pub enum ParsedHeader {
    /// A header.
    Block(BlockHeader),
    /// The bytes end within what may be a header.
    Incomplete,
    /// No header.
    Invalid,
}

fn header_crc(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..80]);
    hasher.update(&header[BLOCK_HEADER_BYTES..]);
    hasher.finalize()
}

/// The preamble with the header's JSON, padded.
pub(crate) fn preamble(json: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREAMBLE_BYTES + json.len() + ALIGNMENT);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(json);
    bytes.extend_from_slice(&hasher.finalize().to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(json);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

/// Reads a preamble: the range of the JSON and where the first block begins.
pub(crate) fn parse_preamble(
    bytes: &[u8],
) -> Result<(std::ops::Range<usize>, u64), SpoolReadError> {
    let cut = bytes.len().min(MAGIC.len());
    if bytes[..cut] != MAGIC[..cut] || bytes.is_empty() {
        return Err(SpoolReadError::NotASpool);
    }
    if bytes.len() < PREAMBLE_BYTES {
        return Err(SpoolReadError::Incomplete { bytes: bytes.len() as u64 });
    }
    let version = u32_at(bytes, 8);
    if version != FORMAT_VERSION {
        return Err(SpoolReadError::Version { version });
    }
    let json_len = u32_at(bytes, 12) as usize;
    if json_len > MAX_HEADER_BYTES {
        return Err(SpoolReadError::HeaderDamaged { offset: 12 });
    }
    let range = PREAMBLE_BYTES..PREAMBLE_BYTES + json_len;
    let Some(json) = bytes.get(range.clone()) else {
        return Err(SpoolReadError::Incomplete { bytes: bytes.len() as u64 });
    };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..16]);
    hasher.update(json);
    if hasher.finalize() != u32_at(bytes, 16) {
        return Err(SpoolReadError::HeaderDamaged { offset: 16 });
    }
    let first_block = range.end.next_multiple_of(ALIGNMENT) as u64;
    Ok((range, first_block))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut part = [0; 2];
    part.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(part)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut part = [0; 4];
    part.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(part)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut part = [0; 8];
    part.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(part)
}
