//! Which rows belong, and where their instants lie.

use std::io;

use profiler_core::clock::ClockDomain;
use profiler_core::record::*;
use profiler_core::sink::StreamId;
use profiler_export::capture::{
    Capture, CaptureError, CaptureOptions, Consumer, Input, JoinedBy, Place,
};

use crate::make::*;

/// Keeps what it sees.
#[derive(Default)]
struct Seen {
    kernels: Vec<(usize, String, Kernel)>,
    calls: Vec<ApiCall>,
    spans: Vec<Span>,
    samples: Vec<Vec<u64>>,
}

impl Consumer for Seen {
    fn kernels(&mut self, place: &Place<'_>, rows: &[Kernel]) -> io::Result<()> {
        for row in rows {
            let name = place.definitions.string(row.name).to_owned();
            self.kernels.push((place.worker.index, name, *row));
        }
        Ok(())
    }

    fn api_calls(&mut self, _place: &Place<'_>, rows: &[ApiCall]) -> io::Result<()> {
        self.calls.extend_from_slice(rows);
        Ok(())
    }

    fn spans(&mut self, _place: &Place<'_>, rows: &[Span]) -> io::Result<()> {
        self.spans.extend_from_slice(rows);
        Ok(())
    }

    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        for row in rows {
            let frames = place.definitions.stack(row.stack);
            self.samples.push(frames.map(|f| place.definitions.frames()[f].address).collect());
        }
        Ok(())
    }
}

fn read(inputs: Vec<Input>) -> (Seen, Capture) {
    let mut capture = open(inputs);
    let mut seen = Seen::default();
    capture.read(&mut seen).unwrap();
    (seen, capture)
}

