//! The numbers that models begin with, equal in every process for equal seeds.

/// The part of a matrix that a rank of several holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The rank.
    pub rank: usize,
    /// How many there are.
    pub ranks: usize,
}

impl Shard {
    /// The only rank.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1 };
}

/// A source of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Numbers {
    state: u64,
}

impl Numbers {
    /// A source: the same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Numbers of mean 0 and the given deviation.
    pub fn draw(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            // Uniform over a range of the same deviation: half its width is sqrt(3) deviations.
            let unit = (self.next() >> 40) as f32 / (1_u32 << 24) as f32;
            values.push((unit * 2.0 - 1.0) * deviation * 3.0_f32.sqrt());
        }
        values
    }
}

/// How a denoiser is told the time: sines and cosines of `width` values.
#[must_use]
pub fn time_embedding(time: f32, width: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(width);
    for pair in 0..width / 2 {
        let frequency = 1_000_f32.powf(-(pair as f32) / (width / 2) as f32);
        let angle = time * 1_000.0 * frequency;
        values.push(angle.sin());
        values.push(angle.cos());
    }
    values
}

/// The angles by which rotary embeddings turn the pairs of a head: `context` rows of half its width.
#[must_use]
pub fn rotary_angles(context: usize, head_width: usize) -> Vec<f32> {
    let mut angles = Vec::with_capacity(context * head_width / 2);
    for position in 0..context {
        for pair in 0..head_width / 2 {
            let frequency = 10_000_f32.powf(-(2.0 * pair as f32) / head_width as f32);
            angles.push(position as f32 * frequency);
        }
    }
    angles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_deviation_that_was_asked_for() {
        let values = Numbers::new(1).draw(10_000, 0.5);
        let mean = values.iter().sum::<f32>() / 10_000.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance.sqrt() - 0.5).abs() < 0.02, "{variance}");
        assert_eq!(values, Numbers::new(1).draw(10_000, 0.5));
        assert_ne!(values, Numbers::new(2).draw(10_000, 0.5));
    }
}
