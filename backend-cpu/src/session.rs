//! A capture: the session's side of the recorder's thread.

use std::any::Any;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use profiler_core::backend::{ProfileSession, SessionConfig, SessionSummary};
use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::error::BackendError;
use profiler_core::sink::{RecordSink, StreamInfo};

use crate::counters::Counters;
use crate::intake::Intake;
use crate::operators::Operators;
use crate::plan::Plan;
use crate::process::Process;
use crate::recorder::Recorder;
use crate::sample_rows::SampleRows;
use crate::shared::{Shared, Waited};

/// How long the thread may take to attach; a thousand threads take some 50 ms.
const START_TIMEOUT: Duration = Duration::from_secs(10);

const OUTSIDE: &str = "operators are recorded from inside a process only: start it under `omniprof \
                       run`, or embed the agent";

/// How long a flush may take.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// What ending the thread may take beyond the drain.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A session of the CPU backend.
pub(crate) struct CpuSession {
    state: State,
    /// `None`: another process is recorded, whose operators cannot be had from outside.
    operators: Option<Operators>,
    shared: Arc<Shared>,
    drain: Duration,
    /// The process that opened the session: in a forked child its thread does not exist.
    owner: u32,
}

enum State {
    Open(Box<Recorder>),
    Recording(JoinHandle<Result<SessionSummary, BackendError>>),
    Stopped,
}

impl CpuSession {
    /// Opens what the recording needs. Nothing is recorded yet.
    ///
    /// # Errors
    ///
    /// [`BackendError`] where a setting or the target cannot be had.
    pub(crate) fn open(
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Self, BackendError> {
        let plan = Plan::parse(config)?;
        let process = Arc::new(Process::open(config.target_pid)?);
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| BackendError::Io { what, source }
        };
        let shared = Arc::new(Shared::new().map_err(io("make an event descriptor"))?);
        let stream = |producer: &str| {
            let producer = producer.to_owned();
            sink.open_stream(StreamInfo { producer, thread: 0, clock: ClockDomain::Monotonic })
        };
        let mut counters = None;
        if plan.counters {
            let stream = stream("cpu.counters");
            let opened = Counters::open(&process, Arc::clone(&sink), stream);
            counters = Some(opened.map_err(io("open the target's counters in /proc"))?);
        }
        let mut intake = None;
        if plan.samples {
            let rows = SampleRows::new(Arc::clone(&sink), stream("cpu.sampler"), process.pid);
            intake = Some(Intake::new(Arc::clone(&process), Arc::clone(&clock), rows));
        }
        let drain = Duration::from_millis(config.drain_ms);
        let is_own = config.target_pid.is_none_or(|pid| pid == std::process::id());
        let mut operators = None;
        if is_own {
            operators = Some(Operators::open(plan.operators, &sink, &clock)?);
        } else if plan.operators.rows {
            sink.fact("cpu.operators", "none");
            sink.fact("cpu.operators.reason", OUTSIDE);
        }
        let recorder = Recorder {
            plan,
            process,
            sink,
            clock,
            shared: Arc::clone(&shared),
            intake,
            counters,
            most_bytes: 0,
        };
        let state = State::Open(Box::new(recorder));
        Ok(Self { state, operators, shared, drain, owner: std::process::id() })
    }

    fn end(&mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        let thread = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Recording(thread) => thread,
            other => {
                self.state = other;
                return Err(BackendError::NotStarted);
            }
        };
        if self.owner != std::process::id() {
            let _never_joined = ManuallyDrop::new(thread);
            if let Some(operators) = &mut self.operators {
                operators.forget();
            }
            return Err(BackendError::NotStarted);
        }
        let timeout = drain.saturating_add(STOP_GRACE);
        let operators = self.operators.take().map(|mut operators| operators.stop(timeout));
        match self.shared.stop(timeout) {
            Waited::Done | Waited::Ended => {
                let mut summary = join(thread)?;
                let operators = operators.unwrap_or_default();
                summary.notes.extend(operators.notes);
                summary.own_memory_bytes += operators.memory_bytes;
                Ok(summary)
            }
            Waited::TimedOut => Err(timed_out("end the recorder's thread")),
        }
    }
}

impl ProfileSession for CpuSession {
    fn start(&mut self) -> Result<(), BackendError> {
        let recorder = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Open(recorder) => recorder,
            other => {
                self.state = other;
                return Err(BackendError::AlreadyStarted);
            }
        };
        let thread = spawn(recorder, Arc::clone(&self.shared))?;
        match self.shared.wait_ready(START_TIMEOUT) {
            Waited::Done => {
                self.state = State::Recording(thread);
                if let Some(operators) = &mut self.operators
                    && let Err(error) = operators.start()
                {
                    // What ends here was never begun as a whole; the first error is told.
                    let _ended: Result<SessionSummary, BackendError> = self.end(Duration::ZERO);
                    return Err(error);
                }
                Ok(())
            }
            Waited::Ended => match join(thread) {
                Err(error) => Err(error),
                Ok(_) => Err(BackendError::NotStarted),
            },
            Waited::TimedOut => {
                self.state = State::Recording(thread);
                let ended = self.end(Duration::ZERO);
                Err(ended.err().unwrap_or_else(|| timed_out("attach to the target's threads")))
            }
        }
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        if !matches!(self.state, State::Recording(_)) || self.owner != std::process::id() {
            return Err(BackendError::NotStarted);
        }
        if let Some(operators) = &self.operators {
            operators.flush(FLUSH_TIMEOUT);
        }
        match self.shared.flush(FLUSH_TIMEOUT) {
            // The thread is at it: a busy machine may need more than the time we wait.
            Waited::Done | Waited::TimedOut => Ok(()),
            // `stop` tells why.
            Waited::Ended => Ok(()),
        }
    }

    fn stop(&mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        self.end(drain)
    }
}

impl Drop for CpuSession {
    fn drop(&mut self) {
        if self.owner != std::process::id()
            && let Some(operators) = &mut self.operators
        {
            operators.forget();
        }
        // Not started, or stopped before: nothing to end.
        let _summary: Result<SessionSummary, BackendError> = self.end(self.drain);
    }
}

fn spawn(
    recorder: Box<Recorder>,
    shared: Arc<Shared>,
) -> Result<JoinHandle<Result<SessionSummary, BackendError>>, BackendError> {
    let io = |source| BackendError::Io { what: "start the recorder's thread".to_owned(), source };
    let body = move || {
        // Whatever ends the thread, the session must not wait for it in vain.
        let ended = catch_unwind(AssertUnwindSafe(|| recorder.run()));
        shared.tell_ended();
        ended.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
    };
    profiler_core::thread::spawn_blocked("omniprof-cpu", body).map_err(io)
}

fn join(
    thread: JoinHandle<Result<SessionSummary, BackendError>>,
) -> Result<SessionSummary, BackendError> {
    thread.join().unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

fn panicked(panic: &(dyn Any + Send)) -> BackendError {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    BackendError::Panicked { backend: "cpu".to_owned(), message: message.to_owned() }
}

fn timed_out(what: &str) -> BackendError {
    BackendError::Io { what: what.to_owned(), source: std::io::ErrorKind::TimedOut.into() }
}
