//! Arm: everything opened and started, or nothing left behind.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use profiler_core::backend::{BackendId, BackendRole, SessionConfig};
use profiler_core::control::{Arm, Armed, MAX_COMMIT_WITHIN_MS, OnUnavailable, WorkerError};
use profiler_core::descriptor::raise;
use profiler_core::error::{BackendError, chain};
use profiler_core::probe::ProbeReport;
use profiler_core::schedule::{Machine, StepSource};
use profiler_core::sink::RecordSink;
use profiler_core::spool::{
    RAW_EXTENSION, SpoolHeader, SpoolOptions, SpoolWriteError, SpoolWriter,
};

use crate::core::Core;
use crate::cost::OwnTime;
use crate::door::OpenSession;
use crate::fork::NotInherited;
use crate::jit::{Listening, Named};
use crate::log_lines::LogLines;
use crate::raw_files::RawFiles;
use crate::session::{Session, Terms, lock};
use crate::spans::SpanSession;

/// How long the writer of a spool that will not be used may take.
const ROLL_BACK_DEADLINE: Duration = Duration::from_millis(500);

/// The code of a worker that is recorded from outside and was asked for more than shows there.
const OUTSIDE: &str = "outside";

const OUTSIDE_TEXT: &str = "operators do not show from outside the process, and are not recorded: \
                            start it with `omniprof run --join preload`";

/// The code of a worker that was asked for allocations and frees and can record none.
const NO_MEMORY_ROWS: &str = "no_memory_rows";

/// Opens and starts everything that a session needs.
pub(crate) fn arm(
    core: &Core,
    arm: Arm,
    descriptor: Option<OwnedFd>,
) -> Result<(Arc<Session>, Armed), WorkerError> {
    let mut own_time = OwnTime::begin();
    core.take_called(arm.called.clone());
    let machine = machine(core, &arm)?;
    let plan = Plan::of(core, &arm)?;
    let file = spool_file(&arm, descriptor)?;
    let spool_fd = file.as_raw_fd();
    let spool_path = crate::jit::path_of(file.as_fd());

    let header = SpoolHeader {
        session: arm.session.clone(),
        prefix: arm.prefix.clone(),
        worker: core.worker(),
        writer: concat!("omniprof ", env!("CARGO_PKG_VERSION")).to_owned(),
        created: core.clock.now(),
        fence: arm.fence,
    };
    let logged = LogLines::default();
    let options = SpoolOptions {
        max_bytes: arm.limits.max_bytes,
        min_free_percent: arm.limits.min_free_percent,
        log: Some(logged.writer()),
        ..SpoolOptions::default()
    };
    let writer = SpoolWriter::create(file, &header, options, Arc::clone(&core.clock))
        .map_err(|error| spool_refused(&error))?;
    let not_inherited = NotInherited::new(spool_fd);

    let facts = core.facts();
    crate::facts::write(&*writer.sink(), &header.worker, &arm, &core.joined_by, &facts);
    for (id, origin) in core.backends.origins() {
        writer.sink().fact(&format!("plugin.{id}"), &origin.to_string());
    }
    let is_enabled = machine.is_enabled();
    let named = Named::default();
    let raw_dir = spool_path.as_deref().map(|path| path.with_extension(RAW_EXTENSION));
    let raw_files = Arc::new(RawFiles::new(raw_dir));
    let listening = Listening {
        sink: writer.sink(),
        named: Arc::clone(&named),
        raw_files: Arc::clone(&raw_files),
    };
    let opened = plan.open(core, &arm, &Arc::new(listening), is_enabled)?;
    let Opened { sessions, backend, why, degraded, notes } = opened;

    let terms = Terms {
        session: arm.session.clone(),
        fence: arm.fence,
        backend: backend.clone(),
        why: why.clone(),
        degraded: degraded.clone(),
        memory: arm.capture.session.memory,
        drain: Duration::from_millis(arm.capture.session.drain_ms),
        by_steps: machine.by_steps(),
        spool_path,
        named,
        raw_files,
        max_bytes: arm.limits.max_bytes,
        commit_within_ms: arm.commit_within_ms.min(MAX_COMMIT_WITHIN_MS),
        notes,
        logged,
    };
    let spans = match arm.capture.spans && core.is_own_process() {
        true => Some(SpanSession::begin(&writer, Arc::clone(&core.clock))),
        false => None,
    };
    own_time.armed();
    let clock = Arc::clone(&core.clock);
    let session = Arc::new(Session::new(terms, machine, clock, writer, own_time));
    *lock(&session.backends) = sessions;
    *lock(&session.not_inherited) = Some(not_inherited);
    *lock(&session.spans) = spans;
    let armed = Armed {
        worker: core.worker(),
        backend,
        why,
        degraded,
        step_source: core.step_source.clone(),
        facts,
        at: core.clock.now(),
    };
    Ok((session, armed))
}

