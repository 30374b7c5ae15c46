//! Finding the trace, and reading its bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::ImportError;

/// How a database begins.
const DATABASE: &[u8; 16] = b"SQLite format 3\0";

/// What torch_npu's profiler writes once it has analysed, below its directory.
pub(super) const NPU_OUTPUT: &str = "ASCEND_PROFILER_OUTPUT";
pub(super) const NPU_TRACE: &str = "trace_view.json";
const NPU_TABLE: &str = "kernel_details.csv";
const NPU_CACHE_TABLE: &str = "l2_cache.csv";
const NPU_DATABASE: &str = "ascend_pytorch_profiler";
pub(super) const NPU_SUFFIX: &str = "_ascend_pt";

/// What `msprof` writes, and where its export lies.
pub(super) const MSPROF_PREFIX: &str = "PROF_";
pub(super) const MSPROF_OUTPUT: &str = "mindstudio_profiler_output";
pub(super) const MSPROF_TRACE: &str = "msprof_";
const MSPROF_SLICE: &str = "msprof_slice_";
const MSPROF_FIRST_SLICE: &str = "msprof_slice_0_";
const MSPROF_TABLE: &str = "op_summary";
const MSPROF_CACHE_TABLE: &str = "l2_cache";

const BUFFER_BYTES: usize = 256 << 10;

/// A trace.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// What a person calls it.
    pub(super) title: String,
}

/// Whether the path names a trace of another profiler: a `.json`, `.json.gz` or `.db`, or a directory
/// of torch_npu's or msprof's.
#[must_use]
pub fn is_foreign(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if path.is_dir() {
        return name.ends_with(NPU_SUFFIX)
            || name.starts_with(MSPROF_PREFIX)
            || path.join(NPU_TRACE).is_file()
            || path.join(NPU_OUTPUT).join(NPU_TRACE).is_file();
    }
    name.ends_with(".json") || name.ends_with(".json.gz") || name.ends_with(".db")
}

/// What the trace is called, without what tells its format: of a directory its name.
#[must_use]
pub fn title(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name = name.trim_end_matches(".gz").trim_end_matches(".json").trim_end_matches(".db");
    name.trim_end_matches(".trace").trim_end_matches(".pt").to_owned()
}

impl Source {
    pub(super) fn find(path: &Path) -> Result<Self, ImportError> {
        if !path.is_dir() {
            return Ok(Self { path: path.to_owned(), title: title(path) });
        }
        for folder in [path.join(NPU_OUTPUT), path.to_owned()] {
            let trace = folder.join(NPU_TRACE);
            if trace.is_file() {
                return Ok(Self { path: trace, title: title(path) });
            }
        }
        if let Some(database) = newest(&path.join(NPU_OUTPUT), NPU_DATABASE, ".db") {
            return Ok(Self { path: database, title: title(path) });
        }
        if title(path).starts_with(MSPROF_PREFIX) {
            return match msprof_trace(path).or_else(|| msprof_database(path)) {
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
        let mut magic = [0; 2];
        let _seen: usize = file.read(&mut magic).map_err(read)?;
        let file = File::open(&self.path).map_err(read)?;
        let plain = BufReader::with_capacity(BUFFER_BYTES, file);
        if magic.starts_with(&[0x1f, 0x8b]) {
            // Other writers make several members.
            let unpacked = MultiGzDecoder::new(plain);
            return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked)));
        }
        Ok(Box::new(plain))
    }

    pub(super) fn is_database(&self) -> Result<bool, ImportError> {
        let file = File::open(&self.path).map_err(|source| self.unread(source))?;
        let mut begin = Vec::new();
        let read = file.take(DATABASE.len() as u64).read_to_end(&mut begin);
        read.map_err(|source| self.unread(source))?;
        Ok(begin == DATABASE)
    }

    /// Tables of the same export that say more of its kernels.
    pub(super) fn kernel_tables(&self) -> Vec<PathBuf> {
        self.tables(NPU_TABLE, MSPROF_TABLE)
    }

    /// Tables of the same export that tell of the L2 cache.
    pub(super) fn cache_tables(&self) -> Vec<PathBuf> {
        self.tables(NPU_CACHE_TABLE, MSPROF_CACHE_TABLE)
    }

    /// Tables of the same export: as torch_npu's profiler calls them, and as msprof begins their
    /// names.
    fn tables(&self, of_torch: &str, of_msprof: &str) -> Vec<PathBuf> {
        let Some(folder) = self.path.parent() else { return Vec::new() };
        let name = self.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let is_in = |output: &str| folder.file_name().is_some_and(|name| name == output);
        // Those of msprof belong to all parts of a timeline: the first takes them.
        let is_later = name.starts_with(MSPROF_SLICE) && !name.starts_with(MSPROF_FIRST_SLICE);
        let mut tables = if is_in(NPU_OUTPUT) && name == NPU_TRACE {
            vec![folder.join(of_torch)]
        } else if is_in(MSPROF_OUTPUT) && name.ends_with(".json") && !is_later {
            newest_parts(folder, of_msprof, ".csv")
        } else {
            Vec::new()
        };
        tables.retain(|path| path.is_file());
        tables
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
    newest(&path.join(MSPROF_OUTPUT), MSPROF_TRACE, ".json")
}

/// The newest database that msprof exported: `msprof_<time>.db`, which lies in its directory.
pub(super) fn msprof_database(path: &Path) -> Option<PathBuf> {
    newest(path, MSPROF_TRACE, ".db")
        .or_else(|| newest(&path.join(MSPROF_OUTPUT), MSPROF_TRACE, ".db"))
}

fn newest(folder: &Path, begin: &str, end: &str) -> Option<PathBuf> {
    newest_parts(folder, begin, end).pop()
}

/// The newest of the files whose names begin and end so, in order: one, or all parts of one
/// (`<begin>_slice_<part>_<time><end>`).
pub(super) fn newest_parts(folder: &Path, begin: &str, end: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut newest = String::new();
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(stem) = name.strip_prefix(begin).and_then(|name| name.strip_suffix(end)) else {
            continue;
        };
        let time = stem.rsplit('_').next().unwrap_or(stem).to_owned();
        newest = newest.max(time.clone());
        found.push((time, path));
    }
    let mut paths: Vec<PathBuf> =
        found.into_iter().filter(|(time, _)| *time == newest).map(|(_, path)| path).collect();
    paths.sort();
    paths
}
