use std::collections::BTreeMap;
use std::sync::Arc;

use profiler_core::clock::{ClockDomain, Instant};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{HeapRef, Span};
use profiler_core::sink::{StreamId, StreamInfo};
use proptest::prelude::*;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::*;
use crate::capture::{Capture, CaptureOptions, Consumer as _, Input, MemorySpool, Origin};

/// Keeps what is drawn, and checks what a format may rely on.
#[derive(Default)]
struct Recorder {
    lanes: Vec<Lane>,
    open: BTreeMap<usize, Vec<(u64, u64)>>,
    now: BTreeMap<usize, u64>,
    /// Lane, start, end.
    slices: Vec<(usize, u64, u64)>,
}

impl Recorder {
    fn pass(&mut self, lane: usize, at: u64) {
        if self.lanes[lane].unordered {
            return;
        }
        let now = self.now.entry(lane).or_default();
        assert!(*now <= at, "lane {lane} runs back from {now} to {at}");
        *now = at;
    }
}

impl Draw for Recorder {
    fn begin(&mut self, _workers: &[Worker]) -> io::Result<()> {
        Ok(())
    }

    fn open_lane(&mut self, lane: &Lane, _worker: &Worker) -> io::Result<()> {
        self.lanes.push(*lane);
        Ok(())
    }

