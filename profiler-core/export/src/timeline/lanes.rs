//! The lanes of a track: which one a slice goes to, so that none overlap.

use std::collections::BTreeMap;
use std::io;

use super::{Draw, Item};

/// Where a slice goes.
pub(super) enum Fit {
    /// To a lane that is there.
    Lane { lane: usize, clamped: bool },
    /// To one that must be opened.
    NewLane { nth: u32 },
}

/// The lanes of a track.
pub(super) struct TrackLanes {
    nests: bool,
    ordered: Vec<OrderedLane>,
    overflow: Vec<OverflowLane>,
}

struct OrderedLane {
    lane: usize,
    /// The ends of the slices that are open, outermost first.
    open: Vec<u64>,
    /// Where the last item began.
    begun: u64,
}

struct OverflowLane {
    lane: usize,
    /// The ends of what lies there, by start.
    taken: BTreeMap<u64, u64>,
}

/// Drivers' instants are rounded: slices that overlap by no more do not overlap.
const ROUNDING_NS: u64 = 2;
/// Calls and the operators around them may be stamped by different clocks.
const NESTING_NS: u64 = 1_000;
/// A track has at most so many lanes of either sort; what overlaps more shares the last.
const MAX_LANES: usize = 128;
/// How many slices an overflow lane remembers.
const MAX_TAKEN: usize = 1 << 12;

impl TrackLanes {
    pub(super) fn new(nests: bool) -> Self {
        Self { nests, ordered: Vec::new(), overflow: Vec::new() }
    }

    pub(super) fn first(&self) -> Option<usize> {
        self.ordered.first().map(|lane| lane.lane)
    }

    /// Finds the lane of an item that starts no earlier than those before it, and ends what has
    /// ended there. May move the item's instants by a hair.
    #[inline]
    pub(super) fn fit<D: Draw>(
        &mut self,
        item: &mut Item,
        crowded: bool,
        draw: &mut D,
    ) -> io::Result<Fit> {
        let is_instant = item.kind.is_instant();
        let count = self.ordered.len();
        for (index, lane) in self.ordered.iter_mut().enumerate() {
            // Another item's start may have been moved past this one's.
            let mut start = item.start.max(lane.begun);
            while let Some(&end) = lane.open.last() {
                if end > start {
                    break;
                }
                lane.open.pop();
                draw.end_slice(lane.lane, end)?;
            }
            let mut end = item.end.max(start);
            let holder = if is_instant { None } else { lane.open.last().copied() };
            if let Some(outer) = holder {
                if self.nests && end <= outer {
                    // It nests as it is.
                } else if outer - start <= ROUNDING_NS && lane.open.len() == 1 {
                    lane.open.pop();
                    draw.end_slice(lane.lane, outer)?;
                    start = outer;
                    end = end.max(start);
                } else if self.nests && end - outer <= NESTING_NS {
                    end = outer;
                } else if index + 1 == count && (crowded || count >= MAX_LANES) {
                    // Drawn as if it ended with what holds it: wrong, but counted and bounded.
                    end = end.min(outer);
                } else {
                    continue;
                }
            }
            let clamped = (start, end) != (item.start, item.end);
            (item.start, item.end) = (start, end);
            lane.begun = start;
            if !is_instant {
                lane.open.push(end);
            }
            return Ok(Fit::Lane { lane: lane.lane, clamped });
        }
        Ok(Fit::NewLane { nth: count as u32 })
    }

    /// Finds the overflow lane of an item.
    pub(super) fn overflow(&mut self, item: &Item, crowded: bool) -> Fit {
        let count = self.overflow.len();
        for (index, lane) in self.overflow.iter_mut().enumerate() {
            let before = lane.taken.range(..=item.start).next_back().map_or(0, |(_, end)| *end);
            let after = lane.taken.range(item.start..).next().map_or(u64::MAX, |(start, _)| *start);
            let free = before <= item.start && item.end <= after && before != u64::MAX;
            let same_start = after == item.start;
            if (free && !same_start) || (index + 1 == count && (crowded || count >= MAX_LANES)) {
                lane.taken.insert(item.start, item.end);
                if lane.taken.len() > MAX_TAKEN {
                    lane.taken.pop_first();
                }
                return Fit::Lane { lane: lane.lane, clamped: false };
            }
        }
        Fit::NewLane { nth: (self.ordered.len() + count) as u32 }
    }

    /// The lane that was asked for is open.
    pub(super) fn opened(&mut self, lane: usize, overflow: bool, item: &Item) {
        if overflow {
            let taken = BTreeMap::from([(item.start, item.end)]);
            self.overflow.push(OverflowLane { lane, taken });
            return;
        }
        let open = if item.kind.is_instant() { Vec::new() } else { vec![item.end] };
        self.ordered.push(OrderedLane { lane, open, begun: item.start });
    }

    /// Ends what is open.
    pub(super) fn close<D: Draw>(&mut self, draw: &mut D) -> io::Result<()> {
        for lane in &mut self.ordered {
            while let Some(end) = lane.open.pop() {
                draw.end_slice(lane.lane, end)?;
            }
        }
        Ok(())
    }
}
