//! What a controller and its agents say to each other.
//!
//! Plain serde types, free of sockets: a local link sends them as frames (a little-endian `u32`
//! length and JSON) over a Unix socket, another may carry them on a bus. The agent speaks first
//! ([`FromAgent::Hello`]); from then on the controller asks ([`ToAgent::Request`]), the agent
//! answers each request once ([`FromAgent::Reply`]) and tells what happens on its own
//! ([`FromAgent::Event`]).
//!
//! Each session has a *fence*: a number that only grows within a controller's root. An agent
//! refuses messages of an older fence, so that a late message never touches a later session.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backend::{BackendId, BackendRole, DriverState, SessionConfig};
use crate::clock::Instant;
use crate::identity::WorkerIdentity;
use crate::probe::ProbeReport;
use crate::process_facts::ProcessFacts;
use crate::registry::{PluginOrigin, RefusedPlugin};
use crate::schedule::{Limits, Schedule, StepSource};

/// The version of these messages. A controller refuses an agent of another major version.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest frame that either side takes, in bytes.
pub const MAX_FRAME_BYTES: u32 = 4 << 20;

/// How long an agent stays armed without a commit where its arm does not say, and without a
/// controller, in ms.
pub const COMMIT_DEADLINE_MS: u64 = 5_000;

/// The longest that an arm may ask an agent to wait for its commit, in ms.
pub const MAX_COMMIT_WITHIN_MS: u64 = 600_000;

/// How long an agent records on after its controller went away, in ms, at most.
pub const ORPHAN_LIMIT_MS: u64 = 60_000;

/// From the controller to an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToAgent {
    /// The answer to a hello: the agent is a worker of this controller.
    Welcome {
        /// The controller's process id.
        controller_pid: u32,
    },
    /// The answer to a hello: the agent is not taken. The link closes.
    Refused {
        /// Why.
        error: WorkerError,
    },
    /// A question.
    Request {
        /// The number that the reply carries.
        id: u64,
        /// What is asked.
        request: AgentRequest,
    },
}

/// From an agent to its controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromAgent {
    /// The first frame of a link.
    Hello(Box<Hello>),
    /// The first and only frame of a link: the process cannot be a worker of this controller,
    /// because an agent of another one, or of another copy of omniprof, is in it already.
    Declined {
        /// Which process. Its key is a passing one.
        worker: Box<WorkerIdentity>,
        /// Why not, and who was first.
        error: WorkerError,
    },
    /// The answer to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// Something happened.
    Event {
        /// What.
        event: AgentEvent,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "an answer is one or the other")]
pub enum Outcome {
    /// It was done.
    Done(Box<AgentReply>),
    /// It was not.
    Failed(WorkerError),
}

/// An agent introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The version of the agent's build.
    pub agent_version: String,
    /// Who it is.
    pub worker: WorkerIdentity,
    /// How the agent got into the process: `embedded`, `cuda_injection`, `nvtx_injection`,
    /// `preload`, `outside` ([`crate::inject_env`]).
    pub joined_by: String,
    /// What the process looks like when it joins; older agents say nothing.
    #[serde(default)]
    pub facts: ProcessFacts,
    /// Where its steps come from.
    pub step_source: StepSource,
    /// Its backends and what they found.
    pub backends: Vec<BackendProbe>,
    /// Plugins that were found and are not used.
    #[serde(default)]
    pub refused_plugins: Vec<RefusedPlugin>,
    /// The session that it is in, where it reconnects: the controller adopts it.
    pub session: Option<SessionStatus>,
    /// The contents of the token file, where the link cannot tell who the peer is.
    pub token: Option<String>,
}

/// A backend of an agent and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendProbe {
    /// The backend.
    pub id: BackendId,
    /// What it records.
    pub role: BackendRole,
    /// Of several available device backends the highest records.
    pub priority: u32,
    /// What it found.
    pub report: ProbeReport,
    /// The plugin that it came in; absent = it is linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginOrigin>,
    /// What its driver keeps of earlier captures now, `None` = nothing that is known of.
    #[serde(default)]
    pub driver: Option<DriverState>,
}

/// What a controller asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentRequest {
    /// Look at the machine again.
    Probe,
    /// Get ready and record into the spool, outside any window. Answered when rows are being
    /// written. The spool's descriptor rides on the frame where the link can carry one.
    Arm(Box<Arm>),
    /// The window begins.
    Commit(Commit),
    /// The window ends; drain, close the spool. Answered at once; [`AgentEvent::Finished`]
    /// follows. A second stop of the same fence gets the same answer.
    Stop(Stop),
    /// Forget the session: another worker could not arm. Answered like a stop.
    Disarm {
        /// The session's fence.
        fence: u64,
    },
    /// What are you doing?
    Status,
}

