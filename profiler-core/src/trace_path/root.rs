//! The directory that holds all sessions, and what is done below it.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FlockOperation, flock, fstatvfs, ftruncate};

use super::aside::{AsideFile, from_io};
use super::dir::{Dir, EntryKind};
use super::error::TraceRootError;
use super::locks;
use super::policy::{TracePath, TracePathPolicy};
use super::session_id::SessionId;

/// The file by which a controller claims a root.
const CLAIM_FILE: &str = ".controller";

/// The file that holds the last fence.
const FENCE_FILE: &str = ".fence";

/// What a session's directory is called while it is being removed.
const REMOVING: &str = ".removing-";

/// How deep directories nest inside a session.
const MAX_DEPTH: u32 = 6;

/// The extension of spools.
const SPOOL_SUFFIX: &str = ".spool";

/// The longest claim text that is read.
const MAX_CLAIM_BYTES: u64 = 1024;

/// An opened trace root.
#[derive(Debug)]
pub struct TraceRoot {
    dir: Dir,
    policy: TracePathPolicy,
}

impl TraceRoot {
    /// Opens a root, made (mode 0700, missing parents too) where there is none.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`], in particular where the directory belongs to another user, or
    /// everybody may write into it.
    pub fn create(path: &Path) -> Result<Self, TraceRootError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| from_io("making", path, error))?;
        Self::open(path)
    }

    /// Opens a root that exists.
    ///
    /// # Errors
    ///
    /// As [`TraceRoot::create`], and `NotFound`.
    pub fn open(path: &Path) -> Result<Self, TraceRootError> {
        let path = path.canonicalize().map_err(|error| from_io("opening", path, error))?;
        let dir = Dir::open(&path)?;
        dir.check_owner()?;
        Ok(Self { dir, policy: TracePathPolicy::new(path) })
    }

    /// The root's path, absolute and without symlinks.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The names below it.
    #[must_use]
    pub fn policy(&self) -> &TracePathPolicy {
        &self.policy
    }

    /// Makes a session's directory, which must be new.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`]; `Exists` means that another controller drew the same id: draw anew.
    pub fn create_session(&self, id: &SessionId) -> Result<SessionDir, TraceRootError> {
        Ok(SessionDir { id: id.clone(), dir: self.dir.make_dir(id.as_str())? })
    }

    /// Opens a session's directory.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`], `NotFound` where there is none.
    pub fn open_session(&self, id: &SessionId) -> Result<SessionDir, TraceRootError> {
        Ok(SessionDir { id: id.clone(), dir: self.dir.open_dir(id.as_str())? })
    }

    /// The ids of all sessions, oldest first. Anything else in the directory is passed over.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`] where the directory cannot be listed.
    pub fn session_ids(&self) -> Result<Vec<SessionId>, TraceRootError> {
        let entries = self.dir.entries()?;
        let dirs = entries.iter().filter(|(_, kind)| *kind == EntryKind::Dir);
        Ok(dirs.filter_map(|(name, _)| SessionId::parse(name).ok()).collect())
    }

    /// All sessions with their sizes and whether a writer lives, oldest first. A session that
    /// cannot be looked into (removed meanwhile, planted) is passed over.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`] where the directory cannot be listed.
    pub fn sessions(&self) -> Result<Vec<SessionEntry>, TraceRootError> {
        let own = locks::own_inodes();
        let mut sessions = Vec::new();
        for id in self.session_ids()? {
            let Ok(session) = self.open_session(&id) else { continue };
            let Ok(files) = session.files() else { continue };
            let bytes = files.iter().map(|(_, bytes)| bytes).sum();
            let live = session.is_live(&files, &own);
            sessions.push(SessionEntry { id, bytes, files: files.len(), live });
        }
        Ok(sessions)
    }

    /// Removes a session with all its files. Half removed, it is no session any more.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`]; what is left goes at the next call of [`TraceRoot::sweep`].
    pub fn remove_session(&self, id: &SessionId) -> Result<(), TraceRootError> {
        // Opened first, so that a symlink of that name is refused and not renamed.
        drop(self.open_session(id)?);
        let removing = format!("{REMOVING}{id}");
        self.dir.publish(id.as_str(), &removing)?;
        self.dir.remove_tree(&removing, MAX_DEPTH)
    }

    /// Removes what earlier removals left behind.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`] of the first that resists.
    pub fn sweep(&self) -> Result<(), TraceRootError> {
        for (name, kind) in self.dir.entries()? {
            if kind == EntryKind::Dir && name.starts_with(REMOVING) {
                self.dir.remove_tree(&name, MAX_DEPTH)?;
            }
        }
        Ok(())
    }

    /// The file system's space.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`] where the file system does not tell.
    pub fn space(&self) -> Result<DiskSpace, TraceRootError> {
        let stat = fstatvfs(self.dir.fd())
            .map_err(|e| TraceRootError::from_errno("looking at", self.path(), e))?;
        Ok(DiskSpace {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            read_only: stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        })
    }

    /// Claims the root for this controller: one is live at a time.
    ///
    /// `holder` is what others are told (`pid 12, http://127.0.0.1:8790`).
    ///
    /// # Errors
    ///
    /// [`TraceRootError::Claimed`] with the holder's own words where another lives.
    pub fn claim(&self, holder: &str) -> Result<RootClaim, TraceRootError> {
        let path = self.path().join(CLAIM_FILE);
        let mut file = self.dir.ensure_file(CLAIM_FILE)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = read_text(&mut file).unwrap_or_default();
                return Err(TraceRootError::Claimed { path: self.path().to_owned(), holder });
            }
            Err(errno) => return Err(TraceRootError::from_errno("locking", &path, errno)),
        }
        ftruncate(&file, 0).map_err(|e| TraceRootError::from_errno("writing", &path, e))?;
        file.write_all(holder.as_bytes()).map_err(|error| from_io("writing", &path, error))?;
        Ok(RootClaim { file })
    }

    /// What the live controller of this root says of itself, `None` where none lives.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`] where the claim cannot be read.
    pub fn claimed_by(&self) -> Result<Option<String>, TraceRootError> {
        let mut file = match self.dir.open_file(CLAIM_FILE) {
            Ok(file) => file,
            Err(TraceRootError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(_) => Ok(Some(read_text(&mut file).unwrap_or_default())),
        }
    }

    /// The next fence of this root: larger than all before. Asked by the holder of the claim.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`] where it cannot be kept.
    pub fn next_fence(&self, _claim: &RootClaim) -> Result<u64, TraceRootError> {
        let last = match self.dir.open_file(FENCE_FILE) {
            Ok(mut file) => read_text(&mut file).and_then(|text| text.parse().ok()).unwrap_or(0),
            Err(TraceRootError::NotFound { .. }) => 0_u64,
            Err(error) => return Err(error),
        };
        let next = last.saturating_add(1);
        let dir = self.dir.try_clone()?;
        AsideFile::create_in(dir, FENCE_FILE)?.replace_with(next.to_string().as_bytes())?;
        Ok(next)
    }
}

