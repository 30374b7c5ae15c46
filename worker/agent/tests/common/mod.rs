//! A controller's side of the link, as small as it gets.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub(crate) mod faulty;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use profiler_agent::link::{Connection, LinkError};
use profiler_agent::{Agent, AgentBuilder};
use profiler_core::backend::{BackendRole, ProfilerBackend, SessionConfig};
use profiler_core::clock::{ClockSource as _, Instant, SystemClock};
use profiler_core::control::{
    AgentEvent, AgentReply, AgentRequest, Arm, Armed, COMMIT_DEADLINE_MS, CaptureConfig, Commit,
    FromAgent, Hello, OnUnavailable, Outcome, Stop, ToAgent, WorkerError, WorkerResult,
    WorkerState,
};
use profiler_core::null::NullBackend;
use profiler_core::record::{RecordKind, Row};
use profiler_core::registry::{BackendRegistry, RegisteredBackend};
use profiler_core::schedule::{Limits, Schedule};
use profiler_core::sink::StreamId;
use profiler_core::spool::{Block, SpoolReader};

/// Long enough for a loaded machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The process has one agent: tests of one file take turns.
pub fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn registry_of(
    backends: impl IntoIterator<Item = (BackendRole, Box<dyn ProfilerBackend>)>,
) -> BackendRegistry {
    let mut registry = BackendRegistry::empty();
    for (role, backend) in backends {
        registry.add(RegisteredBackend { role, priority: 100, backend }).unwrap();
    }
    registry
}

pub fn null_registry() -> BackendRegistry {
    registry_of([(BackendRole::Device, Box::new(NullBackend::new()) as Box<dyn ProfilerBackend>)])
}

pub fn builder() -> AgentBuilder {
    Agent::builder().stage(2).role("talker").replica(1).rank(3).registry(null_registry())
}

/// The controller of one agent.
pub struct FakeController {
    pub link: Connection,
    pub events: Vec<AgentEvent>,
    next_id: u64,
}

pub fn connect(builder: AgentBuilder) -> (Agent, FakeController, Hello) {
    let (ours, theirs) = Connection::pair().unwrap();
    let agent = builder.connect_over(theirs).unwrap();
    let (controller, hello) = FakeController::welcome(ours);
    (agent, controller, hello)
}

impl FakeController {
    pub fn welcome(link: Connection) -> (Self, Hello) {
        let (message, _) = link.recv_timeout::<FromAgent>(PATIENCE).unwrap();
        let FromAgent::Hello(hello) = message else { panic!("no hello: {message:?}") };
        link.send(&ToAgent::Welcome { controller_pid: std::process::id() }, None).unwrap();
        (Self { link, events: Vec::new(), next_id: 1 }, *hello)
    }

    pub fn ask(
        &mut self,
        request: AgentRequest,
        file: Option<&File>,
    ) -> Result<AgentReply, WorkerError> {
        let id = self.next_id;
        self.next_id += 1;
        let message = ToAgent::Request { id, request };
        self.link.send(&message, file.map(AsFd::as_fd)).unwrap();
        loop {
            let (message, _) = self.link.recv_timeout::<FromAgent>(PATIENCE).unwrap();
            match message {
                FromAgent::Reply { id: answered, outcome } => {
                    assert_eq!(answered, id);
                    return match outcome {
                        Outcome::Done(reply) => Ok(*reply),
                        Outcome::Failed(error) => Err(error),
                    };
                }
                FromAgent::Event { event } => self.events.push(event),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    pub fn arm(&mut self, arm: Arm, file: Option<&File>) -> Result<Armed, WorkerError> {
        match self.ask(AgentRequest::Arm(Box::new(arm)), file)? {
            AgentReply::Armed(armed) => Ok(*armed),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn commit(&mut self, fence: u64) -> Result<Instant, WorkerError> {
        let t0 = SystemClock::new().now();
        match self.ask(AgentRequest::Commit(Commit { fence, t0 }), None)? {
            AgentReply::Committed { .. } => Ok(t0),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn stop(&mut self, fence: u64) -> Result<Instant, WorkerError> {
        let t1 = SystemClock::new().now();
        let stop = Stop { fence, t1, reason: "request".to_owned() };
        match self.ask(AgentRequest::Stop(stop), None)? {
            AgentReply::Stopping { .. } => Ok(t1),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn next_event(&mut self) -> Result<AgentEvent, LinkError> {
        if !self.events.is_empty() {
            return Ok(self.events.remove(0));
        }
        let (message, _) = self.link.recv_timeout::<FromAgent>(PATIENCE)?;
        match message {
            FromAgent::Event { event } => Ok(event),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// The result, and the states that were told before it.
    pub fn finished(&mut self) -> (WorkerResult, Vec<WorkerState>) {
        let mut states = Vec::new();
        loop {
            match self.next_event().unwrap() {
                // A state is told again each second.
                AgentEvent::State { status } if states.last() == Some(&status.state) => {}
                AgentEvent::State { status } => states.push(status.state),
                AgentEvent::Finished { result } => return (*result, states),
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

/// A spool's file, as a controller opens it.
pub struct SpoolFile {
    pub folder: tempfile::TempDir,
    pub path: PathBuf,
    pub file: File,
}

pub fn spool_file() -> SpoolFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.spool");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    SpoolFile { folder, path, file }
}

pub fn arm(fence: u64) -> Arm {
    Arm {
        session: format!("session-{fence}"),
        prefix: None,
        fence,
        spool_path: None,
        capture: CaptureConfig {
            device: true,
            device_required: false,
            host: false,
            spans: true,
            backend: None,
            on_unavailable: OnUnavailable::Fail,
            session: SessionConfig { drain_ms: 100, ..SessionConfig::default() },
        },
        schedule: Schedule::default(),
        limits: Limits { min_free_percent: 0, ..Limits::default() },
        called: None,
        commit_within_ms: COMMIT_DEADLINE_MS,
    }
}

/// All rows of a kind, with their stream and the heap of each.
pub fn rows<R: Row>(path: &Path) -> Vec<(StreamId, R, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut reader = SpoolReader::open(path).unwrap();
    while let Some(block) = reader.next_block().unwrap() {
        let block: &Block = &block;
        if block.kind() != R::KIND {
            continue;
        }
        for row in block.rows::<R>().unwrap().iter() {
            rows.push((block.stream(), *row, block.heap().to_vec()));
        }
    }
    rows
}

pub fn kinds(path: &Path) -> std::collections::BTreeMap<RecordKind, u64> {
    let mut kinds = std::collections::BTreeMap::new();
    let mut reader = SpoolReader::open(path).unwrap();
    while let Some(block) = reader.next_block().unwrap() {
        *kinds.entry(block.kind()).or_default() += block.count() as u64;
    }
    assert!(reader.is_closed(), "the spool has its footer");
    kinds
}

static NEXT_FENCE: AtomicU64 = AtomicU64::new(1);

pub fn next_fence() -> u64 {
    NEXT_FENCE.fetch_add(1, Ordering::Relaxed)
}

/// Waits for a condition; `false` where it never held.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
