//! What holds of the models of every [`Engine`], whatever computes them. Each body panics where it
//! does not.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "bodies of tests")]

use std::os::unix::net::UnixStream;

use crate::{DecoderSizes, DenoiserSizes, Engine, Image, Ranks, Shard};

const DECODER: DecoderSizes =
    DecoderSizes { width: 32, layers: 2, heads: 4, vocabulary: 64, context: 32 };

const DENOISER: DenoiserSizes = DenoiserSizes {
    width: 48,
    layers: 2,
    heads: 4,
    condition: 32,
    latent_channels: 4,
    latent_size: 8,
    patch: 2,
    decoder_channels: 8,
};

/// A decoder that takes a sequence in parts gives what one gives that takes it whole.
pub fn the_cache_changes_nothing(engine: &dyn Engine) {
    let mut model = engine.decoder(DECODER, 7, Shard::WHOLE).unwrap();
    let whole = model.forward(&[5, 6, 7, 8], &mut Ranks::Alone).unwrap();
    model.reset();
    model.forward(&[5, 6], &mut Ranks::Alone).unwrap();
    model.forward(&[7], &mut Ranks::Alone).unwrap();
    let stepwise = model.forward(&[8], &mut Ranks::Alone).unwrap();
    for (a, b) in whole.iter().zip(stepwise) {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
    }
}

/// Two ranks that share the weights decode the same tokens, and those that one decodes.
pub fn two_ranks_decode_what_one_does(engine: &(dyn Engine + Sync)) {
    let (left, right) = UnixStream::pair().unwrap();
    let (first, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| decode(engine, &mut Ranks::Pair { rank: 1, peer: right }));
        let first = decode(engine, &mut Ranks::Pair { rank: 0, peer: left });
        (first, other.join().unwrap())
    });
    assert_eq!(first, other);
    assert_eq!(first, decode(engine, &mut Ranks::Alone));
}

fn decode(engine: &dyn Engine, ranks: &mut Ranks) -> Vec<u32> {
    let mut model = engine.decoder(DECODER, 7, ranks.shard()).unwrap();
    let mut hidden = model.forward(&[1, 2, 3], ranks).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..8 {
        tokens.push(model.next_token(&hidden).unwrap());
        hidden = model.forward(&tokens[tokens.len() - 1..], ranks).unwrap();
    }
    tokens
}

/// A request's images do not depend on what else is in the batch.
pub fn each_request_of_a_batch_has_its_own_mean(engine: &dyn Engine) {
    let mut maker = engine.diffusion(DENOISER, 1).unwrap();
    let condition = [0.5; 32];
    let image = |seed, count| Image { seed, count, condition: &condition };
    let mut means = |batch: &[Image<'_>]| {
        maker.begin(batch).unwrap();
        maker.denoise(1.0, 0.5).unwrap();
        maker.decode().unwrap()
    };
    let both = means(&[image(1, 2), image(2, 1)]);
    let alone = means(&[image(2, 1)]);
    assert_eq!(both.len(), 2);
    assert!((both[1] - alone[0]).abs() < 1e-4, "{both:?} and {alone:?}");
}
