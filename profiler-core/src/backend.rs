//! The backend interface: two small traits behind which every kind of hardware hides.
//!
//! A backend produces rows and knows no files, no sockets and no other backend. The same two
//! traits stand behind both doors, linked in and loaded as a plugin.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::ClockSource;
use crate::error::BackendError;
use crate::probe::ProbeReport;
use crate::sink::RecordSink;

/// The name of a backend (`cpu`, `cuda`, `npu`): lower case letters, digits, `-`; at most 32.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackendId(String);

impl BackendId {
    /// Reads an id.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidId`] where the text is no id.
    pub fn parse(text: &str) -> Result<Self, BackendError> {
        let valid = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid {
            return Err(BackendError::InvalidId { text: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BackendId {
    type Error = BackendError;

    fn try_from(text: String) -> Result<Self, BackendError> {
        Self::parse(&text)
    }
}

impl From<BackendId> for String {
    fn from(id: BackendId) -> Self {
        id.0
    }
}

/// What a backend records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackendRole {
    /// A device: one such backend records in a session.
    Device,
    /// The host's side; records beside a device backend, or alone.
    Host,
}

/// How much a device backend records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Preset {
    /// What ran on the device.
    Gpu,
    /// That, and the calls that launched it.
    #[default]
    Launch,
    /// That, and every other call, wait and overhead.
    Full,
}

/// What one session of a backend shall record. Crosses the plugin door as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionConfig {
    /// The process to record; `None` = the one the backend runs in.
    pub target_pid: Option<u32>,
    /// How much a device backend records.
    pub preset: Preset,
    /// Sample the stacks of the target's threads.
    pub samples: bool,
    /// Samples a second and thread.
    pub sample_hz: u32,
    /// Read the target's counters.
    pub counters: bool,
    /// Counter readings a second.
    pub counter_hz: u32,
    /// Record operators.
    pub operators: bool,
    /// Record the shapes of operators' inputs.
    pub record_shapes: bool,
    /// Take the stacks of operators (frames of interpreted languages included).
    pub with_stack: bool,
    /// Record allocations and frees.
    pub memory: bool,
    /// The most memory that buffers of the driver may take, in bytes.
    pub max_buffer_bytes: u64,
    /// How long `stop` may wait for records that the driver still holds.
    pub drain_ms: u64,
    /// A directory beside the spool that a backend may make, where a vendor's own tool writes what
    /// it records into files; `None` = the spool's place is not known. Whoever exports the spool
    /// looks there for what has to be imported. What lies there counts against the session's limit of
    /// bytes while it records; a backend that writes elsewhere names the directory by a fact whose key
    /// ends with `.raw_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_dir: Option<std::path::PathBuf>,
    /// Settings of one backend alone, by its id and their names.
    pub options: std::collections::BTreeMap<String, serde_json::Value>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            target_pid: None,
            preset: Preset::Launch,
            samples: true,
            sample_hz: 99,
            counters: true,
            counter_hz: 10,
            operators: false,
            record_shapes: false,
            with_stack: false,
            memory: false,
            max_buffer_bytes: 256 << 20,
            drain_ms: 500,
            raw_dir: None,
            options: std::collections::BTreeMap::new(),
        }
    }
}

/// What a session of a backend has to say at its end. Crosses the plugin door as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionSummary {
    /// Whether the target used the backend's device while it was recorded; `None` = not known.
    pub device_used: Option<bool>,
    /// What the driver keeps of the capture.
    pub driver: Option<DriverState>,
    /// What a person should know (a fallback that was taken, a limit that was reached).
    pub notes: Vec<String>,
    /// The most memory that the session held: what it mapped and allocated, itself or for the
    /// driver, and what the kernel locked for it.
    pub own_memory_bytes: u64,
    /// Processor time that the session's own code took on the application's threads (signal
    /// handlers, callbacks of the driver), in nanoseconds.
    pub own_cpu_ns_elsewhere: u64,
}

/// What a driver keeps of a capture after its stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DriverState {
    /// Nothing.
    Detached,
    /// Something that may cost time until the process ends or the driver is detached.
    Residue,
}

/// Finds hardware and opens sessions.
///
/// One value a process, made on first use. All calls come from threads of the agent, one at a
/// time. Panics are caught at the door: the backend is not used again, the host lives on.
pub trait ProfilerBackend: Send + Sync {
    /// The backend's id, always the same.
    fn id(&self) -> BackendId;

    /// Looks at the machine. Runs when a worker joins and again at each arm.
    ///
    /// Initialises no driver, creates no context, opens no device and returns within a second.
    /// What must be loaded before the application loads it is loaded here, unsubscribed.
    fn probe(&self) -> ProbeReport;

    /// What the driver keeps of earlier captures now, `None` = nothing that is known of. As cheap
    /// as reading a number.
    fn driver(&self) -> Option<DriverState> {
        None
    }

    /// Whether a session of these settings gives allocations and frees as rows
    /// ([`SessionConfig::memory`]). Asked before `open`; looks at nothing that `probe` may not.
    ///
    /// Where the chosen backend says no, a worker that was asked for memory says so.
    fn records_memory(&self, _config: &SessionConfig) -> bool {
        false
    }

    /// Prepares a session: opens streams, allocates buffers. Nothing is recorded yet.
    ///
    /// May block for as long as loading a library takes.
    ///
    /// # Errors
    ///
    /// [`BackendError`] where the session cannot record; nothing is left behind.
    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError>;
}

/// A capture by one backend.
///
/// Call order: `start` once, `flush` any number of times, `stop` once; then drop. Dropping a
/// session that was not stopped stops it, within its drain time, without a panic. Rows may reach
/// the sink from `start` until `stop` returns, and never after.
pub trait ProfileSession: Send {
    /// Begins to record; when it returns, what happens from now on is recorded.
    ///
    /// # Errors
    ///
    /// [`BackendError::AlreadyStarted`] on the second call; other errors leave nothing enabled.
    fn start(&mut self) -> Result<(), BackendError>;

    /// Asks the driver for what it holds. When it returns the driver has handed that over, and
    /// its rows reach the sink within 100 ms. Called by the agent's flusher alone, every 200 ms.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotStarted`] before `start`; vendor errors do not end the session.
    fn flush(&mut self) -> Result<(), BackendError>;

    /// Ends the recording: switches off, drains for at most `drain`, flushes a last time.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotStarted`] before `start`. Other errors are what went wrong on the way;
    /// the session is over all the same.
    fn stop(&mut self, drain: Duration) -> Result<SessionSummary, BackendError>;
}
