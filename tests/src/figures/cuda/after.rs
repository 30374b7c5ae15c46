//! What stays behind: after a stop, after the driver is detached, after SIGKILL.

use std::time::Duration;

use anyhow::Context as _;
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::record::Kernel;
use profiler_export::capture::{Capture, CaptureOptions, Consumer, Place};
use profiler_worker::manifest::{LineState, Manifest};

use super::capture::{Recorder, Settings, worker};
use super::loops::{ratio, settle};
use super::process::Process;
use super::{entry, on_device};
use crate::figures::{Bound, Context, FigureEntry, Measured};

const WORK: &str = "run launch 10000 1";
/// After so long without a session the backend detaches.
const DETACH_AFTER: Duration = Duration::from_millis(500);
/// What a killed process may take with it: two flush periods of the driver's records, and 500 ms
/// until what was handed over is in the page cache.
const KILLED_MS: f64 = 900.0;

/// The figures.
pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "after_stop",
            "x",
            Some(Bound::AtMost(1.10)),
            "a launch after the stop / in a process that was never profiled",
            |context| after(context, None),
        ),
        entry(
            "after_detach",
            "x",
            Some(Bound::AtMost(1.05)),
            "a launch after the driver was detached / in a process that was never profiled",
            |context| after(context, Some(DETACH_AFTER)),
        ),
        entry(
            "killed_tail",
            "ms",
            Some(Bound::AtMost(KILLED_MS)),
            "from the last kernel in the spool to the SIGKILL of a process that launches",
            killed,
        ),
    ]
}

fn after(context: &Context, detach: Option<Duration>) -> anyhow::Result<Measured> {
    on_device(context, || {
        let settings = Settings {
            detach_after_ms: detach.map(|after| after.as_millis() as u64),
            ..Settings::default()
        };
        let mut profiled = Recorder::start(context, settings)?;
        let mut never = Process::start(context, None)?;
        settle(&mut never, WORK)?;
        settle(&mut profiled.worker, WORK)?;
        if let Err(error) = profiled.record() {
            return match detach {
                Some(_) => Ok(Measured::Skipped(format!("cannot detach early: {error:#}"))),
                None => Err(error),
            };
        }
        settle(&mut profiled.worker, WORK)?;
        let (_, _, manifest) = profiled.stop()?;
        if let Some(after) = detach {
            // Under load, as it would happen in a server.
            profiled.worker.ask("begin")?;
            std::thread::sleep(after + Duration::from_millis(1500));
            profiled.worker.ask("end")?;
        }
        let measured = ratio(&mut never, &mut profiled.worker, WORK)?;
        let driver = worker(&manifest)?.driver;
        anyhow::ensure!(driver.is_some(), "the manifest says nothing of the driver");
        Ok(measured)
    })
}

/// The last kernel's end.
#[derive(Default)]
struct Last {
    end: u64,
    kernels: u64,
}

impl Consumer for Last {
    fn kernels(&mut self, _place: &Place<'_>, rows: &[Kernel]) -> std::io::Result<()> {
        self.end = rows.iter().map(|row| row.end).fold(self.end, u64::max);
        self.kernels += rows.len() as u64;
        Ok(())
    }
}

fn killed(context: &Context) -> anyhow::Result<Measured> {
    on_device(context, || {
        let mut recorder = Recorder::start(context, Settings::default())?;
        recorder.record()?;
        recorder.worker.ask("begin")?;
        std::thread::sleep(Duration::from_secs(2));
        let killed = SystemClock::new().monotonic_ns();
        recorder.worker.kill()?;
        let (_, _, manifest) = recorder.stop()?;
        let line = worker(&manifest)?;
        anyhow::ensure!(line.state == LineState::Failed, "the worker's part: {line:?}");
        let spool = spool_of(&recorder, &manifest)?;
        let mut last = Last::default();
        Capture::open([spool], CaptureOptions::default())?.read(&mut last)?;
        anyhow::ensure!(last.kernels > 0, "no kernel in the spool of a killed worker");
        let note = format!("{} kernels were kept; the manifest says failed", last.kernels);
        Ok(Measured::noted(killed.saturating_sub(last.end) as f64 / 1e6, note))
    })
}

/// The spool of the manifest's one line, whatever became of it.
pub(super) fn spool_of(
    recorder: &Recorder,
    manifest: &Manifest,
) -> anyhow::Result<std::path::PathBuf> {
    let line = worker(manifest)?;
    let file = line.files.iter().find(|file| file.format == "spool").context("no spool")?;
    Ok(recorder.controller.root().join(&manifest.directory).join(&file.path))
}
