//! A small diffusion transformer and a convolutional decoder.

use demo_stage::{DenoiserSizes, Diffusion, Image};
use tch::{Device, TchError, Tensor};

use crate::weights::{Weights, apply, to_host};

/// The models and the batch that they work on.
pub(crate) struct ImageMaker {
    denoiser: Denoiser,
    decoder: Decoder,
    sizes: DenoiserSizes,
    device: Device,
    latents: Tensor,
    conditions: Tensor,
    /// How many images each request has.
    counts: Vec<i64>,
}

impl ImageMaker {
    /// Models of random weights.
    pub(crate) fn new(sizes: DenoiserSizes, seed: u64, device: Device) -> Result<Self, TchError> {
        Ok(Self {
            denoiser: Denoiser::new(sizes, seed, device)?,
            decoder: Decoder::new(sizes, seed + 1, device)?,
            sizes,
            device,
            latents: Tensor::new(),
            conditions: Tensor::new(),
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
            let shape = [image.count, latent_channels, latent_size, latent_size];
            latents.push(Weights::new(image.seed, self.device).tensor(&shape, 1.0)?);
            let condition = Tensor::f_from_slice(image.condition)?.f_to_device(self.device)?;
            let count = image.count as i64;
            conditions.push(condition.f_unsqueeze(0)?.f_expand([count, width as i64], false)?);
            self.counts.push(count);
        }
        self.latents = Tensor::f_cat(&latents, 0)?;
        self.conditions = Tensor::f_cat(&conditions, 0)?;
        Ok(())
    }

    fn denoise(&mut self, time: f32, share: f32) -> anyhow::Result<()> {
        let velocity = self.denoiser.forward(&self.latents, time, &self.conditions)?;
        self.latents = self.latents.f_sub(&velocity.f_mul_scalar(f64::from(share))?)?;
        Ok(())
    }

    fn decode(&mut self) -> anyhow::Result<Vec<f32>> {
        let pictures = self.decoder.forward(&self.latents)?;
        let mut means = Vec::new();
        let mut offset = 0;
        for count in &self.counts {
            let own = pictures.f_narrow(0, offset, *count)?.f_mean(tch::Kind::Float)?;
            means.extend(to_host(&own)?);
            offset += count;
        }
        Ok(means)
    }
}

/// Predicts the velocity of a noisy latent image.
struct Denoiser {
    sizes: DenoiserSizes,
    patchify: Tensor,
    positions: Tensor,
    time: Tensor,
    condition: Tensor,
    blocks: Vec<Block>,
    unpatchify: Tensor,
    device: Device,
}

impl Denoiser {
    fn new(sizes: DenoiserSizes, seed: u64, device: Device) -> Result<Self, TchError> {
        let mut weights = Weights::new(seed, device);
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
            positions: weights.tensor(&[1, patches, width], 0.1)?,
            time: weights.linear(width, width)?,
            condition: weights.linear(sizes.condition, width)?,
            blocks,
            unpatchify: weights.linear(width, patch_values)?,
            device,
        })
    }

    /// The velocity at `time` (1 = noise, 0 = image) of latents `(batch, channels, height, width)`
    /// under conditions `(batch, condition)`.
    fn forward(
        &self,
        latents: &Tensor,
        time: f32,
        conditions: &Tensor,
    ) -> Result<Tensor, TchError> {
        let batch = latents.size()[0];
        let channels = self.sizes.latent_channels as i64;
        let (size, patch) = (self.sizes.latent_size as i64, self.sizes.patch as i64);
        let side = size / patch;
        let patches = latents
            .f_reshape([batch, channels, side, patch, side, patch])?
            .f_permute([0, 2, 4, 1, 3, 5])?
            .f_reshape([batch, side * side, channels * patch * patch])?;
        let mut x = apply(&self.patchify, &patches)?.f_add(&self.positions)?;
        let time = demo_stage::time_embedding(time, self.sizes.width);
        let time = Tensor::f_from_slice(&time)?.f_unsqueeze(0)?.f_to_device(self.device)?;
        let time = apply(&self.time, &time)?;
        let modulation = apply(&self.condition, conditions)?.f_add(&time)?.f_silu()?;
        for block in &self.blocks {
            x = block.forward(&x, &modulation)?;
        }
        apply(&self.unpatchify, &x)?
            .f_reshape([batch, side, side, channels, patch, patch])?
            .f_permute([0, 3, 1, 4, 2, 5])?
            .f_reshape([batch, channels, size, size])
    }
}

