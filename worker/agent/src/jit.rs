//! What just-in-time compilers say of their code lies in files that end with the process: they are
//! copied beside the spool.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

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
        let from = match target {
            None => PathBuf::from(name),
            // As the target sees it, which may live in another container.
            Some(pid) => PathBuf::from(format!("/proc/{pid}/root{name}")),
        };
        let copied = match spool {
            Some(spool) => copy_file(&from, &spool.with_extension(ending)),
            None => Err("the spool's place is not to be seen from here".to_owned()),
        };
        if let Err(reason) = copied {
            notes.push(format!("{name} was not kept beside the spool: {reason}"));
        }
    }
    notes
}

fn copy_file(from: &Path, to: &Path) -> Result<(), String> {
    let source = File::open(from).map_err(|error| error.to_string())?;
    let mut target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|error| error.to_string())?;
    let copied = std::io::copy(&mut source.take(MAX_BYTES), &mut target);
    match copied {
        Ok(bytes) if bytes == MAX_BYTES => Err(format!("only the first {MAX_BYTES} bytes fit")),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
