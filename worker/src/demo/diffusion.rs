//! Stage 2: makes images from codes, several requests at once where they wait.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};

use candle_core::{Device, Tensor};

use super::denoiser::{CONDITION, Decoder, Denoiser, LATENT_CHANNELS, LATENT_SIZE};
use super::frames::{self, Handoff, ToFront};
use super::stage::Wires;
use super::weights::Weights;

/// The most images that are made at once.
const BATCH: usize = 4;

const DENOISE_STEPS: usize = 16;

/// Takes codes and tells the front what came of them.
pub(super) fn run(wires: Wires) -> anyhow::Result<()> {
    let denoiser = Denoiser::new(4)?;
    let decoder = Decoder::new(5)?;
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
        for (request, brightness) in make(&denoiser, &decoder, &batch)? {
            frames::write(&mut front, &ToFront::Done { request, brightness })?;
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

fn make(
    denoiser: &Denoiser,
    decoder: &Decoder,
    batch: &[Handoff],
) -> anyhow::Result<Vec<(u64, f32)>> {
    let requests = batch.iter().map(|handoff| handoff.id.to_string()).collect::<Vec<_>>();
    let _span = tracing::info_span!(
        "diffusion",
        request_id = requests.join(","),
        stage = 2,
        images = images(batch)
    )
    .entered();
    let (mut latents, conditions) = begin(batch)?;
    for step in 0..DENOISE_STEPS {
        let _span = tracing::info_span!("denoise", step).entered();
        profiler_agent::step();
        let time = 1.0 - step as f32 / DENOISE_STEPS as f32;
        let velocity = denoiser.forward(&latents, time, &conditions)?;
        latents = (latents - (velocity * (1.0 / DENOISE_STEPS as f64))?)?;
    }
    let pictures = {
        let _span = tracing::info_span!("decode_images").entered();
        decoder.forward(&latents)?
    };
    let mut results = Vec::new();
    let mut offset = 0;
    for handoff in batch {
        let own = pictures.narrow(0, offset, handoff.images)?;
        results.push((handoff.id, own.mean_all()?.to_scalar::<f32>()?));
        offset += handoff.images;
    }
    Ok(results)
}

/// Noise and a condition for each image of the batch.
fn begin(batch: &[Handoff]) -> candle_core::Result<(Tensor, Tensor)> {
    let _span = tracing::info_span!("encode_conditions").entered();
    let mut latents = Vec::new();
    let mut conditions = Vec::new();
    for handoff in batch {
        let shape = (handoff.images, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE);
        latents.push(Weights::new(handoff.id).tensor(shape, 1.0)?);
        let condition = Tensor::new(handoff.hidden.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
        conditions.push(condition.broadcast_as((handoff.images, CONDITION))?);
    }
    Ok((Tensor::cat(&latents, 0)?, Tensor::cat(&conditions, 0)?))
}
