//! Workers and exporters that behave as a test says.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use profiler_agent::link::Connection;
use profiler_core::backend::{BackendId, BackendRole, DriverState};
use profiler_core::clock::{ClockDomain, ClockSource, SystemClock};
use profiler_core::control::{
    AgentEvent, AgentReply, AgentRequest, Arm, Armed, BackendProbe, FromAgent, Hello, Outcome,
    PROTOCOL_VERSION, SessionStatus, ToAgent, WorkerError, WorkerResult, WorkerState,
};
use profiler_core::identity::WorkerIdentity;
use profiler_core::probe::ProbeReport;
use profiler_core::process_facts::ProcessFacts;
use profiler_core::record::{Marker, Window, WindowEdge};
use profiler_core::schedule::StepSource;
use profiler_core::sink::{Batch, StreamInfo};
use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolWriter};
use profiler_worker::Controller;
use profiler_worker::controller::ControllerBuilder;
use profiler_worker::start_request::StartRequest;

/// How long anything may take in a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The body of a start.
pub(crate) fn body(json: &str) -> StartRequest {
    StartRequest::parse(json.as_bytes()).unwrap()
}

/// How a worker behaves.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) identity: WorkerIdentity,
    pub(crate) step_source: StepSource,
    pub(crate) joined_by: &'static str,
    pub(crate) protocol: u32,
    pub(crate) session: Option<SessionStatus>,
    pub(crate) on_arm: OnArm,
    pub(crate) on_commit: OnCommit,
    pub(crate) on_stop: OnStop,
    pub(crate) rows: usize,
    /// Ends by itself so long after the commit.
    pub(crate) ends_by_itself: Option<(Duration, &'static str)>,
    pub(crate) backends: Vec<BackendProbe>,
    /// What it knows of the token.
    pub(crate) token: Option<String>,
    /// The device backend that it says recorded.
    pub(crate) backend: Option<BackendId>,
    /// What it says that its driver keeps at the stop; asked later, it keeps nothing.
    pub(crate) driver: Option<DriverState>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OnArm {
    Ready,
    Fail(WorkerError),
    Silent,
    /// Says that it records less, as was allowed.
    Degraded(WorkerError),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OnCommit {
    Begin,
    Refuse(WorkerError),
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnStop {
    Finish,
    /// Answers, and never finishes.
    Drain,
    /// Does not answer.
    Silent,
}

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

pub(crate) fn identity(stage: u32, role: &str, replica: u32, rank: u32) -> WorkerIdentity {
    let mut identity =
        WorkerIdentity::of_this_process(Some(stage), Some(role), Some(replica), Some(rank));
    // Several workers of one process stand for several processes.
    let number = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
    identity.key = format!("key{number:07}");
    identity.start_ticks += number;
    identity
}

impl Behaviour {
    pub(crate) fn new(stage: u32, role: &str, replica: u32, rank: u32) -> Self {
        Self {
            identity: identity(stage, role, replica, rank),
            step_source: StepSource::Api,
            joined_by: "embedded",
            protocol: PROTOCOL_VERSION,
            session: None,
            on_arm: OnArm::Ready,
            on_commit: OnCommit::Begin,
            on_stop: OnStop::Finish,
            rows: 100,
            ends_by_itself: None,
            backend: None,
            driver: None,
            token: None,
            backends: vec![BackendProbe {
                id: BackendId::parse("cpu").unwrap(),
                role: BackendRole::Host,
                priority: 0,
                report: ProbeReport::available(Vec::new()),
                plugin: None,
                driver: None,
            }],
        }
    }

    /// A worker that is looked at from outside, and so has no steps.
    pub(crate) fn outside(rank: u32) -> Self {
        Self {
            joined_by: "outside",
            step_source: StepSource::None,
            ..Self::new(0, "thinker", 0, rank)
        }
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol: self.protocol,
            agent_version: "0.0.0-test".to_owned(),
            worker: self.identity.clone(),
            joined_by: self.joined_by.to_owned(),
            facts: ProcessFacts::default(),
            step_source: self.step_source.clone(),
            backends: self.backends.clone(),
            refused_plugins: Vec::new(),
            session: self.session.clone(),
            token: self.token.clone(),
        }
    }

    /// Joins the controller that listens in `dir`.
    pub(crate) fn join(self, dir: &Path) -> FakeWorker {
        let connection = Connection::connect(&dir.join("omniprof.sock")).unwrap();
        FakeWorker::start(self, connection)
    }
}

/// What a worker was asked, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Arm(Box<Arm>),
    Commit(u64),
    Stop(String),
    Disarm,
    Other,
}

/// A worker in a thread.
pub(crate) struct FakeWorker {
    connection: Arc<Connection>,
    pub(crate) asked: Receiver<Asked>,
    pub(crate) refused: Arc<Mutex<Option<WorkerError>>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeWorker {
    pub(crate) fn start(behaviour: Behaviour, connection: Connection) -> Self {
        let connection = Arc::new(connection);
        let (sender, asked) = channel();
        let refused = Arc::new(Mutex::new(None));
        let mut worker = Loop {
            connection: Arc::clone(&connection),
            behaviour,
            asked: sender,
            refused: Arc::clone(&refused),
            session: None,
        };
        let thread = std::thread::Builder::new()
            .name("fake-worker".to_owned())
            .spawn(move || worker.run())
            .unwrap();
        Self { connection, asked, refused, thread: Some(thread) }
    }

    /// The link ends, as when the process does.
    pub(crate) fn die(mut self) {
        self.end();
    }

    /// Waits for its next request.
    pub(crate) fn next_asked(&self) -> Asked {
        self.asked.recv_timeout(DEADLINE).expect("the worker is asked")
    }

    /// The next arm that it gets, past what else it is asked.
    pub(crate) fn next_arm(&self) -> Arm {
        loop {
            if let Asked::Arm(arm) = self.next_asked() {
                return *arm;
            }
        }
    }

    fn end(&mut self) {
        self.connection.close();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.end();
    }
}

struct Running {
    arm: Arm,
    writer: Option<SpoolWriter>,
    begin: Option<profiler_core::clock::Instant>,
    ends_at: Option<(Instant, &'static str)>,
}

struct Loop {
    connection: Arc<Connection>,
    behaviour: Behaviour,
    asked: Sender<Asked>,
    refused: Arc<Mutex<Option<WorkerError>>>,
    session: Option<Running>,
}

impl Loop {
    fn run(&mut self) {
        let hello = FromAgent::Hello(Box::new(self.behaviour.hello()));
        if self.connection.send(&hello, None).is_err() {
            return;
        }
        loop {
            let wait = self
                .session
                .as_ref()
                .and_then(|session| session.ends_at)
                .map_or(Duration::from_secs(3600), |(at, _)| {
                    at.saturating_duration_since(Instant::now())
                });
            let message = match self.connection.recv_timeout::<ToAgent>(wait) {
                Ok((message, file)) => (message, file),
                Err(error) if !error.is_final() => {
                    self.finish_by_itself();
                    continue;
                }
                Err(_) => return,
            };
            match message {
                (ToAgent::Welcome { .. }, _) => {}
                (ToAgent::Refused { error }, _) => {
                    *self.refused.lock().unwrap() = Some(error);
                    return;
                }
                (ToAgent::Request { id, request }, file) => {
                    self.answer(id, request, file.map(File::from));
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self, id: u64, request: AgentRequest, file: Option<File>) {
        let outcome = match request {
            AgentRequest::Arm(arm) => {
                let _told = self.asked.send(Asked::Arm(arm.clone()));
                match self.behaviour.on_arm.clone() {
                    OnArm::Silent => return,
                    OnArm::Fail(error) => Outcome::Failed(error),
                    OnArm::Ready => Outcome::Done(Box::new(self.arm(*arm, file, None))),
                    OnArm::Degraded(error) => {
                        Outcome::Done(Box::new(self.arm(*arm, file, Some(error))))
                    }
                }
            }
            AgentRequest::Commit(commit) => {
                let _told = self.asked.send(Asked::Commit(commit.t0.monotonic_ns));
                match self.behaviour.on_commit.clone() {
                    OnCommit::Begin => {}
                    OnCommit::Refuse(error) => return self.reply(id, Outcome::Failed(error)),
                    OnCommit::Silent => return,
                }
                let at = SystemClock::new().now();
                if let Some(session) = &mut self.session {
                    session.begin = Some(commit.t0);
                    session.ends_at = self
                        .behaviour
                        .ends_by_itself
                        .map(|(after, why)| (Instant::now() + after, why));
                }
                Outcome::Done(Box::new(AgentReply::Committed { at }))
            }
            AgentRequest::Stop(stop) => {
                let _told = self.asked.send(Asked::Stop(stop.reason.clone()));
                match self.behaviour.on_stop {
                    OnStop::Silent => return,
                    OnStop::Drain | OnStop::Finish => {}
                }
                let status = self.status(WorkerState::Draining);
                self.reply(id, Outcome::Done(Box::new(AgentReply::Stopping { status })));
                if self.behaviour.on_stop == OnStop::Finish {
                    self.finish(&stop.reason, Some(stop.t1));
                }
                return;
            }
            AgentRequest::Disarm { .. } => {
                let _told = self.asked.send(Asked::Disarm);
                self.session = None;
                let status = self.status(WorkerState::Idle);
                Outcome::Done(Box::new(AgentReply::Stopping { status }))
            }
            AgentRequest::Probe => {
                let mut backends = self.behaviour.backends.clone();
                for backend in &mut backends {
                    backend.driver = self.behaviour.driver.map(|_| DriverState::Detached);
                }
                Outcome::Done(Box::new(AgentReply::Probed { backends }))
            }
            _ => {
                let _told = self.asked.send(Asked::Other);
                Outcome::Failed(WorkerError::new("not_faked", "the fake does not know this"))
            }
        };
        self.reply(id, outcome);
    }

    fn reply(&self, id: u64, outcome: Outcome) {
        let _gone = self.connection.send(&FromAgent::Reply { id, outcome }, None);
    }

    fn arm(&mut self, arm: Arm, file: Option<File>, degraded: Option<WorkerError>) -> AgentReply {
        let header = SpoolHeader {
            session: arm.session.clone(),
            prefix: arm.prefix.clone(),
            worker: self.behaviour.identity.clone(),
            writer: "fake".to_owned(),
            created: SystemClock::new().now(),
            fence: arm.fence,
        };
        let writer = file.map(|file| {
            let clock = Arc::new(SystemClock::new());
            SpoolWriter::create(file, &header, spool_options(), clock).unwrap()
        });
        self.session = Some(Running { arm, writer, begin: None, ends_at: None });
        AgentReply::Armed(Box::new(Armed {
            worker: self.behaviour.identity.clone(),
            backend: None,
            why: "a fake".to_owned(),
            degraded,
            step_source: self.behaviour.step_source.clone(),
            facts: ProcessFacts::default(),
            at: SystemClock::new().now(),
        }))
    }

    fn status(&self, state: WorkerState) -> Box<SessionStatus> {
        let arm = self.session.as_ref().map(|session| &session.arm);
        Box::new(SessionStatus {
            session: arm.map(|arm| arm.session.clone()).unwrap_or_default(),
            fence: arm.map_or(0, |arm| arm.fence),
            state,
            steps: 0,
            windows: 1,
            rows: self.behaviour.rows as u64,
            spool_bytes: 0,
            lost: 0,
            stopped_by: None,
        })
    }

    fn finish_by_itself(&mut self) {
        let why = self.session.as_ref().and_then(|session| session.ends_at).map(|(_, why)| why);
        if let Some(why) = why {
            self.finish(why, None);
        }
    }

    fn finish(&mut self, why: &str, t1: Option<profiler_core::clock::Instant>) {
        let Some(mut session) = self.session.take() else { return };
        let end = t1.unwrap_or_else(|| SystemClock::new().now());
        let spool_bytes = match session.writer.take() {
            None => 0,
            Some(writer) => {
                write_rows(&writer, session.begin.unwrap_or_default(), end, self.behaviour.rows);
                let _totals = writer.finish(DEADLINE);
                1 // the controller looks at the file itself
            }
        };
        let mut rows = std::collections::BTreeMap::new();
        rows.insert("marker".to_owned(), self.behaviour.rows as u64);
        let result = WorkerResult {
            session: session.arm.session,
            fence: session.arm.fence,
            worker: self.behaviour.identity.clone(),
            backend: self.behaviour.backend.clone(),
            why: "a fake".to_owned(),
            degraded: match &self.behaviour.on_arm {
                OnArm::Degraded(error) => Some(error.clone()),
                _ if self.behaviour.backend.is_some() => {
                    Some(WorkerError::new("no_device_records", "the device gave no record"))
                }
                _ => None,
            },
            error: None,
            windows: session.begin.map(|begin| (begin, Some(end))).into_iter().collect(),
            steps: 3,
            stopped_by: why.to_owned(),
            rows,
            lost: std::collections::BTreeMap::new(),
            spool_bytes,
            spool_closed: true,
            clock_error_ns: 400,
            own_cpu_ns: 1,
            own_memory_bytes: 1,
            device_used: self.behaviour.backend.is_some().then_some(true),
            driver: self.behaviour.driver,
            notes: Vec::new(),
        };
        let event = AgentEvent::Finished { result: Box::new(result) };
        let _gone = self.connection.send(&FromAgent::Event { event }, None);
    }
}

/// The defaults, on a disk of which nothing has to stay free: how full it is, is no test's matter.
pub(crate) fn spool_options() -> SpoolOptions {
    SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() }
}

/// Writes a window and markers inside it.
pub(crate) fn write_rows(
    writer: &SpoolWriter,
    begin: profiler_core::clock::Instant,
    end: profiler_core::clock::Instant,
    count: usize,
) {
    let sink = writer.sink();
    let stream = sink.open_stream(StreamInfo {
        producer: "fake".to_owned(),
        thread: 0,
        clock: ClockDomain::Monotonic,
    });
    let edge = |at: profiler_core::clock::Instant, edge: WindowEdge| Window {
        monotonic: at.monotonic_ns,
        realtime: at.realtime_ns,
        step: u64::MAX,
        window: 0,
        edge: edge.number(),
    };
    let marks = [edge(begin, WindowEdge::Begin), edge(end, WindowEdge::End)];
    let _emitted = sink.emit(&[Batch::new(stream, &marks)]);
    let mut left = count;
    while left > 0 {
        let step = left.min(8192);
        let rows: Vec<Marker> = (0..step)
            .map(|index| Marker {
                time: begin.monotonic_ns + 1 + index as u64,
                ..Marker::default()
            })
            .collect();
        let _emitted = sink.emit(&[Batch::new(stream, &rows)]);
        left -= step;
    }
}

/// A directory and a controller of its own.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("traces")
    }

    /// A controller that exports nothing, has short deadlines and asks for no free room on the disk.
    pub(crate) fn builder(&self) -> ControllerBuilder {
        Controller::builder().root(self.root()).without_exporter().options(|options| {
            options.arm_deadline = Duration::from_secs(1);
            options.answer_deadline = Duration::from_millis(500);
            options.retention = None;
            options.defaults.all.limits.min_free_percent = 0;
        })
    }

    /// A controller for real agents, which may take their time on a busy machine.
    pub(crate) fn patient(&self) -> Controller {
        let patient = self.builder().options(|options| {
            options.arm_deadline = DEADLINE;
            options.answer_deadline = DEADLINE;
        });
        patient.build().unwrap()
    }

    pub(crate) fn controller(&self) -> Controller {
        self.builder().build().unwrap()
    }

    /// A shell script that stands for `omniprof export`; `$output`, `$follow` and `$spool` are
    /// set.
    pub(crate) fn exporter(&self, body: &str) -> PathBuf {
        let path = self.dir.path().join("omniprof");
        let script = format!(
            "#!/bin/sh\nshift\nspool=$1\nfollow=\nwhile [ $# -gt 0 ]; do case $1 in --output) \
             output=$2; shift;; --format) format=$2; shift;; --follow) follow=1;; esac; shift; \
             done\n{body}\n"
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// Joins workers and waits until the controller knows them.
pub(crate) fn join(controller: &Controller, workers: Vec<Behaviour>) -> Vec<FakeWorker> {
    let before = controller.status().workers.len();
    let count = workers.len();
    let dir = controller.socket_dir().unwrap();
    let joined = workers.into_iter().map(|worker| worker.join(&dir)).collect();
    assert!(controller.wait_for_workers(before + count, DEADLINE), "the workers join");
    joined
}

/// Waits until the condition holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says that a test could not run here. Past the test harness, which shows nothing of a test that
/// passes; `.ci/run` counts these lines.
pub(crate) fn skipped(why: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped: {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
