//! Rows put on tracks, in time order, without overlaps: what every trace format draws.
//!
//! Rows come mostly by time but not quite: operators and spans are written at their ends, drivers
//! hand over buffers late. Each track keeps its rows until nothing earlier can come, which the
//! capture knows, and a little longer, and gives them out sorted; only where that takes more memory than there may be
//! are some given out before. A row that comes later still is drawn on an overflow lane of its
//! track, out of order, and counted.
//!
//! Slices of one lane never overlap unless one holds the other whole: trace viewers draw anything
//! else wrongly or drop it. Kernels that overlap on a device stream go to further lanes; calls of
//! a thread nest.

mod arena;
mod consumer;
mod lanes;
#[cfg(test)]
mod tests;

pub(crate) use consumer::Timeline;

use std::collections::{HashMap, VecDeque};
use std::io;

use profiler_core::record::{Counter, Sample};

use self::arena::Arena;
use self::lanes::{Fit, TrackLanes};
use crate::capture::{Definitions, Place, Worker};

/// What a slice or instant shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Kernel,
    Memcpy,
    Memset,
    Communication,
    ApiCall,
    Synchronization,
    Overhead,
    Operator,
    Span,
    Step,
    Marker,
    Memory,
    /// Only where somebody asks for it; formats take samples as they come.
    Sample,
}

impl ItemKind {
    fn is_instant(self) -> bool {
        matches!(self, Self::Marker | Self::Memory | Self::Sample)
    }
}

/// A slice or instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where its row lies in the arena.
    row: u32,
    /// The capture's id of its name.
    pub(crate) name: u32,
    pub(crate) kind: ItemKind,
}

impl Item {
    /// What holds others stands before them.
    #[inline]
    fn precedes(&self, other: &Self) -> bool {
        self.start < other.start || (self.start == other.start && self.end > other.end)
    }
}

/// Where slices are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum TrackKind {
    /// Kernels, copies and memsets of a device's stream.
    Stream { device: u32, stream: u32 },
    /// Communication on a device's stream.
    Communication { device: u32, stream: u32 },
    /// Waits on a device's stream.
    Synchronization { device: u32, stream: u32 },
    /// Calls, operators and spans of a thread.
    Thread { thread: u32 },
    /// Overheads of no thread.
    Overhead,
    /// Steps of the application.
    Steps,
    /// What a broken or hostile file has more tracks of than any process has streams and threads.
    Rest,
}

