//! Instants of a stream's clock on the axis of the capture.
//!
//! Clock tuples cut the time into pieces; within a piece both clocks run evenly. Between two
//! tuples where CLOCK_REALTIME was stepped the instant of the step is not known, so both offsets
//! hold there; where they contradict, the one that continues the stream's last row is taken.

use profiler_core::clock::ClockDomain;
use profiler_core::record::ClockTuple;

/// From one clock to the axis.
#[derive(Debug, Default)]
pub(super) struct TimeMap {
    pieces: Vec<Piece>,
    overlapping: bool,
    current: usize,
    last: u64,
    /// How many instants lay where no piece holds.
    pub(super) outside: u64,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// The first instant of the clock, and the one past the last.
    from: u64,
    to: u64,
    /// An instant of the clock and where it lies on the axis.
    clock: u64,
    axis: u64,
    slope: f64,
    /// Whether another piece holds for some of these instants too.
    overlaps: bool,
}

impl Piece {
    #[inline]
    fn map(&self, at: u64) -> u64 {
        let distance = at.wrapping_sub(self.clock) as i64;
        let distance =
            if self.slope == 1.0 { distance } else { (distance as f64 * self.slope) as i64 };
        self.axis.saturating_add_signed(distance)
    }

    #[inline]
    fn holds(&self, at: u64) -> bool {
        self.from <= at && at < self.to
    }
}

/// What a clock shows in a tuple, `None` where it was not read.
fn reading(tuple: &ClockTuple, domain: ClockDomain, stream: u32) -> Option<u64> {
    let value = match domain {
        ClockDomain::Monotonic => tuple.monotonic,
        ClockDomain::Realtime => tuple.realtime,
        ClockDomain::Boottime => tuple.boottime,
        ClockDomain::Tsc => tuple.tsc,
        ClockDomain::Driver if tuple.driver_stream == stream => tuple.driver,
        _ => 0,
    };
    (value != 0).then_some(value)
}

impl TimeMap {
    /// The map of a stream's clock. `tuples` are in the order of CLOCK_MONOTONIC; the axis lies
    /// `shift` ns after it.
    pub(super) fn new(domain: ClockDomain, stream: u32, tuples: &[ClockTuple], shift: i64) -> Self {
        if domain == ClockDomain::Monotonic {
            let piece =
                Piece { from: 0, to: u64::MAX, clock: 0, axis: 0, slope: 1.0, overlaps: false };
            // The shift may be negative, and the axis of the clock's zero then does not exist.
            let anchor = 1 << 62;
            let piece = Piece { clock: anchor, axis: anchor.saturating_add_signed(shift), ..piece };
            return Self { pieces: vec![piece], ..Self::default() };
        }
        let points: Vec<(u64, u64, u64)> = tuples
            .iter()
            .filter_map(|t| Some((reading(t, domain, stream)?, t.monotonic, u64::from(t.error_ns))))
            .collect();
        let mut pieces = Vec::with_capacity(points.len() + 1);
        for pair in points.windows(2) {
            let [(clock, monotonic, error), (next_clock, next_monotonic, next_error)] = *pair
            else {
                continue;
            };
            let passed = next_monotonic - monotonic;
            if passed == 0 {
                continue;
            }
            let axis = monotonic.saturating_add_signed(shift);
            let next_axis = next_monotonic.saturating_add_signed(shift);
            let counted = next_clock.wrapping_sub(clock) as i64;
            let even = match domain {
                ClockDomain::Realtime | ClockDomain::Boottime => {
                    counted.abs_diff(passed as i64) <= passed / 1000 + error + next_error + 20_000
                }
                _ => counted > 0,
            };
            if even {
                let slope = passed as f64 / counted.max(1) as f64;
                pieces.push(Piece {
                    from: clock,
                    to: next_clock,
                    clock,
                    axis,
                    slope,
                    overlaps: false,
                });
                continue;
            }
            let before = Piece {
                from: clock,
                to: clock.saturating_add(passed),
                clock,
                axis,
                slope: 1.0,
                overlaps: false,
            };
            let after = Piece {
                from: next_clock.saturating_sub(passed),
                to: next_clock,
                clock: next_clock,
                axis: next_axis,
                slope: 1.0,
                overlaps: false,
            };
            pieces.push(before);
            pieces.push(after);
        }
        let last_slope = pieces.last().map_or(1.0, |piece| piece.slope);
        let first_slope = pieces.first().map_or(1.0, |piece| piece.slope);
        if let (Some(&(first, first_mono, _)), Some(&(last, last_mono, _))) =
            (points.first(), points.last())
        {
            let axis = first_mono.saturating_add_signed(shift);
            let before = Piece {
                from: 0,
                to: first,
                clock: first,
                axis,
                slope: first_slope,
                overlaps: false,
            };
            let axis = last_mono.saturating_add_signed(shift);
            let after = Piece {
                from: last,
                to: u64::MAX,
                clock: last,
                axis,
                slope: last_slope,
                overlaps: false,
            };
            pieces.insert(0, before);
            pieces.push(after);
        }
        let overlapping = mark_overlaps(&mut pieces);
        Self { pieces, overlapping, ..Self::default() }
    }

