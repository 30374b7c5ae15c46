//! Which test programs tell about a cell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::{Answer, MemorySink};
use profiler_core::error::{BackendError, chain};
use profiler_core::probe::ProbeReport;
use profiler_core::registry::BackendRegistry;

use super::{Backend, Cell, Door, Features, Ground};

/// How long the capture that tells a library's version waits for the driver.
const DRAIN: Duration = Duration::from_millis(200);

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
    /// What a capture said of the vendor's library, by the backend's id: a probe loads none.
    libraries: BTreeMap<String, String>,
}

impl Machine {
    /// Asks each backend, and one that has a device for the library that it records with.
    #[must_use]
    pub fn probe() -> Self {
        let registry = BackendRegistry::linked();
        let report = |backend: &profiler_core::registry::RegisteredBackend| {
            (backend.id().to_string(), backend.backend.probe())
        };
        let reports: Vec<_> = registry.iter().map(report).collect();
        let has_cuda = reports.iter().any(|(id, report)| {
            id == Backend::Cuda.id() && matches!(report, ProbeReport::Available { .. })
        });
        let mut libraries = BTreeMap::new();
        if has_cuda {
            libraries.insert(Backend::Cuda.id().to_owned(), libcupti());
        }
        Self { reports, libraries }
    }

    /// A machine as a test needs it.
    #[must_use]
    pub fn of(reports: Vec<(String, ProbeReport)>, libraries: BTreeMap<String, String>) -> Self {
        Self { reports, libraries }
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
                let library = self.libraries.get(backend.id()).cloned();
                let told = names.chain(notes.iter().cloned()).chain(library);
                Ok(told.collect::<Vec<_>>().join("; "))
            }
            Some(ProbeReport::Unavailable { reason }) => {
                Err(format!("{}: {}", reason.code, reason.message))
            }
            _ => Err("the backend is not linked into this program".to_owned()),
        }
    }
}

/// The version of libcupti with which this process records, as CUPTI numbers them (`22`, `130401`).
fn libcupti() -> String {
    let sink = Arc::new(MemorySink::new(Answer::Accept));
    let recorded = || -> Result<(), BackendError> {
        let mut config = SessionConfig::default();
        config.options.insert("cuda.attach".to_owned(), "at_once".into());
        let (clock, sink) = (Arc::new(SystemClock::new()), Arc::clone(&sink));
        let mut session = backend_cuda::CudaBackend::new().open(&config, sink, clock)?;
        session.start()?;
        session.stop(DRAIN)?;
        Ok(())
    };
    let failed = recorded().err().map(|error| chain(&error));
    match (sink.facts().get("cuda.libcupti_version"), failed) {
        (Some(version), _) => format!("libcupti {version}"),
        (None, Some(error)) => format!("libcupti does not tell its version: {error}"),
        (None, None) => "libcupti does not tell its version".to_owned(),
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
            on_cuda_hardware(cell)
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
            if cell.features == Features::Minimal {
                // A worker without any backend of its own; it has the host's plugin and a device's.
                let only = match cell.backend {
                    Backend::Cpu | Backend::Cuda => {
                        "a_worker_without_backends_records_cuda_by_a_plugin"
                    }
                    Backend::Npu => "a_worker_without_backends_records_npu_by_a_plugin",
                };
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

fn on_cuda_hardware(cell: Cell) -> Result<Vec<Part>, String> {
    let only: &[&str] = match cell.door {
        Door::Linked => &["linked::", "faults::"],
        Door::Plugin => &["plugin::"],
        Door::Injected => {
            return Ok(vec![injected(cell, "cuda_records_an_injected_program_on_hardware")]);
        }
    };
    if cell.features != Features::Default {
        return Err("the work for the device is built one way: with default features".to_owned());
    }
    Ok(only.iter().map(|only| part("cuda-workload", "hardware", only, Vec::new())).collect())
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
        let reports = vec![("cuda".to_owned(), missing()), ("npu".to_owned(), missing())];
        Machine::of(reports, BTreeMap::new())
    }

    fn with_cuda() -> Machine {
        let reports = vec![("cuda".to_owned(), ProbeReport::available(Vec::new()))];
        let libraries = BTreeMap::from([("cuda".to_owned(), "libcupti 130401".to_owned())]);
        Machine::of(reports, libraries)
    }

    /// One build of the workload is no proof of three.
    #[test]
    fn work_that_is_built_one_way_tells_about_one_column() {
        let machine = with_cuda();
        let on_hardware = Cell::all()
            .into_iter()
            .filter(|cell| cell.backend == Backend::Cuda && cell.ground == Ground::Hardware);
        let mut seen: Vec<(Door, Vec<Part>)> = Vec::new();
        for cell in on_hardware {
            match plan(cell, &machine) {
                Ok(parts) => {
                    let again = (cell.door, parts);
                    assert!(!seen.contains(&again), "{cell} is told by what another cell ran");
                    seen.push(again);
                }
                Err(reason) => {
                    assert_ne!(cell.features, Features::Default, "{cell}");
                    assert!(reason.contains("built one way"), "{cell}: {reason}");
                }
            }
        }
        assert_eq!(seen.len(), 5, "{seen:?}");
    }

    #[test]
    fn the_library_is_told_beside_the_device() {
        let known = crate::matrix::Expectation {
            backend: "cuda",
            library: "libcupti 1304",
            tests: &["graph_nodes"],
            reason: "gives no node ids",
        };
        let cell = Cell {
            backend: Backend::Cuda,
            door: Door::Linked,
            ground: Ground::Hardware,
            features: Features::Default,
        };
        let library = with_cuda().library(Backend::Cuda).unwrap_or_default();
        assert!(known.covers(cell, &library, "linked::graph_nodes"), "{library}");
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
    fn each_plugin_is_taken_by_a_worker_without_backends() {
        for (backend, ground, test) in [
            (Backend::Cpu, Ground::Hardware, "records_cuda_by_a_plugin"),
            (Backend::Cuda, Ground::StandIn, "records_cuda_by_a_plugin"),
            (Backend::Npu, Ground::StandIn, "records_npu_by_a_plugin"),
        ] {
            let cell = Cell { backend, door: Door::Plugin, ground, features: Features::Minimal };
            let parts = plan(cell, &bare()).unwrap_or_else(|reason| panic!("{cell}: {reason}"));
            let of_worker = parts.iter().find(|part| part.test == "plugin_worker");
            assert!(of_worker.is_some_and(|part| part.only.ends_with(test)), "{cell}: {parts:?}");
        }
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
