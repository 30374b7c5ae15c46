//! Plugins as libraries: written in C, built by cargo, older, newer and broken.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use profiler_core::abi::{LoadedPlugin, PluginError};
use profiler_core::backend::{BackendId, DriverState, ProfilerBackend, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::{Fixture, MemorySink, build_plugin};
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::record::{LossCause, Marker, RecordKind, Row as _, StringDef};
use profiler_tests::plugins::{compile_c_plugin, install, plugin_dir};

fn id(text: &str) -> BackendId {
    BackendId::parse(text).unwrap()
}

/// The plugin in C, in a folder of its own that stays while the plugin is used.
fn c_plugin(defines: &[&str]) -> (tempfile::TempDir, Result<LoadedPlugin, PluginError>) {
    let dir = plugin_dir().unwrap();
    let library = compile_c_plugin(dir.path(), "c", defines).unwrap();
    let loaded = profiler_core::abi::load(&library, &id("c"));
    (dir, loaded)
}

fn sink_and_clock() -> (Arc<MemorySink>, Arc<SystemClock>) {
    (Arc::default(), Arc::new(SystemClock::new()))
}

struct InC;

impl Fixture for InC {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        static PLUGIN: OnceLock<LoadedPlugin> = OnceLock::new();
        let plugin = PLUGIN.get_or_init(|| c_plugin(&[]).1.unwrap());
        Arc::new(plugin.backend.clone())
    }

    fn work(&self) {}

    fn expected(&self) -> Vec<RecordKind> {
        vec![Marker::KIND]
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(vec![1])
    }
}

mod in_c {
    profiler_core::conformance_tests!(super::InC);
}

/// The backend that records nothing, as the library that cargo makes of it.
fn null_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
        std::fs::create_dir_all(&dir).unwrap();
        install(&build_plugin("null-plugin"), &dir).unwrap()
    })
}

struct AsLibrary;

impl Fixture for AsLibrary {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        static PLUGIN: OnceLock<LoadedPlugin> = OnceLock::new();
        let load = || profiler_core::abi::load(null_library(), &id("null")).unwrap();
        Arc::new(PLUGIN.get_or_init(load).backend.clone())
    }

    fn work(&self) {}

    fn expected(&self) -> Vec<RecordKind> {
        vec![Marker::KIND]
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(vec![1])
    }
}

mod null_library {
    profiler_core::conformance_tests!(super::AsLibrary);
}

#[test]
fn a_plugin_in_c_says_and_hears_everything() {
    let (_dir, plugin) = c_plugin(&[]);
    let plugin = plugin.unwrap();
    assert_eq!((plugin.version.as_str(), plugin.priority), ("0.3-c", 50));
    let ProbeReport::Available { devices, notes } = plugin.backend.probe() else { panic!() };
    assert_eq!((devices[0].name.as_str(), notes[0].as_str()), ("C device", "written in C"));

    let (sink, clock) = sink_and_clock();
    let config = SessionConfig::default();
    let mut session = plugin.backend.open(&config, Arc::clone(&sink) as _, clock).unwrap();
    assert!(matches!(session.flush(), Err(BackendError::NotStarted)));
    session.start().unwrap();
    assert!(matches!(session.start(), Err(BackendError::AlreadyStarted)));
    session.flush().unwrap();
    let summary = session.stop(Duration::from_nanos(1234)).unwrap();
    assert_eq!(summary.notes, ["drained 1234 ns"]);
    assert_eq!(summary.device_used, Some(true));
    drop(session);
    sink.assert_sound();
    assert_eq!((sink.rows(StringDef::KIND), sink.rows(Marker::KIND)), (2, 2));
    assert_eq!(sink.losses()[&LossCause::DriverDropped], 2);
    assert_eq!(sink.facts()["c.fact"], "said in C");
    assert_eq!(Arc::strong_count(&sink), 1, "a closed session holds no sink");
}

#[test]
fn what_a_plugin_says_of_its_driver_crosses() {
    let said = |defines: &[&str]| c_plugin(defines).1.unwrap().backend.driver();
    assert_eq!(said(&[]), Some(DriverState::Residue));
    assert_eq!(said(&["DRIVER=\"\\\"detached\\\"\""]), Some(DriverState::Detached));
    assert_eq!(said(&["DRIVER=\"null\""]), None);
    // Of a later release, which knows more states.
    assert_eq!(said(&["DRIVER=\"\\\"asleep\\\"\""]), None);
    assert_eq!(said(&["BAD_JSON"]), None);
    // Tables that end before it, the last of them where version 1 ended before it was added.
    for bytes in [96, 104, 112] {
        assert_eq!(said(&[&format!("TABLE_BYTES={bytes}")]), None, "{bytes}");
    }
}

/// What an older or a newer plugin does is what both sides know.
fn records(plugin: &LoadedPlugin, markers: u64) {
    let (sink, clock) = sink_and_clock();
    let config = SessionConfig::default();
    let mut session = plugin.backend.open(&config, Arc::clone(&sink) as _, clock).unwrap();
    session.start().unwrap();
    session.flush().unwrap();
    session.stop(Duration::ZERO).unwrap();
    assert_eq!(sink.rows(Marker::KIND), markers);
    sink.assert_sound();
}

