//! `omniprof import`, and traces of other profilers where spools are asked for.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use profiler_export::import::{self, ImportError, ImportReport};

use crate::cli::{CommandError, Exit, ImportArgs, Output, Progress};

pub(super) fn run(args: &ImportArgs, out: &Output) -> Result<Exit, CommandError> {
    let spool = args.output.clone().unwrap_or_else(|| beside(&args.trace));
    let progress = Progress::spinner("importing");
    let report = import::import(&args.trace, &spool).map_err(refused)?;
    drop(progress);
    if args.json {
        out.json_line(&report)?;
        return Ok(Exit::Done);
    }
    out.line(&report_text(&report))?;
    Ok(Exit::Done)
}

/// `a.pt.trace.json.gz` becomes `a.spool`.
fn beside(trace: &Path) -> PathBuf {
    trace.with_file_name(format!("{}.{}", import::title(trace), super::sessions::SPOOL_EXTENSION))
}

fn report_text(report: &ImportReport) -> String {
    let rows: u64 = report.rows.values().sum();
    let mut text = format!("{}: {rows} rows, from {}", report.path.display(), report.layout);
    for (what, events) in &report.left_out {
        text.push_str(&format!("\n{events} events left out: {what}"));
    }
    for note in &report.notes {
        text.push_str(&format!("\nnote: {note}"));
    }
    text
}

fn refused(error: ImportError) -> CommandError {
    let exit = match &error {
        ImportError::NotATrace { .. }
        | ImportError::NotAnalysed { .. }
        | ImportError::NotExported { .. }
        | ImportError::Database { .. } => Exit::Usage,
        _ => return error.into(),
    };
    CommandError::new(exit, error)
}

/// Spools of foreign traces, for as long as a command reads them.
#[derive(Debug, Default)]
pub(super) struct Imported {
    folder: Option<PathBuf>,
    /// What could not be imported or is not whole, and what to do.
    pub(super) notes: Vec<String>,
}

impl Imported {
    /// Imports what is no spool, into a folder that goes away with `self`, and what a vendor's
    /// tool recorded beside spools, into spools that stay there.
    pub(super) fn take(&mut self, paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, CommandError> {
        let mut spools = Vec::new();
        for path in paths {
            if !import::is_foreign(&path) {
                let progress = Progress::spinner(&format!("looking beside {}", path.display()));
                let found = import::device_records(&path, &mut || true);
                drop(progress);
                self.notes.extend(found.notes);
                spools.push(path);
                spools.extend(found.spools);
                continue;
            }
            let spool = self.folder()?.join(format!("{}.spool", spools.len()));
            let progress = Progress::spinner(&format!("importing {}", path.display()));
            let report = import::import(&path, &spool).map_err(refused)?;
            drop(progress);
            let said = |note| format!("{}: {note}", path.display());
            self.notes.extend(report.notes.into_iter().map(said));
            spools.push(spool);
        }
        Ok(spools)
    }

    fn folder(&mut self) -> Result<&Path, CommandError> {
        if self.folder.is_none() {
            self.folder = Some(make_folder()?);
        }
        Ok(self.folder.as_deref().unwrap_or_else(|| unreachable!("made just now")))
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder
            && let Err(error) = std::fs::remove_dir_all(folder)
        {
            tracing::warn!("{} is left: {error}", folder.display());
        }
    }
}

/// A folder that only this user can enter.
fn make_folder() -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let base = std::env::temp_dir();
    for attempt in 0..1000 {
        let folder = base.join(format!("omniprof-import-{}-{attempt}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| folder.display().to_string()),
        }
    }
    anyhow::bail!("{} is full of old imports", base.display())
}
