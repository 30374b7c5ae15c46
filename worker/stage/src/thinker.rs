//! Stage 0: decodes an answer, token by token, on two ranks.

use anyhow::Context as _;

use crate::frames::{self, Handoff, Request};
use crate::process::Wires;
use crate::{Decoder, DecoderSizes, Engine, Ranks};

/// The hidden state's width, which the talker takes.
pub(crate) const WIDTH: usize = 384;

const SIZES: DecoderSizes =
    DecoderSizes { width: WIDTH, layers: 6, heads: 8, vocabulary: VOCABULARY, context: 256 };

/// The tokens that it knows.
pub(crate) const VOCABULARY: usize = 1024;

const SEED: u64 = 1;

/// Rank 0: takes requests and hands answers on.
pub(crate) fn lead(mut wires: Wires, engine: &dyn Engine) -> anyhow::Result<()> {
    let mut model = engine.decoder(SIZES, SEED, wires.ranks.shard())?;
    while let Some(request) = frames::read::<Request>(&mut wires.before)? {
        if let Ranks::Pair { peer, .. } = &mut wires.ranks {
            frames::write(peer, &request).context("the other rank is gone")?;
        }
        let handoff = answer(&mut *model, &request, &mut wires.ranks)?;
        let next = wires.after.first_mut().context("the thinker has no stage after it")?;
        frames::write(next, &handoff).context("the talker is gone")?;
    }
    Ok(())
}

/// Rank 1: computes what rank 0 computes, with the other half of the weights.
pub(crate) fn follow(mut wires: Wires, engine: &dyn Engine) -> anyhow::Result<()> {
    let mut model = engine.decoder(SIZES, SEED, wires.ranks.shard())?;
    while let Some(request) = frames::read::<Request>(&mut wires.before)? {
        answer(&mut *model, &request, &mut wires.ranks)?;
    }
    Ok(())
}

fn answer(
    model: &mut dyn Decoder,
    request: &Request,
    ranks: &mut Ranks,
) -> anyhow::Result<Handoff> {
    let _span = tracing::info_span!("thinker", request_id = request.id, stage = 0).entered();
    model.reset();
    let mut hidden = {
        let _span = tracing::info_span!("prefill", tokens = request.prompt.len()).entered();
        profiler_agent::step();
        model.forward(&request.prompt, ranks)?
    };
    let mut tokens = Vec::with_capacity(request.answer_tokens);
    for _ in 0..request.answer_tokens {
        let _span = tracing::info_span!("decode").entered();
        profiler_agent::step();
        let token = model.next_token(&hidden)?;
        tokens.push(token);
        hidden = model.forward(&[token], ranks)?;
    }
    Ok(Handoff { id: request.id, images: request.images, tokens, hidden })
}
