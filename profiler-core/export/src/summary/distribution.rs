//! Count, sum, extremes, deviation and quantiles of many numbers in little memory.
//!
//! Quantiles come from a log-linear histogram: numbers below 128 have a bucket each, every octave
//! above has 64. A quantile is the middle of the bucket that holds the number of that rank, so it
//! lies within 1/128 (0.8 %) of it. All else is exact, but for the rounding of doubles.

/// Numbers, summed up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    count: u64,
    total: u64,
    min: u64,
    max: u64,
    mean: f64,
    squares: f64,
    /// By bucket; only those that hold something.
    buckets: Vec<(u16, u64)>,
}

/// Sub-buckets of an octave, as a power of two.
const SUB_BITS: u32 = 6;
/// Below this number each has its own bucket.
const LINEAR: u64 = 2 << SUB_BITS;

impl Distribution {
    /// Takes a number; answers how many buckets that added, 0 or 1.
    pub fn add(&mut self, number: u64) -> usize {
        self.add_summary(number);
        let bucket = bucket_of(number);
        match self.buckets.binary_search_by_key(&bucket, |&(at, _)| at) {
            Ok(at) => {
                self.buckets[at].1 += 1;
                0
            }
            Err(at) => {
                self.buckets.insert(at, (bucket, 1));
                1
            }
        }
    }

    fn add_summary(&mut self, number: u64) {
        self.min = if self.count == 0 { number } else { self.min.min(number) };
        self.max = self.max.max(number);
        self.count += 1;
        self.total = self.total.saturating_add(number);
        // Welford: sums of squares would lose the small deviations of large numbers.
        let delta = number as f64 - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (number as f64 - self.mean);
    }

    /// Takes all numbers of another.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        let (own, their) = (self.count as f64, other.count as f64);
        let delta = other.mean - self.mean;
        self.squares += other.squares + delta * delta * own * their / (own + their);
        self.mean += delta * their / (own + their);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);

        let mut merged = Vec::with_capacity(self.buckets.len().max(other.buckets.len()));
        let (mut ours, mut theirs) =
            (self.buckets.iter().peekable(), other.buckets.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(&&a), Some(&&b)) if a.0 == b.0 => {
                    ours.next();
                    theirs.next();
                    (a.0, a.1 + b.1)
                }
                (Some(&&a), Some(&&b)) if a.0 < b.0 => {
                    ours.next();
                    a
                }
                (Some(&&a), None) => {
                    ours.next();
                    a
                }
                (_, Some(&&b)) => {
                    theirs.next();
                    b
                }
            };
            merged.push(next);
        }
        self.buckets = merged;
    }

    /// How many numbers there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum; stops at the greatest number.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least, 0 of none.
    #[must_use]
    pub fn min(&self) -> u64 {
        self.min
    }

    /// The greatest, 0 of none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Their mean, 0 of none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The deviation from the mean, of a sample (n - 1); 0 of fewer than two.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        (self.squares / (self.count - 1) as f64).max(0.0).sqrt()
    }

    /// The number that `share` (0 to 1) of all do not exceed, within 0.8 %; of several, the least.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((share.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut before = 0;
        for &(bucket, count) in &self.buckets {
            before += count;
            if before >= rank {
                return middle_of(bucket).clamp(self.min, self.max);
            }
        }
        self.max
    }

    /// The number in the middle, within 0.8 %.
    #[must_use]
    pub fn median(&self) -> u64 {
        self.quantile(0.5)
    }
}

fn bucket_of(number: u64) -> u16 {
    if number < LINEAR {
        return number as u16;
    }
    let octave = 63 - number.leading_zeros();
    let sub = (number >> (octave - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (LINEAR + (u64::from(octave - SUB_BITS - 1) << SUB_BITS) + sub) as u16
}

fn middle_of(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < LINEAR {
        return bucket;
    }
    let octave = ((bucket - LINEAR) >> SUB_BITS) as u32 + SUB_BITS + 1;
    let sub = (bucket - LINEAR) & ((1 << SUB_BITS) - 1);
    let width = 1_u64 << (octave - SUB_BITS);
    (1_u64 << octave) + sub * width + width / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_greatest_number_has_a_bucket() {
        for number in [0, 1, 127, 128, 129, u64::MAX / 2, u64::MAX] {
            let middle = middle_of(bucket_of(number));
            assert!(middle.abs_diff(number) as f64 <= number as f64 / 128.0, "{number}: {middle}");
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0_u32..64).prop_map(|(number, shift)| number >> shift)
    }

    proptest! {
        #[test]
        fn quantiles_lie_within_their_error(
            mut numbers in prop::collection::vec(number(), 1..400),
            share in 0.0_f64..=1.0,
        ) {
            let mut distribution = Distribution::default();
            for &number in &numbers {
                distribution.add(number);
            }
            numbers.sort_unstable();
            let rank = ((share * numbers.len() as f64).ceil() as usize).max(1);
            let exact = numbers[rank - 1];
            let found = distribution.quantile(share);
            prop_assert!(
                found.abs_diff(exact) as f64 <= exact as f64 * 0.008 + 0.5,
                "{found} instead of {exact}"
            );
            prop_assert_eq!(distribution.min(), numbers[0]);
            prop_assert_eq!(distribution.max(), numbers[numbers.len() - 1]);
        }

        #[test]
        fn merging_is_adding_all(
            numbers in prop::collection::vec(0_u64..1_000_000_000, 0..200),
            at in any::<prop::sample::Index>(),
        ) {
            let cut = if numbers.is_empty() { 0 } else { at.index(numbers.len()) };
            let mut whole = Distribution::default();
            let mut parts = [Distribution::default(), Distribution::default()];
            for (index, &number) in numbers.iter().enumerate() {
                whole.add(number);
                parts[usize::from(index >= cut)].add(number);
            }
            let [mut merged, second] = parts;
            merged.merge(&second);
            prop_assert_eq!(merged.count(), whole.count());
            prop_assert_eq!(merged.total(), whole.total());
            prop_assert_eq!(&merged.buckets, &whole.buckets);
            prop_assert!((merged.mean() - whole.mean()).abs() <= 1e-9 * whole.mean().abs() + 1e-9);
            prop_assert!((merged.deviation() - whole.deviation()).abs() <= 1e-6 * whole.deviation() + 1e-6);
        }
    }
}
