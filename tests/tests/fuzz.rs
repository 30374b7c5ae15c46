//! Each fuzzed reader reads its kept inputs, and some that are made of them: the same each time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use profiler_tests::fuzz::{Amount, corpus, run, targets};

const INPUTS: u64 = 400;

fn holds(name: &str) {
    let target = targets::all().into_iter().find(|target| target.name == name).unwrap();
    let told = run(&target, Amount::Inputs(INPUTS), 1).unwrap();
    assert!(told.inputs > INPUTS, "{told:?}");
    let messages: Vec<_> = told.broken.iter().map(|(_, message)| message).collect();
    assert!(told.broken.is_empty(), "{messages:#?}");
}

#[test]
fn every_target_is_read_here() {
    let names: Vec<_> = targets::all().iter().map(|target| target.name).collect();
    let here = [
        "spool",
        "cupti",
        "mspti",
        "kineto",
        "ascend-database",
        "msprof-tables",
        "http-bodies",
        "launcher-bodies",
        "config",
        "config-files",
        "map-rules",
        "control",
        "frames",
        "trace-paths",
    ];
    assert_eq!(names, here);
}

/// An input that is refused at its first byte would lead nowhere.
#[test]
fn kept_inputs_are_understood() {
    use profiler_core::control::{FromAgent, ToAgent};
    let target = |name| targets::all().into_iter().find(|target| target.name == name).unwrap();
    for message in corpus(&target("control")).unwrap() {
        let to = serde_json::from_slice::<ToAgent>(&message).is_ok();
        let from = serde_json::from_slice::<FromAgent>(&message).is_ok();
        assert!(to || from, "{}", String::from_utf8_lossy(&message));
    }
    for config in corpus(&target("config")).unwrap() {
        let value = serde_json::from_slice(&config).unwrap();
        let parsed = profiler_core::config::ProfilerConfig::parse(&value);
        assert!(parsed.is_ok(), "{parsed:?}");
    }
    let scratch = tempfile::tempdir().unwrap();
    for name in ["kineto", "ascend-database"] {
        for (number, trace) in corpus(&target(name)).unwrap().iter().enumerate() {
            // Two of the traces are texts that hold nothing.
            if trace.len() < 3 {
                continue;
            }
            let place = scratch.path().join(format!("{name}-{number}.json"));
            std::fs::write(&place, trace).unwrap();
            let imported = profiler_export::import::import(&place, &place.with_extension("spool"));
            assert!(imported.is_ok(), "{name}, {number}: {imported:?}");
        }
    }
}

#[test]
fn spools() {
    holds("spool");
}

#[test]
fn records_of_cupti() {
    holds("cupti");
}

#[test]
fn records_of_mspti() {
    holds("mspti");
}

#[test]
fn traces_of_other_profilers() {
    holds("kineto");
}

#[test]
fn databases_of_ascend() {
    holds("ascend-database");
}

#[test]
fn tables_of_msprof() {
    holds("msprof-tables");
}

#[test]
fn bodies_of_requests() {
    holds("http-bodies");
}

#[test]
fn bodies_of_launchers() {
    holds("launcher-bodies");
}

#[test]
fn configurations() {
    holds("config");
}

#[test]
fn configuration_files() {
    holds("config-files");
}

#[test]
fn rules_of_names() {
    holds("map-rules");
}

#[test]
fn messages_of_controllers_and_agents() {
    holds("control");
}

#[test]
fn frames_of_the_link() {
    holds("frames");
}

#[test]
fn names_of_traces() {
    holds("trace-paths");
}