/// Get ready to record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// The session's id.
    pub session: String,
    /// The label that the user gave it.
    pub prefix: Option<String>,
    /// The session's fence.
    pub fence: u64,
    /// The spool's path, where the frame carries no descriptor; the agent creates it anew.
    pub spool_path: Option<String>,
    /// What to record.
    pub capture: CaptureConfig,
    /// When to record.
    pub schedule: Schedule,
    /// When to stop at the latest.
    pub limits: Limits,
    /// What the controller calls the worker, where it knows more than the worker said: the agent
    /// takes it over.
    #[serde(default)]
    pub called: Option<CalledWorker>,
    /// How long the agent stays armed without a commit, in ms, at most [`MAX_COMMIT_WITHIN_MS`]: as
    /// long as the slowest of the others may take to arm, and the questions between.
    #[serde(default = "commit_deadline_ms")]
    pub commit_within_ms: u64,
}

fn commit_deadline_ms() -> u64 {
    COMMIT_DEADLINE_MS
}

/// What the pipeline calls a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::exhaustive_structs, reason = "the four coordinates of a pipeline")]
pub struct CalledWorker {
    /// The pipeline stage, from 0.
    pub stage: Option<u32>,
    /// What the stage does.
    pub role: Option<String>,
    /// The replica of the stage, from 0.
    pub replica: Option<u32>,
    /// The rank within the replica, from 0.
    pub rank: Option<u32>,
}

impl CalledWorker {
    /// What a worker is called.
    #[must_use]
    pub fn of(worker: &WorkerIdentity) -> Self {
        let WorkerIdentity { stage, role, replica, rank, .. } = worker.clone();
        Self { stage, role, replica, rank }
    }

    /// Calls a worker so, where something is known.
    pub fn apply(self, worker: &mut WorkerIdentity) {
        worker.stage = self.stage.or(worker.stage);
        worker.role = self.role.or(worker.role.take());
        worker.replica = self.replica.or(worker.replica);
        worker.rank = self.rank.or(worker.rank);
    }

    /// What is known, in a few words: `stage 0 thinker, replica 0, rank 1`; `None` where nothing is.
    #[must_use]
    pub fn in_words(&self) -> Option<String> {
        let mut words = Vec::new();
        match (self.stage, &self.role) {
            (Some(stage), Some(role)) => words.push(format!("stage {stage} {role}")),
            (Some(stage), None) => words.push(format!("stage {stage}")),
            (None, Some(role)) => words.push(role.clone()),
            (None, None) => {}
        }
        words.extend(self.replica.map(|replica| format!("replica {replica}")));
        words.extend(self.rank.map(|rank| format!("rank {rank}")));
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// What this does not say, `other` may.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            stage: self.stage.or(other.stage),
            role: self.role.or(other.role),
            replica: self.replica.or(other.replica),
            rank: self.rank.or(other.rank),
        }
    }
}

/// What a worker records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptureConfig {
    /// Use a device backend.
    pub device: bool,
    /// The device was asked for: where there is none, `on_unavailable` says what happens. Else the
    /// host alone is recorded.
    #[serde(default)]
    pub device_required: bool,
    /// Use `backend-cpu`.
    pub host: bool,
    /// Record the application's spans and markers.
    pub spans: bool,
    /// The device backend to use; `None` = the best available.
    pub backend: Option<BackendId>,
    /// What to do where the asked or chosen device backend cannot start.
    pub on_unavailable: OnUnavailable,
    /// The settings of the backends.
    pub session: SessionConfig,
}

/// What to do where a device backend cannot start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the choice is the user's, between two")]
pub enum OnUnavailable {
    /// The arm fails.
    #[default]
    Fail,
    /// The host backend records alone, and the manifest says so.
    Degrade,
}

/// The window begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The session's fence.
    pub fence: u64,
    /// T0: after the last arm answer of all workers; may already lie in the past when this
    /// arrives. Steps and delays of the schedule count from here.
    pub t0: Instant,
}

/// The window ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// The session's fence.
    pub fence: u64,
    /// T1.
    pub t1: Instant,
    /// Who or what ended it (`request`, `duration`, `controller_exit`).
    pub reason: String,
}

/// What an agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentReply {
    /// To [`AgentRequest::Probe`].
    Probed {
        /// The backends and what they found.
        backends: Vec<BackendProbe>,
    },
    /// To [`AgentRequest::Arm`].
    Armed(Box<Armed>),
    /// To [`AgentRequest::Commit`].
    Committed {
        /// When the agent read it: later than T0 means that it came late, which loses nothing.
        at: Instant,
    },
    /// To [`AgentRequest::Stop`] and [`AgentRequest::Disarm`].
    Stopping {
        /// What is left to drain, as far as it is known.
        status: Box<SessionStatus>,
    },
    /// To [`AgentRequest::Status`]: `None` where the agent is idle.
    Status {
        /// The session.
        session: Option<Box<SessionStatus>>,
    },
}

