//! A small decoder-only transformer with a key-value cache, whole or split over ranks.

use candle_core::{D, Device, Module as _, Tensor};
use candle_nn::{Embedding, Linear, RmsNorm, ops, rotary_emb};
use demo_stage::{Decoder, DecoderSizes, Ranks, Shard};

use super::weights::Weights;

/// The transformer and the state of one sequence.
pub(super) struct Transformer {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    cos: Tensor,
    sin: Tensor,
    position: usize,
}

impl Transformer {
    /// A rank's part of a transformer of random weights.
    pub(super) fn new(sizes: DecoderSizes, seed: u64, shard: Shard) -> candle_core::Result<Self> {
        let mut weights = Weights::new(seed);
        let embedding = weights.embedding(sizes.vocabulary, sizes.width)?;
        let mut blocks = Vec::new();
        for _ in 0..sizes.layers {
            blocks.push(Block::new(sizes, &mut weights, shard)?);
        }
        let head_width = sizes.width / sizes.heads;
        let angles = demo_stage::rotary_angles(sizes.context, head_width);
        let angles = Tensor::from_vec(angles, (sizes.context, head_width / 2), &Device::Cpu)?;
        Ok(Self {
            embedding,
            blocks,
            norm: norm(sizes.width)?,
            head: weights.linear(sizes.width, sizes.vocabulary)?,
            cos: angles.cos()?,
            sin: angles.sin()?,
            position: 0,
        })
    }
}

impl Decoder for Transformer {
    fn reset(&mut self) {
        self.position = 0;
        for block in &mut self.blocks {
            block.cache = None;
        }
    }

    fn forward(&mut self, tokens: &[u32], ranks: &mut Ranks) -> anyhow::Result<Vec<f32>> {
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.embedding.forward(&ids)?.unsqueeze(0)?;
        let cos = self.cos.narrow(0, self.position, tokens.len())?;
        let sin = self.sin.narrow(0, self.position, tokens.len())?;
        for block in &mut self.blocks {
            x = block.forward(&x, (&cos, &sin), ranks)?;
        }
        self.position += tokens.len();
        let last = x.narrow(1, tokens.len() - 1, 1)?.contiguous()?;
        Ok(self.norm.forward(&last)?.flatten_all()?.to_vec1()?)
    }

    fn next_token(&self, hidden: &[f32]) -> anyhow::Result<u32> {
        let _span = profiler_agent::span("sample").enter();
        let hidden = Tensor::new(hidden, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.head.forward(&hidden)?.argmax(D::Minus1)?.squeeze(0)?.to_scalar()?)
    }
}

struct Block {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    mlp_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    head_width: usize,
    cache: Option<(Tensor, Tensor)>,
}

impl Block {
    fn new(sizes: DecoderSizes, weights: &mut Weights, shard: Shard) -> candle_core::Result<Self> {
        let width = sizes.width;
        Ok(Self {
            attention_norm: norm(width)?,
            query: weights.by_output(width, width, shard)?,
            key: weights.by_output(width, width, shard)?,
            value: weights.by_output(width, width, shard)?,
            output: weights.by_input(width, width, shard)?,
            mlp_norm: norm(width)?,
            gate: weights.by_output(width, 4 * width, shard)?,
            up: weights.by_output(width, 4 * width, shard)?,
            down: weights.by_input(4 * width, width, shard)?,
            head_width: width / sizes.heads,
            cache: None,
        })
    }

    fn forward(
        &mut self,
        x: &Tensor,
        rotary: (&Tensor, &Tensor),
        ranks: &mut Ranks,
    ) -> anyhow::Result<Tensor> {
        let partial = self.attention(x, rotary)?;
        let x = (x + all_reduce(ranks, partial)?)?;
        let partial = self.mlp(&x)?;
        Ok((&x + all_reduce(ranks, partial)?)?)
    }

    fn attention(&mut self, x: &Tensor, rotary: (&Tensor, &Tensor)) -> candle_core::Result<Tensor> {
        let _span = profiler_agent::span("attention").enter();
        let (batch, length, _) = x.dims3()?;
        let x = self.attention_norm.forward(x)?;
        let heads = |projected: Tensor| {
            projected.reshape((batch, length, (), self.head_width))?.transpose(1, 2)?.contiguous()
        };
        let (cos, sin) = rotary;
        let query = rotary_emb::rope(&heads(self.query.forward(&x)?)?, cos, sin)?;
        let key = rotary_emb::rope(&heads(self.key.forward(&x)?)?, cos, sin)?;
        let value = heads(self.value.forward(&x)?)?;
        let (key, value) = match &self.cache {
            Some((keys, values)) => {
                (Tensor::cat(&[keys, &key], 2)?, Tensor::cat(&[values, &value], 2)?)
            }
            None => (key, value),
        };
        self.cache = Some((key.clone(), value.clone()));
        let scale = (self.head_width as f64).powf(-0.5);
        let mut scores = (query.matmul(&key.t()?)? * scale)?;
        if length > 1 {
            scores = scores.broadcast_add(&causal_mask(length, key.dim(2)?)?)?;
        }
        let mixed = ops::softmax_last_dim(&scores)?.matmul(&value)?;
        self.output.forward(&mixed.transpose(1, 2)?.flatten_from(2)?)
    }

    fn mlp(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let _span = profiler_agent::span("mlp").enter();
        let x = self.mlp_norm.forward(x)?;
        let gated = (self.gate.forward(&x)?.silu()? * self.up.forward(&x)?)?;
        self.down.forward(&gated)
    }
}

/// Adds up a partial result over all ranks.
fn all_reduce(ranks: &mut Ranks, partial: Tensor) -> anyhow::Result<Tensor> {
    if matches!(ranks, Ranks::Alone) {
        return Ok(partial);
    }
    let _span = profiler_agent::span("all_reduce").enter();
    let shape = partial.shape().clone();
    let mut sum = partial.flatten_all()?.to_vec1::<f32>()?;
    ranks.add_up(&mut sum)?;
    Ok(Tensor::from_vec(sum, shape, &Device::Cpu)?)
}

fn norm(width: usize) -> candle_core::Result<RmsNorm> {
    let ones = Tensor::ones(width, candle_core::DType::F32, &Device::Cpu)?;
    Ok(RmsNorm::new(ones, 1e-6))
}

/// Adds minus infinity where a token would see a later one.
fn causal_mask(length: usize, seen: usize) -> candle_core::Result<Tensor> {
    let before = seen - length;
    let mut mask = Vec::with_capacity(length * seen);
    for row in 0..length {
        for column in 0..seen {
            mask.push(if column > before + row { f32::NEG_INFINITY } else { 0.0 });
        }
    }
    Tensor::from_vec(mask, (length, seen), &Device::Cpu)
}
