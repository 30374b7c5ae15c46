//! The demo on a machine that consists of Ascend's stand-ins: what the trace and the summary say is
//! what the stand-in was told to emit.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use profiler_tests::npu_stand_in::{Emitted, NpuStandIn, of_summary, of_trace};
use profiler_tests::programs;
use serde_json::Value;

/// What was launched so near to a window's edge may lie on either side of it, beside the error that
/// the worker's clock readings had.
const EDGE_NS: u64 = 100_000;

/// What a summary and a Kineto trace say of a worker's device is what the stand-in emitted in its
/// window, `names` kernels and collectives.
fn compare(worker: &Value, own: &Value, trace: &Path, emitted: &[Emitted], names: usize) {
    let window = &worker["windows"][0];
    let instant = |edge: &str| window[edge]["realtime_ns"].as_u64().unwrap();
    let (begin, end) = (instant("begin"), instant("end"));
    let edge_ns = EDGE_NS + 2 * worker["clock_error_ns"].as_u64().unwrap();
    let mut by_name: BTreeMap<(String, String), Vec<&Emitted>> = BTreeMap::new();
    for one in emitted {
        by_name.entry((one.kind.clone(), one.name.clone())).or_default().push(one);
    }
    let summed = of_summary(own).unwrap();
    assert_eq!(by_name.len(), names);
    assert!(summed.keys().eq(by_name.keys()), "{summed:?}");
    for (name, mut rows) in by_name {
        rows.sort_by_key(|row| row.launched);
        let before = |at: u64| rows.partition_point(|row| row.launched < at);
        let firsts = before(begin - edge_ns)..=before(begin + edge_ns);
        let lasts = before(end - edge_ns)..=before(end + edge_ns);
        assert!(lasts.start() - firsts.end() > 10, "{name:?}: the window is too short to tell");
        let (count, total_ns) = summed[&name];
        // A window takes what was launched between two instants: so many rows that follow each other.
        let is_told = |first: usize| {
            let last = first + count as usize;
            let told = rows.get(first..last).filter(|_| lasts.contains(&last));
            let durations =
                told.map(|told| told.iter().map(|row| row.end - row.start).sum::<u64>());
            // Instants are mapped from CLOCK_REALTIME, which may be slewed: each duration is right
            // to the nanosecond.
            durations.is_some_and(|ns| ns.abs_diff(total_ns) <= count)
        };
        let is_found = firsts.clone().any(is_told);
        assert!(is_found, "{name:?}: {count}, {total_ns} ns, {firsts:?} to {lasts:?}, {worker}");
    }
    assert_eq!(of_trace(&std::fs::read(trace).unwrap()).unwrap(), summed);
}

/// A worker's spool as Kineto JSON.
fn kineto(spool: &Path, folder: &Path) -> PathBuf {
    let trace = folder.join(spool.with_extension("json").file_name().unwrap());
    let mut command = Command::new(programs::omniprof().unwrap());
    command.args(["export", "--format", "kineto", "--output"]).arg(&trace).arg(spool);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    trace
}

