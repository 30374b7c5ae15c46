//! Which test programs tell about a cell.

use profiler_core::probe::ProbeReport;
use profiler_core::registry::BackendRegistry;

use super::{Backend, Cell, Door, Features, Ground};

/// Tests of one program that must pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// The crate.
    pub package: &'static str,
    /// Its test program.
    pub test: &'static str,
    /// Only tests whose name contains this; empty = all.
    pub only: &'static str,
    /// What cargo is told of the crate's features.
    pub features: Vec<String>,
    /// The build of the injected file that the tests use.
    pub injected: Option<InjectedBuild>,
}

/// How the injected file is built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InjectedBuild {
    /// What cargo is told of its features.
    pub features: Vec<String>,
    /// The backends that are then in it.
    pub backends: &'static str,
}

/// What this machine has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Machine {
    reports: Vec<(String, ProbeReport)>,
}

impl Machine {
    /// Asks each backend.
    #[must_use]
    pub fn probe() -> Self {
        let registry = BackendRegistry::linked();
        let report = |backend: &profiler_core::registry::RegisteredBackend| {
            (backend.id().to_string(), backend.backend.probe())
        };
        Self { reports: registry.iter().map(report).collect() }
    }

    /// A machine as a test needs it.
    #[must_use]
    pub fn of(reports: Vec<(String, ProbeReport)>) -> Self {
        Self { reports }
    }

    /// What a backend says of its library and devices; the reason, where it has none.
    ///
    /// # Errors
    ///
    /// The backend is not available here; the text is its own reason.
    pub fn library(&self, backend: Backend) -> Result<String, String> {
        let report = self.reports.iter().find(|(id, _)| id == backend.id());
        match report.map(|(_, report)| report) {
            Some(ProbeReport::Available { devices, notes }) => {
                let names = devices.iter().map(|device| device.name.clone());
                Ok(names.chain(notes.iter().cloned()).collect::<Vec<_>>().join("; "))
            }
            Some(ProbeReport::Unavailable { reason }) => {
                Err(format!("{}: {}", reason.code, reason.message))
            }
            _ => Err("the backend is not linked into this program".to_owned()),
        }
    }
}

/// The programs for a cell, or why it cannot be told here.
///
/// # Errors
///
/// The reason for which the cell is skipped on this machine.
pub fn plan(cell: Cell, machine: &Machine) -> Result<Vec<Part>, String> {
    match (cell.backend, cell.ground) {
        (Backend::Cpu, Ground::StandIn) => Err(
            "the backend asks the kernel and no vendor's library: there is nothing to stand in for"
                .to_owned(),
        ),
        (Backend::Npu, Ground::Hardware) => match machine.library(Backend::Npu) {
            Err(reason) => Err(reason),
            Ok(_) => Err("no work for an Ascend device is written in this repository".to_owned()),
        },
        (Backend::Cuda, Ground::Hardware) => {
            machine.library(Backend::Cuda)?;
            Ok(on_cuda_hardware(cell))
        }
        (_, _) => Ok(bodies(cell)),
    }
}

/// The conformance bodies of the backend's crate, and the host that it comes into.
fn bodies(cell: Cell) -> Vec<Part> {
    let package = match cell.backend {
        Backend::Cpu => "backend-cpu",
        Backend::Cuda => "backend-cuda",
        Backend::Npu => "backend-npu",
    };
    let backend_features = features(cell.features, None);
    let body = |test| part(package, test, "", backend_features.clone());
    match cell.door {
        Door::Linked => {
            let mut parts = vec![body("conformance")];
            if cell.backend == Backend::Cpu {
                parts.push(body("conformance_signal_timers"));
            }
            let own = features(cell.features, Some(cell.backend.id()));
            parts.push(part("profiler-agent", "linked", "", own));
            parts
        }
        Door::Plugin => {
            let host = features(cell.features, Some("plugins"));
            let mut parts =
                vec![body("plugin_door"), part("profiler-agent", "plugin_dir", "", host)];
            if cell.features == Features::Minimal && cell.backend != Backend::Npu {
                // A worker without any backend of its own; it has both plugins.
                let only = "a_worker_without_backends_records_cuda_by_a_plugin";
                parts.push(part("profiler-tests", "plugin_worker", only, Vec::new()));
            }
            parts
        }
        Door::Injected => {
            let only = match cell.backend {
                Backend::Cpu => "cpu_records_an_injected_program",
                Backend::Cuda => "cuda_records_an_injected_program_on_the_stand_in",
                Backend::Npu => "npu_records_an_injected_program_on_the_stand_in",
            };
            vec![injected(cell, only)]
        }
    }
}

fn on_cuda_hardware(cell: Cell) -> Vec<Part> {
    match cell.door {
        Door::Linked => ["linked::", "faults::"]
            .map(|only| part("cuda-workload", "hardware", only, Vec::new()))
            .into(),
        Door::Plugin => vec![part("cuda-workload", "hardware", "plugin::", Vec::new())],
        Door::Injected => {
            vec![injected(cell, "cuda_records_an_injected_program_on_hardware")]
        }
    }
}

fn injected(cell: Cell, only: &'static str) -> Part {
    let all = "cpu,cuda,npu";
    let backends = if cell.features == Features::Minimal { cell.backend.id() } else { all };
    let features = features(cell.features, Some(cell.backend.id()));
    let mut part = part("profiler-inject", "backends", only, Vec::new());
    part.injected = Some(InjectedBuild { features, backends });
    part
}

fn part(
    package: &'static str,
    test: &'static str,
    only: &'static str,
    features: Vec<String>,
) -> Part {
    Part { package, test, only, features, injected: None }
}

/// What cargo is told; `needed` is the feature that the cell is about.
fn features(features: Features, needed: Option<&str>) -> Vec<String> {
    match (features, needed) {
        (Features::Default, _) => Vec::new(),
        (Features::All, _) => vec!["--all-features".to_owned()],
        (Features::Minimal, None) => vec!["--no-default-features".to_owned()],
        (Features::Minimal, Some(needed)) => {
            ["--no-default-features", "--features", needed].map(str::to_owned).to_vec()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare() -> Machine {
        let missing = || ProbeReport::unavailable("no_device", "there is none", "add one");
        Machine::of(vec![("cuda".to_owned(), missing()), ("npu".to_owned(), missing())])
    }

    #[test]
    fn every_cell_has_tests_or_a_reason() {
        let machine = bare();
        let (mut told, mut skipped) = (0, 0);
        for cell in Cell::all() {
            match plan(cell, &machine) {
                Ok(parts) => {
                    assert!(!parts.is_empty(), "{cell}");
                    told += 1;
                }
                Err(reason) => {
                    assert!(!reason.is_empty(), "{cell}");
                    skipped += 1;
                }
            }
        }
        assert_eq!((told, skipped), (27, 27));
    }

    #[test]
    fn hardware_that_is_missing_is_told_by_its_own_reason() {
        let cell = Cell {
            backend: Backend::Cuda,
            door: Door::Injected,
            ground: Ground::Hardware,
            features: Features::Default,
        };
        assert_eq!(plan(cell, &bare()), Err("no_device: there is none".to_owned()));
    }
}
