//! The front door: spools in, a file in some format out.
//!
//! An export is written aside (`.NAME.part`, next to its place) and takes its name only when it
//! is whole; a name that is taken is never replaced.

mod output;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use profiler_core::config::{EventArguments, TraceFormat};
use profiler_core::trace_path::TraceRootError;
use serde::Serialize;

use crate::capture::{Capture, CaptureError, CaptureOptions, Consumer, Input, Progress};
use crate::folded::FoldedWriter;
use crate::gzip::{self, GzipWriter};
use crate::kineto::Kineto;
use crate::parquet::ParquetWriter;
use crate::pftrace::Pftrace;
use crate::speedscope::SpeedscopeWriter;
use crate::summary::{Summary, SummaryBuilder, SummaryOptions};
use crate::symbolize::SymbolizerOptions;
use crate::tables;
use crate::timeline::{Timeline, TimelineCounts};

use self::output::{AsideDirectory, FileOutput};

/// What to export.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExportRequest {
    /// The spools; several are put on one time axis.
    pub spools: Vec<PathBuf>,
    /// Where the export shall lie: a file, for Parquet and CSV a directory.
    pub output: PathBuf,
    /// Its format.
    pub format: TraceFormat,
    /// How much is written beside each slice's name.
    pub arguments: EventArguments,
    /// Wait for what is still being written.
    pub follow: bool,
    /// Only from so many ns after the first window's begin on.
    pub from_ns: Option<u64>,
    /// Only until so many ns after the first window's begin.
    pub to_ns: Option<u64>,
    /// The gzip level, 1 to 9.
    pub gzip_level: u32,
}

