//! Random weights as tensors.

use candle_core::{Device, Result, Shape, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Embedding, Linear};
use demo_stage::{Numbers, Shard};

/// A source of random weights.
pub(super) struct Weights {
    numbers: Numbers,
}

impl Weights {
    /// A source: the same seed gives the same weights.
    pub(super) fn new(seed: u64) -> Self {
        Self { numbers: Numbers::new(seed) }
    }

    /// Numbers of mean 0 and the given deviation.
    pub(super) fn tensor(&mut self, shape: impl Into<Shape>, deviation: f32) -> Result<Tensor> {
        let shape = shape.into();
        let values = self.numbers.draw(shape.elem_count(), deviation);
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
        Ok(Linear::new(narrow(&weight, 0, shard)?, None))
    }

    /// A linear map of which the rank holds some of the inputs: its output is a partial sum.
    pub(super) fn by_input(&mut self, from: usize, to: usize, shard: Shard) -> Result<Linear> {
        let weight = self.tensor((to, from), (from as f32).powf(-0.5))?;
        Ok(Linear::new(narrow(&weight, 1, shard)?, None))
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

/// The part of a matrix that a rank holds.
fn narrow(weight: &Tensor, dim: usize, shard: Shard) -> Result<Tensor> {
    let size = weight.dim(dim)? / shard.ranks;
    weight.narrow(dim, shard.rank * size, size)?.contiguous()
}
