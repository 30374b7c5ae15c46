//! Stage 1: turns the thinker's answer into codes, one after another.

use anyhow::Context as _;

use crate::frames::{self, Handoff};
use crate::process::Wires;
use crate::{DecoderSizes, Engine, Ranks, Shard, diffusion, thinker};

const SIZES: DecoderSizes = DecoderSizes {
    width: diffusion::CONDITION,
    layers: 4,
    heads: 6,
    vocabulary: thinker::VOCABULARY,
    context: 256,
};

const CODES: usize = 48;

/// Takes answers and hands codes to the diffusion replicas in turn.
pub(crate) fn run(mut wires: Wires, engine: &dyn Engine) -> anyhow::Result<()> {
    let mut model = engine.decoder(SIZES, 2, Shard::WHOLE)?;
    let bridge = engine.bridge(3, thinker::WIDTH, diffusion::CONDITION)?;
    let mut ranks = Ranks::Alone;
    let mut replica = 0;
    while let Some(answer) = frames::read::<Handoff>(&mut wires.before)? {
        let span = tracing::info_span!("talker", request_id = answer.id, stage = 1).entered();
        let spoken = {
            let _span = tracing::info_span!("bridge").entered();
            bridge.forward(&answer.hidden)?
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
            add(&mut hidden, &spoken);
            let code = model.next_token(&hidden)?;
            codes.push(code);
            hidden = model.forward(&[code], &mut ranks)?;
        }
        add(&mut hidden, &spoken);
        drop(span);

        let count = wires.after.len();
        let next = wires.after.get_mut(replica).context("the talker has no stage after it")?;
        let handoff = Handoff { id: answer.id, images: answer.images, tokens: codes, hidden };
        frames::write(next, &handoff).context("a diffusion replica is gone")?;
        replica = (replica + 1) % count;
    }
    Ok(())
}

fn add(hidden: &mut [f32], spoken: &[f32]) {
    for (value, more) in hidden.iter_mut().zip(spoken) {
        *value += more;
    }
}
