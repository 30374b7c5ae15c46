//! Random weights on the device.

use demo_stage::{Numbers, Shard};
use tch::{Device, TchError, Tensor};

/// A source of random weights.
pub(crate) struct Weights {
    numbers: Numbers,
    device: Device,
}

impl Weights {
    /// A source: the same seed gives the same weights.
    pub(crate) fn new(seed: u64, device: Device) -> Self {
        Self { numbers: Numbers::new(seed), device }
    }

    /// Numbers of mean 0 and the given deviation.
    pub(crate) fn tensor(&mut self, shape: &[usize], deviation: f32) -> Result<Tensor, TchError> {
        let values = self.numbers.draw(shape.iter().product(), deviation);
        let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
        Tensor::f_from_slice(&values)?.f_reshape(shape)?.f_to_device(self.device)
    }

    /// The matrix of a linear map.
    pub(crate) fn linear(&mut self, from: usize, to: usize) -> Result<Tensor, TchError> {
        self.tensor(&[to, from], (from as f32).powf(-0.5))
    }

    /// A linear map of which the rank computes some of the outputs.
    pub(crate) fn by_output(
        &mut self,
        from: usize,
        to: usize,
        shard: Shard,
    ) -> Result<Tensor, TchError> {
        narrow(&self.linear(from, to)?, 0, to, shard)
    }

    /// A linear map of which the rank holds some of the inputs: its output is a partial sum.
    pub(crate) fn by_input(
        &mut self,
        from: usize,
        to: usize,
        shard: Shard,
    ) -> Result<Tensor, TchError> {
        narrow(&self.linear(from, to)?, 1, from, shard)
    }

    /// A square convolution of three by three.
    pub(crate) fn conv(&mut self, from: usize, to: usize) -> Result<Tensor, TchError> {
        self.tensor(&[to, from, 3, 3], ((from * 9) as f32).powf(-0.5))
    }
}

/// The part of a matrix that a rank holds.
fn narrow(weight: &Tensor, dim: i64, size: usize, shard: Shard) -> Result<Tensor, TchError> {
    let part = (size / shard.ranks) as i64;
    weight.f_narrow(dim, shard.rank as i64 * part, part)?.f_contiguous()
}

/// A linear map without a bias.
pub(crate) fn apply(weight: &Tensor, x: &Tensor) -> Result<Tensor, TchError> {
    x.f_linear(weight, None::<&Tensor>)
}

/// A tensor's values on the host.
pub(crate) fn to_host(x: &Tensor) -> Result<Vec<f32>, TchError> {
    let count = x.numel();
    let mut values = vec![0.0; count];
    x.f_flatten(0, -1)?
        .f_to_device(Device::Cpu)?
        .f_contiguous()?
        .f_copy_data(&mut values, count)?;
    Ok(values)
}
