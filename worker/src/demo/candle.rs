//! The engine that needs nothing but Rust: candle, on the processors.

use demo_stage::{Bridge, Decoder, DecoderSizes, DenoiserSizes, Diffusion, Engine, Shard};

use candle_core::{Device, Module as _, Tensor};
use candle_nn::Linear;

use super::denoiser::ImageMaker;
use super::transformer::Transformer;
use super::weights::Weights;

/// Models on candle.
pub(super) struct Candle;

impl Engine for Candle {
    fn decoder(
        &self,
        sizes: DecoderSizes,
        seed: u64,
        shard: Shard,
    ) -> anyhow::Result<Box<dyn Decoder>> {
        Ok(Box::new(Transformer::new(sizes, seed, shard)?))
    }

    fn bridge(&self, seed: u64, from: usize, to: usize) -> anyhow::Result<Box<dyn Bridge>> {
        Ok(Box::new(Map(Weights::new(seed).linear(from, to)?)))
    }

    fn diffusion(&self, sizes: DenoiserSizes, seed: u64) -> anyhow::Result<Box<dyn Diffusion>> {
        Ok(Box::new(ImageMaker::new(sizes, seed)?))
    }
}

struct Map(Linear);

impl Bridge for Map {
    fn forward(&self, hidden: &[f32]) -> anyhow::Result<Vec<f32>> {
        let hidden = Tensor::new(hidden, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.0.forward(&hidden)?.flatten_all()?.to_vec1()?)
    }
}

#[cfg(test)]
mod tests {
    use demo_stage::conformance;

    use super::*;

    #[test]
    fn the_cache_changes_nothing() {
        conformance::the_cache_changes_nothing(&Candle);
    }

    #[test]
    fn two_ranks_decode_what_one_does() {
        conformance::two_ranks_decode_what_one_does(&Candle);
    }

    #[test]
    fn each_request_of_a_batch_has_its_own_mean() {
        conformance::each_request_of_a_batch_has_its_own_mean(&Candle);
    }
}
