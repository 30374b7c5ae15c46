//! A capture of one H100: the figure `small_trace` kept it (`tests/workloads/cuda/measure --keep`).
//!
//! 50 kernels between copies and memsets, 200 launches, 8 threads of 50 launches, two replays of a
//! graph of 1000 nodes; recorded by the CUDA backend with libcupti 13.0, preset `launch`. The facts
//! that name the machine (kernel, control group, a library's folder) were overwritten.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use profiler_core::config::{EventArguments, TraceFormat};
use profiler_export::capture::{Capture, CaptureOptions};
use profiler_export::export::{ExportRequest, write_to};
use profiler_export::summary::{Summary, SummaryOptions, summarize};
use profiler_export::tables::{TextOptions, text};
use serde_json::{Value, json};

const KERNELS: usize = 50 + 200 + 400 + 2000;

fn spool() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/spool/h100.spool")
}

fn capture() -> Capture {
    Capture::open([spool()], CaptureOptions::default()).unwrap()
}

fn summary() -> Summary {
    summarize(&mut capture(), SummaryOptions::default()).unwrap()
}

fn kineto() -> Value {
    let mut request =
        ExportRequest::new(vec![spool()], "h100.pt.trace.json".into(), TraceFormat::Kineto);
    request.arguments = EventArguments::Full;
    let (json, report) = write_to(capture(), &request, Vec::new(), &mut |_| true).unwrap();
    assert_eq!(report.late, 0);
    serde_json::from_slice(&json).unwrap()
}

fn events<'a>(trace: &'a Value, category: &str) -> Vec<&'a Value> {
    let events = trace["traceEvents"].as_array().unwrap();
    events.iter().filter(|event| event["cat"] == category && event["ph"] == "X").collect()
}

#[test]
fn the_summary_is_that_of_the_work() {
    let summary = summary();
    insta::assert_snapshot!("golden_gpu_summary", text(&summary, TextOptions::default()));
    let tables = &summary.workers[0].tables;
    let kernels: BTreeMap<&str, u64> =
        tables.kernels.iter().map(|row| (&*row.name, row.count)).collect();
    assert_eq!(kernels, BTreeMap::from([("empty", 2600), ("fill", 50)]));
    let device = &tables.devices[0];
    assert_eq!(device.name, "NVIDIA H100 80GB HBM3");
    assert!((device.busy_percent + device.idle_percent - 100.0).abs() < 1e-9);
    assert!(device.busy_percent <= device.compute_percent + device.copy_percent);
    // 50 copies of 1 MiB each way.
    let sizes: BTreeMap<&str, u64> =
        tables.copy_sizes.iter().map(|row| (&*row.name, row.total_bytes)).collect();
    assert_eq!(sizes["[memcpy HtoD]"], 50 << 20);
    assert_eq!(sizes["[memcpy DtoH]"], 50 << 20);
}

#[test]
fn the_json_has_what_pytorch_writes() {
    let trace = kineto();
    // As torch.profiler wrote it of the same device.
    assert_eq!(
        trace["deviceProperties"],
        json!([{
            "id": 0, "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85_017_493_504_u64,
            "computeMajor": 9, "computeMinor": 0,
            "maxThreadsPerBlock": 1024, "maxThreadsPerMultiprocessor": 2048,
            "regsPerBlock": 65536, "warpSize": 32, "sharedMemPerBlock": 49152, "numSms": 132,
            "regsPerMultiprocessor": 65536, "sharedMemPerBlockOptin": 232_448,
            "sharedMemPerMultiprocessor": 233_472,
        }])
    );
    assert_eq!(trace["cupti_version"], 130_001);
    let kernels = events(&trace, "kernel");
    assert_eq!(kernels.len(), KERNELS);
    let fill = kernels.iter().find(|kernel| kernel["name"] == "fill").unwrap();
    assert_eq!(fill["pid"], 0);
    assert_eq!(fill["tid"], fill["args"]["stream"]);
    let mut args = fill["args"].clone();
    args["stream"].take();
    args["correlation"].take();
    assert_eq!(
        args,
        json!({
            "queued": 0, "device": 0, "context": 1, "stream": null, "correlation": null,
            "registers per thread": 16, "shared memory": 4096,
            "blocks per SM": 1, "warps per SM": 8, "est. achieved occupancy %": 13,
            "grid": [132, 1, 1], "block": [256, 1, 1],
        })
    );
    let nodes: BTreeSet<(u64, u64)> = kernels
        .iter()
        .filter_map(|kernel| {
            let id = |name: &str| kernel["args"][name].as_u64();
            Some((id("graph id")?, id("graph node id")?))
        })
        .collect();
    assert_eq!(nodes.len(), 1000);
}

#[test]
fn every_piece_of_work_hangs_on_its_launch() {
    let trace = kineto();
    let launches: BTreeMap<u64, &Value> = events(&trace, "cuda_driver")
        .into_iter()
        .map(|event| (event["args"]["correlation"].as_u64().unwrap(), event))
        .collect();
    let mut arrows: BTreeMap<u64, usize> = BTreeMap::new();
    for event in trace["traceEvents"].as_array().unwrap() {
        if event["cat"] == "ac2g" {
            let ends = usize::from(event["ph"] == "f");
            *arrows.entry(event["id"].as_u64().unwrap()).or_default() += ends;
        }
    }
    for category in ["kernel", "gpu_memcpy", "gpu_memset"] {
        for event in events(&trace, category) {
            let correlation = event["args"]["correlation"].as_u64().unwrap();
            let launch = launches[&correlation];
            assert!(launch["ts"].as_f64() <= event["ts"].as_f64(), "{launch} {event}");
            assert!(arrows[&correlation] > 0, "no arrow to {event}");
        }
    }
    // Two launches of the graph, each with all of its nodes.
    assert_eq!(arrows.values().filter(|&&ends| ends == 1000).count(), 2);
    let names: BTreeSet<&str> =
        launches.values().map(|launch| launch["name"].as_str().unwrap()).collect();
    let wanted = [
        "cuGraphLaunch",
        "cuLaunchKernel",
        "cuMemcpyDtoHAsync",
        "cuMemcpyHtoDAsync",
        "cuMemsetD8Async",
    ];
    assert_eq!(names, BTreeSet::from(wanted));
}

#[test]
fn slices_of_one_lane_never_overlap() {
    let trace = kineto();
    let mut lanes: BTreeMap<(u64, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for category in ["kernel", "gpu_memcpy", "gpu_memset"] {
        for event in events(&trace, category) {
            let ns = |field: &str| (event[field].as_f64().unwrap() * 1000.0).round() as u64;
            let place = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
            lanes.entry(place).or_default().push((ns("ts"), ns("dur")));
        }
    }
    assert!(lanes.len() >= 8, "{} lanes", lanes.len());
    for (place, mut slices) in lanes {
        slices.sort_unstable();
        for pair in slices.windows(2) {
            // Instants of months in doubles of microseconds are good to 1 ns.
            assert!(pair[0].0 + pair[0].1 <= pair[1].0 + 1, "{place:?}: {pair:?}");
        }
    }
}
