//! What the demo tells its user.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use profiler_export::capture::{Capture, CaptureOptions};
use profiler_export::import::device_records;
use profiler_export::summary::{Summary, SummaryOptions, summarize};
use profiler_export::tables::{TextOptions, text};
use profiler_worker::manifest::{self, FileState, Manifest};
use serde::Serialize;

use super::DemoArgs;
use super::profile::Service;

/// Lines of each table of the summary.
const SUMMARY_ROWS: usize = 6;

/// Characters of a name in the summary.
const NAME_WIDTH: usize = 64;

/// The format that the Perfetto UI opens, as the manifest names it.
const UI_FORMAT: &str = "pftrace-gz";

/// Where traces are looked at.
const UI: &str = "https://ui.perfetto.dev";

/// A bar over requests, on standard error, where that is a terminal.
pub(super) fn bar(args: &DemoArgs, requests: u64) -> ProgressBar {
    styled(args, Some(requests), "{msg} {wide_bar} {pos}/{len} {elapsed}", "requests")
}

/// A sign that something goes on.
pub(super) fn spinner(args: &DemoArgs, what: &'static str) -> ProgressBar {
    let bar = styled(args, None, "{spinner} {msg} {elapsed}", what);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn styled(
    args: &DemoArgs,
    length: Option<u64>,
    template: &str,
    message: &'static str,
) -> ProgressBar {
    if args.json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(message)
}

/// The demo's outcome for programs.
#[derive(Serialize)]
struct Outcome<'a> {
    manifest: &'a Manifest,
    summary: &'a Summary,
    /// The file to open in the Perfetto UI.
    open: Option<&'a Path>,
    profiled_ms: u64,
}

/// Tells what came of the profile. The exit code says whether every worker did what was asked.
pub(super) fn print(
    args: &DemoArgs,
    service: &Service,
    manifest: &Manifest,
    profiled: Duration,
) -> anyhow::Result<ExitCode> {
    let directory = service.controller().root().join(&manifest.directory);
    let summary = sum_up(&directory, manifest)?;
    let open = to_open(&directory, manifest);
    if args.json {
        let profiled_ms = u64::try_from(profiled.as_millis()).unwrap_or(u64::MAX);
        let outcome = Outcome { manifest, summary: &summary, open: open.as_deref(), profiled_ms };
        say(&format!("{}\n", serde_json::to_string_pretty(&outcome)?))?;
    } else {
        let mut options = TextOptions::default();
        options.rows = SUMMARY_ROWS;
        options.name_width = NAME_WIDTH;
        let top = top_of(summary.clone());
        let mut out = format!("\n{}\n{}\n", manifest::table(manifest), text(&top, options));
        match &open {
            Some(path) => out.push_str(&format!(
                "`omniprof summary {}` shows more.\nOpen {} in {UI}\n",
                directory.display(),
                path.display()
            )),
            None => out.push_str("No trace was written; the table above says why.\n"),
        }
        say(&out)?;
    }
    let whole = manifest.is_good() && open.is_some();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says how far a pipeline that goes on is, for programs.
pub(super) fn print_requests_done(done: u64) -> anyhow::Result<()> {
    say(&format!("{}\n", serde_json::json!({ "requests_done": done })))
}

/// Says how to profile a pipeline that goes on.
pub(super) fn print_curl_lines(args: &DemoArgs, service: &Service) -> anyhow::Result<()> {
    let url = service.url();
    let root = service.controller().root().display().to_string();
    if args.json {
        return say(&format!("{}\n", serde_json::json!({ "url": url, "root": root })));
    }
    say(&format!(
        "The pipeline runs under a steady load. Profile it from another terminal:

  curl -X POST {url}/start_profile -d '{{\"profile_prefix\": \"mine\", \"merge_profiles\": true}}'
  curl -X POST {url}/stop_profile

or two stages for ten iterations of their loops, then look what came of it:

  curl -X POST {url}/start_profile -d '{{\"stages\": [0, 2], \"max_iterations\": 10}}'
  curl {url}/profile/status
  curl {url}/profile/sessions

Traces lie below {root}; {UI} opens the .pftrace.gz files.
Ctrl-C ends the pipeline.
"
    ))
}

fn sum_up(directory: &Path, manifest: &Manifest) -> anyhow::Result<Summary> {
    let mut spools: Vec<PathBuf> = Vec::new();
    for line in &manifest.workers {
        for file in line.files.iter().filter(|file| file.format == "spool") {
            spools.push(directory.join(&file.path));
        }
    }
    let spools = spools.into_iter().flat_map(with_device_records);
    let mut capture = Capture::open(spools, CaptureOptions::default())?;
    summarize(&mut capture, SummaryOptions::default()).context("the spools cannot be summed up")
}

/// A spool, and what a vendor's tool recorded beside it.
fn with_device_records(spool: PathBuf) -> Vec<PathBuf> {
    let found = device_records(&spool, &mut || true);
    for note in found.notes {
        tracing::warn!("{note}");
    }
    std::iter::once(spool).chain(found.spools).collect()
}

/// What shows most at a glance: spans and functions. `omniprof summary` shows the rest.
fn top_of(mut summary: Summary) -> Summary {
    for stage in &mut summary.stages {
        stage.tables.counters.clear();
        stage.tables.steps.clear();
    }
    summary
}

/// The merged trace, or the first worker's where nothing was merged.
fn to_open(directory: &Path, manifest: &Manifest) -> Option<PathBuf> {
    let workers = manifest.workers.iter().flat_map(|line| &line.files);
    let mut files = manifest.files.iter().chain(workers);
    files
        .find(|file| file.format == UI_FORMAT && file.state == FileState::Complete)
        .map(|file| directory.join(&file.path))
}

/// Writes to standard output. A reader that goes away (`| head`) is no error.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