    /// Whether instants can be mapped at all.
    pub(super) fn is_usable(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// An instant on the axis; where several fit, the one nearest to `near`.
    pub(super) fn probe(&self, at: u64, near: u64) -> u64 {
        let index = if self.overlapping { self.nearest(at, near) } else { self.search(at) };
        index.map_or(0, |index| self.pieces[index].map(at))
    }

    /// The next instants lie near this one of the axis.
    pub(super) fn expect(&mut self, near: u64) {
        self.last = near;
    }

    /// Takes over where the map before this one stood.
    pub(super) fn resume(&mut self, before: &Self) {
        self.last = before.last;
        self.outside = before.outside;
        self.current = before.current.min(self.pieces.len().saturating_sub(1));
    }

    /// An instant on the axis. 0 stays 0: it is no instant.
    #[inline]
    pub(super) fn map(&mut self, at: u64) -> u64 {
        if at == 0 {
            return 0;
        }
        if let Some(piece) = self.pieces.get(self.current)
            && piece.holds(at)
            && !piece.overlaps
        {
            self.last = piece.map(at);
            return self.last;
        }
        self.map_elsewhere(at)
    }

    /// An instant that lies near one that was mapped just before (the end of a row).
    #[inline]
    pub(super) fn map_near(&mut self, at: u64) -> u64 {
        let last = self.last;
        let mapped = self.map(at);
        // The next row starts near this one's start, however long this one was.
        self.last = last;
        mapped
    }

    #[cold]
    fn map_elsewhere(&mut self, at: u64) -> u64 {
        let chosen = if self.overlapping { self.nearest(at, self.last) } else { self.search(at) };
        let Some(index) = chosen else {
            self.outside += 1;
            return self.last.max(1);
        };
        self.current = index;
        self.last = self.pieces[index].map(at).max(1);
        self.last
    }

    fn search(&self, at: u64) -> Option<usize> {
        let after = self.pieces.partition_point(|piece| piece.from <= at);
        // In the gap that a step forth leaves, the piece before it holds best.
        after.checked_sub(1)
    }

    fn nearest(&self, at: u64, near: u64) -> Option<usize> {
        let mut best: Option<(bool, u64, usize)> = None;
        for (index, piece) in self.pieces.iter().enumerate() {
            let gap = if piece.holds(at) {
                0
            } else {
                piece.from.abs_diff(at).min(piece.to.abs_diff(at))
            };
            let distance = match gap {
                0 if near == 0 => 0,
                0 => piece.map(at).abs_diff(near),
                gap => gap,
            };
            let candidate = (gap != 0, distance, index);
            if best.is_none_or(|best| candidate < best) {
                best = Some(candidate);
            }
        }
        best.map(|(_, _, index)| index)
    }
}

fn mark_overlaps(pieces: &mut [Piece]) -> bool {
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|&index| (pieces[index].from, pieces[index].to));
    let mut any = false;
    let mut widest: Option<usize> = None;
    for index in order {
        if let Some(other) = widest
            && pieces[index].from < pieces[other].to
        {
            pieces[index].overlaps = true;
            pieces[other].overlaps = true;
            any = true;
        }
        if widest.is_none_or(|other| pieces[other].to < pieces[index].to) {
            widest = Some(index);
        }
    }
    any
}
