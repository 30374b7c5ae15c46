//! Files and directories that take their names when they are whole.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use profiler_core::trace_path::{AsideFile, TraceRootError};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::ExportError;

/// A file that is written aside, with the checksum of what was written.
#[derive(Debug)]
pub(super) struct FileOutput {
    aside: AsideFile,
    crc: Hasher,
    bytes: u64,
}

impl FileOutput {
    pub(super) fn create(path: &Path) -> Result<Self, TraceRootError> {
        Ok(Self { aside: AsideFile::create(path)?, crc: Hasher::new(), bytes: 0 })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn crc32(&self) -> u32 {
        self.crc.clone().finalize()
    }

    /// Gives the file its name.
    pub(super) fn publish(self) -> Result<PathBuf, TraceRootError> {
        self.aside.publish()
    }
}

impl Write for FileOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.aside.file().write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.aside.file().flush()
    }
}

/// A directory that is filled aside. What is not published is removed.
#[derive(Debug)]
pub(super) struct AsideDirectory {
    part: PathBuf,
    target: PathBuf,
    published: bool,
}

impl AsideDirectory {
    /// Chooses where; makes nothing yet. What lies at the target already is refused at once.
    pub(super) fn new(target: &Path) -> Result<Self, ExportError> {
        let Some(name) = target.file_name() else {
            return Err(ExportError::NoName { path: target.to_owned() });
        };
        if target.symlink_metadata().is_ok() {
            return Err(ExportError::Exists { path: target.to_owned() });
        }
        let mut part = OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", std::process::id()));
        Ok(Self { part: target.with_file_name(part), target: target.to_owned(), published: false })
    }

    /// Where to fill it.
    pub(super) fn part(&self) -> &Path {
        &self.part
    }

    /// Gives the directory its name.
    pub(super) fn publish(mut self) -> Result<(), ExportError> {
        match renameat_with(CWD, &self.part, CWD, &self.target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(Errno::EXIST) => Err(ExportError::Exists { path: self.target.clone() }),
            Err(errno) => Err(ExportError::Write {
                action: "publish",
                path: self.target.clone(),
                source: errno.into(),
            }),
        }
    }
}

impl Drop for AsideDirectory {
    fn drop(&mut self) {
        if !self.published {
            // It may never have been made; and an error is being reported already.
            let _removed: io::Result<()> = std::fs::remove_dir_all(&self.part);
        }
    }
}

/// The bytes of all files in a directory.
pub(super) fn bytes_in(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