struct Block {
    modulation: Tensor,
    query_key_value: Tensor,
    output: Tensor,
    up: Tensor,
    down: Tensor,
    width: i64,
    heads: i64,
}

impl Block {
    fn new(weights: &mut Weights, sizes: DenoiserSizes) -> Result<Self, TchError> {
        let width = sizes.width;
        Ok(Self {
            modulation: weights.linear(width, 6 * width)?,
            query_key_value: weights.linear(width, 3 * width)?,
            output: weights.linear(width, width)?,
            up: weights.linear(width, 4 * width)?,
            down: weights.linear(4 * width, width)?,
            width: width as i64,
            heads: sizes.heads as i64,
        })
    }

    fn forward(&self, x: &Tensor, modulation: &Tensor) -> Result<Tensor, TchError> {
        let _span = profiler_agent::span("dit_block").enter();
        let parts = apply(&self.modulation, modulation)?.f_unsqueeze(1)?.f_chunk(6, -1)?;
        let attended = self.attention(&self.modulate(x, &parts[0], &parts[1])?)?;
        let x = x.f_add(&attended.f_mul(&parts[2])?)?;
        let hidden = apply(&self.up, &self.modulate(&x, &parts[3], &parts[4])?)?.f_gelu("none")?;
        x.f_add(&apply(&self.down, &hidden)?.f_mul(&parts[5])?)
    }

    fn attention(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (batch, length, width) = x.size3()?;
        let parts = apply(&self.query_key_value, x)?.f_chunk(3, -1)?;
        let heads = |part: &Tensor| {
            part.f_reshape([batch, length, self.heads, width / self.heads])?.f_transpose(1, 2)
        };
        let (query, key, value) = (heads(&parts[0])?, heads(&parts[1])?, heads(&parts[2])?);
        let mixed = Tensor::f_scaled_dot_product_attention(
            &query,
            &key,
            &value,
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        )?;
        apply(&self.output, &mixed.f_transpose(1, 2)?.f_flatten(2, -1)?)
    }

    /// Normalises, then shifts and scales as the condition says.
    fn modulate(&self, x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor, TchError> {
        let none = None::<&Tensor>;
        let normal = x.f_layer_norm([self.width], none, none, 1e-6, false)?;
        normal.f_mul(&scale.f_add_scalar(1.0)?)?.f_add(shift)
    }
}

/// Turns a latent image into one of three channels and four times its width and height.
struct Decoder {
    enter: Tensor,
    stages: [Tensor; 3],
    leave: Tensor,
}

impl Decoder {
    fn new(sizes: DenoiserSizes, seed: u64, device: Device) -> Result<Self, TchError> {
        let channels = sizes.decoder_channels;
        let mut weights = Weights::new(seed, device);
        Ok(Self {
            enter: weights.conv(sizes.latent_channels, channels)?,
            stages: [
                weights.conv(channels, channels)?,
                weights.conv(channels, channels)?,
                weights.conv(channels, channels)?,
            ],
            leave: weights.conv(channels, 3)?,
        })
    }

    /// The images `(batch, 3, height, width)` of latents.
    fn forward(&self, latents: &Tensor) -> Result<Tensor, TchError> {
        let mut x = convolve("conv_in", &self.enter, latents)?.f_silu()?;
        for (index, stage) in self.stages.iter().enumerate() {
            if index > 0 {
                let _span = profiler_agent::span("upsample").enter();
                let (_, _, height, width) = x.size4()?;
                x = x.f_upsample_nearest2d([height * 2, width * 2], None, None)?;
            }
            x = x.f_add(&convolve("conv", stage, &x)?.f_silu()?)?;
        }
        convolve("conv_out", &self.leave, &x)?.f_tanh()
    }
}

fn convolve(name: &'static str, weight: &Tensor, x: &Tensor) -> Result<Tensor, TchError> {
    let _span = profiler_agent::span(name).enter();
    x.f_conv2d(weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)
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
    fn images_are_four_times_as_wide() {
        let latents = Weights::new(4, Device::Cpu).tensor(&[1, 4, 8, 8], 1.0).unwrap();
        let images = Decoder::new(SIZES, 2, Device::Cpu).unwrap().forward(&latents).unwrap();
        assert_eq!(images.size(), [1, 3, 32, 32]);
    }
}
