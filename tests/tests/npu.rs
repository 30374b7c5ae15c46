//! The demo on a machine that consists of Ascend's stand-ins: what the trace and the summary say is
//! what the stand-in was told to emit.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use profiler_tests::npu_stand_in::{Emitted, NpuStandIn};
use profiler_tests::programs;
use serde_json::Value;

/// What was launched so near to a window's edge may lie on either side of it, beside the error that
/// the worker's clock readings had.
const EDGE_NS: u64 = 100_000;

/// Counts and durations by kind and name, of what surely lies in the window and of what may.
#[derive(Debug, Default)]
struct Expected {
    sure: (u64, u64),
    possible: u64,
}

fn expected(
    emitted: &[Emitted],
    begin: u64,
    end: u64,
    edge_ns: u64,
) -> BTreeMap<(String, String), Expected> {
    let mut all: BTreeMap<_, Expected> = BTreeMap::new();
    for one in emitted {
        let entry = all.entry((one.kind.clone(), one.name.clone())).or_default();
        if (begin + edge_ns..end - edge_ns).contains(&one.launched) {
            entry.sure.0 += 1;
            entry.sure.1 += one.end - one.start;
        }
        if (begin - edge_ns..end + edge_ns).contains(&one.launched) {
            entry.possible += 1;
        }
    }
    all
}

/// What a summary says of a worker's device is what the stand-in emitted in its window.
fn compare(worker: &Value, own: &Value, emitted: &[Emitted]) {
    let window = &worker["windows"][0];
    let instant = |edge: &str| window[edge]["realtime_ns"].as_u64().unwrap();
    let edge_ns = EDGE_NS + 2 * worker["clock_error_ns"].as_u64().unwrap();
    let expected = expected(emitted, instant("begin"), instant("end"), edge_ns);
    for ((kind, name), expected) in &expected {
        let table = if kind == "kernel" { "kernels" } else { "communication" };
        let rows = own["tables"][table].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name.as_str()).unwrap();
        let count = row["count"].as_u64().unwrap();
        assert!(expected.sure.0 > 10, "{name}: the window is too short to tell");
        let possible = expected.sure.0..=expected.possible;
        assert!(possible.contains(&count), "{name}: {count}, {expected:?}, {worker}");
        if expected.sure.0 == expected.possible {
            let total_ns = (row["total_us"].as_f64().unwrap() * 1_000.0).round() as u64;
            // Instants are mapped from CLOCK_REALTIME, which may be slewed: each duration is
            // right to the nanosecond.
            let off = total_ns.abs_diff(expected.sure.1);
            assert!(off <= count, "{name}: {total_ns}, {expected:?}");
        }
    }
}

fn demo(stand_in: &NpuStandIn, root: &Path) -> Command {
    let mut command = Command::new(programs::omniprof().unwrap());
    command.args(["demo", "--json", "--requests", "2", "--backend", "npu", "--dir"]).arg(root);
    stand_in.enter(&mut command, 5);
    // How full the disk is, is not what is tested.
    command.env("OMNIPROF_MIN_FREE_PERCENT", "0");
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    command
}

fn run(command: &mut Command) -> Value {
    let out = command.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}: {text}", out.status);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_demo_tells_what_the_stand_in_emitted() {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    let root = folder.path().join("traces");
    let outcome = run(&mut demo(&stand_in, &root));

    let workers = outcome["manifest"]["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 5);
    for worker in workers {
        assert_eq!(worker["state"], "complete", "{worker}");
        assert_eq!(worker["backend"], "npu", "{worker}");
        assert!(worker["error"].is_null(), "{worker}");
        // What lies outside the window is counted; nothing else was left out.
        let drops = worker["drops"].as_object().unwrap();
        assert!(drops.keys().all(|cause| cause == "outside_window"), "{worker}");
        assert!(worker["records"]["kernel"].as_u64().unwrap() > 100, "{worker}");
        assert!(worker["records"]["communication"].as_u64().unwrap() > 10, "{worker}");
        assert!(worker["records"]["api_call"].as_u64().unwrap() > 100, "{worker}");

        let pid = worker["pid"].as_u64().unwrap();
        let summed = outcome["summary"]["workers"].as_array().unwrap();
        let own = summed.iter().find(|own| own["pid"] == pid).unwrap();
        compare(worker, own, &stand_in.ledger(pid).unwrap());
        // Ranges that the application marked are spans, beside those of the demo itself.
        let spans = own["tables"]["spans"].as_array().unwrap();
        assert!(spans.iter().any(|row| row["name"] == "decode"), "{spans:?}");
        let device = &own["tables"]["devices"][0];
        assert!(device["busy_percent"].as_f64().unwrap() > 0.0, "{device}");
        assert_eq!(device["name"], "Ascend NPU");
        assert!(device["communication_percent"].as_f64().unwrap() > 0.0, "{device}");
        let types = own["tables"]["kernel_types"].as_array().unwrap();
        assert!(types.iter().any(|row| row["name"] == "KERNEL_AICORE"), "{types:?}");
    }

    let open = PathBuf::from(outcome["open"].as_str().unwrap());
    let gzip = std::fs::read(&open).unwrap();
    assert_eq!(gzip[..2], [0x1f, 0x8b]);
}

