//! What computes the tensors of a stage.
//!
//! All models have random weights, drawn from [`Numbers`](crate::Numbers) in the order in which
//! the engine makes them. Hidden states are handed about as floats on the host, for they travel
//! between processes.

use crate::{Ranks, Shard};

/// A library of tensors.
pub trait Engine {
    /// A decoder-only transformer, or a rank's part of one.
    ///
    /// # Errors
    ///
    /// The library's.
    fn decoder(
        &self,
        sizes: DecoderSizes,
        seed: u64,
        shard: Shard,
    ) -> anyhow::Result<Box<dyn Decoder>>;

    /// A linear map between hidden states of different widths.
    ///
    /// # Errors
    ///
    /// The library's.
    fn bridge(&self, seed: u64, from: usize, to: usize) -> anyhow::Result<Box<dyn Bridge>>;

    /// A diffusion transformer with a convolutional decoder.
    ///
    /// # Errors
    ///
    /// The library's.
    fn diffusion(&self, sizes: DenoiserSizes, seed: u64) -> anyhow::Result<Box<dyn Diffusion>>;
}

/// The sizes of a decoder-only transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderSizes {
    /// The width of the hidden state.
    pub width: usize,
    /// How many blocks.
    pub layers: usize,
    /// How many attention heads, over all ranks.
    pub heads: usize,
    /// How many tokens it knows.
    pub vocabulary: usize,
    /// The longest sequence.
    pub context: usize,
}

/// The sizes of a diffusion transformer and its decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenoiserSizes {
    /// The width of the hidden state.
    pub width: usize,
    /// How many blocks.
    pub layers: usize,
    /// How many attention heads.
    pub heads: usize,
    /// The width of the condition.
    pub condition: usize,
    /// Channels of the latent image.
    pub latent_channels: usize,
    /// Width and height of the latent image.
    pub latent_size: usize,
    /// Width and height of what one token of the transformer stands for.
    pub patch: usize,
    /// Channels of the convolutional decoder, which makes images four times as wide.
    pub decoder_channels: usize,
}

/// A transformer with the state of one sequence.
pub trait Decoder {
    /// Forgets the sequence.
    fn reset(&mut self);

    /// Takes tokens and gives the last one's hidden state.
    ///
    /// # Errors
    ///
    /// The library's; the other rank is gone.
    fn forward(&mut self, tokens: &[u32], ranks: &mut Ranks) -> anyhow::Result<Vec<f32>>;

    /// The most likely next token after a hidden state.
    ///
    /// # Errors
    ///
    /// The library's.
    fn next_token(&self, hidden: &[f32]) -> anyhow::Result<u32>;
}

/// A linear map.
pub trait Bridge {
    /// What a hidden state becomes.
    ///
    /// # Errors
    ///
    /// The library's.
    fn forward(&self, hidden: &[f32]) -> anyhow::Result<Vec<f32>>;
}

/// Images that are made of one request.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// Where its noise comes from.
    pub seed: u64,
    /// How many images.
    pub count: usize,
    /// What they shall show.
    pub condition: &'a [f32],
}

/// A denoiser and a decoder with the state of one batch.
pub trait Diffusion {
    /// Draws noise and takes the conditions of a batch.
    ///
    /// # Errors
    ///
    /// The library's.
    fn begin(&mut self, batch: &[Image<'_>]) -> anyhow::Result<()>;

    /// Goes a step of length `share` from `time` (1 = noise) towards 0 (image).
    ///
    /// # Errors
    ///
    /// The library's.
    fn denoise(&mut self, time: f32, share: f32) -> anyhow::Result<()>;

    /// Decodes the batch; the mean of each request's images.
    ///
    /// # Errors
    ///
    /// The library's.
    fn decode(&mut self) -> anyhow::Result<Vec<f32>>;
}
