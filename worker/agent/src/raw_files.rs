//! Files that a vendor's tool writes while it records: they count against the session's limit of
//! bytes as its spool does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::session::lock;

/// What ends the name of the fact by which a backend says where its files lie, where that is not
/// the directory that it was offered.
const FACT_SUFFIX: &str = ".raw_dir";

/// Entries that one look takes in; a vendor's tool writes some thousands.
const MAX_ENTRIES: usize = 1 << 20;

/// After a look it rests for so many times as long as that took.
const REST: u32 = 20;

/// What lies in the directories that a session's backends write into.
#[derive(Debug, Default)]
pub(crate) struct RawFiles {
    /// The directory that backends are offered.
    offered: Option<PathBuf>,
    elsewhere: Mutex<BTreeSet<PathBuf>>,
    bytes: AtomicU64,
    next_look: Mutex<Option<Instant>>,
}

impl RawFiles {
    pub(crate) fn new(offered: Option<PathBuf>) -> Self {
        Self { offered, ..Self::default() }
    }

    pub(crate) fn offered(&self) -> Option<PathBuf> {
        self.offered.clone()
    }

    /// Hears what a backend says of its session.
    pub(crate) fn hear(&self, key: &str, value: &str) {
        let path = Path::new(value);
        let is_ours = self.offered.as_deref() == Some(path);
        if key.ends_with(FACT_SUFFIX) && path.is_absolute() && !is_ours {
            lock(&self.elsewhere).insert(path.to_owned());
        }
    }

    /// How many bytes there were at the last look.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Looks how many there are, unless the last look was dear and is not long past.
    pub(crate) fn look(&self) {
        let begun = Instant::now();
        let mut next_look = lock(&self.next_look);
        if next_look.is_some_and(|at| begun < at) {
            return;
        }
        let elsewhere = lock(&self.elsewhere).clone();
        let mut left = MAX_ENTRIES;
        let mut bytes = 0_u64;
        for directory in self.offered.iter().chain(&elsewhere) {
            bytes = bytes.saturating_add(bytes_below(directory, &mut left));
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        *next_look = Some(begun + begun.elapsed() * (1 + REST));
    }

    /// What a person should know where these files ended a session.
    pub(crate) fn note(&self, spool_bytes: u64, max_bytes: u64) -> Option<String> {
        let bytes = self.bytes();
        (bytes > 0 && spool_bytes.saturating_add(bytes) >= max_bytes).then(|| {
            format!(
                "the limit of {max_bytes} bytes was reached by {bytes} bytes of raw files that the \
                 vendor's tool wrote, and {spool_bytes} of the spool; its stop may have added some"
            )
        })
    }
}

/// Bytes of the files in a directory and below; links are not followed.
fn bytes_below(directory: &Path, left: &mut usize) -> u64 {
    let mut sum = 0_u64;
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        // What a backend never made, or a tool has moved meanwhile, holds nothing.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if *left == 0 {
                return sum;
            }
            *left -= 1;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                sum = sum.saturating_add(metadata.len());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_wherever_backends_write_them_and_links_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (offered, elsewhere) = (folder.path().join("a.raw"), folder.path().join("other"));
        let files = RawFiles::new(Some(offered.clone()));
        files.look();
        assert_eq!(files.bytes(), 0);
        for (place, bytes) in
            [(offered.join("PROF_1/device_0/data"), 1000), (elsewhere.clone(), 20)]
        {
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("slice_0"), vec![0; bytes]).unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), offered.join("loop")).unwrap();
        let look = |files: &RawFiles| {
            *lock(&files.next_look) = None;
            files.look();
            files.bytes()
        };
        assert_eq!(look(&files), 1000);
        files.hear("npu.raw_dir", elsewhere.to_str().unwrap());
        // Said of the one that is known, or of no place at all, it changes nothing.
        files.hear("npu.raw_dir", offered.to_str().unwrap());
        files.hear("npu.raw_dir", "relative");
        files.hear("npu.path", folder.path().to_str().unwrap());
        assert_eq!(look(&files), 1020);
        assert_eq!(files.note(3, 1024), None);
        assert!(files.note(4, 1024).unwrap().contains("1020 bytes of raw files"));
    }
}