fn read_text(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.take(MAX_CLAIM_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

/// The claim on a root; ends when it is dropped or the process dies.
#[derive(Debug)]
pub struct RootClaim {
    file: File,
}

impl Drop for RootClaim {
    fn drop(&mut self) {
        // Closing is not enough: a child that was forked meanwhile shares the lock until it execs.
        // Where unlocking fails, closing is all there is.
        let _unlocked: rustix::io::Result<()> = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskSpace {
    /// What a user without privileges may still write.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// A session in a root.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionEntry {
    /// The session.
    pub id: SessionId,
    /// The size of its files.
    pub bytes: u64,
    /// How many they are.
    pub files: usize,
    /// Whether a process still writes one of its spools.
    pub live: bool,
}

/// An opened session directory.
#[derive(Debug)]
pub struct SessionDir {
    id: SessionId,
    dir: Dir,
}

impl SessionDir {
    /// The session.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// The directory's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a worker's file (mode 0600), which must be new. Returns it with its path below the
    /// session's directory.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`]; `Exists` where the name is taken.
    pub fn create_file(
        &self,
        place: &TracePath,
        extension: &str,
    ) -> Result<(File, PathBuf), TraceRootError> {
        let stage = self.dir.ensure_dir(place.dir())?;
        let file = stage.make_file(&place.file_name(extension))?;
        Ok((file, place.relative(extension)))
    }

    /// Makes a worker's file aside, to be published when it is whole.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`].
    pub fn create_aside(
        &self,
        place: &TracePath,
        extension: &str,
    ) -> Result<AsideFile, TraceRootError> {
        AsideFile::create_in(self.dir.ensure_dir(place.dir())?, &place.file_name(extension))
    }

    /// Writes a small file of the session itself (its manifest), whole or not at all, replacing
    /// an older one.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`]; the older file is then as it was.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<(), TraceRootError> {
        AsideFile::create_in(self.dir.try_clone()?, name)?.replace_with(contents)
    }

    /// Opens a file by its path below the session's directory, as a manifest or URL gives it.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`]; `Name` where the path is absolute or holds `..`, `Symlink` where one
    /// lies on the way.
    pub fn open_file(&self, relative: &Path) -> Result<File, TraceRootError> {
        let refused = || TraceRootError::Name { name: relative.display().to_string() };
        let mut names = Vec::new();
        for component in relative.components() {
            let Component::Normal(name) = component else { return Err(refused()) };
            names.push(name.to_str().ok_or_else(refused)?);
        }
        let Some((file, dirs)) = names.split_last() else { return Err(refused()) };
        let Some((first, rest)) = dirs.split_first() else { return self.dir.open_file(file) };
        let mut dir = self.dir.open_dir(first)?;
        for name in rest {
            dir = dir.open_dir(name)?;
        }
        dir.open_file(file)
    }

    /// All files with their sizes, sorted, by their path below the session's directory. Files
    /// that are still written aside are passed over.
    ///
    /// # Errors
    ///
    /// [`TraceRootError`] where a directory cannot be listed.
    pub fn files(&self) -> Result<Vec<(PathBuf, u64)>, TraceRootError> {
        let mut files = Vec::new();
        collect(&self.dir, Path::new(""), MAX_DEPTH, &mut files)?;
        files.sort();
        Ok(files)
    }

    /// Whether somebody holds the lock on one of the spools among `files`. Those that this process
    /// itself has locked are not opened: closing any descriptor of a file ends its lock on it.
    fn is_live(&self, files: &[(PathBuf, u64)], own: &[u64]) -> bool {
        let spools = files
            .iter()
            .filter(|(path, _)| path.to_str().is_some_and(|path| path.ends_with(SPOOL_SUFFIX)));
        for (path, _) in spools {
            if self.inode(path).is_some_and(|inode| own.contains(&inode)) {
                return true;
            }
            if self.open_file(path).is_ok_and(|file| locks::is_held(&file)) {
                return true;
            }
        }
        false
    }

    fn inode(&self, path: &Path) -> Option<u64> {
        let names: Vec<&str> = path.iter().filter_map(OsStr::to_str).collect();
        match names.as_slice() {
            [name] => self.dir.inode(name),
            [dir, name] => self.dir.open_dir(dir).ok()?.inode(name),
            _ => None,
        }
    }
}

fn collect(
    dir: &Dir,
    below: &Path,
    depth: u32,
    files: &mut Vec<(PathBuf, u64)>,
) -> Result<(), TraceRootError> {
    for (name, kind) in dir.entries()? {
        match kind {
            EntryKind::File { bytes } if !name.starts_with('.') => {
                files.push((below.join(name), bytes));
            }
            EntryKind::Dir if depth > 0 => {
                collect(&dir.open_dir(&name)?, &below.join(&name), depth - 1, files)?;
            }
            EntryKind::File { .. } | EntryKind::Dir | EntryKind::Other => {}
        }
    }
    Ok(())
}
