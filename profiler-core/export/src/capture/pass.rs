//! The rows of one block on their way: put on the capture's axis and ids, kept where they belong to
//! a window.

use profiler_core::sink::{StreamId, StreamInfo};
use zerocopy::FromBytes as _;

use super::definitions::StreamIds;
use super::launches::Launches;
use super::rows::{CaptureRow, Waiting};
use super::source::SourceBlock;
use super::time::TimeMap;
use super::window::{Belongs, Windows};
use super::{CaptureError, Counts, Delivery, Place, prefix_rows};

/// What is known of a stream.
pub(super) struct StreamState {
    pub(super) info: StreamInfo,
    pub(super) ids: StreamIds,
    pub(super) map: TimeMap,
    pub(super) map_version: u64,
    /// Where the first instant of the block skimmed last lies.
    pub(super) skimmed: u64,
}

/// One block on its way.
pub(super) struct Pass<'a, 'b> {
    pub(super) block: SourceBlock<'a>,
    pub(super) stream: &'a mut StreamState,
    pub(super) windows: &'a mut Windows,
    pub(super) launches: &'a mut Launches,
    pub(super) waiting: &'a mut Waiting,
    pub(super) scratch: &'a mut Vec<u64>,
    pub(super) handed_out: &'a mut u64,
    /// The earliest start of a row that waits for its launch.
    pub(super) held: &'a mut u64,
    pub(super) sink: &'a mut Delivery<'b>,
}

impl Pass<'_, '_> {
    /// Hands out the rows that belong, and keeps those whose launch is not known yet.
    pub(super) fn take<R: CaptureRow>(&mut self) -> Result<(), CaptureError> {
        let stride = self.block.stride as usize;
        let Some(count) = self.block.rows.len().checked_div(stride) else { return Ok(()) };
        if R::HAS_OWN_TIME && !self.stream.map.is_usable() {
            self.sink.counts.unmapped += count as u64;
            return Ok(());
        }
        let words = count * size_of::<R>() / 8;
        if self.scratch.len() < words {
            self.scratch.resize(words, 0);
        }
        let mut kept = 0;
        let mut latest = *self.handed_out;
        {
            use zerocopy::IntoBytes as _;
            let bytes = self.scratch[..words].as_mut_bytes();
            let Ok(out) = <[R]>::mut_from_bytes(bytes) else { return Ok(()) };
            let thread = self.stream.info.thread;
            let StreamState { ids, map, .. } = &mut *self.stream;
            let (windows, launches) = (&mut *self.windows, &mut *self.launches);
            let waiting = &mut *self.waiting;
            let held = &mut *self.held;
            let sink = &mut *self.sink;
            let id = self.block.stream;
            prefix_rows::<R>(self.block.rows, self.block.stride, |mut row| {
                if R::HAS_OWN_TIME {
                    row.set_start(map.map(row.start()));
                    if R::HAS_END {
                        row.set_end(map.map_near(row.end()));
                    }
                }
                let mut belongs = None;
                if R::BY_LAUNCH && row.correlation() != 0 {
                    belongs = launches.belongs(row.correlation());
                    if belongs.is_none()
                        && let Some(rows) = R::waiting(waiting)
                    {
                        row.resolve(ids, thread);
                        if R::HAS_OWN_TIME {
                            *held = row.start().min(*held);
                        }
                        rows.push((id, row));
                        return;
                    }
                }
                let belongs = belongs.unwrap_or_else(|| windows.place(row.start()));
                if R::IS_LAUNCH {
                    launches.note(row.correlation(), row.start(), belongs);
                }
                if count_outside(belongs, sink.counts) {
                    return;
                }
                row.resolve(ids, thread);
                fit(&mut row, launches, windows, sink);
                latest = latest.max(row.start());
                if let Some(place) = out.get_mut(kept) {
                    *place = row;
                    kept += 1;
                }
            });
        }
        *self.handed_out = latest;
        self.sink.settled_until = self.sink.settled_until.min(*self.held);
        use zerocopy::IntoBytes as _;
        let bytes = self.scratch[..kept * size_of::<R>() / 8].as_bytes();
        let Ok(rows) = <[R]>::ref_from_bytes(bytes) else { return Ok(()) };
        deliver(self.sink, self.block.stream, &self.stream.info, self.block.heap, rows)
    }
}

/// Counts a row that is in no window.
#[inline]
pub(super) fn count_outside(belongs: Belongs, counts: &mut Counts) -> bool {
    match belongs {
        Belongs::Inside => return false,
        Belongs::Warmup => counts.warmup += 1,
        Belongs::Outside => counts.outside_window += 1,
    }
    true
}

/// Ends an unfinished row and moves instants that contradict each other.
#[inline]
pub(super) fn fit<R: CaptureRow>(
    row: &mut R,
    launches: &Launches,
    windows: &Windows,
    sink: &mut Delivery<'_>,
) {
    let mut start = row.start();
    if R::BY_LAUNCH
        && R::HAS_END
        && let Some(launch) = launches.start(row.correlation())
        && start < launch
    {
        sink.counts.clamped += 1;
        let end = row.end();
        start = launch;
        row.set_start(start);
        // A clock step moved the whole row.
        if end != 0 && end < start {
            row.set_end(start);
        }
    }
    if !R::HAS_END {
        return;
    }
    let end = row.end();
    if end == 0 {
        row.mark_unfinished();
        row.set_end(windows.end_of(start).unwrap_or(sink.worker.end).max(start));
        return;
    }
    if end < start {
        sink.counts.clamped += 1;
        row.set_end(start);
    }
}

pub(super) fn deliver<R: CaptureRow>(
    sink: &mut Delivery<'_>,
    stream: StreamId,
    info: &StreamInfo,
    heap: &[u8],
    rows: &[R],
) -> Result<(), CaptureError> {
    if rows.is_empty() {
        return Ok(());
    }
    *sink.counts.rows.entry(R::SCHEMA.name).or_default() += rows.len() as u64;
    let place = Place {
        worker: sink.worker,
        stream,
        info,
        definitions: sink.definitions,
        heap,
        settled_until: sink.settled_until,
    };
    R::deliver(sink.consumer, &place, rows).map_err(CaptureError::Consumer)
}
