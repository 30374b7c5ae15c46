//! The stages of `omniprof demo`: what a program of the demo does, whatever computes its tensors.
//!
//! Stage 0, *thinker*, decodes an answer token by token on two tensor-parallel ranks; stage 1,
//! *talker*, does so on one; stage 2, *diffusion*, denoises and decodes images on two replicas.
//! Requests pass from stage to stage over Unix sockets. An [`Engine`] brings the models; the loops,
//! their spans and their steps are the same for each. A program calls [`run`] and needs nothing
//! else. These are parts of programs, so errors are `anyhow`'s.

#[cfg(feature = "conformance")]
pub mod conformance;
mod diffusion;
mod engine;
pub mod frames;
mod numbers;
mod place;
mod process;
mod ranks;
mod talker;
mod thinker;

pub use engine::{Bridge, Decoder, DecoderSizes, DenoiserSizes, Diffusion, Engine, Image};
pub use numbers::{Numbers, Shard, rotary_angles, time_embedding};
pub use place::{PLACES, Place};
pub use process::{StageArgs, front, inlet, run};
pub use ranks::Ranks;
