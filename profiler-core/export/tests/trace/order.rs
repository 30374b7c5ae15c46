//! The order in which rows are drawn, however their blocks lie in the spool.

use profiler_core::clock::ClockDomain;
use profiler_core::record::*;

use crate::make::*;
use crate::protobuf::Trace;

const THREADS: u64 = 8;
const BUFFERS: u64 = 3;
/// Launches of a buffer, a microsecond apart.
const LAUNCHES: u64 = 8192;
const BUFFER_NS: u64 = LAUNCHES * 1_000;

/// Buffers of threads that launch at once, as a driver hands them over: each covers a time that
/// those of the other threads cover as well, and ends with a call of another thread.
fn overlapping_buffers() -> Spool {
    let mut spool = Spool::with_window(identity(0), 2_000_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "launch");
    let mut correlation = 0;
    for buffer in 0..BUFFERS {
        for thread in 0..THREADS {
            let begin = R0 + 1_000 + buffer * BUFFER_NS + thread * BUFFER_NS / THREADS;
            let mut calls = Vec::new();
            let mut kernels = Vec::new();
            for launch in 0..LAUNCHES {
                correlation += 1;
                let by =
                    if launch + 1 == LAUNCHES { (thread + 1) % THREADS } else { thread } as u32;
                let at = begin + launch * 1_000;
                let call = api(name, correlation, at, at + 300);
                calls.push(ApiCall { thread: THREAD + by, ..call });
                let work = kernel(name, correlation, at + 400, at + 700);
                kernels.push(Kernel { stream: 7 + by, ..work });
            }
            // Either may come first; kernels that do wait for their launches.
            if thread % 2 == 0 {
                spool.memory.push(stream, &kernels);
                spool.memory.push(stream, &calls);
            } else {
                spool.memory.push(stream, &calls);
                spool.memory.push(stream, &kernels);
            }
        }
    }
    spool
}

#[test]
fn buffers_of_many_threads_are_drawn_in_order() {
    let (bytes, report) = pftrace(vec![overlapping_buffers().done()]);
    let launched = THREADS * BUFFERS * LAUNCHES;
    assert_eq!((report.late, report.rows["kernel"]), (0, launched));
    let trace = Trace::parse(&bytes);
    assert_eq!((trace.unmatched, trace.linked() as u64), (0, launched));
}