/// Takes back what [`arm`] did.
pub(crate) fn roll_back(session: &Session) {
    if let Some(spans) = lock(&session.spans).take() {
        spans.stop();
        spans.end();
    }
    lock(&session.backends).clear();
    drop(lock(&session.not_inherited).take());
    if let Some(writer) = lock(&session.writer).take() {
        writer.finish(ROLL_BACK_DEADLINE);
    }
}

fn machine(core: &Core, arm: &Arm) -> Result<Machine, WorkerError> {
    let machine = Machine::new(arm.schedule.clone(), arm.limits.clone())
        .map_err(|error| WorkerError::new("invalid_schedule", error.to_string()))?;
    if machine.by_steps() && core.step_source == StepSource::None {
        return Err(WorkerError::new(
            "no_step_source",
            "this worker has no steps (its step source is `none`): use `duration_ms`",
        ));
    }
    Ok(machine)
}

/// What shall record.
struct Plan {
    device: Option<BackendId>,
    why: String,
    degraded: Option<WorkerError>,
    hosts: Vec<BackendId>,
    notes: Vec<String>,
}

struct Opened {
    sessions: Vec<OpenSession>,
    backend: Option<BackendId>,
    why: String,
    degraded: Option<WorkerError>,
    notes: Vec<String>,
}

impl Plan {
    fn of(core: &Core, arm: &Arm) -> Result<Self, WorkerError> {
        let capture = &arm.capture;
        let mut plan = Self {
            device: None,
            why: "no device was asked for".to_owned(),
            degraded: None,
            hosts: Vec::new(),
            notes: Vec::new(),
        };
        let forced = capture.backend.as_ref();
        let forced_host = forced
            .and_then(|id| core.backends.find(id))
            .filter(|found| found.role == BackendRole::Host);
        if let Some(host) = forced_host {
            plan.why = format!("`{}` was asked for: the host alone is recorded", host.id());
        } else if capture.device {
            let choice = core.backends.choose_device(forced, capture.device_required);
            plan.device = choice.device;
            plan.why = choice.why;
            if let Some((code, message)) = choice.unavailable {
                plan.degrade(arm, WorkerError::new(&code, message))?;
            }
        }
        plan.check_memory(core, arm)?;
        if capture.host || forced_host.is_some() {
            plan.add_hosts(core);
        }
        if !core.is_own_process() && capture.session.operators {
            // Less than was asked, which leaves the rest of the session whole.
            plan.degraded.get_or_insert(WorkerError::new(OUTSIDE, OUTSIDE_TEXT));
        }
        Ok(plan)
    }

    fn add_hosts(&mut self, core: &Core) {
        for probe in core.backends.probe() {
            if probe.role != BackendRole::Host {
                continue;
            }
            match probe.report {
                ProbeReport::Unavailable { reason } => {
                    let what = format!("`{}` cannot record: {}", probe.id, reason.message);
                    self.notes.push(what);
                }
                ProbeReport::Available { notes, .. } => {
                    self.notes.extend(notes);
                    self.hosts.push(probe.id);
                }
                _ => self.hosts.push(probe.id),
            }
        }
        if self.hosts.is_empty() && self.notes.is_empty() {
            self.notes.push("this process has no backend for the host".to_owned());
        }
    }

