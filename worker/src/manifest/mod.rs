//! What a stop gives back: each worker's files, counts, real window, state and error.
//!
//! The same JSON lies beside the traces as `manifest.json`.

mod left_out;
mod table;

use std::collections::BTreeMap;

use profiler_core::backend::DriverState;
use profiler_core::clock::Instant;
use profiler_core::control::{CalledWorker, WorkerError};
use profiler_core::identity::WorkerIdentity;
use profiler_core::schedule::Limits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use left_out::LeftOut;
pub use table::table;

/// The version of the manifest's shape.
pub const MANIFEST_VERSION: u32 = 1;

/// The name of a session's manifest, in the session's directory.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What came of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub schema_version: u32,
    /// The session's id.
    pub session: String,
    /// The label that the user gave, as it was given.
    pub prefix: Option<String>,
    /// The directory that the files' paths are below.
    pub directory: String,
    /// Where the session stands.
    pub state: SessionState,
    /// The window that was asked for: from the commit's instant to the stop's.
    pub requested_window: Window,
    /// The window as it was: from the first worker's begin to the last one's end.
    pub real_window: Window,
    /// The greatest error bound of the workers' clock readings.
    pub clock_error_ns: u64,
    /// How far the begins of the workers' first windows lie apart. Windows by time all begin at
    /// T0, which each worker's reader applies to instants of one clock: 0, within the clock error.
    pub skew_ns: u64,
    /// How far the instants lie apart at which the workers were ready.
    pub armed_spread_ns: u64,
    /// How far the instants lie apart at which the workers read the commit.
    pub commit_spread_ns: u64,
    /// How long after T0 the last worker was ready: more than 0 means that rows may miss.
    pub armed_late_ns: u64,
    /// What ended the session, once something did.
    pub stopped_by: Option<String>,
    /// A line for each worker that was asked.
    pub workers: Vec<WorkerLine>,
    /// Workers that the start selected and did not ask, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What of the start was applied otherwise than other servers do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Files of the session as a whole (a merged trace).
    pub files: Vec<FileLine>,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionState {
    /// The workers get ready.
    #[default]
    Arming,
    /// The workers record.
    Recording,
    /// The stop was asked for; workers drain.
    Stopping,
    /// All workers are done, exports are not.
    Exporting,
    /// Nothing more will change.
    Complete,
}

/// A window, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(clippy::exhaustive_structs, reason = "plain data of the manifest")]
pub struct Window {
    /// Its begin.
    #[schema(value_type = Option<InstantLine>)]
    pub begin: Option<Instant>,
    /// Its end.
    #[schema(value_type = Option<InstantLine>)]
    pub end: Option<Instant>,
}

/// An instant on both clocks of a machine, for the schema.
#[derive(ToSchema)]
#[schema(as = Instant)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub(crate) struct InstantLine {
    /// CLOCK_MONOTONIC, ns.
    monotonic_ns: u64,
    /// CLOCK_REALTIME, ns since 1970.
    realtime_ns: u64,
}

/// An error, for the schema.
#[derive(ToSchema)]
#[schema(as = WorkerError)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub(crate) struct ErrorLine {
    /// A stable word for programs.
    code: String,
    /// What happened, with its causes, and what to do.
    message: String,
}

/// Limits, for the schema.
#[derive(ToSchema)]
#[schema(as = Limits)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub(crate) struct LimitsLine {
    /// Time inside windows.
    duration_ms: Option<u64>,
    /// Steps inside windows.
    max_steps: Option<u64>,
    /// Time from the commit.
    max_session_ms: u64,
    /// Bytes of the spool, and of raw files that a vendor's tool writes beside it.
    max_bytes: u64,
    /// The share of the file system that stays free, in percent.
    min_free_percent: u32,
}

