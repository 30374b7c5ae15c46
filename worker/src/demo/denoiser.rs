//! A small diffusion transformer and a convolutional decoder.

use candle_core::{D, Device, Module as _, Tensor};
use candle_nn::{Conv2d, Linear, ops};
use demo_stage::{DenoiserSizes, Diffusion, Image};

use super::weights::Weights;

/// The models and the batch that they work on.
pub(super) struct ImageMaker {
    denoiser: Denoiser,
    decoder: Decoder,
    sizes: DenoiserSizes,
    latents: Tensor,
    conditions: Tensor,
    /// How many images each request has.
    counts: Vec<usize>,
}

impl ImageMaker {
    /// Models of random weights.
    pub(super) fn new(sizes: DenoiserSizes, seed: u64) -> candle_core::Result<Self> {
        let nothing = Tensor::zeros(0, candle_core::DType::F32, &Device::Cpu)?;
        Ok(Self {
            denoiser: Denoiser::new(sizes, seed)?,
            decoder: Decoder::new(sizes, seed + 1)?,
            sizes,
            latents: nothing.clone(),
            conditions: nothing,
            counts: Vec::new(),
        })
    }
}

impl Diffusion for ImageMaker {
    fn begin(&mut self, batch: &[Image<'_>]) -> anyhow::Result<()> {
        let DenoiserSizes { condition: width, latent_channels, latent_size, .. } = self.sizes;
        let (mut latents, mut conditions) = (Vec::new(), Vec::new());
        self.counts.clear();
        for image in batch {
            let shape = (image.count, latent_channels, latent_size, latent_size);
            latents.push(Weights::new(image.seed).tensor(shape, 1.0)?);
            let condition = Tensor::new(image.condition, &Device::Cpu)?.unsqueeze(0)?;
            conditions.push(condition.broadcast_as((image.count, width))?);
            self.counts.push(image.count);
        }
        self.latents = Tensor::cat(&latents, 0)?;
        self.conditions = Tensor::cat(&conditions, 0)?;
        Ok(())
    }

    fn denoise(&mut self, time: f32, share: f32) -> anyhow::Result<()> {
        let velocity = self.denoiser.forward(&self.latents, time, &self.conditions)?;
        self.latents = (&self.latents - (velocity * f64::from(share))?)?;
        Ok(())
    }

    fn decode(&mut self) -> anyhow::Result<Vec<f32>> {
        let pictures = self.decoder.forward(&self.latents)?;
        let mut means = Vec::new();
        let mut offset = 0;
        for count in &self.counts {
            means.push(pictures.narrow(0, offset, *count)?.mean_all()?.to_scalar::<f32>()?);
            offset += count;
        }
        Ok(means)
    }
}

/// Predicts the velocity of a noisy latent image.
struct Denoiser {
    sizes: DenoiserSizes,
    patchify: Linear,
    positions: Tensor,
    time: Linear,
    condition: Linear,
    blocks: Vec<Block>,
    unpatchify: Linear,
}

impl Denoiser {
    /// A denoiser of random weights.
    fn new(sizes: DenoiserSizes, seed: u64) -> candle_core::Result<Self> {
        let mut weights = Weights::new(seed);
        let mut blocks = Vec::new();
        for _ in 0..sizes.layers {
            blocks.push(Block::new(&mut weights, sizes)?);
        }
        let width = sizes.width;
        let patches = (sizes.latent_size / sizes.patch).pow(2);
        let patch_values = sizes.latent_channels * sizes.patch.pow(2);
        Ok(Self {
            sizes,
            patchify: weights.linear(patch_values, width)?,
            positions: weights.tensor((1, patches, width), 0.1)?,
            time: weights.linear(width, width)?,
            condition: weights.linear(sizes.condition, width)?,
            blocks,
            unpatchify: weights.linear(width, patch_values)?,
        })
    }

    /// The velocity at `time` (1 = noise, 0 = image) of latents `(batch, channels, height, width)`
    /// under conditions `(batch, condition)`.
    fn forward(
        &self,
        latents: &Tensor,
        time: f32,
        conditions: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let DenoiserSizes { latent_channels: channels, latent_size: size, patch, .. } = self.sizes;
        let batch = latents.dim(0)?;
        let side = size / patch;
        let patches = latents
            .reshape(vec![batch, channels, side, patch, side, patch])?
            .permute(vec![0, 2, 4, 1, 3, 5])?
            .reshape((batch, side * side, channels * patch * patch))?;
        let mut x = self.patchify.forward(&patches)?.broadcast_add(&self.positions)?;
        let time = self.time.forward(&time_embedding(time, self.sizes.width)?)?;
        let modulation = self.condition.forward(conditions)?.broadcast_add(&time)?.silu()?;
        for block in &self.blocks {
            x = block.forward(&x, &modulation)?;
        }
        self.unpatchify
            .forward(&x)?
            .reshape(vec![batch, side, side, channels, patch, patch])?
            .permute(vec![0, 3, 1, 4, 2, 5])?
            .reshape((batch, channels, size, size))
    }
}

struct Block {
    modulation: Linear,
    query_key_value: Linear,
    output: Linear,
    up: Linear,
    down: Linear,
    heads: usize,
}

impl Block {
    fn new(weights: &mut Weights, sizes: DenoiserSizes) -> candle_core::Result<Self> {
        let width = sizes.width;
        Ok(Self {
            modulation: weights.linear(width, 6 * width)?,
            query_key_value: weights.linear(width, 3 * width)?,
            output: weights.linear(width, width)?,
            up: weights.linear(width, 4 * width)?,
            down: weights.linear(4 * width, width)?,
            heads: sizes.heads,
        })
    }