    /// Allocations and frees were asked for: without them the arm fails, or what else was asked is
    /// recorded. A device that is missed already has said its own reason.
    fn check_memory(&mut self, core: &Core, arm: &Arm) -> Result<(), WorkerError> {
        let config = &arm.capture.session;
        if !config.memory || self.degraded.is_some() {
            return Ok(());
        }
        let message = match &self.device {
            Some(device) if core.backends.records_memory(device, config) => return Ok(()),
            Some(device) => format!(
                "allocations and frees were asked for, and backend `{device}` does not record them \
                 so"
            ),
            None => format!(
                "allocations and frees were asked for, and only a device's backend records them: {}",
                self.why
            ),
        };
        let remedy = "ask for no `MEM` (`memory`), or accept it by `on_unavailable: degrade`";
        let error = WorkerError::new(NO_MEMORY_ROWS, format!("{message}; {remedy}"));
        if arm.capture.on_unavailable == OnUnavailable::Fail {
            return Err(error);
        }
        self.degraded = Some(error);
        Ok(())
    }

    /// The device cannot record: fails, or goes on with the host alone.
    fn degrade(&mut self, arm: &Arm, error: WorkerError) -> Result<(), WorkerError> {
        if arm.capture.on_unavailable == OnUnavailable::Fail {
            return Err(error);
        }
        self.device = None;
        self.degraded = Some(error);
        Ok(())
    }

    /// Opens and starts the backends; those that a long delay keeps waiting are only opened.
    fn open(
        mut self,
        core: &Core,
        arm: &Arm,
        sink: &Arc<Listening>,
        start: bool,
    ) -> Result<Opened, WorkerError> {
        let target_pid = core.target;
        let raw_dir = sink.raw_files.offered();
        let config = SessionConfig { target_pid, raw_dir, ..arm.capture.session.clone() };
        let open = |id: &BackendId| -> Result<OpenSession, BackendError> {
            let sink = Arc::clone(sink) as Arc<dyn RecordSink>;
            let mut session = core.backends.open(id, &config, sink, Arc::clone(&core.clock))?;
            if start {
                session.start()?;
            }
            Ok(session)
        };
        let mut sessions = Vec::new();
        if let Some(id) = self.device.clone() {
            match open(&id) {
                Ok(session) => sessions.push(session),
                Err(error) => {
                    let error = backend_failed(&id, &error);
                    self.why = format!("{}; it could not start", self.why);
                    self.degrade(arm, error)?;
                    if self.hosts.is_empty() {
                        self.add_hosts(core);
                    }
                }
            }
        }
        for id in &self.hosts {
            match open(id) {
                Ok(session) => sessions.push(session),
                Err(error) => {
                    let error = backend_failed(id, &error);
                    if arm.capture.on_unavailable == OnUnavailable::Fail {
                        return Err(error);
                    }
                    self.degraded.get_or_insert(error);
                }
            }
        }
        Ok(Opened {
            sessions,
            backend: self.device,
            why: self.why,
            degraded: self.degraded,
            notes: self.notes,
        })
    }
}

fn backend_failed(id: &BackendId, error: &BackendError) -> WorkerError {
    WorkerError::new(error.code(), format!("backend `{id}` cannot start: {}", chain(error)))
}

fn spool_refused(error: &SpoolWriteError) -> WorkerError {
    let code = match error {
        SpoolWriteError::Locked => "spool_locked",
        SpoolWriteError::LimitTooSmall { .. } => "invalid_limit",
        _ => "spool_failed",
    };
    WorkerError::new(code, chain(error))
}

/// The file that came with the arm, or the one that it names, made anew.
fn spool_file(arm: &Arm, descriptor: Option<OwnedFd>) -> Result<File, WorkerError> {
    let refused = |text: String| WorkerError::new("spool_refused", text);
    if let Some(descriptor) = descriptor {
        // Before it is locked: the lock goes with the first descriptor that is closed.
        let file = File::from(raise(descriptor));
        let metadata = file
            .metadata()
            .map_err(|error| refused(format!("cannot look at the spool: {error}")))?;
        if !metadata.is_file() {
            return Err(refused("the spool that came with the arm is no regular file".to_owned()));
        }
        let flags = rustix::fs::fcntl_getfl(&file)
            .map_err(|errno| refused(format!("cannot look at the spool: {errno}")))?;
        if !flags.intersects(rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::RDWR) {
            return Err(refused(
                "the spool that came with the arm is open for reading only".into(),
            ));
        }
        return Ok(file);
    }
    let Some(path) = &arm.spool_path else {
        return Err(WorkerError::new("no_spool", "the arm came without a spool, open or named"));
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| refused(format!("cannot create the spool {path:?}: {error}")))?;
    Ok(File::from(raise(file.into())))
}
