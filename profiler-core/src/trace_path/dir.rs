//! One opened directory: every step below it is a plain name that follows no symlink.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, fstat, linkat, mkdirat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::error::TraceRootError;
use super::policy::MAX_NAME_BYTES;

/// Directories are for their owner alone.
const DIR_MODE: Mode = Mode::RWXU;

/// So are files.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// An opened directory and the path by which messages name it.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File { bytes: u64 },
    Dir,
    Other,
}

impl Dir {
    /// Opens a directory that the user named; symlinks on the way are the user's own.
    pub(super) fn open(path: &Path) -> Result<Self, TraceRootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| TraceRootError::from_errno("opening", path, errno))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The same directory once more.
    pub(super) fn try_clone(&self) -> Result<Self, TraceRootError> {
        let fd = self.fd.try_clone().map_err(|source| TraceRootError::Io {
            what: "opening",
            path: self.path.clone(),
            source,
        })?;
        Ok(Self { fd, path: self.path.clone() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Refuses a directory of another owner, or one into which everybody may write.
    pub(super) fn check_owner(&self) -> Result<(), TraceRootError> {
        let stat = fstat(&self.fd).map_err(|e| self.error("looking at", e))?;
        let user = rustix::process::geteuid().as_raw();
        if stat.st_uid != user {
            return Err(TraceRootError::OtherOwner {
                path: self.path.clone(),
                owner: stat.st_uid,
                user,
            });
        }
        if stat.st_mode & 0o002 != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(TraceRootError::WritableByOthers { path: self.path.clone(), mode });
        }
        Ok(())
    }

    /// Opens the directory of that name.
    pub(super) fn open_dir(&self, name: &str) -> Result<Self, TraceRootError> {
        check_name(name)?;
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            // Linux answers so to a symlink too.
            Err(Errno::NOTDIR) if self.is_symlink(name) => {
                return Err(TraceRootError::Symlink { path });
            }
            Err(errno) => return Err(TraceRootError::from_errno("opening", &path, errno)),
        };
        let dir = Self { fd, path };
        dir.check_owner()?;
        Ok(dir)
    }

    /// Makes the directory of that name, which must be new.
    pub(super) fn make_dir(&self, name: &str) -> Result<Self, TraceRootError> {
        check_name(name)?;
        mkdirat(&self.fd, name, DIR_MODE).map_err(|e| self.child_error("making", name, e))?;
        self.open_dir(name)
    }

    /// Opens the directory of that name, made where there is none.
    pub(super) fn ensure_dir(&self, name: &str) -> Result<Self, TraceRootError> {
        match self.make_dir(name) {
            Err(TraceRootError::Exists { .. }) => self.open_dir(name),
            made => made,
        }
    }

    /// Makes the file of that name, which must be new.
    pub(super) fn make_file(&self, name: &str) -> Result<File, TraceRootError> {
        check_name(name)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, FILE_MODE)
            .map_err(|e| self.child_error("making", name, e))?;
        Ok(File::from(fd))
    }

    /// Opens the regular file of that name, made where there is none.
    pub(super) fn ensure_file(&self, name: &str) -> Result<File, TraceRootError> {
        check_name(name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags | OFlags::NONBLOCK, FILE_MODE)
            .map_err(|e| self.child_error("opening", name, e))?;
        self.check_regular(name, fd)
    }

    /// Opens the regular file of that name to read it.
    pub(super) fn open_file(&self, name: &str) -> Result<File, TraceRootError> {
        check_name(name)?;
        // A planted FIFO must not block the opener.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())
            .map_err(|e| self.child_error("opening", name, e))?;
        self.check_regular(name, fd)
    }

    fn check_regular(&self, name: &str, fd: OwnedFd) -> Result<File, TraceRootError> {
        let stat = fstat(&fd).map_err(|e| self.child_error("looking at", name, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(TraceRootError::Name { name: name.to_owned() });
        }
        Ok(File::from(fd))
    }

    /// Renames within this directory, replacing nothing.
    pub(super) fn publish(&self, from: &str, to: &str) -> Result<(), TraceRootError> {
        check_name(to)?;
        match renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // File systems that do not know the flag still refuse to link onto a name.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                linkat(&self.fd, from, &self.fd, to, AtFlags::empty())
                    .map_err(|e| self.child_error("publishing", to, e))?;
                unlinkat(&self.fd, from, AtFlags::empty())
                    .map_err(|e| self.child_error("removing", from, e))
            }
            Err(errno) => Err(self.child_error("publishing", to, errno)),
        }
    }

    /// Renames within this directory, replacing what has that name.
    pub(super) fn replace(&self, from: &str, to: &str) -> Result<(), TraceRootError> {
        check_name(to)?;
        renameat(&self.fd, from, &self.fd, to).map_err(|e| self.child_error("replacing", to, e))
    }

    /// Removes a file.
    pub(super) fn remove_file(&self, name: &str) -> Result<(), TraceRootError> {
        unlinkat(&self.fd, name, AtFlags::empty())
            .map_err(|e| self.child_error("removing", name, e))
    }

    /// Removes a directory with all in it; symlinks are removed and not followed.
    pub(super) fn remove_tree(&self, name: &str, depth: u32) -> Result<(), TraceRootError> {
        let dir = self.open_dir(name)?;
        for (entry, kind) in dir.entries()? {
            if kind == EntryKind::Dir && depth > 0 {
                dir.remove_tree(&entry, depth - 1)?;
            } else {
                dir.remove_file(&entry)?;
            }
        }
        unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
            .map_err(|e| self.child_error("removing", name, e))
    }

    /// What lies in the directory, sorted by name; names that are no UTF-8 are not ours.
    pub(super) fn entries(&self) -> Result<Vec<(String, EntryKind)>, TraceRootError> {
        let listing =
            rustix::fs::Dir::read_from(self.fd.as_fd()).map_err(|e| self.error("listing", e))?;
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry.map_err(|e| self.error("listing", e))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let Some(name) = name.to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            // What vanished meanwhile is not there.
            let Ok(stat) = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    EntryKind::File { bytes: u64::try_from(stat.st_size).unwrap_or(0) }
                }
                FileType::Directory => EntryKind::Dir,
                _ => EntryKind::Other,
            };
            entries.push((name.to_owned(), kind));
        }
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(entries)
    }

    /// The inode of an entry, found without opening it.
    pub(super) fn inode(&self, name: &str) -> Option<u64> {
        check_name(name).ok()?;
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| stat.st_ino)
    }

    fn is_symlink(&self, name: &str) -> bool {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    fn error(&self, what: &'static str, errno: Errno) -> TraceRootError {
        TraceRootError::from_errno(what, &self.path, errno)
    }

    fn child_error(&self, what: &'static str, name: &str, errno: Errno) -> TraceRootError {
        TraceRootError::from_errno(what, &self.path.join(name), errno)
    }
}

/// Refuses what is more, or less, than one name.
pub(super) fn check_name(name: &str) -> Result<(), TraceRootError> {
    let plain = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0']);
    if plain { Ok(()) } else { Err(TraceRootError::Name { name: name.to_owned() }) }
}
