//! Looks for blocks in a file whose beginning is damaged.

use crate::spool::error::SpoolReadError;
use crate::spool::format::{
    ALIGNMENT, BLOCK_MAGIC, BlockHeader, MAX_BLOCK_HEADER_BYTES, ParsedHeader,
};
use crate::spool::window::{FileWindow, payload};

/// A search reads so much in one go.
pub(super) const SCAN_BYTES: usize = 256 << 10;

/// Looks for whole block headers where nothing says where they are.
pub(super) struct Scan {
    pub(super) window: FileWindow,
    pub(super) position: u64,
}

impl Scan {
    pub(super) fn next(&mut self, limit: u64) -> Result<Option<BlockHeader>, SpoolReadError> {
        while self.position < limit {
            let bytes = self.window.read(self.position, SCAN_BYTES)?;
            let found = bytes.chunks(ALIGNMENT).position(|word| word.starts_with(&BLOCK_MAGIC));
            let Some(words) = found else {
                self.position += bytes.len().max(ALIGNMENT) as u64 / 8 * 8;
                continue;
            };
            self.position += (words * ALIGNMENT) as u64;
            let bytes = self.window.read(self.position, MAX_BLOCK_HEADER_BYTES)?;
            match BlockHeader::parse(bytes) {
                ParsedHeader::Block(header) if header.offset == self.position => {
                    return Ok(Some(header));
                }
                _ => self.position += ALIGNMENT as u64,
            }
        }
        Ok(None)
    }

    pub(super) fn payload(
        &mut self,
        header: &BlockHeader,
    ) -> Result<Option<&[u8]>, SpoolReadError> {
        let bytes = payload(&mut self.window, header)?;
        Ok((bytes.len() == header.stored_len as usize).then_some(bytes))
    }
}
