//! The bodies that every backend runs, through the plugin door, on the stand-in for libmspti.
#![expect(unsafe_code, reason = "sets a variable of the process")]

mod support;
#[path = "support/work.rs"]
mod work;

use std::sync::{Arc, OnceLock};

use profiler_core::abi::LoadedPlugin;
use profiler_core::backend::{BackendId, Preset, ProfilerBackend, SessionConfig};
use profiler_core::conformance::{Fixture, build_plugin};
use profiler_core::record::RecordKind;

struct BehindTheDoor;

fn plugin() -> &'static LoadedPlugin {
    static PLUGIN: OnceLock<LoadedPlugin> = OnceLock::new();
    PLUGIN.get_or_init(|| {
        let root = &support::fake().cann.root;
        // SAFETY: every test of this process begins here, so that no other thread reads variables.
        unsafe { std::env::set_var("OMNIPROF_NPU_ROOT", root) };
        let library = build_plugin("backend-npu-plugin");
        let id = BackendId::parse("npu").expect("an id");
        profiler_core::abi::load(&library, &id).expect("the plugin loads")
    })
}

impl Fixture for BehindTheDoor {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        support::fake().preload(true);
        Arc::new(plugin().backend.clone())
    }

    fn config(&self) -> SessionConfig {
        SessionConfig { preset: Preset::Full, memory: true, ..SessionConfig::default() }
    }

    fn work(&self) {
        work::work();
    }

    fn expected(&self) -> Vec<RecordKind> {
        work::expected()
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(work::rows())
    }
}

profiler_core::conformance_tests!(BehindTheDoor);

/// A trial ends its process some time later, so it has one of its own.
#[test]
fn the_plugin_brings_its_trial() {
    let output = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["a_trial", "--exact", "--ignored", "--nocapture"])
        .output()
        .expect("this test runs again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with('{')).collect();
    assert!(lines.first().is_some_and(|line| line.contains("step")), "{text}");
    // The file is no library.
    assert!(lines.last().is_some_and(|line| line.contains("fails")), "{text}");
}

#[test]
#[ignore = "run by `the_plugin_brings_its_trial` in a process of its own"]
fn a_trial() {
    let trial = plugin().trial().expect("a trial");
    let folder = tempfile::tempdir().expect("a folder");
    let library = support::other_library(folder.path(), b"no library");
    trial(&library, &mut |line| println!("{line}"));
}
