//! What a `.pftrace` says, read as the trace processor reads it.

use std::collections::BTreeSet;

use profiler_core::clock::ClockDomain;
use profiler_core::config::{EventArguments, TraceFormat};
use profiler_core::record::*;
use profiler_core::sink::StreamId;

use crate::make::*;
use crate::protobuf::Trace;

fn trace(spool: Spool) -> Trace {
    let (bytes, report) = pftrace(vec![spool.done()]);
    let trace = Trace::parse(&bytes);
    assert_eq!(report.events as usize, trace.packets, "an event is a packet");
    assert_eq!(trace.unmatched, 0);
    trace
}

/// A device stream with kernels at these instants.
fn kernels(at: &[(u64, u64)]) -> Spool {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "gemm");
    let rows: Vec<_> = at
        .iter()
        .zip(1..)
        .map(|(&(start, end), id)| kernel(name, id, R0 + start, R0 + end))
        .collect();
    spool.memory.push(stream, &rows);
    spool
}

#[test]
fn launches_come_back_whole_and_linked() {
    let trace = trace(launches(0, 1_000));
    let calls = trace.of_category("cuda_runtime");
    let kernels = trace.of_category("kernel");
    assert_eq!((calls.len(), kernels.len(), trace.linked()), (1_000, 1_000, 1_000));
    assert!(kernels.iter().all(|k| k.end - k.start == 800 && k.name == "gemm(float*, S*, int)"
        || k.name.starts_with("gemm")));
    for (index, (call, kernel)) in calls.iter().zip(&kernels).enumerate() {
        assert_eq!(call.start, M0 + 1_000 + index as u64 * 1_000);
        assert_eq!(call.correlation, Some(index as u64 + 1));
        assert_eq!(call.flows_out, kernel.flows_in);
    }
    assert_eq!(trace.clocks[&1] - trace.clocks[&3], R0 - M0, "REALTIME beside MONOTONIC");
    assert_eq!(trace.clocks[&6] - trace.clocks[&3], 7_000, "BOOTTIME beside MONOTONIC");
}

/// Trap 3: an END closes the newest BEGIN of its track, so overlapping slices need lanes.
#[test]
fn overlapping_kernels_go_to_further_lanes_of_the_same_name() {
    let trace =
        trace(kernels(&[(100, 10_101), (10_100, 20_000), (9_000, 9_500), (15_000, 25_000)]));
    let mut durations: Vec<(u64, u64)> =
        trace.slices_of("gemm").iter().map(|s| (s.start - M0, s.end - M0)).collect();
    durations.sort_unstable();
    // The second is a ns too early: no overlap but rounding.
    assert_eq!(durations, [(100, 10_101), (9_000, 9_500), (10_101, 20_000), (15_000, 25_000)]);
    let lanes: BTreeSet<u64> = trace.slices_of("gemm").iter().map(|s| s.track).collect();
    assert_eq!(lanes.len(), 2);
    let described: BTreeSet<(String, u64)> =
        lanes.iter().map(|l| (trace.tracks[l].name.clone(), trace.tracks[l].parent)).collect();
    assert_eq!(described.len(), 1, "equal name and parent: the viewer draws one row");
}

/// Trap 4: a sequence's clock only goes forth, whatever the order of the rows.
#[test]
fn rows_in_any_order_are_written_in_the_order_of_time() {
    let at: Vec<(u64, u64)> =
        (0..500_u64).map(|i| i * 7_919 % 500 * 100).map(|at| (at, at + 90)).collect();
    let trace = trace(kernels(&at));
    let starts: BTreeSet<u64> = trace.slices_of("gemm").iter().map(|s| s.start - M0).collect();
    assert_eq!(starts, at.iter().map(|(start, _)| *start).collect());
    assert!(trace.slices_of("gemm").iter().all(|s| s.end - s.start == 90));
}

/// Trap 7: flow ids are varints; the fixed ones take nine bytes.
#[test]
fn a_launch_takes_few_bytes() {
    let (few, _) = pftrace(vec![launches(0, 1_000).done()]);
    let (many, _) = pftrace(vec![launches(0, 11_000).done()]);
    let bytes = (many.len() - few.len()) / 10_000;
    assert!(bytes <= 88, "{bytes} bytes a launch, 4 packets");
}

