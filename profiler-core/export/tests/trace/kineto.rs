//! What the JSON says, read by another JSON reader.

use std::collections::{BTreeMap, BTreeSet};

use profiler_core::clock::ClockDomain;
use profiler_core::config::{EventArguments, TraceFormat};
use profiler_core::control::CalledWorker;
use profiler_core::record::*;
use serde_json::Value;

use crate::make::*;

const PERIOD: u64 = 7_889_238_000_000_000;

fn json(inputs: Vec<profiler_export::capture::Input>) -> Value {
    let (bytes, report) = export(inputs, TraceFormat::Kineto, EventArguments::Full);
    let trace: Value = serde_json::from_slice(&bytes).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(report.events as usize, events.len());
    trace
}

fn of_category<'a>(trace: &'a Value, category: &str) -> Vec<&'a Value> {
    let events = trace["traceEvents"].as_array().unwrap();
    events.iter().filter(|event| event["ph"] == "X" && event["cat"] == category).collect()
}

fn flows<'a>(trace: &'a Value, phase: &str) -> Vec<&'a Value> {
    let events = trace["traceEvents"].as_array().unwrap();
    events.iter().filter(|event| event["ph"] == phase).collect()
}

/// Nanoseconds since the base, read from the text and not through a double.
fn ns(value: &Value) -> u64 {
    let text = value.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    let fraction: u64 = format!("{fraction:0<3}").parse().unwrap();
    whole.parse::<u64>().unwrap() * 1_000 + fraction
}

/// Trap 1: microseconds of the epoch have no room for nanoseconds in a double.
#[test]
fn instants_count_from_kinetos_base() {
    let trace = json(vec![launches(0, 3).done()]);
    let base = trace["baseTimeNanoseconds"].as_u64().unwrap();
    assert_eq!(base, R0 / PERIOD * PERIOD);
    let kernel = of_category(&trace, "kernel")[0];
    assert_eq!(ns(&kernel["ts"]), R0 + 1_600 - base);
    assert_eq!(ns(&kernel["dur"]), 800);
    let microseconds = kernel["ts"].as_f64().unwrap();
    assert!(microseconds < PERIOD as f64 / 1e3, "small enough to be exact");
    assert_eq!((microseconds * 1e3).round() as u64, ns(&kernel["ts"]));
}

#[test]
fn kernels_have_what_readers_of_pytorch_traces_need() {
    let trace = json(vec![launches(0, 3).done()]);
    assert_eq!(trace["schemaVersion"], 1);
    assert_eq!(trace["displayTimeUnit"], "ms");
    assert_eq!(trace["distributedInfo"]["rank"], 0);
    assert_eq!(trace["traceName"], "trace.json");
    for kernel in of_category(&trace, "kernel") {
        assert_eq!(kernel["pid"], 0, "the device");
        assert_eq!(kernel["tid"], 7, "the stream");
        let args = &kernel["args"];
        assert_eq!((&args["stream"], &args["device"]), (&Value::from(7), &Value::from(0)));
        assert!(args["correlation"].as_u64().unwrap() > 0);
    }
    for call in of_category(&trace, "cuda_runtime") {
        assert_eq!(call["name"], "cudaLaunchKernel");
        assert_eq!((&call["pid"], &call["tid"]), (&Value::from(PID), &Value::from(THREAD)));
        assert_eq!(call["args"]["cbid"], 211);
    }
    let (starts, ends) = (flows(&trace, "s"), flows(&trace, "f"));
    assert_eq!((starts.len(), ends.len()), (3, 3));
    assert!(ends.iter().all(|f| f["bp"] == "e" && f["cat"] == "ac2g" && f["name"] == "ac2g"));
    let names: BTreeSet<&str> =
        flows(&trace, "M").iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        [
            "process_labels",
            "process_name",
            "process_sort_index",
            "thread_name",
            "thread_sort_index"
        ]
    );
}

/// Trap 2: what overlaps by a ns on a track is dropped by readers.
#[test]
fn slices_of_a_track_do_not_overlap() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "gemm");
    let at = [(100, 200), (199, 300), (250, 400), (398, 500)];
    let rows = at.map(|(start, end)| kernel(name, start, R0 + start, R0 + end));
    spool.memory.push(stream, &rows);
    let trace = json(vec![spool.done()]);
    let mut by_track: BTreeMap<u64, Vec<(u64, u64)>> = Default::default();
    for kernel in of_category(&trace, "kernel") {
        let start = ns(&kernel["ts"]);
        let track = by_track.entry(kernel["tid"].as_u64().unwrap()).or_default();
        track.push((start, start + ns(&kernel["dur"])));
        assert_eq!(kernel["args"]["stream"], 7, "a lane is no other stream");
    }
    assert_eq!(by_track.len(), 2);
    for slices in by_track.values_mut() {
        slices.sort_unstable();
        assert!(slices.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{slices:?}");
    }
    let busy: u64 = by_track.values().flatten().map(|(start, end)| end - start).sum();
    assert_eq!(busy, 100 + 100 + 150 + 102, "a hair was cut off");
}

