//! A file that is written aside and gets its name only when it is whole.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::dir::{Dir, check_name};
use super::error::TraceRootError;
use crate::identity::{base32, random_u64};

/// A new file under a name that readers pass over; [`AsideFile::publish`] gives it its own.
///
/// Dropped unpublished, it is removed.
#[derive(Debug)]
pub struct AsideFile {
    dir: Dir,
    file: File,
    aside: String,
    name: String,
    kept: bool,
}

impl AsideFile {
    /// Makes the file that shall be published at `path`. The directory must exist.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`]; in particular `Exists` where `path` is taken already, so that a long
    /// export fails at its start and not at its end.
    pub fn create(path: &Path) -> Result<Self, TraceRootError> {
        let shown = || TraceRootError::Name { name: path.display().to_string() };
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(shown)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let aside = Self::create_in(Dir::open(parent)?, name)?;
        if path.symlink_metadata().is_ok() {
            return Err(TraceRootError::Exists { path: path.to_owned() });
        }
        Ok(aside)
    }

    pub(super) fn create_in(dir: Dir, name: &str) -> Result<Self, TraceRootError> {
        check_name(name)?;
        let aside = format!(".{}.part", base32(random_u64(), 12));
        let file = dir.make_file(&aside)?;
        Ok(Self { dir, file, aside, name: name.to_owned(), kept: false })
    }

    /// The file, open for reading and writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path that it will have.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// Gives the file its name, replacing nothing.
    ///
    /// # Errors
    ///
    /// [`TraceRootError::Exists`] where the name was taken meanwhile; the file is then removed.
    pub fn publish(mut self) -> Result<PathBuf, TraceRootError> {
        self.dir.publish(&self.aside, &self.name)?;
        self.kept = true;
        Ok(self.path())
    }

    /// Writes all of a small file and gives it its name, replacing an older one at once.
    pub(super) fn replace_with(mut self, contents: &[u8]) -> Result<(), TraceRootError> {
        let path = self.path();
        self.file.write_all(contents).map_err(|error| from_io("writing", &path, error))?;
        self.dir.replace(&self.aside, &self.name)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for AsideFile {
    fn drop(&mut self) {
        if !self.kept {
            // A file that stays behind is passed over by readers and goes with its session.
            let _gone: Result<(), TraceRootError> = self.dir.remove_file(&self.aside);
        }
    }
}

pub(super) fn from_io(what: &'static str, path: &Path, error: io::Error) -> TraceRootError {
    match rustix::io::Errno::from_io_error(&error) {
        Some(errno) => TraceRootError::from_errno(what, path, errno),
        None => TraceRootError::Io { what, path: path.to_owned(), source: error },
    }
}
