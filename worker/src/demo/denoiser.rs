//! A small diffusion transformer and a convolutional decoder.

use candle_core::{D, Device, Module as _, Tensor};
use candle_nn::{Conv2d, Linear, ops};

use super::weights::Weights;

/// Channels of the latent image.
pub(super) const LATENT_CHANNELS: usize = 4;

/// Width and height of the latent image.
pub(super) const LATENT_SIZE: usize = 16;

/// Width of the condition.
pub(super) const CONDITION: usize = 192;

const WIDTH: usize = 192;
const HEADS: usize = 4;
const LAYERS: usize = 6;
const PATCH: usize = 2;
const PATCHES: usize = (LATENT_SIZE / PATCH) * (LATENT_SIZE / PATCH);
const PATCH_VALUES: usize = LATENT_CHANNELS * PATCH * PATCH;

/// Predicts the velocity of a noisy latent image.
pub(super) struct Denoiser {
    patchify: Linear,
    positions: Tensor,
    time: Linear,
    condition: Linear,
    blocks: Vec<Block>,
    unpatchify: Linear,
}

impl Denoiser {
    /// A denoiser of random weights.
    pub(super) fn new(seed: u64) -> candle_core::Result<Self> {
        let mut weights = Weights::new(seed);
        let mut blocks = Vec::new();
        for _ in 0..LAYERS {
            blocks.push(Block::new(&mut weights)?);
        }
        Ok(Self {
            patchify: weights.linear(PATCH_VALUES, WIDTH)?,
            positions: weights.tensor((1, PATCHES, WIDTH), 0.1)?,
            time: weights.linear(WIDTH, WIDTH)?,
            condition: weights.linear(CONDITION, WIDTH)?,
            blocks,
            unpatchify: weights.linear(WIDTH, PATCH_VALUES)?,
        })
    }

    /// The velocity at `time` (1 = noise, 0 = image) of latents `(batch, channels, height, width)`
    /// under conditions `(batch, CONDITION)`.
    pub(super) fn forward(
        &self,
        latents: &Tensor,
        time: f32,
        conditions: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let batch = latents.dim(0)?;
        let side = LATENT_SIZE / PATCH;
        let patches = latents
            .reshape(vec![batch, LATENT_CHANNELS, side, PATCH, side, PATCH])?
            .permute(vec![0, 2, 4, 1, 3, 5])?
            .reshape((batch, PATCHES, PATCH_VALUES))?;
        let mut x = self.patchify.forward(&patches)?.broadcast_add(&self.positions)?;
        let time = self.time.forward(&time_embedding(time)?)?;
        let modulation = self.condition.forward(conditions)?.broadcast_add(&time)?.silu()?;
        for block in &self.blocks {
            x = block.forward(&x, &modulation)?;
        }
        self.unpatchify
            .forward(&x)?
            .reshape(vec![batch, side, side, LATENT_CHANNELS, PATCH, PATCH])?
            .permute(vec![0, 3, 1, 4, 2, 5])?
            .reshape((batch, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE))
    }
}

struct Block {
    modulation: Linear,
    query_key_value: Linear,
    output: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(weights: &mut Weights) -> candle_core::Result<Self> {
        Ok(Self {
            modulation: weights.linear(WIDTH, 6 * WIDTH)?,
            query_key_value: weights.linear(WIDTH, 3 * WIDTH)?,
            output: weights.linear(WIDTH, WIDTH)?,
            up: weights.linear(WIDTH, 4 * WIDTH)?,
            down: weights.linear(4 * WIDTH, WIDTH)?,
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
        let (batch, length, _) = x.dims3()?;
        let parts = self.query_key_value.forward(x)?.chunk(3, D::Minus1)?;
        let heads = |part: &Tensor| {
            part.reshape((batch, length, HEADS, WIDTH / HEADS))?.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (heads(&parts[0])?, heads(&parts[1])?, heads(&parts[2])?);
        let scores = (query.matmul(&key.t()?)? * ((WIDTH / HEADS) as f64).powf(-0.5))?;
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

fn time_embedding(time: f32) -> candle_core::Result<Tensor> {
    let mut values = Vec::with_capacity(WIDTH);
    for pair in 0..WIDTH / 2 {
        let frequency = 1_000_f32.powf(-(pair as f32) / (WIDTH / 2) as f32);
        let angle = time * 1_000.0 * frequency;
        values.push(angle.sin());
        values.push(angle.cos());
    }
    Tensor::from_vec(values, (1, WIDTH), &Device::Cpu)
}

/// Turns a latent image into one of three channels and four times its width and height.
pub(super) struct Decoder {
    enter: Conv2d,
    stages: [Conv2d; 3],
    leave: Conv2d,
}

impl Decoder {
    /// A decoder of random weights.
    pub(super) fn new(seed: u64) -> candle_core::Result<Self> {
        const CHANNELS: usize = 48;
        let mut weights = Weights::new(seed);
        Ok(Self {
            enter: weights.conv(LATENT_CHANNELS, CHANNELS, 3)?,
            stages: [
                weights.conv(CHANNELS, CHANNELS, 3)?,
                weights.conv(CHANNELS, CHANNELS, 3)?,
                weights.conv(CHANNELS, CHANNELS, 3)?,
            ],
            leave: weights.conv(CHANNELS, 3, 3)?,
        })
    }

    /// The images `(batch, 3, height, width)` of latents.
    pub(super) fn forward(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
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

    #[test]
    fn a_batch_is_the_same_as_one_by_one() {
        let mut noise = Weights::new(3);
        let shape = (2, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE);
        let latents = noise.tensor(shape, 1.0).unwrap();
        let conditions = noise.tensor((2, CONDITION), 1.0).unwrap();
        let denoiser = Denoiser::new(1).unwrap();
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
        let latents =
            Weights::new(4).tensor((1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE), 1.0).unwrap();
        let images = Decoder::new(2).unwrap().forward(&latents).unwrap();
        assert_eq!(images.dims(), [1, 3, 4 * LATENT_SIZE, 4 * LATENT_SIZE]);
    }
}