#[test]
fn calls_nest_in_operators_and_operators_in_spans() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let spans = spool.stream("agent.spans", ClockDomain::Monotonic);
    let operators = spool.stream("torch", ClockDomain::Tsc);
    let device = spool.stream("cuda.activity", ClockDomain::Realtime);
    let (step, add, launch) = (
        spool.string(spans, "decode"),
        spool.string(operators, "aten::add"),
        spool.string(device, "cudaLaunchKernel"),
    );
    spool.memory.push(device, &[api(launch, 1, R0 + 300, R0 + 500)]);
    let tsc = |at: u64| 1_000 + at * 2;
    let operator = |start: u64, end: u64| Operator {
        start: tsc(start),
        end: tsc(end),
        name: add,
        thread: THREAD,
        sequence: -1,
        ..Operator::default()
    };
    // Written at their ends: the inner one first.
    spool.memory.push(operators, &[operator(250, 600), operator(200, 800)]);
    let span = Span {
        start: M0 + 100,
        end: M0 + 900,
        name: step,
        thread: THREAD,
        id: 1,
        ..Span::default()
    };
    spool.memory.push(spans, &[span]);
    let trace = trace(spool);
    let on_thread: Vec<_> = trace
        .slices
        .iter()
        .filter(|s| trace.tracks[&s.track].tid == Some(u64::from(THREAD)))
        .map(|s| (s.name.as_str(), s.start - M0, s.end - M0))
        .collect();
    assert_eq!(
        on_thread,
        [
            ("decode", 100, 900),
            ("aten::add", 200, 800),
            ("aten::add", 250, 600),
            ("cudaLaunchKernel", 300, 500)
        ]
    );
}

#[test]
fn what_never_ended_is_drawn_to_the_windows_end_and_says_so() {
    let mut spool = kernels(&[]);
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    let name = spool.string(stream, "serve");
    let open = Span { start: M0 + 10, name, thread: THREAD, flags: 1, ..Span::default() };
    spool.memory.push(stream, &[open]);
    let trace = trace(spool);
    let serve = trace.slices_of("serve")[0];
    assert_eq!(serve.end, M0 + 1_000_000);
    assert!(serve.unfinished);
}

/// Equal pids, correlation ids and streams on two machines stay apart.
#[test]
fn merged_workers_share_no_id() {
    let mut other = identity(0);
    other.host = "host-b".to_owned();
    other.boot_id = "boot-b".to_owned();
    other.key = "other".to_owned();
    let mut second = Spool::with_window(other, 2_000_000_000);
    let stream = second.stream("cuda.activity", ClockDomain::Realtime);
    let name = second.string(stream, "cudaLaunchKernel");
    second.memory.push(stream, &[api(name, 1, R0 + 1_000, R0 + 1_100)]);
    second.memory.push(stream, &[kernel(name, 1, R0 + 1_200, R0 + 1_300)]);
    let (bytes, _) = pftrace(vec![launches(0, 5).done(), second.done()]);
    let trace = Trace::parse(&bytes);
    assert_eq!(trace.unmatched, 0);
    let processes: Vec<_> = trace.tracks.values().filter(|t| t.parent == 0).collect();
    let pids: BTreeSet<_> = processes.iter().filter_map(|t| t.pid).collect();
    assert_eq!(pids.len(), 2, "{processes:?}");
    let threads: BTreeSet<_> =
        trace.tracks.values().filter_map(|t| Some((t.pid?, t.tid?))).collect();
    assert_eq!(threads.len(), 2);
    assert_eq!(trace.linked(), 6, "each kernel hangs on the launch of its own worker");
    for kernel in trace.of_category("kernel") {
        let launch = trace
            .of_category("cuda_runtime")
            .into_iter()
            .find(|call| call.flows_out == kernel.flows_in)
            .unwrap();
        assert_eq!(trace.process(launch.track).pid, trace.process(kernel.track).pid);
    }
    let joined: Vec<_> = trace
        .slices_of("window 0")
        .iter()
        .map(|window| window.args["clock.joined_by"].clone())
        .collect();
    assert_eq!(joined, ["CLOCK_MONOTONIC", "CLOCK_REALTIME"]);
}

#[test]
fn a_merge_sorts_its_processes_by_stage_replica_and_rank() {
    let (shuffled, places) = shuffled_pipeline();
    let (bytes, _) = pftrace(shuffled);
    let trace = Trace::parse(&bytes);
    // In the order of their descriptors, which is that of their ids.
    let processes: Vec<_> = trace.tracks.values().filter(|t| t.parent == 0).collect();
    let title = |[stage, replica, rank]: &[Option<u32>; 3]| match (stage, replica, rank) {
        (Some(stage), Some(replica), Some(rank)) => format!("{stage} thinker r{replica}.{rank}"),
        (None, None, Some(rank)) => format!("thinker rank {rank}"),
        _ => "thinker".to_owned(),
    };
    let names: Vec<&str> = processes.iter().map(|track| track.name.as_str()).collect();
    assert_eq!(names, places.iter().map(title).collect::<Vec<_>>());
    let place: Vec<_> = processes.iter().map(|track| (track.rank, track.sort_index)).collect();
    let ascending: Vec<_> = (0..places.len() as u64).map(|i| (Some(i), Some(i))).collect();
    assert_eq!(place, ascending);
}