#[test]
fn an_older_plugin_works_without_what_came_later() {
    // Its table ends before `flush`, and what lies behind it is no function: to read on would crash.
    let (_dir, plugin) = c_plugin(&["TABLE_BYTES=96"]);
    records(&plugin.unwrap(), 1);
}

#[test]
fn a_newer_plugin_works_with_what_is_known_here() {
    let (_dir, plugin) = c_plugin(&["LATER"]);
    records(&plugin.unwrap(), 2);
}

#[test]
fn libraries_that_are_no_plugins_are_told_apart() {
    let refusal = |defines: &[&str]| c_plugin(defines).1.unwrap_err();
    for (defines, code) in [
        (&["MAJOR=2"][..], "other_version"),
        (&["MAJOR=0"], "other_version"),
        (&["MAJOR=2", "TABLE_BYTES=8"], "other_version"),
        (&["MAGIC=1"], "bad_magic"),
        (&["TABLE_BYTES=95"], "table_too_small"),
        (&["TABLE_BYTES=0"], "table_too_small"),
        (&["NO_TABLE"], "no_entry"),
        (&["NO_ENTRY"], "no_entry"),
        (&["ID=\"cuda\""], "other_id"),
        (&["ID=\"\\xff\\xff\""], "bad_field"),
    ] {
        let error = refusal(defines);
        assert_eq!(error.code(), code, "{defines:?}: {error}");
        assert!(error.to_string().contains("libomniprof_backend_c.so"), "{error}");
    }
}

#[test]
fn answers_that_are_none_are_told() {
    let (_dir, plugin) = c_plugin(&["BAD_JSON"]);
    let plugin = plugin.unwrap();
    let ProbeReport::Unavailable { reason } = plugin.backend.probe() else { panic!() };
    assert_eq!(reason.code, "unreadable_answer");
    let (sink, clock) = sink_and_clock();
    let config = SessionConfig::default();
    let opened = plugin.backend.open(&config, Arc::clone(&sink) as _, clock);
    assert_eq!(opened.err().unwrap().code(), "unreadable_answer");
    assert_eq!(Arc::strong_count(&sink), 1);
}

#[test]
fn a_library_is_found_in_its_directory_and_used_once() {
    let dir = plugin_dir().unwrap();
    let library = compile_c_plugin(dir.path(), "once", &["ID=\"once\""]).unwrap();
    let registry = profiler_agent::backends(Some(dir.path()));
    assert_eq!(registry.refused_plugins(), []);
    let origin = registry.origin(&id("once")).unwrap();
    assert_eq!(origin.path, library.canonicalize().unwrap());
    assert_eq!(origin.version, "0.3-c");
    assert!(registry.find(&id("once")).unwrap().backend.probe().is_available());
    assert!(registry.origin(&id("cpu")).is_none(), "a linked backend comes in no plugin");

    // The file is replaced while the process runs: another copy would be another backend.
    std::fs::remove_file(&library).unwrap();
    compile_c_plugin(dir.path(), "once", &["ID=\"once\"", "BAD_JSON"]).unwrap();
    let again = profiler_agent::backends(Some(dir.path()));
    assert!(again.find(&id("once")).unwrap().backend.probe().is_available());
    assert_eq!(mapped(&library), 1, "one copy is loaded");
}

/// Files of that path that are loaded, the deleted one included.
fn mapped(library: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let name = library.canonicalize().unwrap();
    let mut inodes: Vec<_> = maps
        .lines()
        .filter(|line| line.contains(name.to_str().unwrap()))
        .filter_map(|line| line.split_whitespace().nth(4))
        .collect();
    inodes.dedup();
    inodes.len()
}

#[test]
fn a_plugin_of_another_release_is_refused_with_what_to_do() {
    let dir = plugin_dir().unwrap();
    compile_c_plugin(dir.path(), "old", &["ID=\"old\"", "MAJOR=7"]).unwrap();
    compile_c_plugin(dir.path(), "good", &["ID=\"good\""]).unwrap();
    let registry = profiler_agent::backends(Some(dir.path()));
    let refused = registry.refused_plugins();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].code, "other_version");
    assert!(refused[0].reason.contains("install the plugin of this release"), "{refused:?}");
    assert!(registry.find(&id("good")).is_some(), "one that is refused keeps no other away");
}

#[test]
fn plugins_export_their_entry_and_nothing_else() {
    for package in ["backend-cpu-plugin", "backend-cuda-plugin", "backend-npu-plugin"] {
        let library = build_plugin(package);
        let output = Command::new("nm")
            .args(["--dynamic", "--defined-only", "--format=posix"])
            .arg(&library)
            .output()
            .expect("`nm` of the binutils is there");
        assert!(output.status.success(), "{output:?}");
        let names = String::from_utf8(output.stdout).unwrap();
        let names: Vec<_> = names.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, [profiler_core::abi::ENTRY], "{}", library.display());
    }
}

#[test]
fn a_plugin_that_aborts_on_panic_does_not_build() {
    null_library();
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["rustc", "--locked", "--quiet", "--package", "null-plugin", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .args(["--", "-C", "panic=abort"])
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(messages.contains("a plugin is built with panic = \"unwind\""), "{messages}");
}
