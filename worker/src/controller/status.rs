//! What goes on.

use std::path::Path;

use profiler_core::backend::DriverState;
use profiler_core::clock::Instant;
use profiler_core::control::{SessionStatus, WorkerState};
use profiler_core::probe::ProbeReport;
use profiler_core::schedule::Limits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::state::{Inner, Worker};
use crate::manifest::{InstantLine, LimitsLine, SessionState};
use crate::session::Session;

/// What goes on in a controller.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Status {
    /// This build.
    pub version: String,
    /// The controller's process.
    pub pid: u32,
    /// The directory that holds all sessions.
    pub root: String,
    /// Whether a session records, absent = none.
    pub session: Option<RunningSession>,
    /// Sessions that record no more and are still being exported.
    pub exporting: Vec<String>,
    /// The session that was started last, with what ended it.
    pub last: Option<LastSession>,
    /// The limits of a start that names none.
    #[schema(value_type = LimitsLine)]
    pub default_limits: Limits,
    /// The directory in which workers find the socket, absent = nobody listens.
    pub socket_dir: Option<String>,
    /// The workers that have joined.
    pub workers: Vec<WorkerStatus>,
    /// Processes of launchers that use a device and have not joined, with the reason.
    pub not_joined: Vec<ProcessLine>,
}

/// A process that uses a device and has not joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct ProcessLine {
    /// The process.
    pub pid: u32,
    /// Its title.
    pub title: String,
    /// A stable word for the reason.
    pub code: String,
    /// What is in the way, and what to do.
    pub message: String,
}

impl ProcessLine {
    /// A line.
    #[must_use]
    pub fn new(pid: u32, title: &str, code: &str, message: &str) -> Self {
        let (title, code, message) = (title.to_owned(), code.to_owned(), message.to_owned());
        Self { pid, title, code, message }
    }
}

/// The session that was started last.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct LastSession {
    /// Its id.
    pub session: String,
    /// Where it stands.
    pub state: SessionState,
    /// What ended it, once something did.
    pub stopped_by: Option<String>,
}

/// The session that records.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct RunningSession {
    /// Its id.
    pub session: String,
    /// The label that the user gave.
    pub prefix: Option<String>,
    /// Where it stands.
    pub state: SessionState,
    /// T0.
    #[schema(value_type = Option<InstantLine>)]
    pub t0: Option<Instant>,
    /// Its workers.
    pub workers: Vec<RunningWorker>,
}

/// A worker of the session that records.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct RunningWorker {
    /// The worker's key.
    pub key: String,
    /// Its state, absent = not known.
    #[schema(value_type = Option<String>)]
    pub state: Option<WorkerState>,
    /// Whether its link is up.
    pub linked: bool,
    /// Steps seen since the commit.
    pub steps: u64,
    /// Rows written so far.
    pub rows: u64,
    /// Rows lost so far.
    pub lost: u64,
    /// Bytes of the spool so far.
    pub spool_bytes: u64,
    /// What ended it, once something did.
    pub stopped_by: Option<String>,
    /// The limits in force.
    #[schema(value_type = LimitsLine)]
    pub limits: Limits,
}

/// A worker that has joined.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct WorkerStatus {
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
    /// The version of its agent.
    pub agent_version: String,
    /// How its agent got into the process.
    pub joined_by: String,
    /// Where its steps come from: `api`, `marker:<pattern>` or `none`.
    pub step_source: String,
    /// Its state.
    #[schema(value_type = String)]
    pub state: WorkerState,
    /// Its backends and what they found.
    pub backends: Vec<BackendStatus>,
    /// Plugins that it found and does not use, and why.
    pub refused_plugins: Vec<String>,
}

/// A backend of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct BackendStatus {
    /// Its id.
    pub id: String,
    /// Whether it can record.
    pub available: bool,
    /// Its devices' names.
    pub devices: Vec<String>,
    /// What its driver keeps of earlier captures, which costs each launch some time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub driver: Option<DriverState>,
    /// Why it cannot, and what to do; or what a person should know.
    pub notes: Vec<String>,
    /// The plugin that it came in, with its version; absent = it is linked.
    pub plugin: Option<String>,
}