/// The packets of a gzipped Perfetto trace, which are all that it consists of.
fn packets(trace: &Path) -> Vec<Vec<u8>> {
    let out = Command::new("gzip").arg("-dc").arg(trace).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut rest = &out.stdout[..];
    let mut packets = Vec::new();
    while !rest.is_empty() {
        // A message in field 1: its tag, and its length in groups of seven bits.
        assert_eq!(rest[0], 0x0a, "{} packets were read", packets.len());
        let groups = 1 + rest[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
        let bits = rest[1..=groups].iter().rev();
        let bytes = bits.fold(0, |sum, byte| (sum << 7) | usize::from(byte & 0x7f));
        let (packet, others) = rest[1 + groups..].split_at(bytes);
        packets.push(packet.to_vec());
        rest = others;
    }
    packets
}

/// How many packets hold a text.
fn holding(packets: &[Vec<u8>], text: &str) -> usize {
    let holds = |packet: &&Vec<u8>| packet.windows(text.len()).any(|part| part == text.as_bytes());
    packets.iter().filter(holds).count()
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
    let mut records = 0;
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
        let trace = kineto(&spool(&root, &outcome, worker), folder.path());
        compare(worker, own, &trace, &stand_in.ledger(pid).unwrap(), 6);
        records += worker["records"]["kernel"].as_u64().unwrap();
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

    let packets = packets(Path::new(outcome["open"].as_str().unwrap()));
    // Each slice has a packet for its begin and one for its end.
    assert!(packets.len() as u64 > 2 * records, "{} packets, {records} kernels", packets.len());
    assert!(holding(&packets, "device 0: Ascend NPU") >= workers.len());
    assert!(holding(&packets, "stream 9, communication") >= workers.len());
    assert!(holding(&packets, "FlashAttentionScore_bf16") >= workers.len());
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
        let trace = kineto(&spool(&root, &outcome, worker), folder.path());
        compare(worker, own, &trace, &stand_in.ledger(pid).unwrap(), 5);
        let types = own["tables"]["kernel_types"].as_array().unwrap();
        assert!(types.iter().any(|row| row["name"] == "MIX_AIC"), "{types:?}");
        let calls = own["tables"]["api_calls"].as_array().unwrap();
        assert!(!calls.is_empty(), "{calls:?}");

        // Each worker's own trace has them as well.
        let trace = file(worker, "pftrace-gz");
        assert_eq!(trace["state"], "complete", "{worker}");
    }
    let packets = packets(Path::new(outcome["open"].as_str().unwrap()));
    assert!(holding(&packets, "device 0: Ascend NPU") >= workers.len());
    assert!(holding(&packets, ", communication") >= workers.len());
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

    // The command is typed for one worker, and its summary has the device's records; for another
    // one it makes a database.
    for (worker, kind) in workers.iter().zip(["text", "db"]) {
        let spool = spool(&root, &outcome, worker);
        let place = directory.join(file(worker, "raw")["path"].as_str().unwrap());
        let mut msprof = Command::new(msprof(&stand_in));
        msprof.args(["--export=on", &format!("--type={kind}")]);
        msprof.arg(format!("--output={}", place.display()));
        assert!(msprof.status().unwrap().success());
        assert_eq!(place.join("mindstudio_profiler_output").exists(), kind == "text");
        let summed = run(Command::new(programs::omniprof().unwrap())
            .args(["summary", "--json"])
            .arg(&spool));
        let own = summed["workers"].as_array().unwrap();
        assert_eq!(own.len(), 2);
        let is_device = |own: &&Value| own["title"].as_str().unwrap().ends_with(", device");
        let own = own.iter().find(is_device).unwrap();
        let pid = worker["pid"].as_u64().unwrap();
        let trace = kineto(&spool, folder.path());
        compare(worker, own, &trace, &stand_in.ledger(pid).unwrap(), 5);
    }

    // What an `msprof` that does not do its work leaves is a note; the next one is tried anew.
    let read = |variant: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["a_reader", "--exact", "--ignored", "--nocapture"])
            .env("NPU_SPOOL", spool(&root, &outcome, &workers[2]))
            .env("OMNIPROF_MSPROF", msprof(&stand_in))
            .env("FAKE_MSPROF", variant)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{variant}: {said}");
        let told = said.lines().find_map(|line| line.strip_prefix("told: ")).unwrap().to_owned();
        serde_json::from_str::<Value>(&told).unwrap()
    };
    for (variant, why) in [
        ("fail", "`msprof` ended with exit status: 255: [ERROR] PROFILING: Failed to parse"),
        ("nothing", "`msprof` ended well and wrote no timeline"),
        ("hang", "called off"),
    ] {
        let told = read(variant);
        assert_eq!((&told["spools"], &told["left"]), (&0.into(), &0.into()), "{variant}: {told}");
        let [note] = &told["notes"].as_array().unwrap()[..] else { panic!("{variant}: {told}") };
        let note = note.as_str().unwrap();
        assert!(note.contains(why) && note.contains("`msprof --export=on"), "{variant}: {note}");
    }
    let told = read("slices");
    assert_eq!((&told["spools"], &told["notes"]), (&2.into(), &Value::Array(vec![])), "{told}");
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn a_reader() {
    let spool = PathBuf::from(std::env::var_os("NPU_SPOOL").unwrap());
    let mut asked = 0;
    let found = profiler_export::import::device_records(&spool, &mut || {
        asked += 1;
        // One that works may be slow.
        std::env::var("FAKE_MSPROF").is_ok_and(|variant| variant != "hang") || asked < 3
    });
    let told = serde_json::json!({
        "spools": found.spools.len(),
        "notes": found.notes,
        "left": children(),
    });
    println!("told: {told}");
}

/// How many programs this one has started that are still there.
fn children() -> usize {
    let mut count = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let list = task.unwrap().path().join("children");
        count += std::fs::read_to_string(list).unwrap_or_default().split_whitespace().count();
    }
    count
}

fn msprof(stand_in: &NpuStandIn) -> PathBuf {
    stand_in.home().join("tools/profiler/bin/msprof")
}

/// Where a worker's spool lies.
fn spool(root: &Path, outcome: &Value, worker: &Value) -> PathBuf {
    let directory = root.join(outcome["manifest"]["directory"].as_str().unwrap());
    directory.join(file(worker, "spool")["path"].as_str().unwrap())
}

fn file<'a>(worker: &'a Value, format: &str) -> &'a Value {
    let files = worker["files"].as_array().unwrap();
    files.iter().find(|file| file["format"] == format).unwrap_or_else(|| panic!("{worker}"))
}
