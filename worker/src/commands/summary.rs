//! `omniprof summary`.

use anyhow::Context as _;
use profiler_export::capture::{Capture, CaptureOptions};
use profiler_export::summary::{SummaryOptions, summarize};
use profiler_export::tables;

use super::import::Imported;
use super::sessions::spools_of;
use crate::cli::{CommandError, Exit, Output, Progress, SummaryArgs, SummaryBy};

pub(super) fn run(args: &SummaryArgs, out: &Output) -> Result<Exit, CommandError> {
    let root = args.config.load()?.root(args.root.dir.as_deref());
    let mut imported = Imported::default();
    let spools = imported.take(spools_of(&args.paths, &root)?)?;
    let progress = Progress::spinner("reading");
    let mut capture = Capture::open(spools, CaptureOptions::default())?;
    let mut summary = summarize(&mut capture, SummaryOptions::default())?;
    drop(progress);
    summary.notes.append(&mut imported.notes);
    if let Some(path) = &args.xlsx {
        tables::write_xlsx(path, &summary)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if args.json {
        out.json(&summary)?;
        return Ok(Exit::Done);
    }
    let mut options = tables::TextOptions::default();
    options.rows = args.top;
    options.workers = args.workers;
    options.by_shape = args.by.contains(&SummaryBy::Shape);
    options.by_stack = args.by.contains(&SummaryBy::Stack);
    out.text(&tables::text(&summary, options))?;
    Ok(Exit::Done)
}