/// Trap 5 and 6: flow ids are global in JSON, and process ids are numbers of their own.
#[test]
fn merged_ranks_have_their_own_arrows_and_processes() {
    let trace = json(vec![launches(0, 4).done(), launches(1, 4).done()]);
    let ids = |phase| -> Vec<u64> {
        flows(&trace, phase).iter().map(|flow| flow["id"].as_u64().unwrap()).collect()
    };
    let starts: BTreeSet<u64> = ids("s").into_iter().collect();
    assert_eq!(starts.len(), 8);
    assert_eq!(starts, ids("f").into_iter().collect());
    assert!(starts.iter().all(|id| *id < 1 << 53));
    for flow in flows(&trace, "f") {
        let start = flows(&trace, "s").into_iter().find(|s| s["id"] == flow["id"]).unwrap();
        let is_second = start["pid"] == u64::from(PID + 100);
        assert_eq!(flow["pid"].as_u64().unwrap() % 1_000_000_000, u64::from(is_second) * 1_000);
    }
    let pids: BTreeSet<u64> =
        flows(&trace, "X").iter().map(|event| event["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids.len(), 4, "two processes and a device each");
}

#[test]
fn a_merge_sorts_its_processes_by_stage_replica_and_rank() {
    let (shuffled, places) = shuffled_pipeline();
    let trace = json(shuffled);
    let of = |name: &str, key: &str| -> BTreeMap<u64, Value> {
        let named = flows(&trace, "M").into_iter().filter(|event| event["name"] == name);
        named.map(|event| (event["pid"].as_u64().unwrap(), event["args"][key].clone())).collect()
    };
    let sorted = |label: &str| -> Vec<String> {
        let names = of("process_name", "name");
        let labels = of("process_labels", "labels");
        let mut indices: Vec<(u64, String)> = of("process_sort_index", "sort_index")
            .into_iter()
            .filter(|(pid, _)| labels[pid] == label)
            .map(|(pid, index)| (index.as_u64().unwrap(), names[&pid].as_str().unwrap().to_owned()))
            .collect();
        indices.sort();
        assert!(indices.windows(2).all(|pair| pair[0].0 < pair[1].0), "{indices:?}");
        indices.into_iter().map(|(_, name)| name).collect()
    };
    let title = |[stage, replica, rank]: &[Option<u32>; 3]| {
        let called = CalledWorker {
            stage: *stage,
            role: Some("thinker".to_owned()),
            replica: *replica,
            rank: *rank,
        };
        format!("{} (python3)", called.in_words().unwrap())
    };
    let titles: Vec<String> = places.iter().map(title).collect();
    assert_eq!(sorted("CPU"), titles);
    assert_eq!(sorted("GPU 0"), titles, "and their devices");
}

#[test]
fn device_work_without_a_launch_has_a_number_of_its_own() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "gemm");
    let rows = [10, 30].map(|at| kernel(name, 0, R0 + at, R0 + at + 5));
    spool.memory.push(stream, &rows);
    let trace = json(vec![spool.done()]);
    let numbers: BTreeSet<u64> = of_category(&trace, "kernel")
        .iter()
        .map(|kernel| kernel["args"]["correlation"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers.len(), 2);
    assert!(!numbers.contains(&0));
    assert!(flows(&trace, "f").is_empty(), "an arrow from nowhere");
}

#[test]
fn names_and_fields_of_any_text_are_valid_json() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    let nasty = "a \"quoted\" \\ back\nline\tand \u{1} \u{7f} 漢字";
    let name = spool.string(stream, nasty);
    let mut heap = Vec::new();
    let span = |start: u64, fields| Span {
        start: M0 + start,
        end: M0 + start + 5,
        name,
        request: name,
        thread: THREAD,
        fields,
        ..Span::default()
    };
    let whole = HeapRef::push(&mut heap, br#"{"tokens":12,"s":"x\"y"}"#);
    let broken = HeapRef::push(&mut heap, br#"{"tokens":"#);
    let rows = [span(10, whole), span(20, broken), span(30, HeapRef::default())];
    spool.memory.push_with_heap(stream, &rows, &heap);
    let trace = json(vec![spool.done()]);
    let spans = of_category(&trace, "user_annotation");
    assert_eq!(spans.len(), 3);
    assert!(spans.iter().all(|s| s["name"] == nasty && s["args"]["request"] == nasty));
    assert_eq!(spans[0]["args"]["fields"]["tokens"], 12);
    assert_eq!(spans[1]["args"]["fields"], "{\"tokens\":");
}

#[test]
fn every_kind_of_row_has_its_event() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("all", ClockDomain::Monotonic);
    let name = spool.string(stream, "thing");
    let at = |at: u64| M0 + at;
    let memcpy = Memcpy {
        start: at(10),
        end: at(20),
        correlation: 5,
        size_bytes: 4_000,
        stream: 7,
        copy_kind: CopyKind::HostToDevice.number(),
        source_kind: MemoryKind::Pinned.number(),
        target_kind: MemoryKind::Device.number(),
        ..Memcpy::default()
    };
    spool.memory.push(stream, &[memcpy]);
    let memset = Memset {
        start: at(30),
        end: at(40),
        correlation: 6,
        size_bytes: 100,
        stream: 7,
        memory_kind: MemoryKind::Device.number().into(),
        ..Memset::default()
    };
    spool.memory.push(stream, &[memset]);
    let collective = Communication {
        start: at(50),
        end: at(60),
        correlation: 7,
        count: 9,
        name,
        ranks: 2,
        stream: 7,
        ..Communication::default()
    };
    spool.memory.push(stream, &[collective]);
    let sync = Synchronization {
        start: at(70),
        end: at(80),
        correlation: 8,
        stream: 7,
        synchronization_kind: SynchronizationKind::Stream.number(),
        ..Synchronization::default()
    };
    spool.memory.push(stream, &[sync]);
    let overhead =
        Overhead { start: at(90), end: at(95), name, device: u32::MAX, ..Overhead::default() };
    spool.memory.push(stream, &[overhead]);
    let operator = Operator {
        start: at(10),
        end: at(20),
        name,
        thread: THREAD,
        sequence: 4,
        ..Operator::default()
    };
    spool.memory.push(stream, &[operator]);
    let free = Memory {
        time: at(15),
        address: 64,
        size_bytes: 10,
        operation: 2,
        thread: THREAD,
        ..Memory::default()
    };
    spool.memory.push(stream, &[free]);
    spool.memory.push(stream, &[Step { time: at(1), step: 3, thread: THREAD, reserved: 0 }]);
    let counter =
        Counter { time: at(5), value: f64::NAN, name, unit: name, device: u32::MAX, thread: 0 };
    spool.memory.push(stream, &[counter]);
    let trace = json(vec![spool.done()]);
    let copy = of_category(&trace, "gpu_memcpy")[0];
    assert_eq!(copy["name"], "Memcpy HtoD (Pinned -> Device)");
    assert_eq!(copy["args"]["bytes"], 4_000);
    assert_eq!(copy["args"]["memory bandwidth (GB/s)"], 400);
    assert_eq!(of_category(&trace, "gpu_memset")[0]["name"], "Memset (Device)");
    assert_eq!(of_category(&trace, "collective_comm")[0]["args"]["Group size"], 2);
    let sync = of_category(&trace, "cuda_sync")[0];
    assert_eq!(
        (&sync["name"], &sync["tid"]),
        (&Value::from("Stream Sync"), &Value::from(1_000_007))
    );
    assert_eq!(of_category(&trace, "overhead").len(), 1);
    assert_eq!(of_category(&trace, "cpu_op")[0]["args"]["Sequence number"], 4);
    assert_eq!(of_category(&trace, "user_annotation")[0]["name"], "ProfilerStep#3");
    let freed = flows(&trace, "i").into_iter().find(|i| i["name"] == "[memory]").unwrap();
    assert_eq!(freed["args"]["Bytes"], -10);
    assert_eq!(flows(&trace, "C")[0]["args"]["thing"], 0, "JSON has no NaN");
}

/// In a container the process is number 1, and its threads have the numbers behind it.
#[test]
fn threads_of_a_container_share_no_track_with_what_belongs_to_no_thread() {
    let mut worker = identity(0);
    worker.pid = 1;
    let mut spool = Spool::with_window(worker, 1_000_000);
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    let name = spool.string(stream, "served");
    for thread in 1..=3 {
        let (start, end) = (M0 + 100, M0 + 900);
        spool.memory.push(stream, &[Span { start, end, name, thread, ..Span::default() }]);
    }
    spool
        .memory
        .push(stream, &[Overhead { start: M0 + 1, end: M0 + 2, name, ..Overhead::default() }]);
    let step = |step, at| Step { time: M0 + at, step, ..Step::default() };
    spool.memory.push(stream, &[step(1, 200), step(2, 400)]);
    let trace = json(vec![spool.done()]);
    let mut names: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for event in flows(&trace, "X") {
        let name = event["name"].as_str().unwrap();
        names.entry(event["tid"].as_u64().unwrap()).or_default().insert(name);
    }
    // By their threads, and behind them the windows, overheads and steps.
    let served = BTreeSet::from(["served"]);
    for thread in 1..=3 {
        assert_eq!(names.remove(&thread).as_ref(), Some(&served), "thread {thread}");
    }
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.keys().all(|tid| *tid > u64::from(u32::MAX >> 2)), "{names:?}");
}
