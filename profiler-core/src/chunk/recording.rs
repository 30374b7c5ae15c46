//! What application threads look at before they append: whether something is recorded, and how.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{ChunkPool, PoolCell};

/// Above the bits of what is recorded stands the number of the recording.
const NUMBER_SHIFT: u32 = 8;

/// The recording of one producer, which is on or off. A `static`: callbacks may come at any time.
#[derive(Debug, Default)]
pub struct Recording {
    flags: AtomicU32,
    numbers: AtomicU32,
    pool: PoolCell,
}

/// What a [`Recording`] was when a thread looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingFlags(u32);

impl Recording {
    /// Nothing is recorded.
    #[must_use]
    pub const fn new() -> Self {
        Self { flags: AtomicU32::new(0), numbers: AtomicU32::new(0), pool: PoolCell::new() }
    }

    /// Entries go to the pool from now on. `bits` are the producer's; the answer is the recording's
    /// number, by which a thread tells what it left from an earlier one. It is never 0.
    pub fn switch_on(&self, bits: u8, pool: ChunkPool) -> u32 {
        self.pool.set(Some(pool));
        let limit = u32::MAX >> NUMBER_SHIFT;
        let number = (self.numbers.fetch_add(1, Ordering::Relaxed) % (limit - 1)) + 1;
        self.flags.store((number << NUMBER_SHIFT) | u32::from(bits), Ordering::Release);
        number
    }

    /// Sets bits, unless nothing is recorded.
    pub fn add(&self, bits: u8) {
        let add = |flags: u32| (flags != 0).then_some(flags | u32::from(bits));
        // An error means that it is off.
        self.flags.fetch_update(Ordering::Release, Ordering::Relaxed, add).ok();
    }

    /// Nothing is recorded from now on. Whoever has looked before may yet append.
    pub fn switch_off(&self) {
        self.flags.store(0, Ordering::Release);
    }

    /// The recording is over, and its pool. Before the pool's collector goes: another producer's
    /// pool takes its place.
    pub fn forget_pool(&self) {
        self.pool.set(None);
    }

    /// What is recorded now. One load.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> RecordingFlags {
        RecordingFlags(self.flags.load(Ordering::Relaxed))
    }

    /// Where entries go, as long as there is a pool and it is open.
    #[inline]
    #[must_use]
    pub fn pool(&self) -> Option<ChunkPool> {
        self.pool.get()
    }
}

impl RecordingFlags {
    /// Nothing is recorded.
    #[inline]
    #[must_use]
    pub fn is_off(self) -> bool {
        self.0 == 0
    }

    /// Whether one of the bits is set.
    #[inline]
    #[must_use]
    pub fn has(self, bits: u8) -> bool {
        self.0 & u32::from(bits) != 0
    }

    /// The recording's number, 0 = none.
    #[inline]
    #[must_use]
    pub fn number(self) -> u32 {
        self.0 >> NUMBER_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::chunks;

    #[test]
    fn a_recording_has_a_number_of_its_own_and_bits_only_while_it_is_on() {
        let (pool, _collector) = chunks(1 << 20);
        let recording = Recording::new();
        recording.add(2);
        assert!(recording.flags().is_off(), "bits alone are no recording");
        let first = recording.switch_on(1, pool);
        recording.add(2);
        let flags = recording.flags();
        assert_eq!(
            (flags.number(), flags.has(1), flags.has(2), flags.has(4)),
            (first, true, true, false)
        );
        assert!(recording.pool().is_some());
        recording.switch_off();
        assert!(recording.flags().is_off() && recording.pool().is_some(), "ends may yet be told");
        recording.forget_pool();
        assert!(recording.pool().is_none());
        let second = recording.switch_on(0, pool);
        assert_ne!(first, second);
        assert!(!recording.flags().is_off() && !recording.flags().has(3));
    }
}
