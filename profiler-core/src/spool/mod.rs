//! The spool: one file an agent and session that keeps what was recorded.
//!
//! It is written by one thread of the profiled process ([`SpoolWriter`]), readable up to its last
//! whole block at any time, also after the process was killed, and read by others
//! ([`SpoolReader`]). Rows are packed by column and compressed lightly; nothing else is done to
//! them in the profiled process. The bytes are described in [`format`](mod@format).

mod block;
mod core;
mod decode;
mod encode;
mod error;
pub mod format;
mod gathered;
mod kept;
mod layout;
mod output;
mod packer;
mod progress;
mod reader;
mod scan;
mod sink;
mod skipped;
mod unpack;
mod window;
mod writer;

use serde::{Deserialize, Serialize};

use crate::clock::Instant;
use crate::identity::WorkerIdentity;

pub use block::{Block, BlockInfo};
pub use error::{SpoolReadError, SpoolWriteError};
pub use progress::{LossCounts, SpoolEnd, SpoolProgress, SpoolTotals};
pub use reader::{Footer, Segment, SpoolReader};
pub use sink::LogFn;
pub use skipped::{DamagedRange, Skipped};
pub use writer::{RowSource, SpoolOptions, SpoolWriter};

/// What the name of a directory ends with that lies beside a spool and holds what a vendor's tool
/// recorded in files of its own.
pub const RAW_EXTENSION: &str = "raw";

/// What is known when the file is made; what comes later is a fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolHeader {
    /// The session.
    pub session: String,
    /// The label that the session was started with.
    pub prefix: Option<String>,
    /// Whose rows it holds.
    pub worker: WorkerIdentity,
    /// The program that writes it (`omniprof 0.1.0`).
    pub writer: String,
    /// When it was made.
    pub created: Instant,
    /// The session's fence number.
    pub fence: u64,
}