fn correlations(seen: &Seen) -> Vec<u64> {
    let mut all: Vec<u64> = seen.kernels.iter().map(|(_, _, k)| k.correlation).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_kernel_belongs_where_its_launch_belongs() {
    let mut spool = Spool::new(identity(0));
    spool.memory.push(StreamId(0), &[tuple(0, 0), tuple(1_000_000, 0)]);
    spool.window(WindowEdge::Begin, 0, 1_000);
    spool.window(WindowEdge::End, 0, 2_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let name = spool.string(stream, "launch");
    // Launched before and run inside; inside and inside; inside and run after; after.
    let launches = [(1, 900, 1_100), (2, 1_000, 1_200), (3, 1_999, 2_600), (4, 2_000, 2_700)];
    // The kernels stand before their calls: drivers hand over buffers in any order.
    let kernels = launches.map(|(id, _, at)| kernel(name, id, R0 + at, R0 + at + 50));
    spool.memory.push(stream, &kernels);
    let calls = launches.map(|(id, at, _)| api(name, id, R0 + at, R0 + at + 10));
    spool.memory.push(stream, &calls);
    // No call has this number: its own start decides.
    spool.memory.push(stream, &[kernel(name, 77, R0 + 1_500, R0 + 1_501)]);
    spool.memory.push(stream, &[kernel(name, 0, R0 + 2_500, R0 + 2_501)]);
    let (seen, capture) = read(vec![spool.done()]);
    assert_eq!(correlations(&seen), [2, 3, 77]);
    assert_eq!(seen.calls.len(), 2);
    assert_eq!(capture.counts().outside_window, 2 + 2 + 1);
}

#[test]
fn warm_ups_are_counted_apart_and_windows_repeat() {
    let mut spool = Spool::new(identity(0));
    for (window, at) in [(0, 1_000), (1, 5_000)] {
        spool.window(WindowEdge::Warmup, window, at - 500);
        spool.window(WindowEdge::Begin, window, at);
        spool.window(WindowEdge::End, window, at + 1_000);
    }
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    let span = |at: u64| Span { start: M0 + at, end: M0 + at + 1, thread: 1, ..Span::default() };
    let spans = [100, 499, 500, 999, 1_000, 1_999, 2_000, 4_500, 5_500, 7_000].map(span);
    spool.memory.push(stream, &spans);
    let (seen, capture) = read(vec![spool.done()]);
    let starts: Vec<u64> = seen.spans.iter().map(|span| span.start - M0).collect();
    assert_eq!(starts, [1_000, 1_999, 5_500]);
    assert_eq!(capture.counts().warmup, 3);
    assert_eq!(capture.counts().outside_window, 4);
    assert_eq!(capture.workers()[0].windows.len(), 2);
}

#[test]
fn without_a_begin_nothing_belongs() {
    let mut spool = Spool::new(identity(0));
    spool.window(WindowEdge::Warmup, 0, 0);
    spool.window(WindowEdge::Abandoned, 0, 10);
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    spool.memory.push(stream, &[Span { start: M0 + 5, end: M0 + 6, ..Span::default() }]);
    let (seen, capture) = read(vec![spool.done()]);
    assert!(seen.spans.is_empty());
    assert_eq!(capture.counts().outside_window, 1);
}

#[test]
fn a_window_that_never_ended_lasts_to_the_last_row() {
    let mut spool = Spool::new(identity(0));
    spool.window(WindowEdge::Begin, 0, 0);
    spool.window(WindowEdge::Open, 0, 9_000);
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    let unfinished = Span { start: M0 + 70, flags: flag::UNFINISHED, thread: 1, ..Span::default() };
    spool.memory.push(stream, &[unfinished]);
    let (seen, _) = read(vec![spool.done()]);
    assert_eq!(seen.spans.len(), 1);
    assert_eq!(seen.spans[0].end, M0 + 9_000, "drawn to the last instant that is known");
    assert_eq!(seen.spans[0].flags, flag::UNFINISHED);
}

#[test]
fn a_slice_of_time_is_cut_by_launches() {
    let mut capture = Capture::open(vec![launches(0, 10).done()], {
        let mut options = CaptureOptions::default();
        options.from_ns = Some(3_000);
        options.to_ns = Some(5_000);
        options
    })
    .unwrap();
    let mut seen = Seen::default();
    capture.read(&mut seen).unwrap();
    assert_eq!(correlations(&seen), [3, 4]);
}

#[test]
fn instants_of_every_clock_meet_on_one_axis() {
    let mut spool = Spool::with_window(identity(0), 4_000_000_000);
    let at = 1_234_567;
    let clocks = [
        (ClockDomain::Monotonic, M0 + at),
        (ClockDomain::Realtime, R0 + at),
        (ClockDomain::Boottime, M0 + at + 7_000),
        (ClockDomain::Tsc, 1_000 + at * 2),
    ];
    for (clock, shows) in clocks {
        let stream = spool.stream("some", clock);
        spool.memory.push(stream, &[Span { start: shows, end: shows + 100, ..Span::default() }]);
    }
    let (seen, _) = read(vec![spool.done()]);
    let starts: Vec<u64> = seen.spans.iter().map(|span| span.start - M0).collect();
    assert_eq!(starts, [at; 4]);
    let mut ends: Vec<u64> = seen.spans.iter().map(|span| span.end - span.start).collect();
    ends.sort_unstable();
    assert_eq!(ends, [50, 100, 100, 100], "the counter ticks twice a ns");
}

#[test]
fn a_driver_clock_is_mapped_by_its_own_tuples() {
    let mut spool = Spool::with_window(identity(0), 4_000_000_000);
    let stream = spool.stream("driver", ClockDomain::Driver);
    let reading =
        |at: u64| ClockTuple { driver: 40_000 + at, driver_stream: stream.0, ..tuple(at, 0) };
    spool.memory.push(StreamId(0), &[reading(0), reading(2_000_000_000)]);
    let span = Span { start: 40_000 + 500_000, end: 40_000 + 600_000, ..Span::default() };
    spool.memory.push(stream, &[span]);
    let (seen, _) = read(vec![spool.done()]);
    assert_eq!((seen.spans[0].start, seen.spans[0].end), (M0 + 500_000, M0 + 600_000));
}

#[test]
fn ticks_without_clock_readings_are_counted_and_not_guessed() {
    let mut spool = Spool::new(identity(0));
    spool.window(WindowEdge::Begin, 0, 0);
    let stream = spool.stream("ticks", ClockDomain::Tsc);
    spool.memory.push(stream, &[Span { start: 5, end: 6, ..Span::default() }]);
    let (seen, capture) = read(vec![spool.done()]);
    assert!(seen.spans.is_empty());
    assert_eq!(capture.counts().unmapped, 1);
}

/// CLOCK_REALTIME is set forth or back by a second between two tuples; calls and kernels go on.
#[test]
fn a_clock_step_moves_nothing_by_more_than_a_hair() {
    for step in [1_000_000_000_i64, -1_000_000_000, 3_000_000_000, -3_000_000_000] {
        let mut spool = Spool::new(identity(0));
        let second = 1_000_000_000_u64;
        let stepped_at = 2 * second + second / 2;
        let tuples: Vec<ClockTuple> =
            (0..6).map(|s| tuple(s * second, if s < 3 { 0 } else { step })).collect();
        spool.memory.push(StreamId(0), &tuples);
        spool.window(WindowEdge::Begin, 0, 0);
        spool.window(WindowEdge::End, 0, 5 * second);
        let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
        let name = spool.string(stream, "launch");
        let shows = |at: u64| {
            let moved = if at < stepped_at { 0 } else { step };
            (R0 + at).saturating_add_signed(moved)
        };
        let (mut calls, mut kernels) = (Vec::new(), Vec::new());
        for i in 0..480_u64 {
            let at = second / 10 + i * 10_000_000;
            calls.push(api(name, i + 1, shows(at), shows(at + 3_000)));
            kernels.push(kernel(name, i + 1, shows(at + 5_000), shows(at + 9_000)));
        }
        // Blocks as they are written, a few rows each.
        for (calls, kernels) in calls.chunks(20).zip(kernels.chunks(20)) {
            spool.memory.push(stream, calls);
            spool.memory.push(stream, kernels);
        }
        let (seen, capture) = read(vec![spool.done()]);
        assert_eq!(seen.kernels.len(), 480, "step {step}: {:?}", capture.counts());
        let mut launched = std::collections::BTreeMap::new();
        for call in &seen.calls {
            launched.insert(call.correlation, call.start);
        }
        for (_, _, kernel) in &seen.kernels {
            let launch = launched[&kernel.correlation];
            assert!(kernel.start >= launch, "step {step}: kernel {}", kernel.correlation);
            let truth = M0 + second / 10 + (kernel.correlation - 1) * 10_000_000 + 5_000;
            let off = kernel.start.abs_diff(truth);
            // Within the second of the step itself a step forth leaves both readings possible.
            let around = truth.abs_diff(M0 + stepped_at) < second;
            assert!(off <= 1_000 || around, "step {step}: {off} ns off at {}", truth - M0);
        }
    }
}

#[test]
fn workers_of_one_boot_join_by_the_monotonic_clock() {
    let (seen, capture) = read(vec![launches(1, 3).done(), launches(0, 3).done()]);
    let ranks: Vec<_> = capture.workers().iter().map(|w| w.identity.rank).collect();
    assert_eq!(ranks, [Some(0), Some(1)], "rank by rank");
    assert!(capture.workers().iter().all(|w| w.clock.by == JoinedBy::Monotonic));
    assert_eq!(capture.workers()[1].clock.error_ns, 60);
    assert_eq!(seen.kernels.len(), 6);
    let name = seen.kernels[0].2.name;
    assert!(seen.kernels.iter().all(|(_, _, k)| k.name == name), "one id for one name");
}

#[test]
fn workers_of_two_machines_join_by_the_real_time() {
    let mut other = identity(1);
    other.boot_id = "boot-b".to_owned();
    other.host = "host-b".to_owned();
    // That machine was booted 4,000 s earlier.
    let later = 4_000_000_000_000;
    let mut spool = Spool::new(other);
    let read_at = |at: u64| ClockTuple { monotonic: M0 + later + at, ..tuple(at, 0) };
    spool.memory.push(StreamId(0), &[read_at(0), read_at(1_000_000_000)]);
    let edge = |edge: WindowEdge, at: u64| Window {
        monotonic: M0 + later + at,
        realtime: R0 + at,
        step: u64::MAX,
        window: 0,
        edge: edge.number(),
    };
    let edges = [edge(WindowEdge::Begin, 0), edge(WindowEdge::End, 2_000_000_000)];
    spool.memory.push(StreamId(0), &edges);
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    let span = Span { start: M0 + later + 500, end: M0 + later + 600, ..Span::default() };
    spool.memory.push(stream, &[span]);
    let (seen, capture) = read(vec![launches(0, 1).done(), spool.done()]);
    assert_eq!(seen.spans[0].start, M0 + 500);
    let join = capture.workers()[1].clock;
    assert_eq!((join.by, join.error_ns), (JoinedBy::Realtime, 120));
    assert_eq!(capture.workers()[1].windows[0].begin, M0);
}

#[test]
fn stacks_share_their_outer_frames_and_keep_their_order() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cpu.sampler", ClockDomain::Monotonic);
    for (id, addresses) in [(1, [30_u64, 20, 10]), (2, [31, 20, 10])] {
        let mut heap = Vec::new();
        let frames = addresses.map(|address| Frame { address, ..Frame::default() });
        let bytes = zerocopy::IntoBytes::as_bytes(&frames).to_vec();
        let frames = HeapRef::push(&mut heap, &bytes);
        let stack = StackDef { frames, id: StackId(id), process: PID };
        spool.memory.push_with_heap(stream, &[stack], &heap);
    }
    let sample = |stack: u32, at: u64| Sample {
        time: M0 + at,
        weight_ns: 10,
        stack: StackId(stack),
        thread: THREAD,
        ..Sample::default()
    };
    spool.memory.push(stream, &[sample(1, 10), sample(2, 20)]);
    let (seen, capture) = read(vec![spool.done()]);
    assert_eq!(seen.samples, [[30, 20, 10], [31, 20, 10]]);
    assert_eq!(capture.definitions().frames().len(), 4);
    // Two leaves, two shared callers, and the id for none.
    assert_eq!(capture.definitions().stack_count(), 5);
}

#[test]
fn wild_ids_and_empty_rows_do_no_harm() {
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("cuda.activity", ClockDomain::Realtime);
    let mut heap = Vec::new();
    let text = HeapRef::push(&mut heap, b"far");
    let far = StringId(u32::MAX - 1);
    spool.memory.push_with_heap(stream, &[StringDef { text, id: far, reserved: 0 }], &heap);
    let outside = HeapRef { offset: 9_999, len: 9 };
    let broken = StringDef { text: outside, id: StringId(5), reserved: 0 };
    spool.memory.push(stream, &[broken]);
    let rows: Vec<Kernel> = (0..1_000_u64)
        .map(|i| Kernel {
            correlation: i.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ..kernel(far, 1, R0 + 10 + i, R0 + 9 + i)
        })
        .collect();
    spool.memory.push(stream, &rows);
    spool.memory.push(stream, &[kernel(StringId(5), 0, R0 + 50, 0)]);
    let (seen, _) = read(vec![spool.done()]);
    assert_eq!(seen.kernels.len(), 1_001);
    assert!(seen.kernels.iter().all(|(_, _, k)| k.end >= k.start));
    assert_eq!(seen.kernels.iter().filter(|(_, name, _)| name == "far").count(), 1_000);
}

#[test]
fn nothing_to_read_is_an_error_and_calling_off_works() {
    let nothing: Vec<Input> = Vec::new();
    let error = Capture::open(nothing, CaptureOptions::default()).err().unwrap();
    assert!(matches!(error, CaptureError::NoInput));
    let mut spool = Spool::with_window(identity(0), 1_000_000);
    let stream = spool.stream("agent.spans", ClockDomain::Monotonic);
    for _ in 0..1_000 {
        spool.memory.push(stream, &[Span { start: M0 + 1, end: M0 + 2, ..Span::default() }]);
    }
    let mut capture = open(vec![spool.done()]);
    let stopped = capture.read_with(&mut Seen::default(), &mut |_| false);
    assert!(matches!(stopped, Err(CaptureError::Cancelled)));
}

/// Preset `gpu` records no calls, so that every kernel waits for a launch that does not come.
#[test]
fn kernels_without_launches_are_kept_whole_over_several_streams() {
    const EACH: u64 = 80_000;
    let mut spool = Spool::with_window(identity(0), 2_000_000_000);
    let streams =
        ["cuda.first", "cuda.second"].map(|name| spool.stream(name, ClockDomain::Realtime));
    let names = streams.map(|stream| spool.string(stream, "gemm"));
    for begin in (0..EACH).step_by(8_000) {
        for (offset, (stream, name)) in streams.into_iter().zip(names).enumerate() {
            let kernels: Vec<Kernel> = (begin..begin + 8_000)
                .map(|i| {
                    let at = R0 + 1_000 + i * 1_000;
                    kernel(name, 2 * i + offset as u64 + 1, at, at + 500)
                })
                .collect();
            spool.memory.push(stream, &kernels);
        }
    }
    let (seen, capture) = read(vec![spool.done()]);
    assert_eq!(correlations(&seen), (1..=2 * EACH).collect::<Vec<u64>>());
    assert_eq!(capture.counts().outside_window, 0);
}
