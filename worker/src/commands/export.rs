//! `omniprof export` and `merge`.

use std::path::{Path, PathBuf};

use profiler_core::config::TraceFormat;
use serde_json::Value;

use super::sessions::{SPOOL_EXTENSION, spools_of};
use crate::cli::{CommandError, EventArgs, Exit, ExportArgs, MergeArgs, Output, bytes_text};

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
    let task = Task {
        spools: args.spools.clone(),
        output,
        format: args.format,
        args: args.args,
        follow: args.follow,
        from_ms: args.from,
        to_ms: args.to,
    };
    carry_out(&task, args.json, out)
}

pub(super) fn merge(args: &MergeArgs, out: &Output) -> Result<Exit, CommandError> {
    let root = args.config.load()?.root(args.root.dir.as_deref());
    let task = Task {
        spools: spools_of(&args.paths, &root)?,
        output: args.output.clone(),
        format: args.format,
        args: args.args,
        follow: false,
        from_ms: None,
        to_ms: None,
    };
    carry_out(&task, args.json, out)
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

fn carry_out(task: &Task, json: bool, out: &Output) -> Result<Exit, CommandError> {
    for spool in &task.spools {
        check_is_there(spool)?;
    }
    let report = export(task)?;
    if json {
        out.json_line(&report)?;
        return Ok(Exit::Done);
    }
    let number = |key: &str| report.get(key).and_then(Value::as_u64).unwrap_or(0);
    out.line(&format!(
        "{}: {}, {} events",
        task.output.display(),
        bytes_text(number("bytes")),
        number("events")
    ))?;
    Ok(Exit::Done)
}

fn check_is_there(spool: &Path) -> Result<(), CommandError> {
    if spool.exists() {
        return Ok(());
    }
    let text = format!("{} does not exist: `omniprof list` shows what is there", spool.display());
    Err(CommandError::text(Exit::NothingThere, text))
}

fn export(task: &Task) -> Result<Value, CommandError> {
    let _asked = (task.args, task.follow, task.from_ms, task.to_ms);
    let text = format!("exporting to {} is not built into this binary", task.format);
    Err(CommandError::text(Exit::Failed, text))
}
