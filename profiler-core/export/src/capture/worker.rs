//! What is known of a worker of the capture beside its rows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use profiler_core::control::CalledWorker;
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{DeviceDef, LossCause, RecordKind};

use super::window::WindowSpan;

/// The fact of a spool that holds what a vendor's tool recorded of a worker's device, beside the
/// spool of the worker itself.
pub(crate) const DEVICE_FACT: &str = "import.device";

/// A worker: one spool. Instants are on the capture's axis.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Worker {
    /// Its place in [`super::Capture::workers`].
    pub index: usize,
    /// The spool, where it is a file.
    pub spool: Option<PathBuf>,
    /// The session.
    pub session: String,
    /// The label that the user gave the session.
    pub prefix: Option<String>,
    /// Who it is.
    pub identity: WorkerIdentity,
    /// Who wrote the spool.
    pub writer: String,
    /// What is known: the last value of each key.
    pub facts: BTreeMap<String, String>,
    /// The windows, in the order of their beginnings.
    pub windows: Vec<WindowSpan>,
    /// The end of the last window; of a capture that was cut short, the last instant known.
    pub end: u64,
    /// Whether the spool has its footer.
    pub complete: bool,
    /// Rows that were not kept.
    pub losses: Vec<LossInfo>,
    /// Files mapped as code, in the order of time.
    pub modules: Vec<ModuleInfo>,
    /// Threads by their ids.
    pub threads: BTreeMap<u32, ThreadInfo>,
    /// Processes by their ids.
    pub processes: BTreeMap<u32, ProcessInfo>,
    /// Devices by the numbers that rows name them by.
    pub devices: BTreeMap<u32, DeviceInfo>,
    /// The device of each context.
    pub contexts: BTreeMap<u32, u32>,
    /// Device streams by device, context and stream.
    pub stream_names: BTreeMap<(u32, u32, u32), StreamName>,
    /// How its instants came onto the axis.
    pub clock: ClockJoin,
}

impl Worker {
    /// What people call it: `stage 0 thinker, replica 0, rank 1`, as far as it is known.
    #[must_use]
    pub fn title(&self) -> String {
        let words = CalledWorker::of(&self.identity).in_words();
        let words = words.unwrap_or_else(|| self.identity.program.clone());
        match self.facts.contains_key(DEVICE_FACT) {
            true => format!("{words}, device"),
            false => words,
        }
    }

    /// Rows lost, over all causes.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.losses.iter().fold(0, |sum, loss| sum.saturating_add(loss.count))
    }
}

/// Rows that were not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossInfo {
    /// The first instant from which rows may miss, 0 = not known.
    pub from: u64,
    /// The instant from which they are whole again, 0 = not known.
    pub to: u64,
    /// How many.
    pub count: u64,
    /// Their kind, `None` = several.
    pub kind: Option<RecordKind>,
    /// Why; `None` = a cause that this build does not know.
    pub cause: Option<LossCause>,
}

impl LossInfo {
    /// The cause as manifests print it.
    #[must_use]
    pub fn cause_text(&self) -> &'static str {
        self.cause.map_or("unknown", LossCause::text)
    }
}

/// A file mapped as code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModuleInfo {
    /// From when on, the worker's CLOCK_MONOTONIC.
    pub time: u64,
    /// The first address.
    pub start_address: u64,
    /// The address past the last.
    pub end_address: u64,
    /// Where in the file the range begins, in bytes.
    pub file_offset: u64,
    /// The file, or a name in brackets.
    pub path: String,
    /// The build id, raw bytes; empty = none.
    pub build_id: Vec<u8>,
    /// The process.
    pub process: u32,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadInfo {
    /// Its name, empty = none.
    pub name: String,
    /// Its process.
    pub process: u32,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its name.
    pub name: String,
    /// Its command line, secrets masked.
    pub command_line: Vec<String>,
    /// Its parent.
    pub parent: u32,
}

/// A device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// What the vendor calls it.
    pub name: String,
    /// The vendor's unique id, raw bytes.
    pub uuid: Vec<u8>,
    /// Its numbers; the heap references in it point nowhere.
    pub row: DeviceDef,
}

/// The name of a device stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamName {
    /// The name, empty = none.
    pub name: String,
    /// The priority as the vendor counts.
    pub priority: i32,
}

/// How a worker's instants came onto the capture's axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockJoin {
    /// The clock that this worker and the first one share.
    pub by: JoinedBy,
    /// How far this worker's instants may lie from the first one's, in ns, as far as its own
    /// clock readings go.
    pub error_ns: u64,
    /// Add this to an instant of the axis for CLOCK_REALTIME, in ns since 1970.
    pub realtime_offset_ns: i64,
    /// Add this to an instant of the axis for CLOCK_BOOTTIME of the first worker's machine.
    pub boottime_offset_ns: i64,
}

/// The clock by which two workers were joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "machines share no third clock")]
pub enum JoinedBy {
    /// Same boot and time namespace: CLOCK_MONOTONIC is the same clock.
    Monotonic,
    /// CLOCK_REALTIME; besides the error, the machines' clocks differ by as much as they were
    /// set apart.
    Realtime,
}

impl JoinedBy {
    /// The clock's name.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Monotonic => "CLOCK_MONOTONIC",
            Self::Realtime => "CLOCK_REALTIME",
        }
    }
}