    fn slice(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()> {
        let Item { start, end, .. } = drawn.item;
        self.pass(lane, start);
        self.open.entry(lane).or_default().push((start, end));
        Ok(())
    }

    fn end_slice(&mut self, lane: usize, at: u64) -> io::Result<()> {
        self.pass(lane, at);
        let (start, end) = self.open.entry(lane).or_default().pop().unwrap();
        assert_eq!(end, at, "an end closes what began last");
        self.slices.push((lane, start, end));
        Ok(())
    }

    fn instant(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()> {
        self.pass(lane, drawn.item.start);
        Ok(())
    }

    fn counters(&mut self, _place: &Place<'_>, _rows: &[Counter]) -> io::Result<()> {
        Ok(())
    }

    fn samples(&mut self, _place: &Place<'_>, _rows: &[Sample]) -> io::Result<()> {
        Ok(())
    }

    fn finish(
        &mut self,
        _workers: &[Worker],
        _definitions: &Definitions,
        _counts: &TimelineCounts,
    ) -> io::Result<()> {
        Ok(())
    }
}

fn workers() -> Vec<Worker> {
    let spool = MemorySpool::new(Origin {
        session: "s".to_owned(),
        prefix: None,
        worker: WorkerIdentity::of_this_process(None, None, None, None),
        writer: "w".to_owned(),
        created: Instant { monotonic_ns: 1, realtime_ns: 1 },
    });
    let input = Input::Memory(Arc::new(spool));
    Capture::open([input], CaptureOptions::default()).unwrap().workers().to_vec()
}

const STREAM: TrackKind = TrackKind::Stream { device: 0, stream: 7 };
const THREAD: TrackKind = TrackKind::Thread { thread: 9 };

fn push(tracks: &mut Tracks, kind: TrackKind, start: u64, end: u64) {
    let row = Span { start, end, ..Span::default() };
    let words = <[u64]>::ref_from_bytes(row.as_bytes()).unwrap();
    let item_kind = match kind {
        TrackKind::Thread { .. } => ItemKind::Span,
        _ => ItemKind::Kernel,
    };
    let item = Item { start, end, row: 0, name: 1, kind: item_kind };
    tracks.push(TrackKey { worker: 0, kind }, item, words, b"heap");
}

fn give_out(tracks: &mut Tracks, draw: &mut Recorder, until: u64) {
    tracks.give_out(draw, &workers(), &Definitions::default(), |_| until).unwrap();
}

fn finish(mut tracks: Tracks, draw: &mut Recorder) -> TimelineCounts {
    tracks.finish(draw, &workers(), &Definitions::default()).unwrap();
    assert_eq!(tracks.kept_items, 0);
    assert_eq!(tracks.arena.bytes(), 0, "every row was taken");
    tracks.counts
}

/// Trap 4: what comes after its turn may not turn a sequence's clock back.
#[test]
fn a_row_that_comes_too_late_has_a_lane_of_its_own() {
    let (mut tracks, mut draw) = (Tracks::new(), Recorder::default());
    push(&mut tracks, STREAM, 100, 200);
    push(&mut tracks, STREAM, 300, 400);
    give_out(&mut tracks, &mut draw, 350);
    push(&mut tracks, STREAM, 210, 290);
    push(&mut tracks, STREAM, 250, 280);
    push(&mut tracks, STREAM, 150, 190);
    push(&mut tracks, STREAM, 500, 600);
    let counts = finish(tracks, &mut draw);
    assert_eq!((counts.late, counts.clamped), (3, 0));
    let unordered: Vec<bool> = draw.lanes.iter().map(|lane| lane.unordered).collect();
    assert_eq!(unordered, [false, true, true], "two late ones overlap");
    draw.slices.sort_unstable();
    assert_eq!(draw.slices.len(), 6);
}

#[test]
fn instants_and_empty_slices_keep_the_order() {
    let (mut tracks, mut draw) = (Tracks::new(), Recorder::default());
    for (start, end) in [(10, 20), (20, 20), (20, 30), (25, 25), (30, 30)] {
        push(&mut tracks, THREAD, start, end);
    }
    let counts = finish(tracks, &mut draw);
    assert_eq!(counts, TimelineCounts::default());
    assert_eq!((draw.lanes.len(), draw.slices.len()), (1, 5));
}

/// What follows of other workers finds room, and the horizon of the one that ended is nobody's.
#[test]
fn a_worker_that_ended_leaves_nothing_waiting() {
    let (mut tracks, mut draw) = (Tracks::new(), Recorder::default());
    for start in 1..=100 {
        push(&mut tracks, STREAM, start * 10, start * 10 + 5);
        push(&mut tracks, THREAD, start * 10, start * 10 + 5);
    }
    tracks.advance(0, 0, 10, 1000);
    tracks.end_worker(1, &mut draw, &workers(), &Definitions::default()).unwrap();
    assert_eq!(tracks.kept_items, 200, "another's end is not its own");
    tracks.end_worker(0, &mut draw, &workers(), &Definitions::default()).unwrap();
    assert_eq!((tracks.kept_items, tracks.arena.bytes(), tracks.progress.len()), (0, 0, 0));
    let room: usize = tracks.tracks.iter().map(|track| track.items.capacity()).sum();
    assert_eq!(room, 0);
    let counts = finish(tracks, &mut draw);
    assert_eq!((counts, draw.slices.len()), (TimelineCounts::default(), 200));
}

/// What began long ago may come yet, where a spool grows: a span is written when it ends.
#[test]
fn the_rows_of_two_epochs_are_kept_though_they_are_settled() {
    let (mut tracks, mut draw) = (Tracks::new(), Recorder::default());
    let mut kept = Vec::new();
    for epoch in 1..=4 {
        push(&mut tracks, THREAD, epoch * 100, epoch * 100 + 50);
        tracks.advance(0, u64::MAX, epoch * 100, epoch * 100 + 1);
        tracks.turn_epoch(&mut draw, &workers(), &Definitions::default()).unwrap();
        kept.push(tracks.kept_items);
    }
    assert_eq!(kept, [1, 2, 2, 2]);
    push(&mut tracks, THREAD, 250, 470);
    assert_eq!(finish(tracks, &mut draw).late, 0);
}

proptest! {
    /// Whatever the rows and whenever they are given out, no lane has an overlap and none is lost.
    #[test]
    fn lanes_never_overlap(
        rows in prop::collection::vec((0_u64..2_000, 0_u64..300, any::<bool>()), 1..200),
        turns in prop::collection::vec(0_u64..2_500, 0..5),
    ) {
        let (mut tracks, mut draw) = (Tracks::new(), Recorder::default());
        let chunk = rows.len().div_ceil(turns.len() + 1);
        let mut turns = turns.into_iter();
        for rows in rows.chunks(chunk) {
            for &(start, len, nests) in rows {
                push(&mut tracks, if nests { THREAD } else { STREAM }, start + 1, start + 1 + len);
            }
            if let Some(turn) = turns.next() {
                give_out(&mut tracks, &mut draw, turn);
            }
        }
        finish(tracks, &mut draw);
        prop_assert_eq!(draw.slices.len(), rows.len());
        let mut by_lane: BTreeMap<usize, Vec<(u64, u64)>> = BTreeMap::new();
        for (lane, start, end) in &draw.slices {
            by_lane.entry(*lane).or_default().push((*start, *end));
        }
        for (lane, mut slices) in by_lane {
            let nests = draw.lanes[lane].track.kind == THREAD && !draw.lanes[lane].unordered;
            slices.sort_unstable_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
            let mut open: Vec<(u64, u64)> = Vec::new();
            for (start, end) in slices {
                open.retain(|&(_, outer)| outer > start);
                let fits = match open.last() {
                    None => true,
                    // An empty slice that ended where the next one begins.
                    Some(&(outer, _)) if start == end && outer == start => true,
                    Some(&(_, outer)) => nests && end <= outer,
                };
                prop_assert!(fits, "lane {}: {}..{} in {:?}", lane, start, end, open);
                open.push((start, end));
            }
        }
    }
}

/// A block is bounded, what its rows refer to is not: each may mean the same long text.
#[test]
fn rows_that_share_a_long_text_are_given_out_before_they_fill_the_memory() {
    let workers = workers();
    let mut timeline = Timeline::new(Recorder::default());
    timeline.begin(&workers).unwrap();
    let heap = vec![b'x'; 16 << 10];
    let fields = HeapRef { offset: 0, len: heap.len() as u32 };
    let rows: Vec<Span> = (1..=65_536)
        .map(|time| Span { start: time, end: time, thread: 9, fields, ..Span::default() })
        .collect();
    let info =
        StreamInfo { producer: "agent.spans".to_owned(), thread: 9, clock: ClockDomain::Monotonic };
    let place = Place {
        worker: &workers[0],
        stream: StreamId(1),
        info: &info,
        definitions: &Definitions::default(),
        heap: &heap,
        settled_until: 0,
    };
    timeline.spans(&place, &rows).unwrap();
    let (draw, _) = timeline.into_parts();
    let (given, most) = (draw.slices.len(), MAX_BYTES / heap.len());
    assert!(rows.len() - given < 2 * most, "{given} of {} given out", rows.len());
}
