//! Whole traces that PyTorch's profiler wrote on GPUs, through the commands that take them.
//!
//! What is expected was counted in the files by another program, not by ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli_support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cli_support::Place;
use serde_json::{Value, json};

/// How many events there are of a kind, and how long they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    count: u64,
    ns: u64,
}

const fn total(count: u64, ns: u64) -> Total {
    Total { count, ns }
}

/// A trace, and what is in it.
struct Trace {
    name: &'static str,
    device: &'static str,
    pid: u32,
    rank: Option<u32>,
    /// Nanoseconds since 1970 at which its first kernel begins.
    first_kernel: u64,
    /// From the first event to the end of the last.
    window_ns: u64,
    kernels: Total,
    memcpy: Total,
    memset: Total,
    operators: Total,
    /// Of the runtime and of the driver.
    calls: Total,
    /// Rows of the kinds that have no durations here.
    others: &'static [(&'static str, u64)],
    /// Begins and ends of arrows: those to a call that begin nowhere among them.
    arrows: u64,
    /// Work on the device whose launch is in the trace.
    launched: u64,
    /// Functions that cross others of their thread, and are cut where those begin.
    clamped: u64,
}

/// Instants from a base on, which stands before the events; numbers alone as processes.
const B200: Trace = Trace {
    name: "b200_eager_tracelens",
    device: "NVIDIA B200",
    pid: 6583,
    rank: Some(0),
    first_kernel: 1_768_554_939_866_520_196,
    window_ns: 87_412_864,
    kernels: total(768, 10_862_916),
    memcpy: total(161, 802_844),
    memset: total(0, 0),
    operators: total(4_809, 101_792_458),
    calls: total(1_372, 9_015_007),
    others: &[("span", 15_236), ("overhead", 9)],
    arrows: 931 + 1_370,
    launched: 929,
    clamped: 1,
};

/// The base stands behind the events; texts as processes; half of the launches are missing.
const QWEN: Trace = Trace {
    name: "h100_qwen1.5-0.5b_tracelens",
    device: "NVIDIA H100 80GB HBM3",
    pid: 25_286,
    rank: None,
    first_kernel: 1_752_839_461_731_622_250,
    window_ns: 64_085_016,
    kernels: total(1_465, 45_432_698),
    memcpy: total(1, 2_368),
    memset: total(241, 212_234),
    operators: total(4_186, 45_647_935),
    calls: total(1_922, 21_619_374),
    others: &[("span", 4_264), ("marker", 2), ("memory", 2_450)],
    arrows: 1_201 + 2_428,
    launched: 1_198,
    clamped: 0,
};

const LAUNCHES: Trace = Trace {
    name: "h100_torch_profiler_10000_launches",
    device: "NVIDIA H100 80GB HBM3",
    pid: 552,
    rank: None,
    first_kernel: 1_795_510_515_339_756_990,
    window_ns: 180_464_892,
    kernels: total(10_000, 12_501_106),
    memcpy: total(0, 0),
    memset: total(0, 0),
    operators: total(10_000, 132_123_008),
    calls: total(10_002, 69_200_765),
    others: &[("marker", 2), ("overhead", 1)],
    arrows: 10_002 + 10_000,
    launched: 10_000,
    clamped: 0,
};

/// No base: instants since 1970, with more digits than a double holds.
const HTA: Trace = Trace {
    name: "hta_ns_resolution_rank0",
    device: "Tesla V100-SXM2-32GB",
    pid: 1102,
    rank: Some(0),
    first_kernel: 1_712_195_495_505_582_988,
    window_ns: 597_891_387,
    kernels: total(4_350, 468_153_602),
    memcpy: total(1_600, 3_715_404),
    memset: total(145, 585_435),
    operators: total(23_910, 927_291_410),
    calls: total(15_329, 361_167_046),
    others: &[("span", 85), ("marker", 2)],
    arrows: 6_401 + 15_023 + 2 * 905,
    launched: 6_095,
    clamped: 0,
};

impl Trace {
    fn file(&self) -> String {
        format!("{}.json.gz", self.name)
    }

    /// The trace, in a folder that the commands may write into.
    fn put(&self, place: &Place) -> String {
        std::fs::copy(given(&self.file()), place.join(&self.file())).unwrap();
        self.file()
    }

    fn rows(&self) -> BTreeMap<&str, u64> {
        let mut rows = BTreeMap::from([
            ("kernel", self.kernels.count),
            ("memcpy", self.memcpy.count),
            ("memset", self.memset.count),
            ("operator", self.operators.count),
            ("api_call", self.calls.count),
        ]);
        rows.extend(self.others.iter().copied());
        rows.retain(|_, count| *count > 0);
        rows
    }

