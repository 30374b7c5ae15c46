//! Where a vendor's tool writes what it records in files of its own.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use profiler_core::error::BackendError;

/// aclprof takes no longer path.
const MAX_PATH_BYTES: usize = 4095;

/// A directory that this session made.
#[derive(Debug)]
pub(crate) struct RawDir {
    path: PathBuf,
    /// Whether whoever exports the spool finds it.
    is_beside_the_spool: bool,
}

impl RawDir {
    /// Makes `wanted`, or the directory beside the spool, or one in the folder for temporary files.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidConfig`] where `wanted` cannot be had, [`BackendError::Io`] where
    /// none can be made.
    pub(crate) fn make(
        wanted: Option<&Path>,
        beside_the_spool: Option<&Path>,
    ) -> Result<Self, BackendError> {
        if let Some(wanted) = wanted {
            return match make(wanted) {
                Ok(path) => Ok(Self { path, is_beside_the_spool: false }),
                Err(error) => Err(BackendError::InvalidConfig {
                    field: "npu.raw_dir".to_owned(),
                    reason: format!("{} cannot be made: {error}", wanted.display()),
                }),
            };
        }
        // A spool's place may be that of another container's file system.
        if let Some(path) = beside_the_spool.and_then(|path| make(path).ok()) {
            return Ok(Self { path, is_beside_the_spool: true });
        }
        let base = std::env::temp_dir();
        let mut last = None;
        for number in 0..1000 {
            let name = format!("omniprof-npu-{}-{number}", std::process::id());
            match make(&base.join(name)) {
                Ok(path) => return Ok(Self { path, is_beside_the_spool: false }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    last = Some(error);
                    break;
                }
            }
        }
        Err(BackendError::Io {
            what: format!(
                "making a directory for raw data in {}; name another by `npu.raw_dir`",
                base.display()
            ),
            source: last.unwrap_or_else(|| std::io::ErrorKind::AlreadyExists.into()),
        })
    }

    /// The directory, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What lies in it under such a name, in order.
    pub(crate) fn find(&self, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return Vec::new() };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(&is_meant))
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }

    /// What a person must do with it, where nobody does it for them.
    pub(crate) fn note(&self, raw: &Path) -> Option<String> {
        (!self.is_beside_the_spool).then(|| {
            format!(
                "the device's records lie in {}, not beside the spool: `omniprof merge` takes it \
                 together with the spool",
                raw.display()
            )
        })
    }
}

impl Drop for RawDir {
    fn drop(&mut self) {
        // What is not empty stays.
        drop(std::fs::remove_dir(&self.path));
    }
}

fn make(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(std::io::ErrorKind::InvalidFilename.into());
    }
    std::fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_cannot_be_had_falls_back_and_says_where_the_data_lies() {
        let folder = tempfile::tempdir().unwrap();
        let beside = folder.path().join("a.raw");
        let first = RawDir::make(None, Some(&beside)).unwrap();
        assert_eq!((first.path(), first.note(&beside)), (beside.as_path(), None));
        // Taken: whose it is, is not known.
        let second = RawDir::make(None, Some(&beside)).unwrap();
        assert_ne!(second.path(), beside);
        assert!(second.note(second.path()).unwrap().contains("not beside the spool"));
        let place = second.path().to_owned();
        drop(second);
        assert!(!place.exists());
        let error = RawDir::make(Some(&beside), None).unwrap_err();
        assert!(error.to_string().contains("npu.raw_dir"), "{error}");
    }
}
