//! Random weights, equal in every process for equal names.

use candle_core::{Device, Result, Shape, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Embedding, Linear};

/// The part of a matrix that a rank of several holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shard {
    /// The rank.
    pub(super) rank: usize,
    /// How many there are.
    pub(super) ranks: usize,
}

impl Shard {
    /// The only rank.
    pub(super) const WHOLE: Self = Self { rank: 0, ranks: 1 };

    fn narrow(self, weight: &Tensor, dim: usize) -> Result<Tensor> {
        let size = weight.dim(dim)? / self.ranks;
        weight.narrow(dim, self.rank * size, size)?.contiguous()
    }
}

/// A source of random weights (splitmix64).
pub(super) struct Weights {
    state: u64,
}

impl Weights {
    /// A source: the same seed gives the same weights.
    pub(super) fn new(seed: u64) -> Self {
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
    pub(super) fn tensor(&mut self, shape: impl Into<Shape>, deviation: f32) -> Result<Tensor> {
        let shape = shape.into();
        let mut values = Vec::with_capacity(shape.elem_count());
        for _ in 0..shape.elem_count() {
            // Uniform over a range of the same deviation: half its width is sqrt(3) deviations.
            let unit = (self.next() >> 40) as f32 / (1_u32 << 24) as f32;
            values.push((unit * 2.0 - 1.0) * deviation * 3.0_f32.sqrt());
        }
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    /// A linear map, whole.
    pub(super) fn linear(&mut self, from: usize, to: usize) -> Result<Linear> {
        let weight = self.tensor((to, from), (from as f32).powf(-0.5))?;
        Ok(Linear::new(weight, None))
    }

    /// A linear map of which the rank computes some of the outputs.
    pub(super) fn by_output(&mut self, from: usize, to: usize, shard: Shard) -> Result<Linear> {
        let weight = self.tensor((to, from), (from as f32).powf(-0.5))?;
        Ok(Linear::new(shard.narrow(&weight, 0)?, None))
    }

    /// A linear map of which the rank holds some of the inputs: its output is a partial sum.
    pub(super) fn by_input(&mut self, from: usize, to: usize, shard: Shard) -> Result<Linear> {
        let weight = self.tensor((to, from), (from as f32).powf(-0.5))?;
        Ok(Linear::new(shard.narrow(&weight, 1)?, None))
    }

    /// An embedding.
    pub(super) fn embedding(&mut self, count: usize, width: usize) -> Result<Embedding> {
        Ok(Embedding::new(self.tensor((count, width), 1.0)?, width))
    }

    /// A convolution that keeps the size of its input.
    pub(super) fn conv(&mut self, from: usize, to: usize, kernel: usize) -> Result<Conv2d> {
        let deviation = ((from * kernel * kernel) as f32).powf(-0.5);
        let weight = self.tensor((to, from, kernel, kernel), deviation)?;
        let config = Conv2dConfig { padding: kernel / 2, ..Conv2dConfig::default() };
        Ok(Conv2d::new(weight, None, config))
    }
}
