//! How much time a set of intervals covers, in bounded memory.
//!
//! Intervals may overlap and come in any order. The newest [`MAX_OPEN`] stretches that they form
//! are kept apart; older ones are summed up by halves into segments of which only the covered
//! share is known. What reaches back into such a segment is taken to cover its gaps evenly: exact
//! where it covers the segment whole, which is what late rows do (a span that lasted all along);
//! else the amount is in [`Coverage::uncertain`].

use std::collections::BTreeMap;

/// The stretches that are kept apart.
pub const MAX_OPEN: usize = 1 << 14;

/// Intervals, joined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coverage {
    open: BTreeMap<u64, u64>,
    settled: Vec<Segment>,
    uncertain: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Segment {
    from: u64,
    to: u64,
    covered: f64,
}

impl Coverage {
    /// Takes the interval [`start`, `end`).
    pub fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let settled_to = self.settled.last().map_or(0, |segment| segment.to);
        if start < settled_to {
            self.add_to_settled(start, end.min(settled_to));
        }
        let (mut start, mut end) = (start.max(settled_to), end);
        if start >= end {
            return;
        }
        // Those that touch it are joined: the one before, and all that begin inside.
        if let Some((&before, &before_end)) = self.open.range(..=start).next_back()
            && before_end >= start
        {
            if before_end >= end {
                return;
            }
            start = before;
        }
        while let Some((&next, &next_end)) = self.open.range(start..=end).next() {
            end = end.max(next_end);
            self.open.remove(&next);
        }
        self.open.insert(start, end);
        if self.open.len() > MAX_OPEN {
            self.settle();
        }
    }

    /// The time covered.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.covered_within(&[(0, u64::MAX)])
    }

    /// The time covered inside `windows`, which do not overlap. Of an old segment that lies only
    /// partly inside, the covered share counts for the part.
    #[must_use]
    pub fn covered_within(&self, windows: &[(u64, u64)]) -> u64 {
        let mut covered = 0_u64;
        let mut settled = 0.0;
        for &(begin, end) in windows {
            for (&from, &to) in &self.open {
                covered += to.min(end).saturating_sub(from.max(begin));
            }
            for segment in &self.settled {
                let inside = segment.to.min(end).saturating_sub(segment.from.max(begin)) as f64;
                settled += inside * segment.covered / (segment.to - segment.from) as f64;
            }
        }
        covered.saturating_add(settled.round() as u64)
    }

    /// How much of [`Coverage::covered`] rests on the assumption of even gaps.
    #[must_use]
    pub fn uncertain(&self) -> u64 {
        self.uncertain.round() as u64
    }

    fn add_to_settled(&mut self, start: u64, end: u64) {
        let first = self.settled.partition_point(|segment| segment.to <= start);
        for segment in &mut self.settled[first..] {
            if segment.from >= end {
                break;
            }
            let length = (segment.to - segment.from) as f64;
            let overlap = (end.min(segment.to) - start.max(segment.from)) as f64;
            let gained = overlap * (1.0 - segment.covered / length);
            if overlap < length {
                self.uncertain += gained;
            }
            segment.covered = (segment.covered + gained).min(length);
        }
    }

    /// Sums up the older half.
    fn settle(&mut self) {
        let Some(&middle) = self.open.keys().nth(self.open.len() / 2) else { return };
        let newer = self.open.split_off(&middle);
        let older = std::mem::replace(&mut self.open, newer);
        let (Some((&first, _)), Some((_, &to))) = (older.first_key_value(), older.last_key_value())
        else {
            return;
        };
        let from = self.settled.last().map_or(first, |segment| segment.to);
        let covered = older.iter().map(|(start, end)| end - start).sum::<u64>() as f64;
        self.settled.push(Segment { from, to, covered });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_row_of_gaps_is_summed_exactly() {
        let mut coverage = Coverage::default();
        let count = 10 * MAX_OPEN as u64;
        for index in 0..count {
            coverage.add(index * 10, index * 10 + 6);
        }
        assert!(coverage.open.len() <= MAX_OPEN + 1);
        assert_eq!((coverage.covered(), coverage.uncertain()), (count * 6, 0));
        // A span over all of it, told last.
        coverage.add(0, count * 10);
        assert_eq!((coverage.covered(), coverage.uncertain()), (count * 10, 0));
    }

    #[test]
    fn only_what_lies_inside_the_windows_counts() {
        let mut coverage = Coverage::default();
        coverage.add(10, 40);
        coverage.add(60, 100);
        assert_eq!(coverage.covered_within(&[(0, 20), (30, 70)]), 10 + 10 + 10);
        assert_eq!(coverage.covered_within(&[]), 0);
    }

    #[test]
    fn what_comes_too_late_is_estimated_and_said() {
        let mut coverage = Coverage::default();
        for index in 0..2 * MAX_OPEN as u64 {
            coverage.add(index * 10, index * 10 + 5);
        }
        let before = coverage.covered();
        coverage.add(0, 1000);
        assert!(coverage.covered() >= before + 450 && coverage.covered() <= before + 550);
        assert!(coverage.uncertain() > 400);
    }

    proptest! {
        #[test]
        fn equals_a_painted_array(rows in prop::collection::vec((0_u64..200, 0_u64..200), 0..60)) {
            let mut coverage = Coverage::default();
            let mut painted = [false; 200];
            for &(start, end) in &rows {
                coverage.add(start, end);
                for place in start..end.max(start) {
                    painted[place as usize] = true;
                }
            }
            prop_assert_eq!(coverage.covered(), painted.iter().filter(|&&p| p).count() as u64);
        }
    }
}
