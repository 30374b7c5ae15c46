//! What just-in-time compilers say of their code lies in files that end with the process: they are
//! copied beside the spool.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

use crate::raw_files::RawFiles;
use crate::session::lock;

/// The facts by which a backend names such a file, and what its copy ends with.
const FILES: &[(&str, &str)] = &[("cpu.perf_map", "perf-map"), ("cpu.jitdump", "jitdump")];

/// More than this is not copied.
const MAX_BYTES: u64 = 256 << 20;

/// The files that backends named, by what their copies end with.
pub(crate) type Named = Arc<Mutex<BTreeMap<&'static str, String>>>;

/// A sink that keeps the facts which name files.
pub(crate) struct Listening {
    pub(crate) sink: Arc<dyn RecordSink>,
    pub(crate) named: Named,
    pub(crate) raw_files: Arc<RawFiles>,
}

impl RecordSink for Listening {
    fn open_stream(&self, info: StreamInfo) -> StreamId {
        self.sink.open_stream(info)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        self.sink.emit(group)
    }

    fn loss(&self, loss: Loss) {
        self.sink.loss(loss);
    }

    fn fact(&self, key: &str, value: &str) {
        if let Some((_, ending)) = FILES.iter().find(|(name, _)| *name == key) {
            lock(&self.named).insert(ending, value.to_owned());
        }
        self.raw_files.hear(key, value);
        self.sink.fact(key, value);
    }

    fn log(&self, level: LogLevel, target: &str, message: &str) {
        self.sink.log(level, target, message);
    }
}

/// Where an open file lies, as far as this process can tell.
pub(crate) fn path_of(file: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    path.is_absolute().then_some(path)
}

/// Copies the named files of the target beside the spool; what could not be copied is said.
pub(crate) fn copy(named: &Named, target: Option<u32>, spool: Option<&Path>) -> Vec<String> {
    let mut notes = Vec::new();
    for (ending, name) in lock(named).iter() {
        let copied = match spool {
            Some(spool) => open(name, target).and_then(|source| {
                copy_file(source, &spool.with_extension(ending)).map_err(|e| e.to_string())
            }),
            None => Err("the spool's place is not to be seen from here".to_owned()),
        };
        if let Err(reason) = copied {
            notes.push(format!("{name} was not kept beside the spool: {reason}"));
        }
    }
    notes
}

/// Opens a file that a compiler wrote. Anybody may make a file of that name in a shared folder:
/// links are not followed, and neither a pipe nor another user's file is taken.
fn open(name: &str, target: Option<u32>) -> Result<File, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = match target {
        None => rustix::fs::open(name, flags, Mode::empty()),
        // As the target sees it, which may live in another container.
        Some(pid) => open_below(&format!("/proc/{pid}/root"), name, flags),
    };
    let file = File::from(opened.map_err(|error| error.to_string())?);
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let owner = match target {
        None => rustix::process::geteuid().as_raw(),
        Some(pid) => std::fs::metadata(format!("/proc/{pid}")).map_err(|e| e.to_string())?.uid(),
    };
    if metadata.uid() != owner && metadata.uid() != 0 {
        return Err(format!("it belongs to user {}, not to the process's", metadata.uid()));
    }
    Ok(file)
}

/// Opens a path inside a root that no link leads out of.
fn open_below(root: &str, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, name, flags, Mode::empty(), inside)
}

fn copy_file(source: File, to: &Path) -> std::io::Result<()> {
    let mut target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    let copied = std::io::copy(&mut source.take(MAX_BYTES), &mut target)?;
    if copied == MAX_BYTES {
        return Err(std::io::Error::other(format!("only the first {MAX_BYTES} bytes fit")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    #[test]
    fn only_a_regular_file_of_the_process_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("map"), "1000 10 f").unwrap();
        std::os::unix::fs::symlink(path("map"), path("link")).unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();

        let own = std::process::id();
        for target in [None, Some(own)] {
            let source = open(&path("map"), target).unwrap();
            let copy = folder.path().join(format!("copy{}", target.is_some()));
            copy_file(source, &copy).unwrap();
            assert_eq!(std::fs::read_to_string(copy).unwrap(), "1000 10 f");
            assert!(open(&path("link"), target).is_err());
            assert_eq!(open(&path("pipe"), target).unwrap_err(), "it is no regular file");
            assert!(open(&path("missing"), target).is_err());
        }
    }
}
