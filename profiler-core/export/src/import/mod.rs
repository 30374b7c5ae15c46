//! Traces that other profilers wrote become spools; all that comes after reads spools only.
//!
//! Two layouts are read as streams: PyTorch's Kineto JSON (an object with `traceEvents`), and
//! `trace_view.json` of torch_npu's profiler (an array whose instants are strings), which msprof's
//! `msprof_*.json` resembles. With the feature `ascend-db`, databases of both of Ascend's tools are
//! read as well. Events that say what other events say already, or that this
//! project has no rows for, are left out and counted by what they are.

mod args;
#[cfg_attr(not(feature = "ascend-db"), path = "database_disabled.rs")]
mod database;
mod device;
mod event;
mod l2_cache;
mod metrics;
mod msprof;
mod rows;
mod scan;
mod source;
mod survey;
mod table;
mod translate;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use profiler_core::clock::{Instant, ManualClock};
use profiler_core::identity::{KeyParts, WorkerIdentity, WorkerKey};
use profiler_core::sink::RecordSink;
use profiler_core::spool::{RowSource, SpoolHeader, SpoolOptions, SpoolWriteError, SpoolWriter};
use serde::Serialize;

use self::source::Source;
use self::survey::Survey;
use self::translate::Translation;

use self::device::Host;

pub use self::device::{DeviceRecords, RawTrace, device_records, raw_traces};
pub use self::source::{is_foreign, title};

/// The spool's file system may be slow; nothing is given up before.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ImportReport {
    /// The spool.
    pub path: PathBuf,
    /// Which profiler wrote the trace: `kineto`, `torch_npu`, or `msprof_db` for a database.
    pub layout: &'static str,
    /// Rows by kind.
    pub rows: BTreeMap<String, u64>,
    /// Events that became no row, by what they are.
    pub left_out: BTreeMap<String, u64>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Why a trace was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The trace cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The trace.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is no trace of a layout that is known.
    #[error("{} is no trace that can be imported: {why}", path.display())]
    NotATrace {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// The file is damaged, or no database although it begins like one.
    #[error("{} cannot be read as a database", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The directory of torch_npu's profiler was never analysed.
    #[error("{} holds raw data only: `python -c \"from torch_npu.profiler.profiler import analyse; analyse('{}')\"` makes a trace of it", path.display(), path.display())]
    NotAnalysed {
        /// The directory.
        path: PathBuf,
    },
    /// The directory of msprof was never exported.
    #[error("{} holds raw data only: `msprof --export=on --type=text --output={}` makes a trace of it", path.display(), path.display())]
    NotExported {
        /// The directory.
        path: PathBuf,
    },
    /// The spool's file exists or cannot be made.
    #[error("the spool {} cannot be made", path.display())]
    Create {
        /// The spool.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// The spool cannot be written.
    #[error("the spool {} cannot be written", path.display())]
    Spool {
        /// The spool.
        path: PathBuf,
        /// The answer.
        #[source]
        source: SpoolWriteError,
    },
    /// The spool is not whole.
    #[error("the spool {} is not whole: {why}", path.display())]
    Unfinished {
        /// The spool.
        path: PathBuf,
        /// What ended it.
        why: String,
    },
}

/// Reads a trace (a file, plain or gzipped, or a directory that torch_npu's profiler wrote) into a
/// new spool.
///
/// Reads the trace twice, and keeps a bounded part of it in memory: events are put in order within
/// half a million of them.
///
/// # Errors
///
/// [`ImportError`]; a spool that was begun stays where it is then.
pub fn import(trace: &Path, spool: &Path) -> Result<ImportReport, ImportError> {
    import_source(&Source::find(trace)?, spool, None)
}

/// As [`import`]; with `host`, the rows are those of its process and belong to its windows.
fn import_source(
    source: &Source,
    spool: &Path,
    host: Option<&Host>,
) -> Result<ImportReport, ImportError> {
    let survey = Survey::take(source)?;
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(spool)
        .map_err(|source| ImportError::Create { path: spool.to_owned(), source })?;
    let begin = Instant { monotonic_ns: survey.begin, realtime_ns: survey.begin };
    let header = SpoolHeader {
        session: host.map_or_else(|| "imported".to_owned(), |host| host.header.session.clone()),
        prefix: host.and_then(|host| host.header.prefix.clone()),
        worker: worker(source, &survey, host),
        writer: format!("omniprof {} import", env!("CARGO_PKG_VERSION")),
        created: begin,
        fence: 0,
    };
    let options =
        SpoolOptions { max_bytes: u64::MAX / 2, min_free_percent: 0, ..SpoolOptions::default() };
    // The trace's clock is CLOCK_REALTIME, and stands in for CLOCK_MONOTONIC as well.
    let clock = Arc::new(ManualClock::new(begin));
    let writer = SpoolWriter::create(file, &header, options, clock)
        .map_err(|source| ImportError::Spool { path: spool.to_owned(), source })?;
    let layout = survey.layout.name();
    let outcome = Arc::new(Mutex::new(None));
    let windows = host.map(|host| host.windows.clone());
    let work = Work { source: source.clone(), survey, windows, outcome: Arc::clone(&outcome) };
    writer.add_source(Box::new(work));
    let totals = writer.finish(PATIENCE);
    let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    let translated = match outcome {
        Some(outcome) => outcome?,
        None => Translation::default(),
    };
    if let Some(end) = totals.end.as_ref().filter(|_| !totals.has_footer) {
        let why = end.to_string();
        return Err(ImportError::Unfinished { path: spool.to_owned(), why });
    }
    let lost = totals.lost.total();
    if lost > 0 {
        let why = format!("{lost} rows were not written");
        return Err(ImportError::Unfinished { path: spool.to_owned(), why });
    }
    Ok(ImportReport {
        path: spool.to_owned(),
        layout,
        rows: translated.rows,
        left_out: translated.left_out,
        notes: translated.notes,
    })
}

/// The process that was traced, as far as the trace tells. Its key is that of the file.
fn worker(source: &Source, survey: &Survey, host: Option<&Host>) -> WorkerIdentity {
    let place = source.path.display().to_string();
    let parts = KeyParts { boot_id: &place, pid_namespace: 0, pid: survey.process, start_ticks: 0 };
    let key = WorkerKey::new(&parts, survey.begin).to_string();
    if let Some(host) = host {
        return WorkerIdentity {
            // A clock of its own: instants of the trace are CLOCK_REALTIME.
            boot_id: format!("imported-{key}"),
            key,
            time_namespace: 0,
            ..host.header.worker.clone()
        };
    }
    WorkerIdentity {
        stage: None,
        role: None,
        replica: None,
        rank: survey.rank,
        host: String::new(),
        pid: survey.process,
        // Clocks of two imports are joined by CLOCK_REALTIME.
        boot_id: format!("imported-{key}"),
        key,
        time_namespace: 0,
        pid_namespace: 0,
        start_ticks: 0,
        program: source.title.clone(),
    }
}

/// The translation, on the writer's thread: what is emitted there never meets a full queue.
struct Work {
    source: Source,
    survey: Survey,
    /// Begin and end; none at all = the whole trace is one.
    windows: Option<Vec<(u64, Option<u64>)>>,
    outcome: Arc<Mutex<Option<Result<Translation, ImportError>>>>,
}

impl RowSource for Work {
    fn drain(&mut self, sink: &dyn RecordSink) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.is_none() {
            *outcome = Some(translate::translate(
                &self.source,
                &self.survey,
                self.windows.as_deref(),
                sink,
            ));
        }
    }
}
