//! Tensor parallelism over a Unix socket: ranks add up their partial results.

use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use candle_core::{Device, Tensor};

use super::frames;
use super::weights::Shard;

/// The ranks of a stage that compute together, as one of them sees them.
pub(super) enum Ranks {
    /// There is one.
    Alone,
    /// There are two.
    Pair {
        /// Which one this is, 0 or 1.
        rank: usize,
        /// The other.
        peer: UnixStream,
    },
}

impl Ranks {
    /// What part of the weights this rank holds.
    pub(super) fn shard(&self) -> Shard {
        match self {
            Self::Alone => Shard::WHOLE,
            Self::Pair { rank, .. } => Shard { rank: *rank, ranks: 2 },
        }
    }

    /// Adds up a partial result over all ranks. Every rank gets the same, bit by bit.
    pub(super) fn all_reduce(&mut self, partial: Tensor) -> anyhow::Result<Tensor> {
        let Self::Pair { rank, peer } = self else {
            return Ok(partial);
        };
        let _span = profiler_agent::span("all_reduce").enter();
        let shape = partial.shape().clone();
        let mut sum = partial.flatten_all()?.to_vec1::<f32>()?;
        // One writes while the other reads, so that no two full sockets wait for each other.
        let other = if *rank == 0 {
            frames::write_floats(peer, &sum).context("the other rank is gone")?;
            frames::read_floats(peer).context("the other rank is gone")?
        } else {
            let other = frames::read_floats(peer).context("the other rank is gone")?;
            frames::write_floats(peer, &sum).context("the other rank is gone")?;
            other
        };
        anyhow::ensure!(other.len() == sum.len(), "the ranks are out of step");
        for (mine, theirs) in sum.iter_mut().zip(other) {
            *mine += theirs;
        }
        Ok(Tensor::from_vec(sum, shape, &Device::Cpu)?)
    }
}