    /// Arrows that come from a launch, and those whose launch is missing.
    fn arrow_ends(&self) -> [u64; 2] {
        let work = self.kernels.count + self.memcpy.count + self.memset.count;
        [self.launched, work - self.launched]
    }

    /// What Kineto's categories come to.
    fn categories(&self) -> [Total; 5] {
        [self.kernels, self.memcpy, self.memset, self.operators, self.calls]
    }
}

fn given(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(file)
}

/// What a table of a summary comes to.
fn summed(table: &Value) -> Total {
    let mut total = Total::default();
    for row in table.as_array().unwrap() {
        total.count += row["count"].as_u64().unwrap();
        total.ns += (row["total_us"].as_f64().unwrap() * 1_000.0).round() as u64;
    }
    total
}

/// A Kineto trace of ours, read as JSON alone.
#[derive(Default)]
struct Written {
    /// Kernels, copies, memsets, operators and calls.
    categories: [Total; 5],
    /// Ends of arrows from a launch that have a begin, and those that have none.
    arrows: [u64; 2],
    /// Nanoseconds since 1970.
    first_kernel: u64,
}

impl Written {
    fn read(place: &Place, file: &str) -> Self {
        let ran = place.run_program("gzip", &["-dc", file]);
        let trace: Value = ran.json(0);
        let base = trace["baseTimeNanoseconds"].as_u64().unwrap();
        let mut written = Self { first_kernel: u64::MAX, ..Self::default() };
        let (mut begins, mut ends) = (BTreeMap::new(), Vec::new());
        for event in trace["traceEvents"].as_array().unwrap() {
            let ns = |field: &str| (event[field].as_f64().unwrap() * 1_000.0).round() as u64;
            let category = event["cat"].as_str().unwrap_or_default();
            match event["ph"].as_str().unwrap() {
                "X" => {
                    let Some(at) = at(category) else { continue };
                    written.categories[at].count += 1;
                    written.categories[at].ns += ns("dur");
                    if category == "kernel" {
                        written.first_kernel = written.first_kernel.min(base + ns("ts"));
                    }
                }
                "s" if category == "ac2g" => {
                    *begins.entry(event["id"].to_string()).or_insert(0_u64) += 1;
                }
                "f" if category == "ac2g" => ends.push(event["id"].to_string()),
                _ => {}
            }
        }
        assert!(begins.values().all(|count| *count == 1), "an arrow begins twice");
        for end in ends {
            written.arrows[usize::from(!begins.contains_key(&end))] += 1;
        }
        written
    }
}

fn at(category: &str) -> Option<usize> {
    match category {
        "kernel" => Some(0),
        "gpu_memcpy" => Some(1),
        "gpu_memset" => Some(2),
        "cpu_op" => Some(3),
        "cuda_runtime" | "cuda_driver" => Some(4),
        _ => None,
    }
}

/// All commands that take a foreign trace.
fn check(trace: &Trace) {
    let place = Place::new();
    let file = trace.put(&place);
    imported(&place, trace, &file);
    summarized(&place, trace, &file);
    let ran =
        place.run(&["export", &file, "--format", "kineto-gz", "--output", "out.json.gz", "--json"]);
    let report = ran.json(0);
    assert_eq!(report["lost"], json!({}), "{report}");
    assert_eq!(
        (&report["late"], &report["clamped"]),
        (&json!(0), &json!(trace.clamped)),
        "{report}"
    );
    let written = Written::read(&place, "out.json.gz");
    assert_eq!(written.categories, trace.categories());
    assert_eq!(written.arrows, trace.arrow_ends());
    assert_eq!(written.first_kernel, trace.first_kernel);
}

fn imported(place: &Place, trace: &Trace, file: &str) {
    let report = place.run(&["import", file, "--json"]).json(0);
    assert_eq!(report["layout"], "kineto");
    assert_eq!(report["path"], format!("{}.spool", trace.name));
    assert_eq!(report["rows"], json!(trace.rows()));
    let mark = u64::from(!trace.name.starts_with("b200"));
    let mut left_out =
        BTreeMap::from([("arrows, which follow from correlation ids", trace.arrows)]);
    if mark > 0 {
        left_out.insert("the profiler's own mark of its run", mark);
    }
    assert_eq!(report["left_out"], json!(left_out));
    assert_eq!(report["notes"], json!([]));
}

