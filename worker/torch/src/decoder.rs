//! A small decoder-only transformer with a key-value cache, whole or split over ranks.

use demo_stage::{Decoder, DecoderSizes, Ranks, Shard};
use tch::{Device, Kind, TchError, Tensor};

use crate::weights::{Weights, apply, to_host};

/// The transformer and the state of one sequence.
pub(crate) struct Transformer {
    embedding: Tensor,
    blocks: Vec<Block>,
    head: Tensor,
    cos: Tensor,
    sin: Tensor,
    width: i64,
    position: i64,
    device: Device,
}

impl Transformer {
    /// A rank's part of a transformer of random weights.
    pub(crate) fn new(
        sizes: DecoderSizes,
        seed: u64,
        shard: Shard,
        device: Device,
    ) -> Result<Self, TchError> {
        let mut weights = Weights::new(seed, device);
        let embedding = weights.tensor(&[sizes.vocabulary, sizes.width], 1.0)?;
        let mut blocks = Vec::new();
        for _ in 0..sizes.layers {
            blocks.push(Block::new(sizes, &mut weights, shard)?);
        }
        let head_width = sizes.width / sizes.heads;
        let angles = demo_stage::rotary_angles(sizes.context, head_width);
        let angles = Tensor::f_from_slice(&angles)?
            .f_reshape([sizes.context as i64, head_width as i64 / 2])?
            .f_to_device(device)?;
        Ok(Self {
            embedding,
            blocks,
            head: weights.linear(sizes.width, sizes.vocabulary)?,
            cos: angles.f_cos()?,
            sin: angles.f_sin()?,
            width: sizes.width as i64,
            position: 0,
            device,
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
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        let ids = Tensor::f_from_slice(&ids)?.f_to_device(self.device)?;
        let length = tokens.len() as i64;
        let mut x = Tensor::f_embedding(&self.embedding, &ids, -1, false, false)?.f_unsqueeze(0)?;
        let cos = self.cos.f_narrow(0, self.position, length)?;
        let sin = self.sin.f_narrow(0, self.position, length)?;
        for block in &mut self.blocks {
            x = block.forward(&x, (&cos, &sin), ranks)?;
        }
        self.position += length;
        let last = x.f_narrow(1, length - 1, 1)?;
        Ok(to_host(&norm(&last, self.width)?)?)
    }

    fn next_token(&self, hidden: &[f32]) -> anyhow::Result<u32> {
        let _span = profiler_agent::span("sample").enter();
        let hidden = Tensor::f_from_slice(hidden)?.f_to_device(self.device)?;
        let token = apply(&self.head, &hidden)?.f_argmax(-1, false)?.f_int64_value(&[])?;
        Ok(u32::try_from(token)?)
    }
}

struct Block {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    width: i64,
    head_width: i64,
    cache: Option<(Tensor, Tensor)>,
}

impl Block {
    fn new(sizes: DecoderSizes, weights: &mut Weights, shard: Shard) -> Result<Self, TchError> {
        let width = sizes.width;
        Ok(Self {
            query: weights.by_output(width, width, shard)?,
            key: weights.by_output(width, width, shard)?,
            value: weights.by_output(width, width, shard)?,
            output: weights.by_input(width, width, shard)?,
            gate: weights.by_output(width, 4 * width, shard)?,
            up: weights.by_output(width, 4 * width, shard)?,
            down: weights.by_input(4 * width, width, shard)?,
            width: width as i64,
            head_width: (width / sizes.heads) as i64,
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
        let x = x.f_add(&all_reduce(ranks, partial)?)?;
        let partial = self.mlp(&x)?;
        Ok(x.f_add(&all_reduce(ranks, partial)?)?)
    }

    fn attention(&mut self, x: &Tensor, rotary: (&Tensor, &Tensor)) -> Result<Tensor, TchError> {
        let _span = profiler_agent::span("attention").enter();
        let (batch, length, _) = x.size3()?;
        let x = norm(x, self.width)?;
        let heads = |weight: &Tensor| {
            apply(weight, &x)?.f_reshape([batch, length, -1, self.head_width])?.f_transpose(1, 2)
        };
        let query = turn(&heads(&self.query)?, rotary)?;
        let key = turn(&heads(&self.key)?, rotary)?;
        let value = heads(&self.value)?;
        let (key, value) = match &self.cache {
            Some((keys, values)) => {
                (Tensor::f_cat(&[keys, &key], 2)?, Tensor::f_cat(&[values, &value], 2)?)
            }
            None => (key, value),
        };
        let mask = match length {
            1 => None,
            _ => Some(causal_mask(length, key.size()[2], x.device())?),
        };
        let mixed = Tensor::f_scaled_dot_product_attention(
            &query, &key, &value, mask, 0.0, false, None, false,
        )?;
        self.cache = Some((key, value));
        apply(&self.output, &mixed.f_transpose(1, 2)?.f_flatten(2, -1)?)
    }

    fn mlp(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let _span = profiler_agent::span("mlp").enter();
        let x = norm(x, self.width)?;
        let gated = apply(&self.gate, &x)?.f_silu()?.f_mul(&apply(&self.up, &x)?)?;
        apply(&self.down, &gated)
    }
}

/// Adds up a partial result over all ranks.
fn all_reduce(ranks: &mut Ranks, partial: Tensor) -> anyhow::Result<Tensor> {
    if matches!(ranks, Ranks::Alone) {
        return Ok(partial);
    }
    let _span = profiler_agent::span("all_reduce").enter();
    let mut sum = to_host(&partial)?;
    ranks.add_up(&mut sum)?;
    Ok(Tensor::f_from_slice(&sum)?.f_reshape(partial.size())?.f_to_device(partial.device())?)
}

fn norm(x: &Tensor, width: i64) -> Result<Tensor, TchError> {
    x.f_rms_norm([width], None::<&Tensor>, 1e-6)
}

/// Turns each pair of values (one of the first half, one of the second) by its position's angle.
fn turn(x: &Tensor, (cos, sin): (&Tensor, &Tensor)) -> Result<Tensor, TchError> {
    let halves = x.f_chunk(2, -1)?;
    let (first, second) = (&halves[0], &halves[1]);
    let turned = [
        first.f_mul(cos)?.f_sub(&second.f_mul(sin)?)?,
        second.f_mul(cos)?.f_add(&first.f_mul(sin)?)?,
    ];
    Tensor::f_cat(&turned, -1)
}

/// True where a token may see another.
fn causal_mask(length: i64, seen: i64, device: Device) -> Result<Tensor, TchError> {
    Tensor::f_ones([length, seen], (Kind::Bool, device))?.f_tril(seen - length)
}
