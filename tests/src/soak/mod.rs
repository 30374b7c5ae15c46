//! Soak and faults: what must hold for hours, and while processes and disks die.
//!
//! Each scenario works for its share of the time and returns [`Line`]s: what was counted, what must
//! be reached, and whether it was. Workers are processes with the real agent; the seed of what is
//! killed when is printed, so that a run can be made again.

mod application;
pub mod clock_steps;
pub mod cycles;
pub mod disk;
pub mod kills;
pub mod many;
pub mod process;
pub mod slow_disk;
pub mod worker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_worker::Controller;
use profiler_worker::manifest::{LineState, WorkerLine};
use profiler_worker::start_request::SessionDefaults;
use serde::Serialize;

/// How many start/stop cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a run has one of these ends")]
pub enum Cycles {
    /// So many.
    Count(u32),
    /// As many as fit into this time.
    For(Duration),
}

/// How long the scenarios work, and with what.
#[derive(Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Start/stop cycles of each scenario of cycles.
    pub cycles: Cycles,
    /// How long each scenario of random faults works.
    pub faults: Duration,
    /// Workers of the scenario that has many.
    pub workers: usize,
    /// Decides what is killed when.
    pub seed: u64,
    scratch: tempfile::TempDir,
}

impl Setting {
    /// A setting with a folder of its own for traces.
    ///
    /// # Errors
    ///
    /// No temporary folder can be made.
    pub fn new(
        cycles: Cycles,
        faults: Duration,
        workers: usize,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("omniprof-soak-")
            .tempdir()
            .context("no temporary folder can be made")?;
        Ok(Self { cycles, faults, workers, seed, scratch })
    }

    /// A fresh, empty folder below the setting's own.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.scratch.path().join(name);
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }

    /// The `omniprof` program beside this one.
    ///
    /// # Errors
    ///
    /// It is not there and cannot be built.
    pub fn omniprof(&self) -> anyhow::Result<PathBuf> {
        crate::programs::omniprof()
    }
}

/// What was seen of one thing.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Line {
    /// The scenario.
    pub scenario: &'static str,
    /// What was counted.
    pub name: String,
    /// How much.
    pub value: f64,
    /// The unit.
    pub unit: &'static str,
    /// The most that is allowed; absent where the number is told for its own sake.
    pub at_most: Option<f64>,
    /// What a reader should know.
    pub note: String,
    /// Why it was not seen here.
    pub skipped: Option<String>,
}

impl Line {
    /// A number that must not exceed a bound.
    #[must_use]
    pub fn bounded(
        scenario: &'static str,
        name: &str,
        value: f64,
        unit: &'static str,
        at_most: f64,
    ) -> Self {
        let name = name.to_owned();
        let (note, skipped) = (String::new(), None);
        Self { scenario, name, value, unit, at_most: Some(at_most), note, skipped }
    }

    /// A number that is told.
    #[must_use]
    pub fn told(scenario: &'static str, name: &str, value: f64, unit: &'static str) -> Self {
        let line = Self::bounded(scenario, name, value, unit, 0.0);
        Self { at_most: None, ..line }
    }

    /// What cannot be seen here.
    #[must_use]
    pub fn skipped(scenario: &'static str, name: &str, why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::told(scenario, name, 0.0, "") }
    }

    /// With what a reader should know.
    #[must_use]
    pub fn noted(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// Whether it was seen and is within its bound, or has none.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.skipped.is_some() || self.at_most.is_none_or(|bound| self.value <= bound)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}/{}", self.scenario, self.name);
        if let Some(why) = &self.skipped {
            return write!(f, "{name:<44} {:>12} {:<8} {:<12} skipped ({why})", "-", "", "-");
        }
        let bound = self.at_most.map_or("-".to_owned(), |bound| format!("<= {bound}"));
        let verdict = if self.holds() { "ok" } else { "FAILED" };
        let value = format!("{:.1}", self.value);
        let value = value.strip_suffix(".0").unwrap_or(&value);
        write!(f, "{name:<44} {value:>12} {:<8} {bound:<12} {verdict}", self.unit)?;
        if self.note.is_empty() { Ok(()) } else { write!(f, " ({})", self.note) }
    }
}

/// A scenario: its name and what it does.
pub type Scenario = (&'static str, fn(&Setting) -> anyhow::Result<Vec<Line>>);

/// All scenarios, in the order in which they are run.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![
        ("cycles", cycles::run),
        ("cycles-cuda", cycles::cuda),
        ("cycles-npu", cycles::npu),
        ("killed-workers", kills::workers),
        ("killed-controller", kills::controller),
        ("killed-launcher", kills::launcher),
        ("full-disk", disk::full),
        ("slow-disk", slow_disk::run),
        ("clock-steps", clock_steps::run),
        ("many", many::run),
    ]
}

/// Waits for a condition.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        anyhow::ensure!(Instant::now() < deadline, "{what} does not come to be in {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A controller that exports and deletes nothing, and where its workers find it.
pub(crate) fn controller(root: PathBuf) -> anyhow::Result<(Controller, PathBuf)> {
    let mut defaults = SessionDefaults::default();
    // The stand-in for libcupti comes without a driver to wait for.
    defaults.all.session.options.insert("cuda.attach".to_owned(), "at_once".into());
    let controller = Controller::builder()
        .root(root)
        .defaults(defaults)
        .without_exporter()
        .options(|options| options.retention = None)
        .build()?;
    let dir = controller.socket_dir().context("the controller does not listen")?;
    Ok((controller, dir))
}

/// Whether a worker's capture is whole, exported or not.
pub(crate) fn is_whole(line: &WorkerLine) -> bool {
    matches!(line.state, LineState::Complete | LineState::Pending) && line.error.is_none()
}

/// The spools below a folder.
pub(crate) fn spools(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "spool") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
