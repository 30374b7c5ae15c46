//! `omniprof export` and `merge`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use profiler_core::config::{EventArguments, TraceFormat};
use profiler_export::capture::CaptureError;
use profiler_export::{ExportError, ExportReport, ExportRequest};

use super::import::Imported;
use super::sessions::{SPOOL_EXTENSION, spools_of};
use crate::cli::{
    CommandError, EventArgs, Exit, ExportArgs, Interrupts, MergeArgs, Output, Progress, bytes_text,
};

/// An export, however it was asked for.
struct Task {
    spools: Vec<PathBuf>,
    output: PathBuf,
    format: TraceFormat,
    args: EventArgs,
    follow: bool,
    from_ms: Option<u64>,
    to_ms: Option<u64>,
}

pub(super) fn run(args: &ExportArgs, out: &Output) -> Result<Exit, CommandError> {
    if args.from.zip(args.to).is_some_and(|(from, to)| from >= to) {
        return Err(CommandError::text(Exit::Usage, "`--from` is not before `--to`"));
    }
    let output = match &args.output {
        Some(output) => output.clone(),
        None => beside(&args.spools, args.format)?,
    };
    for spool in &args.spools {
        check_is_there(spool)?;
    }
    let mut imported = Imported::default();
    let task = Task {
        spools: imported.take(args.spools.clone())?,
        output,
        format: args.format,
        args: args.args,
        follow: args.follow,
        from_ms: args.from,
        to_ms: args.to,
    };
    carry_out(&task, &imported.notes, args.json, out)
}

pub(super) fn merge(args: &MergeArgs, out: &Output) -> Result<Exit, CommandError> {
    let root = args.config.load()?.root(args.root.dir.as_deref());
    let mut imported = Imported::default();
    let task = Task {
        spools: imported.take(spools_of(&args.paths, &root)?)?,
        output: args.output.clone(),
        format: args.format,
        args: args.args,
        follow: false,
        from_ms: None,
        to_ms: None,
    };
    carry_out(&task, &imported.notes, args.json, out)
}

/// `a.spool` becomes `a.pftrace.gz`; of several spools nobody knows which name is meant.
fn beside(spools: &[PathBuf], format: TraceFormat) -> Result<PathBuf, CommandError> {
    let [spool] = spools else {
        let text = "several spools become one trace: name it with `--output`";
        return Err(CommandError::text(Exit::Usage, text));
    };
    let is_spool = spool.extension().is_some_and(|extension| extension == SPOOL_EXTENSION);
    let stem = if is_spool { spool.with_extension("") } else { spool.clone() };
    let mut path = stem.into_os_string();
    path.push(".");
    path.push(format.extension());
    Ok(PathBuf::from(path))
}

fn carry_out(
    task: &Task,
    notes: &[String],
    json: bool,
    out: &Output,
) -> Result<Exit, CommandError> {
    for spool in &task.spools {
        check_is_there(spool)?;
    }
    let mut request = ExportRequest::new(task.spools.clone(), task.output.clone(), task.format);
    request.arguments = match task.args {
        EventArgs::Minimal => EventArguments::Minimal,
        EventArgs::Full => EventArguments::Full,
    };
    request.follow = task.follow;
    request.from_ns = task.from_ms.map(|ms| ms * 1_000_000);
    request.to_ns = task.to_ms.map(|ms| ms * 1_000_000);
    // Called off in order, an export leaves nothing behind.
    let interrupts = Interrupts::listen()?;
    let bar = Progress::spinner(&format!("exporting to {}", task.format));
    let report = profiler_export::run(&request, &mut |counts| {
        bar.say(&format!("exporting to {}: {} rows", task.format, counts.total()));
        !interrupts.wait(Duration::ZERO)
    });
    drop(bar);
    let mut report = report.map_err(refused)?;
    report.notes.extend_from_slice(notes);
    if json {
        out.json_line(&report)?;
        return Ok(Exit::Done);
    }
    out.line(&report_text(&report))?;
    Ok(Exit::Done)
}

fn report_text(report: &ExportReport) -> String {
    let mut text = format!("{}: {}", report.path.display(), bytes_text(report.bytes));
    if report.events > 0 {
        text.push_str(&format!(", {} events", report.events));
    }
    text.push_str(&format!(" of {} rows", report.rows.values().sum::<u64>()));
    for (what, counts) in [("left out", &report.drops), ("lost by the workers", &report.lost)] {
        for (cause, rows) in counts.iter().filter(|(_, rows)| **rows > 0) {
            text.push_str(&format!("\n{rows} rows {what}: {cause}"));
        }
    }
    for note in &report.notes {
        text.push_str(&format!("\nnote: {note}"));
    }
    text
}

fn check_is_there(spool: &Path) -> Result<(), CommandError> {
    if spool.exists() {
        return Ok(());
    }
    let text = format!("{} does not exist: `omniprof list` shows what is there", spool.display());
    Err(CommandError::text(Exit::NothingThere, text))
}

fn refused(error: ExportError) -> CommandError {
    let exit = match &error {
        ExportError::Capture(CaptureError::Cancelled) => Exit::Interrupted,
        ExportError::Exists { .. } => Exit::Conflict,
        ExportError::NoName { .. } | ExportError::Format { .. } => Exit::Usage,
        _ => return error.into(),
    };
    CommandError::new(exit, error)
}
