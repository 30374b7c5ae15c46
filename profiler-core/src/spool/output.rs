//! The file behind a spool: appends, room allocated ahead, limits.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use crate::descriptor::{Kept, LostDescriptor};
use crate::spool::progress::SpoolEnd;

/// So much of the disk is allocated ahead, for the last blocks of a full disk.
const AHEAD_BYTES: u64 = 1 << 20;
/// So much of the byte limit is kept for the last blocks.
const LAST_BLOCKS_BYTES: u64 = 64 << 10;
/// After so many bytes the free room of the file system is looked at again.
const LOOK_BYTES: u64 = 16 << 20;
/// The smallest byte limit that leaves room for anything.
pub(super) const LEAST_LIMIT_BYTES: u64 = 256 << 10;

/// A file that is only appended to.
///
/// The descriptor may be shared with another process, hence no use of its position; and the
/// process may belong to a program that closes what it finds, hence a look before each use.
pub(super) struct Output {
    file: Kept<File>,
    position: u64,
    allocated: u64,
    /// The file system cannot allocate ahead.
    unallocated: bool,
    max_bytes: u64,
    min_free_percent: u32,
    next_look: u64,
    crc: crc32fast::Hasher,
}

impl Output {
    /// Appends to `file` from its start on.
    pub(super) fn new(file: File, max_bytes: u64, min_free_percent: u32) -> Self {
        Self {
            file: Kept::new(file),
            position: 0,
            allocated: 0,
            unallocated: false,
            max_bytes,
            min_free_percent: min_free_percent.min(100),
            next_look: 0,
            crc: crc32fast::Hasher::new(),
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn crc32(&self) -> u32 {
        self.crc.clone().finalize()
    }

    /// The file, if the program has not closed it.
    pub(super) fn file(&self) -> Result<&File, LostDescriptor> {
        self.file.get()
    }

    /// Appends bytes, within all limits.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolEnd> {
        let after = self.position + bytes.len() as u64;
        if after + LAST_BLOCKS_BYTES > self.max_bytes {
            return Err(SpoolEnd::ByteLimit { max_bytes: self.max_bytes });
        }
        self.look_at_room()?;
        self.allocate(after + AHEAD_BYTES)?;
        self.write(bytes)
    }

    /// Appends one of the last blocks: into the room kept for them.
    pub(super) fn append_last(&mut self, bytes: &[u8]) -> Result<(), SpoolEnd> {
        self.write(bytes)
    }

    /// Gives back the room that was allocated ahead, and bytes of a write that failed half way.
    pub(super) fn trim(&self) -> io::Result<()> {
        self.file.get()?.set_len(self.position)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolEnd> {
        let file = self.file.get().map_err(|lost| end_of(&lost.into()))?;
        file.write_all_at(bytes, self.position).map_err(|error| end_of(&error))?;
        self.position += bytes.len() as u64;
        self.crc.update(bytes);
        Ok(())
    }

    fn allocate(&mut self, up_to: u64) -> Result<(), SpoolEnd> {
        if self.unallocated || up_to <= self.allocated {
            return Ok(());
        }
        let file = self.file.get().map_err(|lost| end_of(&lost.into()))?;
        let begin = self.allocated.max(self.position);
        let len = (up_to - begin).next_multiple_of(AHEAD_BYTES);
        loop {
            // The size stays as it is: readers go by it.
            return match fallocate(file, FallocateFlags::KEEP_SIZE, begin, len) {
                Ok(()) => {
                    self.allocated = begin + len;
                    Ok(())
                }
                Err(Errno::INTR) => continue,
                Err(error @ (Errno::NOSPC | Errno::DQUOT)) => Err(end_of(&error.into())),
                // The limit of a file's size: the write itself tells whether it still fits.
                Err(Errno::FBIG) => Ok(()),
                Err(_) => {
                    self.unallocated = true;
                    Ok(())
                }
            };
        }
    }

    fn look_at_room(&mut self) -> Result<(), SpoolEnd> {
        if self.min_free_percent == 0 || self.position < self.next_look {
            return Ok(());
        }
        self.next_look = self.position + LOOK_BYTES;
        let Ok(Ok(room)) = self.file.get().map(fstatvfs) else { return Ok(()) };
        let (free, all) = (u128::from(room.f_bavail), u128::from(room.f_blocks));
        if all == 0 || free * 100 >= all * u128::from(self.min_free_percent) {
            return Ok(());
        }
        let percent = free * 100 / all;
        Err(SpoolEnd::DiskFull {
            message: format!(
                "{percent} % of the spool's file system are free, {} % are to stay free",
                self.min_free_percent
            ),
        })
    }
}

fn end_of(error: &io::Error) -> SpoolEnd {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            SpoolEnd::DiskFull { message: format!("the spool's disk is full: {error}") }
        }
        _ => SpoolEnd::DiskFailed { message: format!("the spool cannot be written: {error}") },
    }
}
