//! Tensor parallelism over a Unix socket: ranks add up their partial results.

use std::os::unix::net::UnixStream;

use anyhow::Context as _;

use crate::{Shard, frames};

/// The ranks of a stage that compute together, as one of them sees them.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a stage of the demo has one rank or two")]
pub enum Ranks {
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
    #[must_use]
    pub fn shard(&self) -> Shard {
        match self {
            Self::Alone => Shard::WHOLE,
            Self::Pair { rank, .. } => Shard { rank: *rank, ranks: 2 },
        }
    }

    /// Adds up a partial result over the two ranks: `sum` is this one's before, and afterwards the
    /// same in both, bit by bit.
    ///
    /// # Errors
    ///
    /// The other rank is gone, or gave another number of values.
    pub fn add_up(&mut self, sum: &mut [f32]) -> anyhow::Result<()> {
        let Self::Pair { rank, peer } = self else {
            return Ok(());
        };
        // One writes while the other reads, so that no two full sockets wait for each other.
        let other = if *rank == 0 {
            frames::write_floats(peer, sum).context("the other rank is gone")?;
            frames::read_floats(peer).context("the other rank is gone")?
        } else {
            let other = frames::read_floats(peer).context("the other rank is gone")?;
            frames::write_floats(peer, sum).context("the other rank is gone")?;
            other
        };
        anyhow::ensure!(other.len() == sum.len(), "the ranks are out of step");
        for (mine, theirs) in sum.iter_mut().zip(other) {
            *mine += theirs;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ranks_have_the_sum() {
        let (left, right) = UnixStream::pair().unwrap();
        let other = std::thread::Builder::new()
            .name("rank-1".to_owned())
            .spawn(move || {
                let mut sum = [1.0, 2.0];
                Ranks::Pair { rank: 1, peer: right }.add_up(&mut sum).unwrap();
                sum
            })
            .unwrap();
        let mut sum = [10.0, 20.0];
        let mut ranks = Ranks::Pair { rank: 0, peer: left };
        ranks.add_up(&mut sum).unwrap();
        assert_eq!(sum, [11.0, 22.0]);
        assert_eq!(other.join().unwrap(), sum);
        assert!(ranks.add_up(&mut sum).is_err(), "the other rank has ended");
    }
}
