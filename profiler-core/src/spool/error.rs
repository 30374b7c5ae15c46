//! Errors of the spool.

use std::io;

use crate::spool::progress::SpoolEnd;

/// Why a spool could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolWriteError {
    /// Another process writes this file.
    #[error("another process holds the lock of the spool")]
    Locked,
    /// The file holds something already.
    #[error("the spool's file is not empty: it has {bytes} bytes")]
    NotEmpty {
        /// Its length.
        bytes: u64,
    },
    /// There is no room for a spool.
    #[error("the spool cannot be begun: {end}")]
    NoRoom {
        /// What was in the way.
        end: SpoolEnd,
    },
    /// The operating system refused something.
    #[error("cannot {action} the spool")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The header is too long.
    #[error("the header takes {bytes} bytes, at most {limit} are allowed")]
    HeaderTooLong {
        /// Its length.
        bytes: usize,
        /// The longest that readers take.
        limit: usize,
    },
    /// The header is no JSON.
    #[error("cannot write the header as JSON")]
    Header {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The writer's thread could not be started.
    #[error("cannot start the writer's thread")]
    Thread {
        /// The answer of the operating system.
        #[source]
        source: io::Error,
    },
    /// The byte limit leaves no room for a file.
    #[error("a limit of {max_bytes} bytes leaves no room, {least} are needed")]
    LimitTooSmall {
        /// The limit.
        max_bytes: u64,
        /// The least that makes sense.
        least: u64,
    },
}

/// Why a spool cannot be read.
///
/// Damage behind the header is no error: it is skipped and counted (`Skipped`).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolReadError {
    /// The file is something else.
    #[error("not a spool: the bytes at offset 0 are not its magic")]
    NotASpool,
    /// The file ends within its header; a writer may be about to complete it.
    #[error("the spool ends at offset {bytes}, within its header")]
    Incomplete {
        /// The file's length.
        bytes: u64,
    },
    /// The format is newer than this build.
    #[error("spool format version {version} at offset 8, this build reads version 1")]
    Version {
        /// The version.
        version: u32,
    },
    /// The header is damaged and no segment repeats it.
    #[error("the spool's header is damaged at offset {offset}, and no segment repeats it")]
    HeaderDamaged {
        /// Where.
        offset: u64,
    },
    /// The header is whole but says what this build does not understand.
    #[error("the spool's header at offset {offset} is not understood")]
    Header {
        /// Where its JSON begins.
        offset: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The operating system refused something.
    #[error("cannot {action} the spool at offset {offset}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        offset: u64,
        /// The answer.
        #[source]
        source: io::Error,
    },
}