/// Two agents of one process: its spans in one spool, its samples and calls in another.
#[test]
fn two_spools_of_one_process_do_not_share_a_thread_track() {
    let mut second = identity(0);
    second.key = "other".to_owned();
    let mut spans = Spool::with_window(second, 1_000_000);
    let stream = spans.stream("agent.spans", ClockDomain::Monotonic);
    let name = spans.string(stream, "decode");
    // Overlaps the calls and does not nest.
    let span = Span { start: M0 + 1_200, end: M0 + 9_999, name, thread: THREAD, ..Span::default() };
    spans.memory.push(stream, &[span]);
    let (bytes, _) = pftrace(vec![launches(0, 5).done(), spans.done()]);
    let trace = Trace::parse(&bytes);
    let described = trace.tracks.values().filter(|t| t.tid == Some(u64::from(THREAD)));
    assert_eq!(described.count(), 1, "readers would draw both on one track");
    assert_eq!(trace.slices_of("decode")[0].end, M0 + 9_999);
    assert!(trace.of_category("cuda_runtime").iter().all(|call| call.end - call.start == 400));
}

#[test]
fn more_tracks_than_a_process_has_share_what_is_left() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let rows: Vec<Kernel> = (0..6_000_u32)
        .map(|i| Kernel { stream: i, ..kernel(StringId(0), 0, R0 + 10, R0 + 20) })
        .collect();
    spool.memory.push(stream, &rows);
    let trace = trace(spool);
    assert_eq!(trace.of_category("kernel").len(), 6_000);
    assert!(trace.tracks.len() < 5_000, "{}", trace.tracks.len());
}

#[test]
fn a_graphs_kernels_all_hang_on_its_launch() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let launch = spool.string(stream, "cudaGraphLaunch");
    spool.memory.push(stream, &[api(launch, 9, R0 + 100, R0 + 200)]);
    let nodes = [300, 400, 500].map(|at| Kernel {
        flags: flag::GRAPH,
        graph: 3,
        ..kernel(launch, 9, R0 + at, R0 + at + 50)
    });
    spool.memory.push(stream, &nodes);
    let trace = trace(spool);
    let all: Vec<_> = trace.slices.iter().filter(|s| s.correlation == Some(9)).collect();
    assert_eq!(all.len(), 4);
    // A flow that was terminated would be gone for the next kernel.
    assert!(all.iter().all(|s| s.flows_out == [9] && s.flows_in.is_empty()));
}

#[test]
fn an_ascend_device_has_tracks_of_its_kernels_and_of_its_collectives() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("npu.activity", ClockDomain::Realtime);
    let [matmul, reduce, ring, half, group] =
        ["MatMulV2", "hcom_allReduce_", "Mesh-Ring", "FP16", "tp-group-0"]
            .map(|text| spool.string(stream, text));
    let mut heap = Vec::new();
    let device = DeviceDef {
        name: HeapRef::push(&mut heap, b"Ascend 910B"),
        device: 3,
        vendor: DeviceVendor::Ascend.number(),
        ..DeviceDef::default()
    };
    spool.memory.push_with_heap(stream, &[device], &heap);
    let row = Kernel { device: 3, ..kernel(matmul, 1, R0 + 100, R0 + 400) };
    spool.memory.push(stream, &[row]);
    let collective = Communication {
        start: R0 + 200,
        end: R0 + 900,
        correlation: 2,
        count: 4_096,
        name: reduce,
        algorithm: ring,
        data_type: half,
        communicator: group,
        device: 3,
        stream: 7,
        ranks: 8,
        ..Communication::default()
    };
    spool.memory.push(stream, &[collective]);
    let (bytes, _) = export(vec![spool.done()], TraceFormat::Pftrace, EventArguments::Full);
    let trace = Trace::parse(&bytes);
    let [slice] = trace.slices_of("hcom_allReduce_")[..] else { panic!("{:?}", trace.slices) };
    assert_eq!((slice.start - M0, slice.end - M0), (200, 900));
    // It overlaps the kernel on the same stream: each has a track.
    let track = &trace.tracks[&slice.track];
    assert_eq!(track.name, "stream 7, communication");
    let kernels = &trace.tracks[&trace.slices_of("MatMulV2")[0].track];
    assert_eq!((kernels.name.as_str(), kernels.parent), ("stream 7", track.parent));
    assert_eq!(trace.tracks[&track.parent].name, "device 3: Ascend 910B");
    for (name, value) in [
        ("algorithm", "Mesh-Ring"),
        ("data type", "FP16"),
        ("count", "4096"),
        ("communicator", "tp-group-0"),
        ("ranks", "8"),
        ("device", "3"),
        ("stream", "7"),
    ] {
        assert_eq!(slice.args[name], value, "{name}");
    }
}