/// The agent records, outside any window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Armed {
    /// Who the worker is now: titles and ranks may have become known.
    pub worker: WorkerIdentity,
    /// The device backend that records, `None` = none.
    pub backend: Option<BackendId>,
    /// Why this one.
    pub why: String,
    /// Whether it records less than asked, because that was allowed; says what.
    pub degraded: Option<WorkerError>,
    /// Where its steps come from.
    pub step_source: StepSource,
    /// What the process looks like now; older agents say nothing.
    #[serde(default)]
    pub facts: ProcessFacts,
    /// When it was ready.
    pub at: Instant,
}

/// What happens without being asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentEvent {
    /// The state of the session changed.
    State {
        /// The session.
        status: Box<SessionStatus>,
    },
    /// The session is over and its spool is closed.
    Finished {
        /// What came of it.
        result: Box<WorkerResult>,
    },
}

/// The states of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerState {
    /// No session.
    #[default]
    Idle,
    /// Rows are written; no window yet.
    Armed,
    /// Committed; the schedule's delay runs.
    Delayed,
    /// The schedule's warm-up runs: rows are counted and discarded.
    Warmup,
    /// Inside a window.
    Recording,
    /// The window is over; the driver and the writer drain.
    Draining,
    /// The session failed; the reason is in its result.
    Failed,
}

/// A session as its worker sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The session's id.
    pub session: String,
    /// The session's fence.
    pub fence: u64,
    /// The state.
    pub state: WorkerState,
    /// Steps seen since the commit.
    pub steps: u64,
    /// Windows that have begun.
    pub windows: u32,
    /// Rows written so far.
    pub rows: u64,
    /// Bytes of the spool so far.
    pub spool_bytes: u64,
    /// Rows lost so far.
    pub lost: u64,
    /// What ended it, once something did.
    pub stopped_by: Option<String>,
}

/// What came of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerResult {
    /// The session's id.
    pub session: String,
    /// The session's fence.
    pub fence: u64,
    /// Who the worker is.
    pub worker: WorkerIdentity,
    /// The device backend that recorded, `None` = none.
    pub backend: Option<BackendId>,
    /// Why this one.
    pub why: String,
    /// Whether it recorded less than asked, because that was allowed; says what.
    pub degraded: Option<WorkerError>,
    /// What went wrong, where something did.
    pub error: Option<WorkerError>,
    /// The windows as they really were: begin, and end where there was one.
    pub windows: Vec<(Instant, Option<Instant>)>,
    /// Steps seen since the commit.
    pub steps: u64,
    /// What ended it.
    pub stopped_by: String,
    /// Rows in the spool by the name of their kind, inside and outside windows.
    pub rows: BTreeMap<String, u64>,
    /// Rows lost, by cause.
    pub lost: BTreeMap<String, u64>,
    /// The spool's size.
    pub spool_bytes: u64,
    /// Whether the spool has its footer.
    pub spool_closed: bool,
    /// The greatest error bound of the session's clock tuples.
    pub clock_error_ns: u64,
    /// Processor time of the profiler in this session, from the arm on: its own threads, its signal
    /// handlers and the driver's callbacks as they were measured, and 100 ns for each span, marker,
    /// step and call of CUDA's. What the kernel takes to deliver signals and to copy stacks is not
    /// in it.
    pub own_cpu_ns: u64,
    /// The most memory that the profiler held: the sum of the peaks of its parts (the spool's
    /// writer and its queue, spans, each backend with its driver's buffers and the kernel's rings,
    /// threads), which bounds their peak together from above.
    pub own_memory_bytes: u64,
    /// Whether the device was used, where the backend can tell.
    pub device_used: Option<bool>,
    /// What the driver keeps of the capture.
    pub driver: Option<DriverState>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// An error that crosses the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct WorkerError {
    /// A stable word for programs.
    pub code: String,
    /// What happened, with its causes, and what to do.
    pub message: String,
}

impl WorkerError {
    /// An error.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut called = CalledWorker::default();
        assert_eq!(called.in_words(), None);
        called.role = Some("thinker".to_owned());
        called.rank = Some(1);
        assert_eq!(called.in_words().unwrap(), "thinker, rank 1");
        called.stage = Some(0);
        called.replica = Some(2);
        assert_eq!(called.in_words().unwrap(), "stage 0 thinker, replica 2, rank 1");
        called.role = None;
        assert_eq!(called.in_words().unwrap(), "stage 0, replica 2, rank 1");
    }
}
