//! The one directory of plugins, and what of it may be loaded.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use profiler_core::backend::BackendId;
use rustix::fs::{CWD, Mode, OFlags, openat};

/// What a plugin's file name begins with; the backend's id and `.so` follow.
const PREFIX: &[u8] = b"libomniprof_backend_";

/// Files of a directory that are looked at, at most.
const MAX_FILES: usize = 1024;

const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a directory, or a file of it, holds no plugin that may be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PluginDirError {
    #[error("{} is no absolute path: name the directory of plugins from the root on", path.display())]
    Relative { path: PathBuf },
    #[error("{} cannot be opened", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a {expected}", path.display())]
    OtherType { path: PathBuf, expected: &'static str },
    #[error("{} is a symbolic link: put the file itself into the directory", path.display())]
    Link { path: PathBuf },
    #[error(
        "{} belongs to user {owner}, and only files of root or of user {user} are loaded",
        path.display()
    )]
    Owner { path: PathBuf, owner: u32, user: u32 },
    #[error("others may write to {} (mode {mode:03o}): chmod go-w", path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{} holds more than {MAX_FILES} files: keep plugins in a directory of their own", path.display())]
    TooManyFiles { path: PathBuf },
}

impl PluginDirError {
    /// A stable word for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Relative { .. } => "relative_path",
            Self::Open { .. } => "not_readable",
            Self::OtherType { .. } => "wrong_type",
            Self::Link { .. } => "symbolic_link",
            Self::Owner { .. } => "wrong_owner",
            Self::Writable { .. } => "writable_by_others",
            Self::TooManyFiles { .. } => "too_many_files",
        }
    }
}

/// A directory that only root and this user can have written, and all that lead to it as well.
#[derive(Debug)]
pub(crate) struct PluginDir {
    path: PathBuf,
    dir: OwnedFd,
}

impl PluginDir {
    /// Opens and checks the directory. Links that lead to it are followed first: what counts is
    /// where it really lies.
    ///
    /// # Errors
    ///
    /// [`PluginDirError`].
    pub(crate) fn open(named: &Path) -> Result<Self, PluginDirError> {
        if !named.is_absolute() {
            return Err(PluginDirError::Relative { path: named.to_owned() });
        }
        let failed = |path: &Path, source| PluginDirError::Open { path: path.to_owned(), source };
        let path = named.canonicalize().map_err(|source| failed(named, source))?;
        for ancestor in path.ancestors().skip(1) {
            let metadata = ancestor.metadata().map_err(|source| failed(ancestor, source))?;
            check_owner(ancestor, &metadata)?;
            // In a sticky directory (/tmp) nobody can rename what is another's.
            if metadata.mode() & STICKY == 0 {
                check_mode(ancestor, &metadata)?;
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(CWD, &path, flags, Mode::empty())
            .map_err(|errno| failed(&path, errno.into()))?;
        let file = File::from(dir);
        let metadata = file.metadata().map_err(|source| failed(&path, source))?;
        check_owner(&path, &metadata)?;
        check_mode(&path, &metadata)?;
        Ok(Self { path, dir: file.into() })
    }

    /// Where it really lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files that are named as plugins, by their backend.
    ///
    /// # Errors
    ///
    /// [`PluginDirError`].
    pub(crate) fn files(&self) -> Result<Vec<(BackendId, OsString)>, PluginDirError> {
        let failed = |source| PluginDirError::Open { path: self.path.clone(), source };
        let entries = std::fs::read_dir(&self.path).map_err(failed)?;
        let mut files = Vec::new();
        for (count, entry) in entries.enumerate() {
            if count == MAX_FILES {
                return Err(PluginDirError::TooManyFiles { path: self.path.clone() });
            }
            let name = entry.map_err(failed)?.file_name();
            if let Some(id) = id_of(&name) {
                files.push((id, name));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Whether a file of this directory may be loaded.
    ///
    /// # Errors
    ///
    /// [`PluginDirError`].
    pub(crate) fn check(&self, name: &OsStr) -> Result<(), PluginDirError> {
        let path = self.path.join(name);
        // Without O_NONBLOCK a pipe would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::LOOP) => return Err(PluginDirError::Link { path }),
            Err(errno) => return Err(PluginDirError::Open { path, source: errno.into() }),
        };
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(source) => return Err(PluginDirError::Open { path, source }),
        };
        if !metadata.is_file() {
            return Err(PluginDirError::OtherType { path, expected: "regular file" });
        }
        check_owner(&path, &metadata)?;
        check_mode(&path, &metadata)
    }
}

/// The backend that a file holds by its name.
fn id_of(name: &OsStr) -> Option<BackendId> {
    let id = name.as_bytes().strip_prefix(PREFIX)?.strip_suffix(b".so")?;
    BackendId::parse(std::str::from_utf8(id).ok()?).ok()
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), PluginDirError> {
    let user = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    match owner == 0 || owner == user {
        true => Ok(()),
        false => Err(PluginDirError::Owner { path: path.to_owned(), owner, user }),
    }
}

fn check_mode(path: &Path, metadata: &Metadata) -> Result<(), PluginDirError> {
    match metadata.mode() & GROUP_OR_OTHERS_WRITE {
        0 => Ok(()),
        _ => Err(PluginDirError::Writable { path: path.to_owned(), mode: metadata.mode() & 0o777 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_backend() {
        let id = |name: &str| id_of(OsStr::new(name)).map(|id| id.to_string());
        assert_eq!(id("libomniprof_backend_cuda.so").as_deref(), Some("cuda"));
        assert_eq!(id("libomniprof_backend_my-chip2.so").as_deref(), Some("my-chip2"));
        for other in [
            "libomniprof_backend_.so",
            "libomniprof_backend_CUDA.so",
            "libomniprof_backend_../cuda.so",
            "libomniprof_backend_cuda.so.1",
            "libomniprof_backend_cuda.so~",
            "omniprof_backend_cuda.so",
            "libcuda.so",
            "README.md",
        ] {
            assert_eq!(id(other), None, "{other}");
        }
    }
}
