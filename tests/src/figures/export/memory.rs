//! The memory of an export: the program itself, from spools with samples to a real file.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::super::{Bound, ChildRun, Context, FigureEntry, Measured, run_child};
use super::spool::Synthetic;

/// The launches of a capture.
const LAUNCHES: usize = 20_000_000;
/// Of one whose export would fill a disk: a kilobyte a launch.
const UNCOMPRESSED_LAUNCHES: usize = 5_000_000;
/// Workers that are merged.
const MERGED: usize = 4;

const ANCHOR: &str = "constant at any length; samples and 1 % late rows in the spool";

/// The figures.
pub(super) fn figures() -> Vec<FigureEntry> {
    let entry = |name: &'static str, run: fn(&Context) -> anyhow::Result<Measured>| FigureEntry {
        name,
        unit: "MiB",
        required: Some(Bound::AtMost(64.0)),
        anchor: ANCHOR,
        run,
    };
    vec![
        entry("pftrace_memory", |context| whole(context, "pftrace", LAUNCHES)),
        entry("pftrace_gz_memory", |context| whole(context, "pftrace-gz", LAUNCHES)),
        entry("kineto_memory", |context| whole(context, "kineto", UNCOMPRESSED_LAUNCHES)),
        entry("kineto_gz_memory", |context| whole(context, "kineto-gz", LAUNCHES)),
        entry("pftrace_gz_follow_memory", |context| followed(context, "pftrace-gz")),
        entry("kineto_gz_follow_memory", |context| followed(context, "kineto-gz")),
        entry("pftrace_gz_merge_memory", |context| merged(context, "pftrace-gz")),
        entry("kineto_gz_merge_memory", |context| merged(context, "kineto-gz")),
    ]
}

/// An export of a spool that is whole.
fn whole(context: &Context, format: &str, launches: usize) -> anyhow::Result<Measured> {
    let dir = context.fresh_dir("export-memory")?;
    let spool = dir.join("a.spool");
    Synthetic::create(&spool)?.with_samples()?.launch(launches)?.finish()?;
    let mut command = export(context, &dir, format, &[spool])?;
    let run = run_child(&mut command)?;
    judge(&dir, &run, launches)
}

/// An export that follows a spool while it is written.
fn followed(context: &Context, format: &str) -> anyhow::Result<Measured> {
    let dir = context.fresh_dir("export-follow")?;
    let spool = dir.join("a.spool");
    let writing = Synthetic::create(&spool)?.with_samples()?;
    let mut command = export(context, &dir, format, &[spool])?;
    command.arg("--follow");
    let run = std::thread::scope(|scope| {
        let written = scope.spawn(|| writing.launch(LAUNCHES)?.finish());
        let run = run_child(&mut command);
        let written = written.join().map_err(|_panic| anyhow::anyhow!("the writer panicked"))?;
        written.and(run)
    })?;
    judge(&dir, &run, LAUNCHES)
}

/// Several workers' spools in one trace.
fn merged(context: &Context, format: &str) -> anyhow::Result<Measured> {
    let dir = context.fresh_dir("export-merge")?;
    let mut spools = Vec::new();
    for worker in 0..MERGED {
        let spool = dir.join(format!("{worker}.spool"));
        Synthetic::create(&spool)?.with_samples()?.launch(LAUNCHES / MERGED)?.finish()?;
        spools.push(spool);
    }
    let mut command = export(context, &dir, format, &spools)?;
    let run = run_child(&mut command)?;
    judge(&dir, &run, LAUNCHES)
}

fn export(
    context: &Context,
    dir: &Path,
    format: &str,
    spools: &[PathBuf],
) -> anyhow::Result<Command> {
    let mut command = Command::new(context.omniprof()?);
    command.args(["export", "--json", "--format", format]).arg("--output");
    command.arg(dir.join("trace")).args(spools);
    Ok(command)
}

fn judge(dir: &Path, run: &ChildRun, launches: usize) -> anyhow::Result<Measured> {
    anyhow::ensure!(run.status.success(), "the export ended with {}", run.status);
    let report: serde_json::Value = serde_json::from_slice(&run.stdout)?;
    let rows = |kind: &str| report["rows"][kind].as_u64().unwrap_or(0);
    let expected = launches as u64;
    anyhow::ensure!(
        rows("kernel") == expected && rows("api_call") == expected,
        "not the rows of {launches} launches: {}",
        report["rows"]
    );
    anyhow::ensure!(rows("sample") > expected / 2_000, "few samples: {}", report["rows"]);
    let bytes = report["bytes"].as_u64().context("the export's length")?;
    std::fs::remove_dir_all(dir)?;
    let mib = f64::from(1 << 20);
    let note = format!(
        "{launches} launches and {} samples to a file of {:.0} MiB in {:.0} s; {} rows late",
        rows("sample"),
        bytes as f64 / mib,
        run.wall.as_secs_f64(),
        report["late"]
    );
    Ok(Measured::noted(run.peak_rss_bytes as f64 / mib, note))
}
