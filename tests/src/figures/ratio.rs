//! Ratios of two sides that are run in turn, so that drift of the machine hits both alike.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Bound, Verdict};

/// Pairs of a ratio whose runs are short.
pub const PAIRS: usize = 15;

/// Pairs of a ratio of which a run of either side takes longer than [`LONG_RUN`].
pub const LONG_PAIRS: usize = 3;

/// From this on a run counts as long.
pub const LONG_RUN: Duration = Duration::from_secs(10);

/// A ratio `with / without` over several pairs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Ratio {
    /// The ratios, sorted.
    pub ratios: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// The lower end of the median's 95 % interval; with [`LONG_PAIRS`] pairs the least ratio.
    pub low: f64,
    /// The upper end; with [`LONG_PAIRS`] pairs the greatest ratio.
    pub high: f64,
}

impl Ratio {
    /// The ratio of pairs `(without, with)`.
    ///
    /// # Errors
    ///
    /// Fewer than [`LONG_PAIRS`] pairs, or a side that is not a positive number.
    pub fn of_pairs(pairs: &[(f64, f64)]) -> anyhow::Result<Self> {
        anyhow::ensure!(pairs.len() >= LONG_PAIRS, "{} pairs are too few for a ratio", pairs.len());
        let mut ratios = Vec::with_capacity(pairs.len());
        for &(without, with) in pairs {
            anyhow::ensure!(
                without > 0.0 && with.is_finite() && with >= 0.0,
                "no ratio of {with} to {without}"
            );
            ratios.push(with / without);
        }
        ratios.sort_by(f64::total_cmp);
        let outside = interval_rank(ratios.len());
        let (low, high) = (ratios[outside], ratios[ratios.len() - 1 - outside]);
        Ok(Self { median: median(&ratios), low, high, ratios })
    }

    /// The verdict against a bound.
    #[must_use]
    pub fn judge(&self, bound: Bound) -> Verdict {
        let inside = [self.low, self.high].map(|end| bound.holds(end));
        if inside == [true, true] {
            return Verdict::Ok;
        }
        // "Wider than the bound": wider than what the bound allows the ratio to differ from 1.
        let allowed = (bound.number() - 1.0).abs();
        if inside != [false, false] && self.high - self.low > allowed {
            return Verdict::Noisy;
        }
        Verdict::Short
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.ratios.len() < PAIRS { "min .. max" } else { "95 % interval" };
        write!(
            f,
            "{} pairs, median {:.4}, {what} {:.4} .. {:.4}",
            self.ratios.len(),
            self.median,
            self.low,
            self.high
        )
    }
}

/// Runs both sides in turn and gives the ratio `with / without`.
///
/// Each side returns what it measured (seconds, ns, bytes: the same on both). There are [`PAIRS`]
/// pairs, or [`LONG_PAIRS`] where the first run of either side took longer than [`LONG_RUN`].
/// Which side goes first alternates from pair to pair.
///
/// # Errors
///
/// What a side returns, and what [`Ratio::of_pairs`] refuses.
pub fn measure_ratio(
    mut without: impl FnMut() -> anyhow::Result<f64>,
    mut with: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Ratio> {
    let mut pairs = Vec::with_capacity(PAIRS);
    let mut wanted = PAIRS;
    while pairs.len() < wanted {
        let mut longest = Duration::ZERO;
        let mut timed = |side: &mut dyn FnMut() -> anyhow::Result<f64>| {
            let begin = Instant::now();
            let value = side()?;
            longest = longest.max(begin.elapsed());
            anyhow::Ok(value)
        };
        let pair = if pairs.len() % 2 == 0 {
            let first = timed(&mut without)?;
            (first, timed(&mut with)?)
        } else {
            let first = timed(&mut with)?;
            (timed(&mut without)?, first)
        };
        pairs.push(pair);
        if longest > LONG_RUN {
            wanted = LONG_PAIRS.max(pairs.len());
        }
    }
    Ratio::of_pairs(&pairs)
}

/// The median of sorted numbers.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// How many of `count` sorted values lie outside the median's 95 % interval on either side: the
/// greatest `k` with `P(Binomial(count, 1/2) <= k) - P(.. = k) <= 2.5 %`, by order statistics.
fn interval_rank(count: usize) -> usize {
    let mut probability = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut below = 0.0;
    let mut rank = 0;
    while rank < count / 2 {
        below += probability;
        if below > 0.025 {
            break;
        }
        probability *= (count - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
    // `rank` values at either end may be left out: P(at most rank - 1 below the median) <= 2.5 %.
    rank.saturating_sub(1).min((count - 1) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio_of(ratios: &[f64]) -> Ratio {
        let pairs: Vec<_> = ratios.iter().map(|ratio| (2.0, 2.0 * ratio)).collect();
        Ratio::of_pairs(&pairs).unwrap()
    }

    #[test]
    fn the_interval_of_fifteen_is_the_fourth_to_the_twelfth() {
        // The textbook's 95 % interval of a median: n = 15, ranks 4 and 12 (96.5 %).
        let ratios: Vec<f64> = (1..=15).map(f64::from).collect();
        let ratio = ratio_of(&ratios);
        assert_eq!((ratio.low, ratio.median, ratio.high), (4.0, 8.0, 12.0));
    }

    #[test]
    fn three_pairs_must_all_be_inside() {
        let ratio = ratio_of(&[1.0, 1.01, 1.02]);
        assert_eq!((ratio.low, ratio.high), (1.0, 1.02));
        assert_eq!(ratio.judge(Bound::AtMost(1.02)), Verdict::Ok);
        assert_eq!(ratio.judge(Bound::AtMost(1.015)), Verdict::Noisy);
        assert_eq!(ratio.judge(Bound::AtMost(0.99)), Verdict::Short);
    }

    #[test]
    fn an_interval_that_straddles_a_bound_is_short_or_noisy_by_its_width() {
        let narrow = ratio_of(&[1.049, 1.05, 1.051]);
        assert_eq!(narrow.judge(Bound::AtMost(1.05)), Verdict::Short);
        let wide = ratio_of(&[0.9, 1.0, 1.1]);
        assert_eq!(wide.judge(Bound::AtMost(1.01)), Verdict::Noisy);
    }

    #[test]
    fn pairs_run_in_turn_and_alternate() {
        let order = std::cell::RefCell::new(String::new());
        let ratio = measure_ratio(
            || {
                order.borrow_mut().push('a');
                Ok(1.0)
            },
            || {
                order.borrow_mut().push('b');
                Ok(2.0)
            },
        )
        .unwrap();
        assert_eq!(ratio.ratios.len(), PAIRS);
        assert!(order.borrow().starts_with("abbaabba"));
        assert!((ratio.median - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_side_of_zero_is_refused() {
        assert!(Ratio::of_pairs(&[(0.0, 1.0); 3]).is_err());
        assert!(Ratio::of_pairs(&[(1.0, 1.0); 2]).is_err());
    }
}