#[test]
fn counters_samples_markers_steps_and_losses_are_there() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cpu", ClockDomain::Monotonic);
    let (memory, bytes) = (spool.string(stream, "resident memory"), spool.string(stream, "By"));
    let counter = |at: u64, value: f64| Counter {
        time: M0 + at,
        value,
        name: memory,
        unit: bytes,
        device: u32::MAX,
        thread: 0,
    };
    spool.memory.push(stream, &[counter(10, 1e9), counter(20, 0.5), counter(30, -3.0)]);
    let function = spool.string(stream, "forward");
    let mut heap = Vec::new();
    let frames =
        [Frame { function, ..Frame::default() }, Frame { address: 0x40, ..Frame::default() }];
    let frames = HeapRef::push(&mut heap, zerocopy::IntoBytes::as_bytes(&frames));
    let stack = StackDef { frames, id: StackId(1), process: PID };
    spool.memory.push_with_heap(stream, &[stack], &heap);
    let sample = Sample {
        time: M0 + 40,
        weight_ns: 10_101_010,
        stack: StackId(1),
        thread: THREAD,
        cpu: u32::MAX,
        state: 0,
    };
    spool.memory.push(stream, &[sample]);
    let mark = Marker { time: M0 + 50, name: function, thread: THREAD, ..Marker::default() };
    spool.memory.push(stream, &[mark]);
    let step = |step: u64, at: u64| Step { time: M0 + at, step, thread: THREAD, reserved: 0 };
    spool.memory.push(stream, &[step(7, 100), step(8, 300)]);
    let loss = Loss {
        from: M0 + 60,
        to: M0 + 90,
        count: 41,
        cause: LossCause::SinkFull.number(),
        ..Loss::default()
    };
    spool.memory.push(StreamId(0), &[loss]);
    let trace = trace(spool);
    let values: Vec<f64> = trace.counters.iter().map(|(_, _, value)| *value).collect();
    assert_eq!(values, [1e9, 0.5, -3.0]);
    let counter_track = &trace.tracks[&trace.counters[0].0];
    assert!(counter_track.is_counter && counter_track.name == "resident memory");
    let (at, pid, tid, functions) = &trace.samples[0];
    assert_eq!((*at, *pid, *tid), (M0 + 40, u64::from(PID), u64::from(THREAD)));
    assert_eq!(functions.len(), 2);
    assert_eq!(functions[1], "forward", "root first");
    assert_eq!(trace.instants.len(), 1);
    let steps: Vec<_> =
        ["step 7", "step 8"].iter().map(|n| trace.slices_of(n)[0]).map(|s| s.end - M0).collect();
    assert_eq!(steps, [300, 1_000_000]);
    let lost: Vec<_> = trace.slices.iter().filter(|s| s.args.contains_key("lost")).collect();
    assert_eq!((lost[0].start, lost[0].end), (M0 + 60, M0 + 90));
    assert_eq!(lost[0].args["lost"], "41");
    assert_eq!(trace.slices_of("window 0")[0].args["lost_rows"], "41");
}

#[test]
fn all_arguments_are_there_on_request() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "gemm");
    let config = LaunchConfigDef {
        id: LaunchConfigId(4),
        grid_x: 2,
        grid_y: 3,
        grid_z: 1,
        block_x: 128,
        block_y: 1,
        block_z: 1,
        registers: 40,
        dynamic_shared_bytes: 512,
        ..LaunchConfigDef::default()
    };
    spool.memory.push(stream, &[config]);
    let row = Kernel { config: LaunchConfigId(4), ..kernel(name, 3, R0 + 10, R0 + 20) };
    spool.memory.push(stream, &[row]);
    let (bytes, _) = export(vec![spool.done()], TraceFormat::Pftrace, EventArguments::Full);
    let trace = Trace::parse(&bytes);
    let args = &trace.slices_of("gemm")[0].args;
    assert_eq!(args["grid"], "2, 3, 1");
    assert_eq!(args["registers per thread"], "40");
    assert_eq!(args["shared memory"], "512");
    assert_eq!((args["stream"].as_str(), args["device"].as_str()), ("7", "0"));
}

impl Trace {
    fn slices_of(&self, name: &str) -> Vec<&crate::protobuf::Slice> {
        self.slices.iter().filter(|slice| slice.name == name).collect()
    }
}
