//! The bodies that every backend runs, on a real device: linked and as a plugin; and what may befall
//! the device.
//!
//! A program of its own instead of cargo's: without a device it says that it was skipped.

#![allow(clippy::print_stdout, reason = "says what became of each test, as cargo's programs do")]

mod faults;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use backend_cuda::CudaBackend;
use cuda_workload::Commands;
use profiler_core::abi::LoadedPlugin;
use profiler_core::backend::{BackendId, ProfilerBackend};
use profiler_core::conformance::{BODIES, Fixture, build_plugin};
use profiler_core::probe::ProbeReport;
use profiler_core::record::{ApiCall, Kernel, Memcpy, Memset, RecordKind, Row as _};

/// Copies, memsets and kernels on the first device.
fn work() {
    static COMMANDS: OnceLock<Mutex<Commands>> = OnceLock::new();
    let commands = COMMANDS.get_or_init(|| Mutex::new(Commands::new()));
    let mut commands = commands.lock().unwrap_or_else(PoisonError::into_inner);
    commands.ask("run mixed 100 1").expect("the device works");
}

struct Linked;

impl Fixture for Linked {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        Arc::new(CudaBackend::new())
    }

    fn work(&self) {
        work();
    }

    fn expected(&self) -> Vec<RecordKind> {
        vec![Kernel::KIND, ApiCall::KIND, Memcpy::KIND, Memset::KIND]
    }
}

struct BehindTheDoor;

impl Fixture for BehindTheDoor {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        static PLUGIN: OnceLock<LoadedPlugin> = OnceLock::new();
        let load = || {
            let id = BackendId::parse("cuda").expect("an id");
            profiler_core::abi::load(&build_plugin("backend-cuda-plugin"), &id)
                .expect("the plugin loads")
        };
        Arc::new(PLUGIN.get_or_init(load).backend.clone())
    }

    fn work(&self) {
        work();
    }

    fn expected(&self) -> Vec<RecordKind> {
        Linked.expected()
    }
}

fn main() -> ExitCode {
    // As cargo's programs: the first free word is a part of the names of the tests to run.
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, name] = &arguments[..]
        && word == "--case"
    {
        let case = faults::CASES.iter().find(|(case, _)| case == name);
        let outcome = case.map_or_else(|| Err(anyhow::anyhow!("no such case")), |(_, body)| body());
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let only = std::env::args().skip(1).find(|word| !word.starts_with("--")).unwrap_or_default();
    if let ProbeReport::Unavailable { reason } = CudaBackend::new().probe() {
        println!("skipped: conformance on an NVIDIA device: {}", reason.message);
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for (name, _) in faults::CASES {
        let name = format!("faults::{name}");
        if name.contains(&only) {
            let held = faults::run(name.trim_start_matches("faults::"));
            failed |= held.is_err();
            println!("test {name} ... {}", if held.is_ok() { "ok" } else { "FAILED" });
        }
    }
    for (door, fixture) in [("linked", &Linked as &dyn Fixture), ("plugin", &BehindTheDoor)] {
        for (name, body) in BODIES {
            let name = format!("{door}::{name}");
            if !name.contains(&only) {
                continue;
            }
            let held = catch_unwind(AssertUnwindSafe(|| body(fixture))).is_ok();
            failed |= !held;
            println!("test {name} ... {}", if held { "ok" } else { "FAILED" });
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