impl ExportRequest {
    /// One or more spools, in that format, with minimal arguments, as far as they are written.
    #[must_use]
    pub fn new(spools: Vec<PathBuf>, output: PathBuf, format: TraceFormat) -> Self {
        Self {
            spools,
            output,
            format,
            arguments: EventArguments::Minimal,
            follow: false,
            from_ns: None,
            to_ns: None,
            gzip_level: 1,
        }
    }
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExportReport {
    /// The file or directory.
    pub path: PathBuf,
    /// Its format.
    pub format: TraceFormat,
    /// Its length; of a directory, that of all its files.
    pub bytes: u64,
    /// The CRC-32 of the file, 8 hexadecimal digits; a directory has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc32: Option<String>,
    /// Events in the file: packets or JSON objects; 0 where the format has no such thing.
    pub events: u64,
    /// Rows exported, by the name of their kind.
    pub rows: BTreeMap<String, u64>,
    /// Rows that are not in the export, by cause; what the workers lost is not among them.
    pub drops: BTreeMap<String, u64>,
    /// Rows that the workers lost, by cause.
    pub lost: BTreeMap<String, u64>,
    /// Rows that came too late for their order and were drawn on an overflow lane.
    pub late: u64,
    /// Instants moved so that no row ends before it starts or starts before its launch.
    pub clamped: u64,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The spools cannot be read, or the export cannot be written.
    #[error("the capture cannot be exported")]
    Capture(#[source] CaptureError),
    /// The output cannot be made or named.
    #[error("the export cannot be made")]
    Output(#[source] TraceRootError),
    /// Something has the name already.
    #[error("{} exists already and is not replaced", path.display())]
    Exists {
        /// The name.
        path: PathBuf,
    },
    /// The output has no file name.
    #[error("{} names no file", path.display())]
    NoName {
        /// The output.
        path: PathBuf,
    },
    /// Bytes cannot be written.
    #[error("cannot {action} {}", path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// This build does not know the format.
    #[error("format {format} is not known to this build")]
    Format {
        /// Its name.
        format: &'static str,
    },
}

impl ExportError {
    /// A stable word for manifests and programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Capture(CaptureError::NoInput) => "no_input",
            Self::Capture(CaptureError::Cancelled) => "cancelled",
            Self::Capture(CaptureError::Consumer(_)) | Self::Write { .. } => "export_io",
            Self::Capture(_) => "spool_unreadable",
            Self::Output(TraceRootError::Exists { .. }) | Self::Exists { .. } => "export_exists",
            Self::Output(_) | Self::NoName { .. } => "invalid_output",
            Self::Format { .. } => "unknown_format",
        }
    }
}

/// How often an export begins anew because a window's end came late.
const MAX_RESTARTS: usize = 3;

/// Exports. `progress` is called now and then and may call the export off.
///
/// # Errors
///
/// [`ExportError`]; nothing is left behind.
pub fn run(
    request: &ExportRequest,
    progress: &mut Progress<'_>,
) -> Result<ExportReport, ExportError> {
    let mut restarts = 0;
    loop {
        match run_once(request, progress) {
            Err(ExportError::Capture(CaptureError::WindowMoved { .. }))
                if restarts < MAX_RESTARTS =>
            {
                restarts += 1;
            }
            other => return other,
        }
    }
}

fn run_once(
    request: &ExportRequest,
    progress: &mut Progress<'_>,
) -> Result<ExportReport, ExportError> {
    let options =
        CaptureOptions { follow: request.follow, from_ns: request.from_ns, to_ns: request.to_ns };
    let inputs = request.spools.iter().map(|path| Input::Spool(path.clone()));
    // The name is tried first: a long export must not fail at its end for it.
    match request.format {
        TraceFormat::Parquet | TraceFormat::Csv => {
            let directory = AsideDirectory::new(&request.output)?;
            let capture =
                Capture::open_with(inputs, options, progress).map_err(ExportError::Capture)?;
            let mut job = Job { request, capture, progress };
            let bytes = match request.format {
                TraceFormat::Parquet => job.parquet(directory.part())?,
                _ => job.csv(directory.part())?,
            };
            directory.publish()?;
            let counts = TimelineCounts::default();
            Ok(job.report(0, bytes, None, &counts))
        }
        _ => {
            let file = FileOutput::create(&request.output).map_err(ExportError::Output)?;
            let capture =
                Capture::open_with(inputs, options, progress).map_err(ExportError::Capture)?;
            let mut job = Job { request, capture, progress };
            let (file, events, counts) = job.file(file)?;
            let (bytes, crc32) = (file.bytes(), file.crc32());
            file.publish().map_err(ExportError::Output)?;
            Ok(job.report(events, bytes, Some(crc32), &counts))
        }
    }
}

/// Writes a capture that is open already to `out`, in a format that is one file; the request's
/// spools and output name nothing here but what the trace is called.
///
/// # Errors
///
/// [`ExportError`]; what was written until then is of no use.
pub fn write_to<W: io::Write>(
    capture: Capture,
    request: &ExportRequest,
    out: W,
    progress: &mut Progress<'_>,
) -> Result<(W, ExportReport), ExportError> {
    let mut job = Job { request, capture, progress };
    let (out, events, counts) = job.file(out)?;
    let report = job.report(events, 0, None, &counts);
    Ok((out, report))
}

/// What was written to, the events, and what became of the slices.
type Drawn<W> = (W, u64, TimelineCounts);

struct Job<'a, 'b> {
    request: &'a ExportRequest,
    capture: Capture,
    progress: &'a mut Progress<'b>,
}

impl Job<'_, '_> {
    fn file<W: io::Write>(&mut self, file: W) -> Result<Drawn<W>, ExportError> {
        let symbols = SymbolizerOptions::default();
        match self.request.format {
            TraceFormat::Pftrace => self.pftrace(file),
            TraceFormat::PftraceGz => {
                let gzip = self.gzip(file)?;
                let (gzip, events, counts) = self.pftrace(gzip)?;
                Ok((self.end(gzip.finish())?, events, counts))
            }
            TraceFormat::Kineto => self.kineto(file),
            TraceFormat::KinetoGz => {
                let gzip = self.gzip(file)?;
                let (gzip, events, counts) = self.kineto(gzip)?;
                Ok((self.end(gzip.finish())?, events, counts))
            }
            TraceFormat::Speedscope => {
                let mut writer = SpeedscopeWriter::new(file, symbols);
                self.read(&mut writer)?;
                Ok((writer.into_inner(), 0, TimelineCounts::default()))
            }
            TraceFormat::Folded => {
                let mut writer = FoldedWriter::new(file, symbols);
                self.read(&mut writer)?;
                Ok((writer.into_inner(), 0, TimelineCounts::default()))
            }
            TraceFormat::Table => {
                let summary = self.summary()?;
                let text = tables::report(&summary, tables::TextOptions::default());
                let mut file = file;
                io::Write::write_all(&mut file, text.as_bytes())
                    .map_err(|source| self.failed("write", source))?;
                Ok((file, 0, TimelineCounts::default()))
            }
            other => Err(ExportError::Format { format: other.name() }),
        }
    }