/// A worker's part in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct WorkerLine {
    /// The pipeline stage.
    pub stage: Option<u32>,
    /// What the stage does.
    pub role: Option<String>,
    /// The replica of the stage.
    pub replica: Option<u32>,
    /// The rank within the replica.
    pub rank: Option<u32>,
    /// The host.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// What tells it from a process that all else makes equal.
    pub key: String,
    /// The executable's name.
    pub program: String,
    /// The device backend that recorded, absent = none.
    pub backend: Option<String>,
    /// Why this one.
    pub why: String,
    /// What came of it.
    pub state: LineState,
    /// What went wrong, where something did.
    #[schema(value_type = Option<ErrorLine>)]
    pub error: Option<WorkerError>,
    /// The start accepted beforehand that it records less (`on_unavailable`, `allow_partial`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub accepted: bool,
    /// It joined when the session already ran.
    #[serde(default, skip_serializing_if = "is_false")]
    pub late: bool,
    /// It is no worker but the counters of the host's devices.
    #[serde(default, skip_serializing_if = "is_false")]
    pub host_counters: bool,
    /// Its stage is not known.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unattributed: bool,
    /// What the driver keeps of the capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub driver: Option<DriverState>,
    /// What ended its recording.
    pub stopped_by: Option<String>,
    /// Steps seen since the commit.
    pub steps: u64,
    /// Its windows as they were.
    pub windows: Vec<Window>,
    /// The error bound of its clock readings.
    pub clock_error_ns: u64,
    /// When to stop at the latest.
    #[schema(value_type = LimitsLine)]
    pub limits: Limits,
    /// Its files.
    pub files: Vec<FileLine>,
    /// Rows by the name of their kind.
    pub records: BTreeMap<String, u64>,
    /// Rows that are not in the trace, by cause.
    pub drops: BTreeMap<String, u64>,
    /// Processor time of the profiler in the process: its own threads, its signal handlers and the
    /// driver's callbacks, and 100 ns for each span, marker, step and call of CUDA's;
    /// without what the kernel takes to deliver signals and to copy stacks. Absent = not known, as of a killed worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_cpu_ns: Option<u64>,
    /// The most memory that the profiler held in the process: the sum of the peaks of its parts,
    /// the driver's buffers and the kernel's rings among them. Absent = not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_memory_bytes: Option<u64>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl WorkerLine {
    /// Who the worker is, in a few words.
    #[must_use]
    pub fn name(&self) -> String {
        if self.host_counters {
            return "devices of the host".to_owned();
        }
        let called = CalledWorker {
            stage: self.stage,
            role: self.role.clone(),
            replica: self.replica,
            rank: self.rank,
        };
        called.in_words().unwrap_or_else(|| self.program.clone())
    }
}

/// What came of a worker's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LineState {
    /// All files are whole.
    Complete,
    /// Its recording or its exports are not done yet.
    Exporting,
    /// The spool is whole; nothing here could export it, and the file's line says how.
    Pending,
    /// Less was recorded, or written, than asked.
    Degraded,
    /// It failed; what its spool holds is listed.
    Failed,
    /// It did not answer.
    Missing,
}

impl LineState {
    /// The word of the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Exporting => "exporting",
            Self::Pending => "pending",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct FileLine {
    /// Its path below the session's directory.
    pub path: String,
    /// Its format; `spool` = what was recorded.
    pub format: String,
    /// Its size, once it is whole.
    pub bytes: Option<u64>,
    /// Its CRC-32 in hexadecimal, once it is whole.
    pub crc32: Option<String>,
    /// What came of it.
    pub state: FileState,
    /// What went wrong, where something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ErrorLine>)]
    pub error: Option<WorkerError>,
    /// The command that writes it, where nothing here could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// What came of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileState {
    /// It is whole.
    Complete,
    /// It is being written.
    Exporting,
    /// Nobody writes it; the line has the command.
    Pending,
    /// It could not be written, or not whole.
    Failed,
}

impl Manifest {
    /// Whether every worker that was asked did what was asked, or what the start accepted.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let workers = self.workers.iter().all(|line| match line.state {
            LineState::Complete | LineState::Exporting | LineState::Pending => true,
            LineState::Degraded => line.accepted,
            LineState::Failed | LineState::Missing => false,
        });
        workers && self.files.iter().all(|file| file.state != FileState::Failed)
    }

    /// Whether nothing more will change.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.state == SessionState::Complete
    }
}

impl WorkerLine {
    /// The line of a worker of which nothing but its identity is known.
    #[must_use]
    pub(crate) fn of(worker: &WorkerIdentity, limits: Limits) -> Self {
        Self {
            stage: worker.stage,
            role: worker.role.clone(),
            replica: worker.replica,
            rank: worker.rank,
            host: worker.host.clone(),
            pid: worker.pid,
            key: worker.key.clone(),
            program: worker.program.clone(),
            backend: None,
            why: String::new(),
            state: LineState::Exporting,
            error: None,
            accepted: false,
            late: false,
            host_counters: false,
            unattributed: worker.stage.is_none(),
            driver: None,
            stopped_by: None,
            steps: 0,
            windows: Vec::new(),
            clock_error_ns: 0,
            limits,
            files: Vec::new(),
            records: BTreeMap::new(),
            drops: BTreeMap::new(),
            own_cpu_ns: None,
            own_memory_bytes: None,
            notes: Vec::new(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