impl TrackKind {
    fn nests(self) -> bool {
        matches!(self, Self::Thread { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TrackKey {
    pub(crate) worker: u32,
    pub(crate) kind: TrackKind,
}

/// A row of slices in the viewer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) track: TrackKey,
    /// 0 = the track itself; further ones take what overlaps.
    pub(crate) nth: u32,
    /// Whether slices come in no order.
    pub(crate) unordered: bool,
}

/// A slice or instant with what belongs to it.
#[derive(Clone, Copy)]
pub(crate) struct Drawn<'a> {
    pub(crate) item: Item,
    /// The row, and behind it the bytes of its heap reference.
    pub(crate) row: &'a [u64],
    pub(crate) definitions: &'a Definitions,
    pub(crate) worker: u32,
}

/// A trace format.
pub(crate) trait Draw {
    fn begin(&mut self, workers: &[Worker]) -> io::Result<()>;
    /// A lane with a new number, one more than the last.
    fn open_lane(&mut self, lane: &Lane, worker: &Worker) -> io::Result<()>;
    /// A slice begins. On an ordered lane instants never run back, and its end is told by
    /// [`Draw::end_slice`].
    fn slice(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()>;
    /// The slice that began last on that lane and has not ended ends.
    fn end_slice(&mut self, lane: usize, at: u64) -> io::Result<()>;
    /// Something without duration.
    fn instant(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()>;
    fn counters(&mut self, place: &Place<'_>, rows: &[Counter]) -> io::Result<()>;
    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()>;
    fn finish(
        &mut self,
        workers: &[Worker],
        definitions: &Definitions,
        counts: &TimelineCounts,
    ) -> io::Result<()>;
}

/// What became of the slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimelineCounts {
    /// Rows too late for their order, drawn on an overflow lane.
    pub(crate) late: u64,
    /// Slices shortened by a hair so that they do not overlap.
    pub(crate) clamped: u64,
    /// Slices drawn on a further lane because they overlap.
    pub(crate) overlapping: u64,
}

struct Track {
    key: TrackKey,
    /// In order.
    items: VecDeque<Item>,
    /// Came after a later one; in no order.
    late: Vec<Item>,
    lanes: TrackLanes,
    /// Everything before was given out.
    given_until: u64,
}

/// How far a worker has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Nothing that comes begins before.
    settled: u64,
    /// Little that comes begins before.
    reached: u64,
    /// The latest start.
    latest: u64,
    /// That of the ends of the last epochs, newest first.
    past: [u64; LAG_EPOCHS],
}

impl Progress {
    /// What may be given out, by how pressing it is.
    fn horizon(&self, pressing: u64) -> u64 {
        match pressing {
            // Of a growing spool, what began long ago may come still: a span that has just ended.
            0 => self.settled.min(self.past[LAG_EPOCHS - 1]),
            1 => self.settled,
            2 => self.settled.max(self.reached),
            // A quarter more at a time of what lies behind.
            _ => {
                let from = self.settled.max(self.reached).min(self.latest);
                from + (self.latest - from) / 4 * (pressing - 2)
            }
        }
    }
}

/// More tracks than any process has streams and threads.
const MAX_TRACKS: usize = 4_096;
/// As many lanes over all tracks; then a track gets one and no more.
const MAX_LANES: usize = 16_384;
/// How many epochs rows are kept, settled or not.
const LAG_EPOCHS: usize = 2;
/// The most pressing of [`Progress::horizon`]: all but what begins last.
const MOST_PRESSING: u64 = 6;
/// The rows of an epoch, in bytes: so often what is settled is given out.
const EPOCH_BYTES: usize = 4 << 20;
/// A list that could hold so many times what it holds gives memory back.
const ROOMY: usize = 4;
/// What may be kept at most.
const MAX_BYTES: usize = 5 * EPOCH_BYTES;

/// Tracks and what waits on them.
struct Tracks {
    tracks: Vec<Track>,
    by_key: HashMap<TrackKey, usize>,
    last: Option<(TrackKey, usize)>,
    arena: Arena,
    kept_items: usize,
    epoch_bytes: usize,
    progress: HashMap<u32, Progress>,
    lanes: usize,
    counts: TimelineCounts,
}

impl Tracks {
    fn new() -> Self {
        Self {
            tracks: Vec::new(),
            by_key: HashMap::new(),
            last: None,
            arena: Arena::default(),
            kept_items: 0,
            epoch_bytes: 0,
            progress: HashMap::new(),
            lanes: 0,
            counts: TimelineCounts::default(),
        }
    }

    #[inline]
    fn track(&mut self, key: TrackKey) -> usize {
        match self.last {
            Some((last, index)) if last == key => index,
            _ => self.find_track(key),
        }
    }

    #[cold]
    fn find_track(&mut self, key: TrackKey) -> usize {
        let next = self.tracks.len();
        let mut shown = key;
        if next >= MAX_TRACKS && !self.by_key.contains_key(&key) {
            shown.kind = TrackKind::Rest;
        }
        let index = *self.by_key.entry(shown).or_insert(next);
        if index == next {
            self.tracks.push(Track {
                key: shown,
                items: VecDeque::new(),
                late: Vec::new(),
                lanes: TrackLanes::new(shown.kind.nests()),
                given_until: 0,
            });
        }
        self.last = Some((key, index));
        index
    }

    /// Puts a row on its track.
    #[inline]
    fn push(&mut self, key: TrackKey, mut item: Item, row: &[u64], heap: &[u8]) {
        let index = self.track(key);
        item.row = self.arena.push(row, heap);
        self.epoch_bytes += size_of::<Item>() + row.len() * 8 + heap.len();
        self.kept_items += 1;
        let track = &mut self.tracks[index];
        match track.items.back() {
            Some(last) if item.precedes(last) => track.late.push(item),
            _ => track.items.push_back(item),
        }
    }

    /// Notes how far a worker has come: until when all is known, and where its rows lie.
    fn advance(&mut self, worker: u32, settled: u64, first: u64, latest: u64) {
        let progress = self.progress.entry(worker).or_default();
        progress.settled = settled;
        progress.reached = progress.reached.max(first);
        progress.latest = progress.latest.max(latest);
    }

    fn is_epoch_full(&self) -> bool {
        self.epoch_bytes >= EPOCH_BYTES
    }

    /// More came since the last epoch than may be kept at all.
    #[inline]
    fn is_overfull(&self) -> bool {
        self.epoch_bytes >= MAX_BYTES
    }

    /// Gives out what is old enough.
    fn turn_epoch<D: Draw>(
        &mut self,
        draw: &mut D,
        workers: &[Worker],
        definitions: &Definitions,
    ) -> io::Result<()> {
        self.epoch_bytes = 0;
        let progress = self.progress.clone();
        let of = |worker: u32| progress.get(&worker).copied().unwrap_or_default();
        for pressing in 0..=MOST_PRESSING {
            if pressing > 0 && self.kept_bytes() <= MAX_BYTES {
                break;
            }
            self.give_out(draw, workers, definitions, |worker| of(worker).horizon(pressing))?;
        }
        #[expect(clippy::iter_over_hash_type, reason = "each by itself")]
        for progress in self.progress.values_mut() {
            progress.past.rotate_right(1);
            progress.past[0] = progress.latest;
        }
        if self.kept_bytes() > MAX_BYTES {
            return self.give_out(draw, workers, definitions, |_| u64::MAX);
        }
        Ok(())
    }

    /// Gives out all that waits of a worker of which nothing follows: it makes room for the next.
    fn end_worker<D: Draw>(
        &mut self,
        worker: u32,
        draw: &mut D,
        workers: &[Worker],
        definitions: &Definitions,
    ) -> io::Result<()> {
        self.progress.remove(&worker);
        self.give_out(draw, workers, definitions, |of| if of == worker { u64::MAX } else { 0 })
    }

    fn kept_bytes(&self) -> usize {
        self.kept_items * size_of::<Item>() + self.arena.bytes()
    }

    /// Gives out what starts before its worker's horizon.
    fn give_out<D: Draw>(
        &mut self,
        draw: &mut D,
        workers: &[Worker],
        definitions: &Definitions,
        horizon: impl Fn(u32) -> u64,
    ) -> io::Result<()> {
        let Self { tracks, arena, kept_items, lanes, counts, .. } = self;
        // Threads first: what they launched is known then when it begins on a device.
        let mut order: Vec<&mut Track> = tracks.iter_mut().collect();
        order.sort_by_key(|track| !track.key.kind.nests());
        for track in order {
            let until = horizon(track.key.worker);
            let Some(worker) = workers.get(track.key.worker as usize) else { continue };
            let mut out = Out { draw, worker, definitions, arena, lanes, counts };
            *kept_items -= track.give_out(until, &mut out)?;
        }
        arena.release();
        Ok(())
    }

    /// Gives out the rest and ends every slice.
    fn finish<D: Draw>(
        &mut self,
        draw: &mut D,
        workers: &[Worker],
        definitions: &Definitions,
    ) -> io::Result<()> {
        self.give_out(draw, workers, definitions, |_| u64::MAX)?;
        for track in &mut self.tracks {
            track.lanes.close(draw)?;
        }
        Ok(())
    }
}

/// Where a track's items go.
struct Out<'a, D> {
    draw: &'a mut D,
    worker: &'a Worker,
    definitions: &'a Definitions,
    arena: &'a mut Arena,
    lanes: &'a mut usize,
    counts: &'a mut TimelineCounts,
}

impl Track {
    /// Gives out all items before `until`, in order, and returns how many.
    fn give_out<D: Draw>(&mut self, until: u64, out: &mut Out<'_, D>) -> io::Result<usize> {
        let before = self.items.len() + self.late.len();
        if before == 0 {
            return Ok(0);
        }
        let mut items = std::mem::take(&mut self.items);
        let mut late = std::mem::take(&mut self.late);
        late.sort_by_key(|item| (item.start, std::cmp::Reverse(item.end)));
        // At the end every instant counts, the last there is, too.
        let is_due = |item: &Item| item.start < until || until == u64::MAX;
        let due = items.partition_point(is_due);
        let late_due = late.partition_point(is_due);
        let mut rest = late[..late_due].iter().peekable();
        for item in items.range(..due) {
            while let Some(earlier) = rest.next_if(|earlier| earlier.precedes(item)) {
                self.give(earlier, out)?;
            }
            self.give(item, out)?;
        }
        for item in rest {
            self.give(item, out)?;
        }
        items.drain(..due);
        late.drain(..late_due);
        // What one track no longer needs, another may: many take turns where workers are merged.
        if items.len() < items.capacity() / ROOMY {
            items.shrink_to(items.len() * 2);
        }
        if late.len() < late.capacity() / ROOMY {
            late.shrink_to(late.len() * 2);
        }
        self.items = items;
        self.late = late;
        Ok(before - self.items.len() - self.late.len())
    }

    #[inline]
    fn give<D: Draw>(&mut self, item: &Item, out: &mut Out<'_, D>) -> io::Result<()> {
        let mut item = *item;
        let key = self.key;
        let open = |nth: u32, unordered: bool, draw: &mut D, lanes: &mut usize| {
            let lane = *lanes;
            *lanes += 1;
            draw.open_lane(&Lane { track: key, nth, unordered }, out.worker)?;
            Ok::<usize, io::Error>(lane)
        };
        let late = item.start < self.given_until;
        let crowded = *out.lanes >= MAX_LANES;
        let fit = match late {
            true => self.lanes.overflow(&item, crowded),
            false => {
                self.given_until = item.start;
                self.lanes.fit(&mut item, crowded, out.draw)?
            }
        };
        let (lane, clamped) = match fit {
            Fit::Lane { lane, clamped } => (lane, clamped),
            Fit::NewLane { nth } => {
                let lane = open(nth, late, out.draw, out.lanes)?;
                self.lanes.opened(lane, late, &item);
                (lane, false)
            }
        };
        out.counts.late += u64::from(late);
        out.counts.clamped += u64::from(clamped);
        out.counts.overlapping += u64::from(!late && self.lanes.first() != Some(lane));
        let row = out.arena.take(item.row);
        let drawn = Drawn { item, row, definitions: out.definitions, worker: self.key.worker };
        if item.kind.is_instant() {
            return out.draw.instant(lane, &drawn);
        }
        out.draw.slice(lane, &drawn)?;
        if late {
            return out.draw.end_slice(lane, item.end);
        }
        Ok(())
    }
}
