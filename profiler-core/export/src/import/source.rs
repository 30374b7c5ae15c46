//! Finding the trace, and reading its bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::ImportError;

/// What torch_npu's profiler writes once it has analysed, below its directory.
pub(super) const NPU_OUTPUT: &str = "ASCEND_PROFILER_OUTPUT";
pub(super) const NPU_TRACE: &str = "trace_view.json";
pub(super) const NPU_SUFFIX: &str = "_ascend_pt";

/// What `msprof` writes, and where its export lies.
pub(super) const MSPROF_PREFIX: &str = "PROF_";
pub(super) const MSPROF_OUTPUT: &str = "mindstudio_profiler_output";

const BUFFER_BYTES: usize = 256 << 10;

/// A trace.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// What a person calls it.
    pub(super) title: String,
}

/// Whether the path names a trace of another profiler: a `.json` or `.json.gz`, or a directory of
/// torch_npu's or msprof's.
#[must_use]
pub fn is_foreign(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if path.is_dir() {
        return name.ends_with(NPU_SUFFIX)
            || name.starts_with(MSPROF_PREFIX)
            || path.join(NPU_TRACE).is_file()
            || path.join(NPU_OUTPUT).join(NPU_TRACE).is_file();
    }
    name.ends_with(".json") || name.ends_with(".json.gz")
}

impl Source {
    pub(super) fn find(path: &Path) -> Result<Self, ImportError> {
        let title = |path: &Path| {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            let name = name.trim_end_matches(".gz").trim_end_matches(".json");
            name.trim_end_matches(".trace").trim_end_matches(".pt").to_owned()
        };
        if !path.is_dir() {
            return Ok(Self { path: path.to_owned(), title: title(path) });
        }
        for folder in [path.join(NPU_OUTPUT), path.to_owned()] {
            let trace = folder.join(NPU_TRACE);
            if trace.is_file() {
                return Ok(Self { path: trace, title: title(path) });
            }
        }
        if title(path).starts_with(MSPROF_PREFIX) {
            return match msprof_trace(path) {
                Some(trace) => Ok(Self { path: trace, title: title(path) }),
                None => Err(ImportError::NotExported { path: path.to_owned() }),
            };
        }
        Err(ImportError::NotAnalysed { path: path.to_owned() })
    }

    /// The bytes, unpacked.
    pub(super) fn open(&self) -> Result<Box<dyn BufRead + Send>, ImportError> {
        let read = |source| ImportError::Read { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(read)?;
        let mut magic = [0; 6];
        let seen = file.read(&mut magic).map_err(read)?;
        let file = File::open(&self.path).map_err(read)?;
        let plain = BufReader::with_capacity(BUFFER_BYTES, file);
        if seen == magic.len() && magic == *b"SQLite" {
            return Err(self.no_trace(
                "it is a database, and JSON is read: `msprof --export=on --type=text`, or \
                 `export_type=Text` of torch_npu's profiler, writes it",
            ));
        }
        if magic.starts_with(&[0x1f, 0x8b]) {
            // Other writers make several members.
            let unpacked = MultiGzDecoder::new(plain);
            return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked)));
        }
        Ok(Box::new(plain))
    }

    pub(super) fn no_trace(&self, why: impl Into<String>) -> ImportError {
        ImportError::NotATrace { path: self.path.clone(), why: why.into() }
    }

    pub(super) fn unread(&self, source: std::io::Error) -> ImportError {
        ImportError::Read { path: self.path.clone(), source }
    }
}

/// The newest timeline that msprof exported: `msprof_<time>.json`.
fn msprof_trace(path: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(path.join(MSPROF_OUTPUT)).ok()?;
    let named = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        name.starts_with("msprof_") && name.ends_with(".json")
    };
    entries.flatten().map(|entry| entry.path()).filter(named).max()
}
