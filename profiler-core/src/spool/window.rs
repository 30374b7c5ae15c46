//! A window of file bytes, read ahead.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::spool::error::SpoolReadError;
use crate::spool::format::BlockHeader;

/// So much is read in one go where everything is wanted.
const READ_BYTES: usize = 256 << 10;
/// So much is read in one go where most is passed over.
const SKIM_BYTES: usize = 4 << 10;

/// A part of a file in memory.
pub(super) struct FileWindow {
    file: File,
    begin: u64,
    bytes: Vec<u8>,
    read_bytes: usize,
}

impl FileWindow {
    pub(super) fn new(file: File) -> Self {
        Self { file, begin: 0, bytes: Vec::new(), read_bytes: READ_BYTES }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The file's length now.
    pub(super) fn file_len(&self) -> Result<u64, SpoolReadError> {
        let metadata = self.file.metadata().map_err(|source| SpoolReadError::Io {
            action: "look at",
            offset: 0,
            source,
        })?;
        Ok(metadata.len())
    }

    /// Reads ahead little, as it fits one who passes over most of the file, or much.
    pub(super) fn skim(&mut self, skim: bool) {
        self.read_bytes = if skim { SKIM_BYTES } else { READ_BYTES };
    }

    /// Forgets what was read: the file may have become another.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
    }

    /// Up to `len` bytes from `offset` on; fewer only where the file ends.
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Result<&[u8], SpoolReadError> {
        let held = self.held(offset);
        if held < len {
            self.refill(offset, held, len)?;
        }
        let Some(start) = offset.checked_sub(self.begin) else { return Ok(&[]) };
        let start = self.bytes.len().min(start as usize);
        let end = self.bytes.len().min(start + len);
        Ok(&self.bytes[start..end])
    }

    fn held(&self, offset: u64) -> usize {
        let end = self.begin + self.bytes.len() as u64;
        match offset >= self.begin && offset < end {
            true => (end - offset) as usize,
            false => 0,
        }
    }

    fn refill(&mut self, offset: u64, held: usize, len: usize) -> Result<(), SpoolReadError> {
        self.bytes.drain(..self.bytes.len() - held);
        self.begin = offset;
        let wanted = len.max(self.read_bytes);
        self.bytes.resize(wanted, 0);
        let mut filled = held;
        while filled < wanted {
            match self.file.read_at(&mut self.bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    self.bytes.truncate(filled);
                    return Err(SpoolReadError::Io {
                        action: "read",
                        offset: offset + filled as u64,
                        source,
                    });
                }
            }
        }
        self.bytes.truncate(filled);
        // A single giant block must not leave its room behind.
        if self.bytes.capacity() > 4 * READ_BYTES && filled <= READ_BYTES {
            self.bytes.shrink_to(READ_BYTES);
        }
        Ok(())
    }
}

/// The stored payload of a block, shorter where the file ends.
pub(super) fn payload<'a>(
    window: &'a mut FileWindow,
    header: &BlockHeader,
) -> Result<&'a [u8], SpoolReadError> {
    let begin = header.offset + u64::from(header.header_len);
    window.read(begin, header.stored_len as usize)
}