#[test]
fn a_machine_whose_library_is_broken_says_so_and_its_workers_live() {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    std::fs::remove_file(stand_in.home().join("lib64/libprofapi.so")).unwrap();
    let mut command = Command::new(programs::omniprof().unwrap());
    command.args(["demo", "--json", "--requests", "1", "--backend", "npu", "--dir"]);
    command.arg(folder.path().join("traces"));
    stand_in.enter(&mut command, 5);
    let out = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{said}");
    assert!(said.contains("companion_missing"), "{said}");
    assert!(said.contains("libprofapi.so") && said.contains("set_env.sh"), "{said}");
}

#[test]
fn aclprof_is_recorded_exported_by_msprof_and_imported() {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    let root = folder.path().join("traces");
    let mut command = demo(&stand_in, &root);
    command.env("OMNIPROF_NPU_PATH", "aclprof");
    let outcome = run(&mut command);

    let workers = outcome["manifest"]["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 5);
    for worker in workers {
        assert_eq!(worker["state"], "complete", "{worker}");
        assert_eq!(worker["backend"], "npu", "{worker}");
        let raw = file(worker, "raw");
        assert_eq!(raw["state"], "complete", "{worker}");
        let pid = worker["pid"].as_u64().unwrap();
        let summed = outcome["summary"]["workers"].as_array().unwrap();
        let is_device = |own: &&Value| own["title"].as_str().unwrap().ends_with(", device");
        let own = summed.iter().filter(is_device).find(|own| own["pid"] == pid).unwrap();
        assert_eq!(own["rank"], worker["rank"]);
        compare(worker, own, &stand_in.ledger(pid).unwrap());
        let types = own["tables"]["kernel_types"].as_array().unwrap();
        assert!(types.iter().any(|row| row["name"] == "MIX_AIC"), "{types:?}");
        let calls = own["tables"]["api_calls"].as_array().unwrap();
        assert!(!calls.is_empty(), "{calls:?}");

        // Each worker's own trace has them as well.
        let trace = file(worker, "pftrace-gz");
        assert_eq!(trace["state"], "complete", "{worker}");
    }
    let open = PathBuf::from(outcome["open"].as_str().unwrap());
    assert!(open.metadata().unwrap().len() > 1_000);
}

#[test]
fn without_msprof_the_manifest_names_the_raw_data_and_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = NpuStandIn::install(folder.path()).unwrap();
    let root = folder.path().join("traces");
    let mut command = demo(&stand_in, &root);
    command.env("OMNIPROF_NPU_PATH", "aclprof").env("OMNIPROF_MSPROF", "/nowhere/msprof");
    let out = command.output().unwrap();
    let outcome: Value = serde_json::from_slice(&out.stdout).unwrap();
    let directory = root.join(outcome["manifest"]["directory"].as_str().unwrap());
    let workers = outcome["manifest"]["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 5);
    for worker in workers {
        assert_eq!(worker["state"], "pending", "{worker}");
        let raw = file(worker, "raw");
        assert_eq!(raw["state"], "pending", "{worker}");
        let place = directory.join(raw["path"].as_str().unwrap());
        assert!(place.join("device_0").is_dir(), "{}", place.display());
        let command = format!("msprof --export=on --type=text --output={}", place.display());
        assert_eq!(raw["command"], command.as_str());
        // What is there of the host was exported all the same.
        assert_eq!(file(worker, "pftrace-gz")["state"], "complete", "{worker}");
    }

    // The command is typed for one worker, and its summary has the device's records.
    let spool = directory.join(file(&workers[0], "spool")["path"].as_str().unwrap());
    let place = directory.join(file(&workers[0], "raw")["path"].as_str().unwrap());
    let mut msprof = Command::new(stand_in.home().join("tools/profiler/bin/msprof"));
    msprof.args(["--export=on", "--type=text"]).arg(format!("--output={}", place.display()));
    assert!(msprof.status().unwrap().success());
    let mut summary = Command::new(programs::omniprof().unwrap());
    let summed = run(summary.args(["summary", "--json"]).arg(&spool));
    let own = summed["workers"].as_array().unwrap();
    assert_eq!(own.len(), 2);
    let own = own.iter().find(|own| own["title"].as_str().unwrap().ends_with(", device")).unwrap();
    let pid = workers[0]["pid"].as_u64().unwrap();
    compare(&workers[0], own, &stand_in.ledger(pid).unwrap());
}

fn file<'a>(worker: &'a Value, format: &str) -> &'a Value {
    let files = worker["files"].as_array().unwrap();
    files.iter().find(|file| file["format"] == format).unwrap_or_else(|| panic!("{worker}"))
}
