//! What a vendor's tool recorded in files of its own, beside a spool: made a trace of and imported.
//!
//! Ascend's aclprof and torch_npu's profiler write raw files, which only Ascend's own programs read:
//! `msprof`, and `analyse` of torch_npu. Both take from seconds to minutes, and run here, in a
//! process that exports, or were started by the worker.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use profiler_core::error::chain;
use profiler_core::spool::{RAW_EXTENSION, SpoolHeader, SpoolReader};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::msprof;
use super::source::{MSPROF_PREFIX, NPU_OUTPUT, NPU_SUFFIX, NPU_TRACE, Source};
use crate::capture::{Capture, CaptureOptions};

/// Held while raw data is made a trace of; `msprof` holds it as well.
const LOCK: &str = "import.lock";
// These two are written by backend-npu/src/torch_npu/analyse.py.
/// Held by torch_npu's `analyse` while it runs.
const ANALYSING: &str = "analyse.lock";
/// How `analyse` ended.
const ANALYSED: &str = "analyse.log";

/// The directory may be another user's, who could lead a file elsewhere.
pub(super) const NO_LINKS: i32 = OFlags::NOFOLLOW.bits() as i32;

/// How often it is looked whether others are done.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longer is not waited for others.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What lies beside a spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceRecords {
    /// Spools that are to be read together with it.
    pub spools: Vec<PathBuf>,
    /// What could not be imported, and what a person has to type.
    pub notes: Vec<String>,
}

/// A directory that a vendor's tool wrote beside a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawTrace {
    /// The vendor's directory.
    pub path: PathBuf,
    /// Whether it was imported.
    pub is_imported: bool,
    /// What makes a trace of it, as it is typed.
    pub command: String,
}

/// Whoever the raw data is of: the process that the spool beside it tells of.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) header: SpoolHeader,
    /// Begin and end, CLOCK_REALTIME.
    pub(super) windows: Vec<(u64, Option<u64>)>,
}

/// The raw data beside a spool, as it lies there now; nothing is run.
#[must_use]
pub fn raw_traces(spool: &Path) -> Vec<RawTrace> {
    let Some(raw) = raw_dir(spool) else { return Vec::new() };
    let traces = vendor_directories(&raw).into_iter();
    traces
        .map(|path| RawTrace {
            is_imported: !imported(&path).is_empty(),
            command: command(&path),
            path,
        })
        .collect()
}

/// The spools that belong to `spool` because a vendor's tool recorded beside it; makes those that
/// are not there yet. Of a spool that is still written, nothing is imported.
///
/// `goes_on` is asked now and then while others are waited for. Whatever cannot be had is a note:
/// the spool itself can be read all the same.
pub fn device_records(spool: &Path, goes_on: &mut dyn FnMut() -> bool) -> DeviceRecords {
    let mut found = DeviceRecords::default();
    let Some(raw) = raw_dir(spool) else { return found };
    if let Err(error) = std::fs::read_dir(&raw) {
        found.notes.push(format!("what lies in {} is left out: {error}", raw.display()));
        return found;
    }
    let traces = vendor_directories(&raw);
    if traces.is_empty() {
        return found;
    }
    if traces.iter().all(|trace| !imported(trace).is_empty()) {
        found.spools = traces.iter().flat_map(|trace| imported(trace)).collect();
        return found;
    }
    let host = match Host::of(spool) {
        Ok(Some(host)) => host,
        Ok(None) => return found,
        Err(why) => {
            found.notes.push(format!("{}: {why}", raw.display()));
            return found;
        }
    };
    let lock = match Lock::take(&raw.join(LOCK), goes_on) {
        Ok(lock) => lock,
        Err(why) => {
            found.notes.push(format!("{} is not imported: {why}", raw.display()));
            return found;
        }
    };
    for trace in traces {
        if imported(&trace).is_empty() {
            match import_one(&trace, &raw, &host, &lock, goes_on) {
                Ok(notes) => found.notes.extend(notes),
                Err(why) => found.notes.push(format!(
                    "the device's records in {} are missing: {why}; `{}` makes a trace of them, \
                     which the next export or summary of this spool takes",
                    trace.display(),
                    command(&trace)
                )),
            }
        }
        found.spools.extend(imported(&trace));
    }
    found
}

/// The directory beside a spool.
fn raw_dir(spool: &Path) -> Option<PathBuf> {
    let raw = spool.with_extension(RAW_EXTENSION);
    // A link may lead anywhere.
    let is_dir = std::fs::symlink_metadata(&raw).is_ok_and(|meta| meta.is_dir());
    is_dir.then_some(raw)
}

fn sorted(folder: &Path, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let named = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&is_meant));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn vendor_directories(raw: &Path) -> Vec<PathBuf> {
    let is_vendors = |name: &str| name.starts_with(MSPROF_PREFIX) || name.ends_with(NPU_SUFFIX);
    let mut found = sorted(raw, is_vendors);
    found.retain(|path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()));
    found
}