fn summarized(place: &Place, trace: &Trace, file: &str) {
    let summary = place.run(&["summary", file, "--json"]).json(0);
    let worker = &summary["workers"][0];
    assert_eq!(worker["pid"], trace.pid);
    assert_eq!(worker["rank"], json!(trace.rank));
    assert_eq!(
        (worker["activity"]["window_us"].as_f64().unwrap() * 1_000.0).round(),
        trace.window_ns as f64
    );
    let tables = &worker["tables"];
    assert_eq!(summed(&tables["kernels"]), trace.kernels);
    assert_eq!(summed(&tables["operators"]), trace.operators);
    assert_eq!(summed(&tables["api_calls"]), trace.calls);
    let copies = Total {
        count: trace.memcpy.count + trace.memset.count,
        ns: trace.memcpy.ns + trace.memset.ns,
    };
    assert_eq!(summed(&tables["copies"]), copies);
    let device = &tables["devices"][0];
    assert_eq!(
        (&device["name"], &device["kernels"]),
        (&json!(trace.device), &json!(trace.kernels.count))
    );
    // The spool that the import left says the same.
    let mut of_spool = place.run(&["summary", &format!("{}.spool", trace.name), "--json"]).json(0);
    let spool_tables = of_spool["workers"][0]["tables"].take();
    assert_eq!(&spool_tables, tables);
}

#[test]
fn vllm_on_a_b200() {
    check(&B200);
}

#[test]
fn a_language_model_on_an_h100() {
    check(&QWEN);
    let place = Place::new();
    let file = QWEN.put(&place);
    let summary = place.run(&["summary", &file, "--json"]).json(0);
    let memory = summary["workers"][0]["tables"]["memory"].as_array().unwrap();
    let sum = |field: &str| memory.iter().map(|row| row[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("frees"), sum("allocations")), (1_225, 1_225));
    assert_eq!(sum("allocated_bytes"), 21_375_222_048);
    assert_eq!(memory.len(), 2, "the device's and the host's: {memory:?}");
}

#[test]
fn many_launches_on_an_h100() {
    check(&LAUNCHES);
}

#[test]
fn an_older_trace_of_a_v100() {
    check(&HTA);
}

/// Old beside new: a spool of ours, one of an import, and a trace as it is.
#[test]
fn traces_of_others_merge_with_spools() {
    let place = Place::new();
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/spool/h100.spool");
    std::fs::copy(own, place.join("own.spool")).unwrap();
    let (b200, qwen) = (B200.put(&place), QWEN.put(&place));
    place.run(&["import", &b200, "--output", "b200.spool", "--json"]).json(0);
    place
        .run(&["export", "own.spool", "--format", "kineto-gz", "--output", "own.json.gz", "--json"])
        .json(0);
    let merge = ["merge", "own.spool", "b200.spool", &qwen, "--format", "kineto-gz"];
    let words = [&merge[..], &["--output", "all.json.gz", "--json"]].concat();
    let report = place.run(&words).json(0);
    assert_eq!(report["lost"], json!({}), "{report}");
    let own = Written::read(&place, "own.json.gz");
    assert!(own.categories[0].count > 0 && own.arrows[0] > 0);
    let all = Written::read(&place, "all.json.gz");
    for (at, total) in all.categories.into_iter().enumerate() {
        let parts = [own.categories[at], B200.categories()[at], QWEN.categories()[at]];
        assert_eq!(total.count, parts.iter().map(|part| part.count).sum::<u64>(), "{at}");
        assert_eq!(total.ns, parts.iter().map(|part| part.ns).sum::<u64>(), "{at}");
    }
    // Launches of three processes, whose correlation ids are partly the same.
    for (end, arrows) in all.arrows.into_iter().enumerate() {
        let parts = [own.arrows[end], B200.arrow_ends()[end], QWEN.arrow_ends()[end]];
        assert_eq!(arrows, parts.iter().sum::<u64>(), "{end}");
    }
}

/// What a killed process left: read as far as it goes, and said.
#[test]
fn a_trace_that_is_cut_off_is_told_by_each_command() {
    let place = Place::new();
    let whole = std::fs::read(given(&HTA.file())).unwrap();
    std::fs::write(place.join("cut.json.gz"), &whole[..whole.len() / 2]).unwrap();
    let export = ["export", "cut.json.gz", "--format", "kineto-gz", "--output", "out.json.gz"];
    let merge = ["merge", "cut.json.gz", "--format", "kineto-gz", "--output", "all.json.gz"];
    let commands = [&["import", "cut.json.gz"][..], &["summary", "cut.json.gz"], &export, &merge];
    for words in commands {
        let report = place.run(&[words, &["--json"]].concat()).json(0);
        let kernels = report["rows"]["kernel"].as_u64().unwrap();
        assert!((1..HTA.kernels.count).contains(&kernels), "{words:?}: {kernels}");
        assert!(report["notes"].to_string().contains("cut off"), "{words:?}: {}", report["notes"]);
    }
}
