//! Stage 2: makes images from codes, several requests at once where they wait.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};

use crate::frames::{self, Handoff, ToFront};
use crate::process::Wires;
use crate::{DenoiserSizes, Diffusion, Engine, Image};

/// Width of the condition.
pub(crate) const CONDITION: usize = 192;

const SIZES: DenoiserSizes = DenoiserSizes {
    width: 192,
    layers: 6,
    heads: 4,
    condition: CONDITION,
    latent_channels: 4,
    latent_size: 16,
    patch: 2,
    decoder_channels: 48,
};

const SEED: u64 = 4;

/// The most images that are made at once.
const BATCH: usize = 4;

const DENOISE_STEPS: usize = 16;

/// Takes codes and tells the front what came of them.
pub(crate) fn run(wires: Wires, engine: &dyn Engine) -> anyhow::Result<()> {
    let mut model = engine.diffusion(SIZES, SEED)?;
    let Wires { before, mut front, .. } = wires;
    let inbox = receive(before)?;
    let mut waiting = None;
    while let Some(first) = waiting.take().or_else(|| inbox.recv().ok()) {
        let mut batch = vec![first];
        while let Ok(next) = inbox.try_recv() {
            if images(&batch) + next.images > BATCH {
                waiting = Some(next);
                break;
            }
            batch.push(next);
        }
        for (handoff, brightness) in batch.iter().zip(make(&mut *model, &batch)?) {
            frames::write(&mut front, &ToFront::Done { request: handoff.id, brightness })?;
        }
    }
    Ok(())
}

/// Reads requests on a thread of its own, so that those that wait can be seen.
fn receive(mut before: UnixStream) -> anyhow::Result<Receiver<Handoff>> {
    let (sender, inbox) = sync_channel(64);
    std::thread::Builder::new().name("inbox".to_owned()).spawn(move || {
        while let Ok(Some(handoff)) = frames::read::<Handoff>(&mut before) {
            if sender.send(handoff).is_err() {
                break;
            }
        }
    })?;
    Ok(inbox)
}

fn images(batch: &[Handoff]) -> usize {
    batch.iter().map(|handoff| handoff.images).sum()
}

fn make(model: &mut dyn Diffusion, batch: &[Handoff]) -> anyhow::Result<Vec<f32>> {
    let requests = batch.iter().map(|handoff| handoff.id.to_string()).collect::<Vec<_>>();
    let _span = tracing::info_span!(
        "diffusion",
        request_id = requests.join(","),
        stage = 2,
        images = images(batch)
    )
    .entered();
    {
        let _span = tracing::info_span!("encode_conditions").entered();
        let images: Vec<Image<'_>> = batch
            .iter()
            .map(|handoff| Image {
                seed: handoff.id,
                count: handoff.images,
                condition: &handoff.hidden,
            })
            .collect();
        model.begin(&images)?;
    }
    for step in 0..DENOISE_STEPS {
        let _span = tracing::info_span!("denoise", step).entered();
        profiler_agent::step();
        let time = 1.0 - step as f32 / DENOISE_STEPS as f32;
        model.denoise(time, 1.0 / DENOISE_STEPS as f32)?;
    }
    let _span = tracing::info_span!("decode_images").entered();
    model.decode()
}