    fn forward(&self, x: &Tensor, modulation: &Tensor) -> candle_core::Result<Tensor> {
        let _span = profiler_agent::span("dit_block").enter();
        let parts = self.modulation.forward(modulation)?.unsqueeze(1)?.chunk(6, D::Minus1)?;
        let attended = self.attention(&modulate(x, &parts[0], &parts[1])?)?;
        let x = (x + attended.broadcast_mul(&parts[2])?)?;
        let hidden = self.up.forward(&modulate(&x, &parts[3], &parts[4])?)?.gelu()?;
        &x + self.down.forward(&hidden)?.broadcast_mul(&parts[5])?
    }

    fn attention(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, length, width) = x.dims3()?;
        let head_width = width / self.heads;
        let parts = self.query_key_value.forward(x)?.chunk(3, D::Minus1)?;
        let heads = |part: &Tensor| {
            part.reshape((batch, length, self.heads, head_width))?.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (heads(&parts[0])?, heads(&parts[1])?, heads(&parts[2])?);
        let scores = (query.matmul(&key.t()?)? * (head_width as f64).powf(-0.5))?;
        let mixed = ops::softmax_last_dim(&scores)?.matmul(&value)?;
        self.output.forward(&mixed.transpose(1, 2)?.flatten_from(2)?)
    }
}

/// Normalises, then shifts and scales as the condition says.
fn modulate(x: &Tensor, shift: &Tensor, scale: &Tensor) -> candle_core::Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?;
    centred.broadcast_div(&deviation)?.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(shift)
}

fn time_embedding(time: f32, width: usize) -> candle_core::Result<Tensor> {
    Tensor::from_vec(demo_stage::time_embedding(time, width), (1, width), &Device::Cpu)
}

/// Turns a latent image into one of three channels and four times its width and height.
struct Decoder {
    enter: Conv2d,
    stages: [Conv2d; 3],
    leave: Conv2d,
}

impl Decoder {
    /// A decoder of random weights.
    fn new(sizes: DenoiserSizes, seed: u64) -> candle_core::Result<Self> {
        let channels = sizes.decoder_channels;
        let mut weights = Weights::new(seed);
        Ok(Self {
            enter: weights.conv(sizes.latent_channels, channels, 3)?,
            stages: [
                weights.conv(channels, channels, 3)?,
                weights.conv(channels, channels, 3)?,
                weights.conv(channels, channels, 3)?,
            ],
            leave: weights.conv(channels, 3, 3)?,
        })
    }

    /// The images `(batch, 3, height, width)` of latents.
    fn forward(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = convolve("conv_in", &self.enter, latents)?.silu()?;
        for (index, stage) in self.stages.iter().enumerate() {
            if index > 0 {
                let _span = profiler_agent::span("upsample").enter();
                let (_, _, height, width) = x.dims4()?;
                x = x.upsample_nearest2d(height * 2, width * 2)?;
            }
            x = (&x + convolve("conv", stage, &x)?.silu()?)?;
        }
        convolve("conv_out", &self.leave, &x)?.tanh()
    }
}

fn convolve(name: &'static str, conv: &Conv2d, x: &Tensor) -> candle_core::Result<Tensor> {
    let _span = profiler_agent::span(name).enter();
    conv.forward(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: DenoiserSizes = DenoiserSizes {
        width: 48,
        layers: 2,
        heads: 4,
        condition: 32,
        latent_channels: 4,
        latent_size: 8,
        patch: 2,
        decoder_channels: 8,
    };

    #[test]
    fn a_batch_is_the_same_as_one_by_one() {
        let mut noise = Weights::new(3);
        let latents = noise.tensor((2, 4, 8, 8), 1.0).unwrap();
        let conditions = noise.tensor((2, 32), 1.0).unwrap();
        let denoiser = Denoiser::new(SIZES, 1).unwrap();
        let both = denoiser.forward(&latents, 0.5, &conditions).unwrap();
        assert_eq!(both.dims(), latents.dims());
        let second = denoiser
            .forward(&latents.narrow(0, 1, 1).unwrap(), 0.5, &conditions.narrow(0, 1, 1).unwrap())
            .unwrap();
        let difference = (both.narrow(0, 1, 1).unwrap() - second).unwrap().abs().unwrap();
        let largest: f32 = difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap();
        assert!(largest < 1e-3, "{largest}");
    }

    #[test]
    fn images_are_four_times_as_wide() {
        let latents = Weights::new(4).tensor((1, 4, 8, 8), 1.0).unwrap();
        let images = Decoder::new(SIZES, 2).unwrap().forward(&latents).unwrap();
        assert_eq!(images.dims(), [1, 3, 32, 32]);
    }
}