/// The most lines that one launcher may leave here.
const MAX_LINES: usize = 1024;

impl Inner {
    /// Takes what a launcher says of its processes, instead of what it said before.
    pub(super) fn set_not_joined(&self, launcher: u32, mut lines: Vec<ProcessLine>) {
        lines.truncate(MAX_LINES);
        let mut state = self.lock();
        if lines.is_empty() {
            state.not_joined.remove(&launcher);
        } else {
            state.not_joined.insert(launcher, lines);
        }
    }

    pub(super) fn status(&self) -> Status {
        self.identify();
        self.look_at_drivers();
        let socket_dir = self.socket_dir().map(|dir| dir.display().to_string());
        let mut state = self.lock();
        // A launcher that was killed takes nothing back.
        state
            .not_joined
            .retain(|launcher, _| Path::new("/proc").join(launcher.to_string()).exists());
        state.release_current();
        let session = |id: &Option<String>| id.as_ref().and_then(|id| state.sessions.get(id));
        let current = session(&state.current);
        let exporting = state.sessions.values().filter(|s| s.state() == SessionState::Exporting);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            root: self.root.path().display().to_string(),
            session: current.map(running),
            exporting: exporting.map(|session| session.id().to_owned()).collect(),
            last: session(&state.last).map(|session| LastSession {
                session: session.id().to_owned(),
                state: session.state(),
                stopped_by: session.manifest().stopped_by,
            }),
            default_limits: self.options.defaults.all.limits.clone(),
            socket_dir,
            workers: state.joined().map(worker).collect(),
            not_joined: state.not_joined.values().flatten().cloned().collect(),
        }
    }
}

fn running(session: &Session) -> RunningSession {
    let workers = session.runs.iter().filter(|run| !run.record.host).map(|run| {
        let status = run.status.as_ref();
        let number = |field: fn(&SessionStatus) -> u64| status.map_or(0, field);
        RunningWorker {
            key: run.key().to_owned(),
            state: status.map(|status| status.state),
            linked: run.linked,
            steps: number(|status| status.steps),
            rows: number(|status| status.rows),
            lost: number(|status| status.lost),
            spool_bytes: number(|status| status.spool_bytes),
            stopped_by: status.and_then(|status| status.stopped_by.clone()),
            limits: run.record.limits.clone(),
        }
    });
    RunningSession {
        session: session.id().to_owned(),
        prefix: session.record.prefix.clone(),
        state: session.state(),
        t0: session.record.t0,
        workers: workers.collect(),
    }
}

fn worker(worker: &Worker) -> WorkerStatus {
    use profiler_core::schedule::StepSource;
    let identity = &worker.identity;
    let backends = worker.backends.iter().map(|backend| {
        let (available, devices, notes) = match &backend.report {
            ProbeReport::Available { devices, notes } => {
                let names = devices.iter().map(|device| device.name.clone()).collect();
                (true, names, notes.clone())
            }
            ProbeReport::Unavailable { reason } => {
                let note = format!("{} {}", reason.message, reason.remedy).trim().to_owned();
                (false, Vec::new(), vec![note])
            }
            _ => (false, Vec::new(), Vec::new()),
        };
        let plugin = backend.plugin.as_ref().map(ToString::to_string);
        BackendStatus {
            id: backend.id.to_string(),
            available,
            devices,
            driver: backend.driver,
            notes,
            plugin,
        }
    });
    let refused_plugins = worker.refused_plugins.iter().map(|refused| refused.reason.clone());
    WorkerStatus {
        stage: identity.stage,
        role: identity.role.clone(),
        replica: identity.replica,
        rank: identity.rank,
        host: identity.host.clone(),
        pid: identity.pid,
        key: identity.key.clone(),
        program: identity.program.clone(),
        agent_version: worker.agent_version.clone(),
        joined_by: worker.joined_by.clone(),
        step_source: match &worker.step_source {
            StepSource::Api => "api".to_owned(),
            StepSource::Marker(pattern) => format!("marker:{pattern}"),
            _ => "none".to_owned(),
        },
        state: worker.status.as_ref().map_or(WorkerState::Idle, |status| status.state),
        backends: backends.collect(),
        refused_plugins: refused_plugins.collect(),
    }
}
