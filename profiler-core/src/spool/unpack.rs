//! Checks and unpacks the payloads of blocks.

use serde::Deserialize;

use crate::record::RecordKind;
use crate::spool::block::{Block, BlockInfo};
use crate::spool::decode::{Decoder, Shape};
use crate::spool::format::{BlockHeader, FLAG_ZSTD, MAX_BLOCK_ROWS, MAX_PAYLOAD_BYTES, MAX_STRIDE};
use crate::spool::layout::Layout;

/// Checks and unpacks payloads.
pub(super) struct Unpacker {
    raw: Vec<u8>,
    decoder: Decoder,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

/// A payload that is not what its header says.
pub(super) struct Damaged;

impl Unpacker {
    pub(super) fn new() -> Self {
        Self { raw: Vec::new(), decoder: Decoder::default(), zstd: None }
    }

    pub(super) fn rows(&mut self, header: &BlockHeader, payload: &[u8], block: &mut Block) -> bool {
        let Some(layout) = Layout::of(RecordKind(header.kind)) else { return false };
        let shape = Shape {
            count: header.rows as usize,
            stored_stride: header.stride as usize,
            stride: layout.stride(),
            heap_len: header.heap_len as usize,
        };
        let sound = (1..=MAX_STRIDE).contains(&shape.stored_stride)
            && shape.count <= MAX_BLOCK_ROWS
            && shape.count * shape.stored_stride <= MAX_PAYLOAD_BYTES;
        if !sound {
            return false;
        }
        let Ok(raw) = unpack(&mut self.raw, &mut self.zstd, header, payload) else {
            return false;
        };
        block.info = Some(BlockInfo::of(header));
        block.stride = shape.stride;
        self.decoder.decode(raw, shape, &mut block.rows, &mut block.heap).is_ok()
    }

    pub(super) fn json<T: for<'de> Deserialize<'de>>(
        &mut self,
        header: &BlockHeader,
        payload: &[u8],
    ) -> Result<T, Damaged> {
        let raw = unpack(&mut self.raw, &mut self.zstd, header, payload)?;
        serde_json::from_slice(raw).map_err(|_not_json| Damaged)
    }
}

fn unpack<'a>(
    raw: &'a mut Vec<u8>,
    zstd: &mut Option<zstd::bulk::Decompressor<'static>>,
    header: &BlockHeader,
    payload: &'a [u8],
) -> Result<&'a [u8], Damaged> {
    let raw_len = header.raw_len as usize;
    let whole = payload.len() == header.stored_len as usize
        && raw_len <= MAX_PAYLOAD_BYTES
        && crc32fast::hash(payload) == header.payload_crc;
    if !whole {
        return Err(Damaged);
    }
    if header.flags & FLAG_ZSTD == 0 {
        return if payload.len() == raw_len { Ok(payload) } else { Err(Damaged) };
    }
    if zstd.is_none() {
        *zstd = zstd::bulk::Decompressor::new().ok();
    }
    let Some(zstd) = zstd else { return Err(Damaged) };
    raw.resize(raw_len, 0);
    match zstd.decompress_to_buffer(payload, &mut raw[..]) {
        Ok(len) if len == raw_len => Ok(raw),
        _ => Err(Damaged),
    }
}
