//! What a reader could not read.

use std::collections::BTreeMap;

use crate::record::RecordKind;

/// Damaged ranges that are listed; more are only counted.
const MAX_LISTED: usize = 64;

/// Bytes of a file that are no whole block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedRange {
    /// Where they begin.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

/// What a reader could not read, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Rows of kinds that this build does not know, by kind.
    pub unknown_kinds: BTreeMap<RecordKind, u64>,
    /// Blocks of types that this build does not know.
    pub unknown_blocks: u64,
    /// The first damaged ranges.
    pub damaged: Vec<DamagedRange>,
    /// All damaged ranges.
    pub damaged_ranges: u64,
    /// All bytes in damaged ranges.
    pub damaged_bytes: u64,
    /// Blocks that by their numbers should be there.
    pub missing_blocks: u64,
    /// Bytes behind the last whole block: a writer may be about to complete them.
    pub tail_bytes: u64,
}

impl Skipped {
    /// Whether everything was read and understood.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn damage(&mut self, offset: u64, bytes: u64) {
        self.damaged_ranges += 1;
        self.damaged_bytes += bytes;
        if self.damaged.len() < MAX_LISTED {
            self.damaged.push(DamagedRange { offset, bytes });
        }
    }
}
