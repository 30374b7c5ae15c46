//! The engine of the demo's stages.

use demo_stage::{Bridge, Decoder, DecoderSizes, DenoiserSizes, Diffusion, Engine, Shard};
use tch::{Device, Tensor};

use crate::decoder::Transformer;
use crate::denoiser::ImageMaker;
use crate::weights::{Weights, apply, to_host};

/// Models on libtorch.
pub(crate) struct Torch {
    /// Where their tensors lie.
    pub(crate) device: Device,
}

impl Engine for Torch {
    fn decoder(
        &self,
        sizes: DecoderSizes,
        seed: u64,
        shard: Shard,
    ) -> anyhow::Result<Box<dyn Decoder>> {
        Ok(Box::new(Transformer::new(sizes, seed, shard, self.device)?))
    }

    fn bridge(&self, seed: u64, from: usize, to: usize) -> anyhow::Result<Box<dyn Bridge>> {
        let weight = Weights::new(seed, self.device).linear(from, to)?;
        Ok(Box::new(Map { weight, device: self.device }))
    }

    fn diffusion(&self, sizes: DenoiserSizes, seed: u64) -> anyhow::Result<Box<dyn Diffusion>> {
        Ok(Box::new(ImageMaker::new(sizes, seed, self.device)?))
    }
}

struct Map {
    weight: Tensor,
    device: Device,
}

impl Bridge for Map {
    fn forward(&self, hidden: &[f32]) -> anyhow::Result<Vec<f32>> {
        let hidden = Tensor::f_from_slice(hidden)?.f_to_device(self.device)?;
        Ok(to_host(&apply(&self.weight, &hidden)?)?)
    }
}

#[cfg(test)]
mod tests {
    use demo_stage::conformance;

    use super::*;

    const ENGINE: Torch = Torch { device: Device::Cpu };

    #[test]
    fn the_cache_changes_nothing() {
        conformance::the_cache_changes_nothing(&ENGINE);
    }

    #[test]
    fn two_ranks_decode_what_one_does() {
        conformance::two_ranks_decode_what_one_does(&ENGINE);
    }

    #[test]
    fn each_request_of_a_batch_has_its_own_mean() {
        conformance::each_request_of_a_batch_has_its_own_mean(&ENGINE);
    }
}
