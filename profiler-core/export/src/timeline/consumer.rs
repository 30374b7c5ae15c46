//! From the capture's rows to the tracks.

use std::collections::BTreeMap;
use std::io;

use profiler_core::record::{
    ApiCall, Communication, Counter, HeapRef, Kernel, Marker, Memcpy, Memory, Memset, Operator,
    Overhead, Row, Sample, Span, Step, Synchronization,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{Draw, Drawn, Item, ItemKind, TimelineCounts, TrackKey, TrackKind, Tracks};
use crate::capture::{Consumer, Definitions, Place, Worker};

/// Draws a capture in one format.
pub(crate) struct Timeline<D> {
    draw: D,
    tracks: Tracks,
    workers: Vec<Worker>,
    /// The step that each worker is in.
    steps: BTreeMap<usize, Step>,
    /// The last instant at which a thread of each worker did something.
    busy_until: BTreeMap<usize, u64>,
}

impl<D: Draw> Timeline<D> {
    pub(crate) fn new(draw: D) -> Self {
        Self {
            draw,
            tracks: Tracks::new(),
            workers: Vec::new(),
            steps: BTreeMap::new(),
            busy_until: BTreeMap::new(),
        }
    }

    pub(crate) fn into_parts(self) -> (D, TimelineCounts) {
        (self.draw, self.tracks.counts)
    }

    #[inline]
    fn put<R: Row>(
        &mut self,
        place: &Place<'_>,
        rows: &[R],
        kind: ItemKind,
        describe: impl Fn(&R) -> (TrackKind, u64, u64, u32, HeapRef),
    ) -> io::Result<()> {
        let worker = place.worker.index as u32;
        let (mut first, mut latest) = (u64::MAX, 0);
        let mut busy_until = 0;
        for row in rows {
            let (track, start, end, name, heap) = describe(row);
            first = first.min(start);
            latest = latest.max(start);
            if matches!(track, TrackKind::Thread { .. }) {
                busy_until = busy_until.max(end);
            }
            let Ok(words) = <[u64]>::ref_from_bytes(row.as_bytes()) else { continue };
            let heap = if heap.len == 0 { &[] } else { heap.of(place.heap).unwrap_or_default() };
            let item = Item { start, end, row: 0, name, kind };
            self.tracks.push(TrackKey { worker, kind: track }, item, words, heap);
            // Rows that all refer to the same long text come to far more than their block is long.
            if self.tracks.is_overfull() {
                self.end_epoch(place)?;
            }
        }
        if !rows.is_empty() {
            self.tracks.advance(worker, place.settled_until, first, latest);
        }
        let known = self.busy_until.entry(place.worker.index).or_default();
        *known = busy_until.max(*known);
        self.end_epoch(place)
    }

    /// Gives out what may be given out, where enough came for that.
    fn end_epoch(&mut self, place: &Place<'_>) -> io::Result<()> {
        if !self.tracks.is_epoch_full() {
            return Ok(());
        }
        // Of a spool that is still written, more may be known by now.
        if let Some(known) = self.workers.get_mut(place.worker.index) {
            known.clone_from(place.worker);
        }
        self.tracks.turn_epoch(&mut self.draw, &self.workers, place.definitions)
    }

    /// Puts samples on the tracks of their threads, as instants among the operators.
    pub(crate) fn put_samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Sample, |row| {
            (TrackKind::Thread { thread: row.thread }, row.time, row.time, 0, NO_HEAP)
        })
    }

    fn put_step(&mut self, worker: u32, step: Step, end: u64) {
        let Ok(words) = <[u64]>::ref_from_bytes(step.as_bytes()) else { return };
        let item = Item {
            start: step.time,
            end: end.max(step.time),
            row: 0,
            name: 0,
            kind: ItemKind::Step,
        };
        self.tracks.push(TrackKey { worker, kind: TrackKind::Steps }, item, words, &[]);
    }
}

const NO_HEAP: HeapRef = HeapRef { offset: 0, len: 0 };

impl<D: Draw> Consumer for Timeline<D> {
    fn begin(&mut self, workers: &[Worker]) -> io::Result<()> {
        self.workers = workers.to_vec();
        self.draw.begin(workers)
    }

