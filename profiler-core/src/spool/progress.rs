//! What a spool holds and what it does not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::{LossCause, RecordKind};

/// Why a spool takes no more rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
#[non_exhaustive]
pub enum SpoolEnd {
    /// It was asked to finish.
    Finished,
    /// It reached its byte limit.
    ByteLimit {
        /// The limit.
        max_bytes: u64,
    },
    /// The file system has less room than it is to keep.
    DiskFull {
        /// What was seen.
        message: String,
    },
    /// The disk refused to take bytes.
    DiskFailed {
        /// What was seen.
        message: String,
    },
    /// The writer's thread panicked.
    Panicked {
        /// The panic's text.
        message: String,
    },
}

impl SpoolEnd {
    /// A stable word for manifests and programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ByteLimit { .. } => "byte_limit",
            Self::DiskFull { .. } => "disk_full",
            Self::DiskFailed { .. } => "disk_failed",
            Self::Panicked { .. } => "writer_panicked",
        }
    }

    /// Why rows that come after it are lost.
    #[must_use]
    pub fn cause(&self) -> LossCause {
        match self {
            Self::Finished => LossCause::DrainDeadline,
            Self::ByteLimit { .. } => LossCause::ByteLimit,
            Self::DiskFull { .. } | Self::DiskFailed { .. } => LossCause::Disk,
            Self::Panicked { .. } => LossCause::SinkPanicked,
        }
    }
}

impl std::fmt::Display for SpoolEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::ByteLimit { max_bytes } => {
                write!(f, "the spool reached its limit of {max_bytes} bytes")
            }
            Self::DiskFull { message } | Self::DiskFailed { message } => f.write_str(message),
            Self::Panicked { message } => write!(f, "the spool's writer panicked: {message}"),
        }
    }
}

/// Rows lost, by kind and cause. Kind 0 = several or not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LossCounts {
    counts: BTreeMap<(RecordKind, LossCause), u64>,
}

/// Distinct pairs of kind and cause that are kept apart; what comes after is counted as kind 0.
const MAX_COUNTS: usize = 256;

impl LossCounts {
    /// Counts `count` rows.
    pub fn add(&mut self, kind: RecordKind, cause: LossCause, count: u64) {
        let mut key = (kind, cause);
        if self.counts.len() >= MAX_COUNTS && !self.counts.contains_key(&key) {
            key = (RecordKind(0), cause);
        }
        let sum = self.counts.entry(key).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Kind, cause and count, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (RecordKind, LossCause, u64)> + '_ {
        self.counts.iter().map(|(&(kind, cause), &count)| (kind, cause, count))
    }

    /// Rows of one kind lost by one cause.
    #[must_use]
    pub fn of(&self, kind: RecordKind, cause: LossCause) -> u64 {
        self.counts.get(&(kind, cause)).copied().unwrap_or_default()
    }

    /// Rows lost, by cause.
    #[must_use]
    pub fn by_cause(&self) -> BTreeMap<LossCause, u64> {
        let mut sums = BTreeMap::new();
        for (_, cause, count) in self.iter() {
            let sum: &mut u64 = sums.entry(cause).or_default();
            *sum = sum.saturating_add(count);
        }
        sums
    }

    /// All rows lost.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().fold(0, |sum, (_, _, count)| sum.saturating_add(count))
    }
}

/// How far a spool is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolProgress {
    /// Rows in the file, by kind; repeated ones do not count.
    pub rows: BTreeMap<RecordKind, u64>,
    /// The file's length.
    pub bytes: u64,
    /// Rows lost so far.
    pub lost: LossCounts,
    /// Bytes that producers gave and that the writer has not taken yet.
    pub queued_bytes: u64,
    /// The most memory that the writer has held so far: the queue, the blocks that fill, what
    /// later segments repeat, the packer.
    pub memory_bytes: u64,
    /// Why it takes no more, `None` = it goes on.
    pub end: Option<SpoolEnd>,
    /// CRC-32 of the whole file so far.
    pub crc32: u32,
    /// Whether the footer is written.
    pub has_footer: bool,
}

/// What became of a spool.
pub type SpoolTotals = SpoolProgress;