fn is_of_torch(trace: &Path) -> bool {
    trace.file_name().is_some_and(|name| name.to_string_lossy().ends_with(NPU_SUFFIX))
}

/// The spools that a vendor's directory became: itself, or a part each.
fn imported(trace: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (trace.parent(), trace.file_name()) else { return Vec::new() };
    let begin = format!("{}.", name.to_string_lossy());
    let parts = sorted(folder, |name| name.starts_with(&begin) && name.ends_with(".spool"));
    // The first part comes last: without it others are being published still.
    match folder.join(format!("{begin}0.spool")).exists() {
        true => parts,
        false => Vec::new(),
    }
}

fn command(trace: &Path) -> String {
    match is_of_torch(trace) {
        true => format!(
            "python -c \"from torch_npu.profiler.profiler import analyse; analyse('{}')\"",
            trace.display()
        ),
        false => msprof::command(trace),
    }
}

fn import_one(
    trace: &Path,
    raw: &Path,
    host: &Host,
    lock: &Lock,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<String>, String> {
    let sources = if is_of_torch(trace) {
        wait_for_analysis(trace, raw, goes_on)?;
        vec![trace.to_owned()]
    } else {
        if msprof::timelines(trace).is_empty() {
            msprof::export(trace, &raw.join("msprof.log"), &lock.file, goes_on)?;
        }
        msprof::timelines(trace)
    };
    if sources.is_empty() {
        return Err("`msprof` ended well and wrote no timeline".to_owned());
    }
    let (mut made, mut notes) = (Vec::new(), Vec::new());
    for (number, source) in sources.iter().enumerate() {
        let spool = PathBuf::from(format!("{}.{number}.spool", trace.display()));
        let part = spool.with_extension("part");
        // What another import left that was ended.
        drop(std::fs::remove_file(&part));
        let source = Source::find(source).map_err(|error| chain(&error))?;
        let report =
            super::import_source(&source, &part, Some(host)).map_err(|error| chain(&error))?;
        notes.extend(report.notes);
        made.push((part, spool));
    }
    // Published together: a part alone would be taken for the whole.
    for (part, spool) in made.into_iter().rev() {
        std::fs::rename(&part, &spool).map_err(|error| error.to_string())?;
    }
    Ok(notes)
}

/// torch_npu's `analyse` runs since the worker stopped; waits until it is over.
fn wait_for_analysis(
    trace: &Path,
    raw: &Path,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<(), String> {
    if raw.join(ANALYSING).exists() {
        drop(Lock::take(&raw.join(ANALYSING), goes_on)?);
    }
    let Ok(log) = std::fs::read_to_string(raw.join(ANALYSED)) else {
        // Analysed by somebody else, or not at all: the trace is there, or not.
        return Ok(());
    };
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let timeline = changed(&trace.join(NPU_OUTPUT).join(NPU_TRACE));
    match log.lines().last() {
        Some("done") => Ok(()),
        // Somebody has analysed it since.
        _ if timeline.is_some() && timeline >= changed(&raw.join(ANALYSED)) => Ok(()),
        last => Err(format!("`analyse` ended with: {}", last.unwrap_or("nothing"))),
    }
}

/// A lock on a file, for as long as the value lives.
struct Lock {
    file: File,
}

impl Lock {
    fn take(path: &Path, goes_on: &mut dyn FnMut() -> bool) -> Result<Self, String> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(NO_LINKS)
            .open(path)
            .map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
        let begun = std::time::Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(Errno::WOULDBLOCK) if begun.elapsed() > PATIENCE => {
                    return Err(format!("{} is held by another process", path.display()));
                }
                Err(Errno::WOULDBLOCK) if goes_on() => std::thread::sleep(LOOK_EVERY),
                Err(Errno::WOULDBLOCK) => return Err("called off".to_owned()),
                Err(errno) => return Err(format!("{} cannot be locked: {errno}", path.display())),
            }
        }
    }
}

impl Host {
    /// Reads the spool; `None` where it is still written.
    fn of(spool: &Path) -> Result<Option<Self>, String> {
        let reader = SpoolReader::open(spool).map_err(|error| chain(&error))?;
        // Where locks cannot be asked, nobody is known to write.
        if reader.writer_alive().unwrap_or(false) {
            return Ok(None);
        }
        let header = reader.header().clone();
        drop(reader);
        let capture = Capture::open([spool.to_owned()], CaptureOptions::default())
            .map_err(|error| chain(&error))?;
        let Some(worker) = capture.workers().first() else { return Ok(None) };
        let real = |at: u64| at.saturating_add_signed(worker.clock.realtime_offset_ns);
        let windows =
            worker.windows.iter().map(|span| (real(span.begin), span.end.map(real))).collect();
        Ok(Some(Self { header, windows }))
    }
}