    fn gzip<W: io::Write>(&self, file: W) -> Result<GzipWriter<W>, ExportError> {
        GzipWriter::new(file, self.request.gzip_level, gzip::threads())
            .map_err(|source| self.failed("write", source))
    }

    fn pftrace<W: io::Write>(&mut self, out: W) -> Result<Drawn<W>, ExportError> {
        let mut timeline = Timeline::new(Pftrace::new(out, self.request.arguments));
        self.read(&mut timeline)?;
        let (draw, counts) = timeline.into_parts();
        let events = draw.events();
        Ok((self.end(draw.into_inner())?, events, counts))
    }

    fn kineto<W: io::Write>(&mut self, out: W) -> Result<Drawn<W>, ExportError> {
        let name = self.request.output.file_name().unwrap_or_default().to_string_lossy();
        let mut timeline = Timeline::new(Kineto::new(out, self.request.arguments, &name));
        self.read(&mut timeline)?;
        let (draw, counts) = timeline.into_parts();
        let events = draw.events();
        Ok((self.end(draw.into_inner())?, events, counts))
    }

    fn parquet(&mut self, directory: &Path) -> Result<u64, ExportError> {
        let mut writer = ParquetWriter::create(directory, SymbolizerOptions::default())
            .map_err(|source| self.failed("create", source))?;
        self.read(&mut writer)?;
        output::bytes_in(directory).map_err(|source| self.failed("read", source))
    }

    fn csv(&mut self, directory: &Path) -> Result<u64, ExportError> {
        let summary = self.summary()?;
        tables::write_csv(directory, &summary).map_err(|source| self.failed("write", source))
    }

    fn summary(&mut self) -> Result<Summary, ExportError> {
        let mut builder = SummaryBuilder::new(SummaryOptions::default());
        self.read(&mut builder)?;
        Ok(builder.finish(self.capture.counts()))
    }

    fn read(&mut self, consumer: &mut dyn Consumer) -> Result<(), ExportError> {
        self.capture.read_with(consumer, self.progress).map_err(ExportError::Capture)
    }

    fn end<W>(&self, out: io::Result<W>) -> Result<W, ExportError> {
        out.map_err(|source| self.failed("write", source))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> ExportError {
        ExportError::Write { action, path: self.request.output.clone(), source }
    }

    fn report(
        &self,
        events: u64,
        bytes: u64,
        crc32: Option<u32>,
        timeline: &TimelineCounts,
    ) -> ExportReport {
        let counts = self.capture.counts();
        let drops = [
            ("outside_window", counts.outside_window),
            ("warmup", counts.warmup),
            ("unmapped_clock", counts.unmapped),
            ("unknown_kind", counts.unknown),
            ("damaged_blocks", counts.damaged),
        ];
        ExportReport {
            path: self.request.output.clone(),
            format: self.request.format,
            bytes,
            crc32: crc32.map(|crc| format!("{crc:08x}")),
            events,
            rows: counts.rows.iter().map(|(kind, rows)| ((*kind).to_owned(), *rows)).collect(),
            drops: drops
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(cause, count)| (cause.to_owned(), count))
                .collect(),
            lost: counts.lost.iter().map(|(cause, n)| ((*cause).to_owned(), *n)).collect(),
            late: timeline.late,
            clamped: counts.clamped + timeline.clamped,
            notes: self.notes(events),
        }
    }

    fn notes(&self, events: u64) -> Vec<String> {
        let mut notes = Vec::new();
        for worker in self.capture.workers() {
            if worker.windows.is_empty() {
                notes.push(format!("{}: no window began, so no row belongs", worker.title()));
            }
            if !worker.complete {
                notes
                    .push(format!("{}: the spool has no footer: it was cut short", worker.title()));
            }
        }
        let is_json = matches!(self.request.format, TraceFormat::Kineto | TraceFormat::KinetoGz);
        if is_json && events > JSON_EVENTS {
            let text = "viewers load JSON of more than 5 million events badly or not at all: \
                        use pftrace-gz, or a part with --from and --to";
            notes.push(text.to_owned());
        }
        notes
    }
}

/// More events than this make JSON a burden to its readers.
const JSON_EVENTS: u64 = 5_000_000;
