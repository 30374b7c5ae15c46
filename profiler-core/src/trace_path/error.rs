//! Errors of the trace root.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why something below a trace root could not be done. Nothing outside the root was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceRootError {
    /// The directory or file does not exist.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// There is a file where a directory should be.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory belongs to somebody else.
    #[error("{} belongs to user {owner} and this process runs as user {user}: give another directory with `--dir` or OMNIPROF_DIR", path.display())]
    OtherOwner {
        /// The path.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Everybody may write into the directory, so anybody could plant files there.
    #[error("everybody may write into {} (mode {mode:04o}): `chmod o-w` it or give another directory", path.display())]
    WritableByOthers {
        /// The path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A symlink lies where a directory or file of ours should be.
    #[error("{} is a symlink, and inside a trace root none is followed: remove it", path.display())]
    Symlink {
        /// The path.
        path: PathBuf,
    },
    /// It exists already, and nothing is replaced.
    #[error("{} exists already and is not replaced", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    #[error("{} is on a read-only file system: give another directory with `--dir` or OMNIPROF_DIR", path.display())]
    ReadOnly {
        /// The path.
        path: PathBuf,
    },
    /// No space, or no quota, is left.
    #[error("no space is left for {}: free some, or remove old sessions with `omniprof prune`", path.display())]
    Full {
        /// The path.
        path: PathBuf,
    },
    /// The operating system's permissions forbid it.
    #[error("{} may not be read or written by user {user}", path.display())]
    Permission {
        /// The path.
        path: PathBuf,
        /// Who we are.
        user: u32,
    },
    /// The name is no plain file name.
    #[error("{name:?} is no plain file name")]
    Name {
        /// The name.
        name: String,
    },
    /// Another controller serves this root.
    #[error("{} has a live controller ({holder}): use it with `--server`, or give another directory", path.display())]
    Claimed {
        /// The root.
        path: PathBuf,
        /// What that controller says of itself.
        holder: String,
    },
    /// Something else went wrong.
    #[error("{what} {} failed", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl TraceRootError {
    /// A stable word for manifests and programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::NotADirectory { .. } => "not_a_directory",
            Self::OtherOwner { .. } => "other_owner",
            Self::WritableByOthers { .. } => "writable_by_others",
            Self::Symlink { .. } => "symlink",
            Self::Exists { .. } => "exists",
            Self::ReadOnly { .. } => "read_only",
            Self::Full { .. } => "disk_full",
            Self::Permission { .. } => "permission",
            Self::Name { .. } => "bad_name",
            Self::Claimed { .. } => "claimed",
            Self::Io { .. } => "io",
        }
    }

    /// The error of a system call on a path.
    pub(super) fn from_errno(what: &'static str, path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOENT => Self::NotFound { path },
            Errno::NOTDIR => Self::NotADirectory { path },
            Errno::LOOP => Self::Symlink { path },
            Errno::EXIST => Self::Exists { path },
            Errno::ROFS => Self::ReadOnly { path },
            Errno::NOSPC | Errno::DQUOT => Self::Full { path },
            Errno::ACCESS | Errno::PERM => {
                Self::Permission { path, user: rustix::process::geteuid().as_raw() }
            }
            errno => Self::Io { what, path, source: errno.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_system_have_names_and_say_what_to_do() {
        let told = |errno| {
            let error = TraceRootError::from_errno("making", Path::new("/t/x"), errno);
            (error.code(), error.to_string())
        };
        for (errno, code, said) in [
            (Errno::NOENT, "not_found", "does not exist"),
            (Errno::ROFS, "read_only", "`--dir`"),
            (Errno::NOSPC, "disk_full", "omniprof prune"),
            (Errno::DQUOT, "disk_full", "omniprof prune"),
            (Errno::LOOP, "symlink", "remove it"),
            (Errno::EXIST, "exists", "is not replaced"),
            (Errno::ACCESS, "permission", "by user"),
            (Errno::IO, "io", "making /t/x failed"),
        ] {
            let (found, text) = told(errno);
            assert_eq!(found, code);
            assert!(text.contains(said) && text.contains("/t/x"), "{text}");
        }
    }
}
