//! Turns rows and texts into the bytes of blocks.

use crate::spool::encode::Encoder;
use crate::spool::format::{ALIGNMENT, BLOCK_HEADER_BYTES, BlockHeader, FLAG_ZSTD, block_type};
use crate::spool::gathered::{Gathered, first_times};

/// Turns payloads into blocks; keeps its memory from block to block.
pub(super) struct Packer {
    encoder: Encoder,
    raw: Vec<u8>,
    block: Vec<u8>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl Packer {
    pub(super) fn new() -> Self {
        Self {
            encoder: Encoder::default(),
            raw: Vec::new(),
            block: Vec::new(),
            // Without memory for it blocks are stored as they are.
            compressor: zstd::bulk::Compressor::new(1).ok(),
        }
    }

    /// The memory that it holds.
    pub(super) fn memory_bytes(&mut self) -> usize {
        let zstd = self.compressor.as_mut().map_or(0, |zstd| zstd.context_mut().sizeof());
        self.encoder.memory_bytes() + self.raw.capacity() + self.block.capacity() + zstd
    }

    pub(super) fn pack_rows(&mut self, gathered: &Gathered, flags: u16) -> BlockHeader {
        self.encoder.encode(
            &gathered.rows,
            gathered.stride,
            &gathered.columns,
            !gathered.opaque,
            &gathered.heap,
            &mut self.raw,
        );
        let time = gathered.layout.and_then(|layout| layout.time);
        let (first_time, last_time) = first_times(&gathered.rows, gathered.stride, time);
        let header = BlockHeader {
            block_type: block_type::ROWS,
            flags,
            stride: gathered.stride as u32,
            rows: gathered.count() as u32,
            first_time,
            last_time,
            heap_len: gathered.heap.len() as u32,
            ..BlockHeader::default()
        };
        self.compress(header)
    }

    pub(super) fn pack_bytes(&mut self, block_type: u8, bytes: &[u8]) -> BlockHeader {
        self.raw.clear();
        self.raw.extend_from_slice(bytes);
        self.compress(BlockHeader { block_type, ..BlockHeader::default() })
    }

    /// Puts the stored payload into the block, behind room for the header.
    fn compress(&mut self, header: BlockHeader) -> BlockHeader {
        let bound = zstd::zstd_safe::compress_bound(self.raw.len());
        self.block.clear();
        self.block.resize(BLOCK_HEADER_BYTES + bound, 0);
        let target = &mut self.block[BLOCK_HEADER_BYTES..];
        let packed = self
            .compressor
            .as_mut()
            .and_then(|compressor| compressor.compress_to_buffer(&self.raw, target).ok())
            .filter(|&packed| packed < self.raw.len());
        let (stored, flag) = match packed {
            Some(packed) => (packed, FLAG_ZSTD),
            None => {
                target[..self.raw.len()].copy_from_slice(&self.raw);
                (self.raw.len(), 0)
            }
        };
        self.block.truncate(BLOCK_HEADER_BYTES + stored);
        BlockHeader {
            stored_len: stored as u32,
            raw_len: self.raw.len() as u32,
            flags: header.flags | flag,
            payload_crc: crc32fast::hash(&self.block[BLOCK_HEADER_BYTES..]),
            ..header
        }
    }

    pub(super) fn finish(&mut self, header: &BlockHeader) -> &[u8] {
        self.block[..BLOCK_HEADER_BYTES].copy_from_slice(&header.to_bytes());
        self.block.resize(self.block.len().next_multiple_of(ALIGNMENT), 0);
        &self.block
    }
}
