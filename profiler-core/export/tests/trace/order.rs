//! The order in which rows are drawn, however their blocks lie in the spool.

use profiler_core::clock::ClockDomain;
use profiler_core::record::*;

use crate::make::*;
use crate::protobuf::Trace;

const THREADS: u64 = 8;
/// Launches of a buffer, a microsecond apart.
const LAUNCHES: u64 = 8192;
const BUFFER_NS: u64 = LAUNCHES * 1_000;

/// Threads that launch at once, their rows in buffers as a driver hands them over: each covers a
/// time that those of the other threads cover as well, and ends with a call of another thread. A
/// buffer of kernels begins amid one of calls, and its later launches come in the next.
fn overlapping_buffers(buffers: u64, clock_of_calls: ClockDomain) -> Spool {
    let mut spool = Spool::with_window(identity(0), 2_000_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "launch");
    let calls_stream = spool.stream("cuda.calls", clock_of_calls);
    let called = spool.string(calls_stream, "cudaLaunchKernel");
    let in_clock = |realtime: u64| match clock_of_calls {
        ClockDomain::Tsc => tuple(realtime - R0, 0).tsc,
        _ => realtime,
    };
    let mut correlation = 0;
    for thread in 0..THREADS {
        let begin = R0 + 1_000 + thread * BUFFER_NS / THREADS;
        let mut calls = Vec::new();
        let mut kernels = Vec::new();
        for launch in 0..LAUNCHES * buffers {
            correlation += 1;
            let is_last = (launch + 1).is_multiple_of(LAUNCHES);
            let by = if is_last { (thread + 1) % THREADS } else { thread } as u32;
            let at = begin + launch * 1_000;
            let call = api(called, correlation, in_clock(at), in_clock(at + 300));
            calls.push(ApiCall { thread: THREAD + by, ..call });
            let work = kernel(name, correlation, at + 400, at + 700);
            kernels.push(Kernel { stream: 7 + by, ..work });
        }
        for buffer in calls.chunks(LAUNCHES as usize) {
            spool.memory.push(calls_stream, buffer);
        }
        let (half, rest) = kernels.split_at(LAUNCHES as usize / 2);
        spool.memory.push(stream, half);
        for buffer in rest.chunks(LAUNCHES as usize) {
            spool.memory.push(stream, buffer);
        }
    }
    spool
}

#[test]
fn buffers_of_many_threads_are_drawn_in_order() {
    for clock in [ClockDomain::Realtime, ClockDomain::Tsc] {
        let (bytes, report) = pftrace(vec![overlapping_buffers(4, clock).done()]);
        let launched = THREADS * 4 * LAUNCHES;
        assert_eq!((report.late, report.rows["kernel"]), (0, launched), "{clock:?}");
        let trace = Trace::parse(&bytes);
        assert_eq!((trace.unmatched, trace.linked() as u64), (0, launched), "{clock:?}");
    }
}

/// A launch that is missing holds back what comes after it, until that takes too much memory: then it
/// is late alone.
#[test]
fn a_kernel_whose_launch_is_missing_is_late_alone() {
    // Many times what may be kept.
    let mut spool = overlapping_buffers(10, ClockDomain::Realtime);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "orphan");
    spool.memory.push(stream, &[kernel(name, u64::MAX, R0 + 2_000_000, R0 + 2_000_300)]);
    let (_, report) = pftrace(vec![spool.done()]);
    assert_eq!(report.rows["kernel"], THREADS * 10 * LAUNCHES + 1);
    assert!(report.late <= 1, "{} are late", report.late);
}

/// What the preset `gpu` records: work on the device without the calls that launched it.
#[test]
fn work_without_launches_is_drawn_in_order() {
    let mut spool = Spool::with_window(identity(0), 4_000_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "gemm");
    // Twice as many as may wait for launches, over more than rows hold others back.
    for block in 0..20 {
        let begin = R0 + 1_000 + block * 150_000_000;
        let kernels: Vec<_> = (0..4_000)
            .map(|i| {
                kernel(name, block * 5_000 + i + 1, begin + i * 37_000, begin + i * 37_000 + 900)
            })
            .collect();
        let copies: Vec<_> = (0..100)
            .map(|i| {
                let start = begin + i * 370_000 + 1_000;
                let correlation = block * 5_000 + 4_001 + i;
                Memcpy { start, end: start + 900, correlation, stream: 7, ..Memcpy::default() }
            })
            .collect();
        spool.memory.push(stream, &kernels);
        spool.memory.push(stream, &copies);
    }
    let (_, report) = pftrace(vec![spool.done()]);
    assert_eq!((report.rows["kernel"], report.rows["memcpy"], report.late), (80_000, 2_000, 0));
}
