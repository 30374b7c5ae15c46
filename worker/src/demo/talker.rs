//! Stage 1: turns the thinker's answer into codes, one after another.

use anyhow::Context as _;
use candle_core::{Device, Module as _, Tensor};

use super::frames::{self, Handoff};
use super::ranks::Ranks;
use super::stage::Wires;
use super::transformer::{Sizes, Transformer};
use super::weights::{Shard, Weights};
use super::{denoiser, thinker};

const SIZES: Sizes = Sizes {
    width: denoiser::CONDITION,
    layers: 4,
    heads: 6,
    vocabulary: thinker::VOCABULARY,
    context: 256,
};

const CODES: usize = 48;

/// Takes answers and hands codes to the diffusion replicas in turn.
pub(super) fn run(mut wires: Wires) -> anyhow::Result<()> {
    let mut model = Transformer::new(SIZES, 2, Shard::WHOLE)?;
    let bridge = Weights::new(3).linear(thinker::WIDTH, denoiser::CONDITION)?;
    let mut ranks = Ranks::Alone;
    let mut replica = 0;
    while let Some(answer) = frames::read::<Handoff>(&mut wires.before)? {
        let span = tracing::info_span!("talker", request_id = answer.id, stage = 1).entered();
        let spoken = {
            let _span = tracing::info_span!("bridge").entered();
            let hidden = Tensor::new(answer.hidden.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
            bridge.forward(&hidden)?.flatten_all()?
        };
        model.reset();
        let mut hidden = {
            let _span = tracing::info_span!("prefill", tokens = answer.tokens.len()).entered();
            profiler_agent::step();
            model.forward(&answer.tokens, &mut ranks)?
        };
        let mut codes = Vec::with_capacity(CODES);
        for _ in 0..CODES {
            let _span = tracing::info_span!("decode").entered();
            profiler_agent::step();
            let code = model.next_token(&(hidden + &spoken)?)?;
            codes.push(code);
            hidden = model.forward(&[code], &mut ranks)?;
        }
        let hidden = (hidden + &spoken)?.to_vec1()?;
        drop(span);

        let count = wires.after.len();
        let next = wires.after.get_mut(replica).context("the talker has no stage after it")?;
        let handoff = Handoff { id: answer.id, images: answer.images, tokens: codes, hidden };
        frames::write(next, &handoff).context("a diffusion replica is gone")?;
        replica = (replica + 1) % count;
    }
    Ok(())
}