    fn kernels(&mut self, place: &Place<'_>, rows: &[Kernel]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Kernel, |row| {
            let track = TrackKind::Stream { device: row.device, stream: row.stream };
            (track, row.start, row.end, row.name.0, NO_HEAP)
        })
    }

    fn memcpys(&mut self, place: &Place<'_>, rows: &[Memcpy]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Memcpy, |row| {
            let track = TrackKind::Stream { device: row.device, stream: row.stream };
            (track, row.start, row.end, 0, NO_HEAP)
        })
    }

    fn memsets(&mut self, place: &Place<'_>, rows: &[Memset]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Memset, |row| {
            let track = TrackKind::Stream { device: row.device, stream: row.stream };
            (track, row.start, row.end, 0, NO_HEAP)
        })
    }

    fn memory(&mut self, place: &Place<'_>, rows: &[Memory]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Memory, |row| {
            (TrackKind::Thread { thread: row.thread }, row.time, row.time, 0, NO_HEAP)
        })
    }

    fn communications(&mut self, place: &Place<'_>, rows: &[Communication]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Communication, |row| {
            let track = TrackKind::Communication { device: row.device, stream: row.stream };
            (track, row.start, row.end, row.name.0, NO_HEAP)
        })
    }

    fn api_calls(&mut self, place: &Place<'_>, rows: &[ApiCall]) -> io::Result<()> {
        self.put(place, rows, ItemKind::ApiCall, |row| {
            let track = TrackKind::Thread { thread: row.thread };
            (track, row.start, row.end, row.name.0, NO_HEAP)
        })
    }

    fn synchronizations(&mut self, place: &Place<'_>, rows: &[Synchronization]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Synchronization, |row| {
            let track = TrackKind::Synchronization { device: row.device, stream: row.stream };
            (track, row.start, row.end, 0, NO_HEAP)
        })
    }

    fn overheads(&mut self, place: &Place<'_>, rows: &[Overhead]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Overhead, |row| {
            let track = match row.thread {
                0 => TrackKind::Overhead,
                thread => TrackKind::Thread { thread },
            };
            (track, row.start, row.end, row.name.0, NO_HEAP)
        })
    }

    fn operators(&mut self, place: &Place<'_>, rows: &[Operator]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Operator, |row| {
            let track = TrackKind::Thread { thread: row.thread };
            (track, row.start, row.end, row.name.0, row.shapes)
        })
    }

    fn spans(&mut self, place: &Place<'_>, rows: &[Span]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Span, |row| {
            let track = TrackKind::Thread { thread: row.thread };
            (track, row.start, row.end, row.name.0, row.fields)
        })
    }

    fn markers(&mut self, place: &Place<'_>, rows: &[Marker]) -> io::Result<()> {
        self.put(place, rows, ItemKind::Marker, |row| {
            let track = TrackKind::Thread { thread: row.thread };
            (track, row.time, row.time, row.name.0, row.fields)
        })
    }

    fn counters(&mut self, place: &Place<'_>, rows: &[Counter]) -> io::Result<()> {
        self.draw.counters(place, rows)
    }

    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        self.draw.samples(place, rows)
    }

    fn steps(&mut self, place: &Place<'_>, rows: &[Step]) -> io::Result<()> {
        let worker = place.worker.index;
        for row in rows {
            if let Some(before) = self.steps.insert(worker, *row) {
                let window = place.worker.windows.iter().rev().find(|w| w.begin <= before.time);
                let end = window.and_then(|w| w.end).unwrap_or(u64::MAX);
                self.put_step(worker as u32, before, row.time.min(end));
            }
        }
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            let worker = worker as u32;
            self.tracks.advance(worker, place.settled_until, first.time, last.time);
        }
        self.end_epoch(place)
    }

    fn worker_end(
        &mut self,
        worker: usize,
        workers: &[Worker],
        definitions: &Definitions,
    ) -> io::Result<()> {
        if let Some(known) = self.workers.get_mut(worker)
            && let Some(newest) = workers.get(worker)
        {
            known.clone_from(newest);
        }
        self.tracks.end_worker(worker as u32, &mut self.draw, &self.workers, definitions)
    }

    fn end(&mut self, workers: &[Worker], definitions: &Definitions) -> io::Result<()> {
        self.workers = workers.to_vec();
        for (worker, step) in std::mem::take(&mut self.steps) {
            // A step ends with the next one; of the last is known what its threads did in it.
            let busy_until = self.busy_until.get(&worker).copied().unwrap_or(0);
            let window_end = workers.get(worker).map_or(step.time, |worker| worker.end);
            let end = if busy_until > step.time { busy_until.min(window_end) } else { window_end };
            self.put_step(worker as u32, step, end);
        }
        self.tracks.finish(&mut self.draw, workers, definitions)?;
        let counts = self.tracks.counts;
        self.draw.finish(workers, definitions, &counts)
    }
}

/// What an empty row of any kind is made of.
static EMPTY: [u64; 64] = [0; 64];

impl Drawn<'_> {
    /// The row; an empty one where it is shorter than its kind.
    #[inline]
    pub(crate) fn row<R: Row>(&self) -> &R {
        let words = self.row.get(1..=size_of::<R>() / 8).unwrap_or(&EMPTY[..size_of::<R>() / 8]);
        match R::ref_from_bytes(words.as_bytes()) {
            Ok(row) => row,
            Err(_) => unreachable!("words of a row's size, aligned as words are"),
        }
    }

    /// The bytes that the row's heap reference meant.
    pub(crate) fn heap<R: Row>(&self) -> &[u8] {
        let len = self.row.first().map_or(0, |len| *len as usize);
        let tail = self.row.get(1 + size_of::<R>() / 8..).unwrap_or_default();
        tail.as_bytes().get(..len).unwrap_or_default()
    }
}
