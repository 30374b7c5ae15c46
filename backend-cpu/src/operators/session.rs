//! A recording of operators: the session's side of its thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::error::BackendError;
use profiler_core::sink::{LogLevel, RecordSink, StreamInfo};
use profiler_core::step_names;

use super::callbacks::Wanted;
use super::collector::{Collector, Control};
use super::rows::Rows;
use super::{OperatorPlan, OperatorSummary};

/// libtorch has one set of our callbacks, whatever the number of sessions.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// How long the first look for libtorch may take. Another thread may just be loading a library.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// A recording of operators.
pub(crate) struct Operators {
    plan: OperatorPlan,
    sink: Arc<dyn RecordSink>,
    control: Arc<Control>,
    collector: Option<Collector>,
    thread: Option<JoinHandle<OperatorSummary>>,
    is_refused: bool,
}

/// The right to record, given back with the value.
pub(super) struct Lease(());

impl Lease {
    fn take() -> Option<Self> {
        let result = IS_TAKEN.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed);
        result.ok().map(|_| Self(()))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        IS_TAKEN.store(false, Ordering::Release);
    }
}

impl Operators {
    /// Prepares the recording. Where ranges are steps they count from here on: a window that
    /// begins at a step would else never begin.
    ///
    /// # Errors
    ///
    /// [`BackendError::Io`] where the thread cannot be started.
    pub(crate) fn open(
        plan: OperatorPlan,
        sink: &Arc<dyn RecordSink>,
        clock: &Arc<dyn ClockSource>,
    ) -> Result<Self, BackendError> {
        let wanted = Wanted {
            rows: plan.rows,
            shapes: plan.rows && plan.shapes,
            steps: step_names::is_wanted(),
            ticks: profiler_core::tsc::is_steady(),
        };
        let mut this = Self {
            plan,
            sink: Arc::clone(sink),
            control: Arc::default(),
            collector: None,
            thread: None,
            is_refused: false,
        };
        if !wanted.rows && !wanted.steps {
            return Ok(this);
        }
        let Some(lease) = Lease::take() else {
            this.is_refused = true;
            return Ok(this);
        };
        let domain = if wanted.ticks { ClockDomain::Tsc } else { ClockDomain::Monotonic };
        let stream = StreamInfo { producer: "cpu.operators".to_owned(), thread: 0, clock: domain };
        let rows = Rows::new(Arc::clone(sink), sink.open_stream(stream));
        let (control, clock) = (Arc::clone(&this.control), Arc::clone(clock));
        let collector = Collector::new(lease, wanted, Arc::clone(sink), clock, control, rows);
        this.collector = Some(collector);
        if wanted.steps {
            this.spawn()?;
        }
        Ok(this)
    }

    /// Begins to record; when it returns, libtorch has the callbacks if it is loaded.
    ///
    /// # Errors
    ///
    /// [`BackendError::Io`] where the thread cannot be started.
    pub(crate) fn start(&mut self) -> Result<(), BackendError> {
        if self.is_refused && self.plan.rows {
            self.sink.fact("cpu.operators", "none");
            self.sink.fact("cpu.operators.reason", BUSY);
            return Ok(());
        }
        self.control.start_rows();
        self.spawn()?;
        if self.thread.is_some() && !self.control.wait_ready(READY_TIMEOUT) {
            let message = "libtorch is looked for while a library is being loaded";
            self.sink.log(LogLevel::Info, "backend-cpu", message);
        }
        Ok(())
    }

    /// Asks for what threads have left, and waits for it.
    pub(crate) fn flush(&self, timeout: Duration) {
        if self.thread.is_some() {
            self.control.flush(timeout);
        }
    }

    /// Ends the recording.
    pub(crate) fn stop(&mut self, timeout: Duration) -> OperatorSummary {
        self.collector = None;
        let Some(thread) = self.thread.take() else {
            return match self.is_refused && self.plan.rows {
                true => only_note(BUSY),
                false => OperatorSummary::default(),
            };
        };
        if !self.control.stop(timeout) {
            // It ends by itself once the loader lets it; nobody waits for it.
            return only_note("the thread that records operators did not end in time");
        }
        thread.join().unwrap_or_else(|_| only_note(PANICKED))
    }

    /// In a forked child the thread does not exist.
    pub(crate) fn forget(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _never_joined = std::mem::ManuallyDrop::new(thread);
        }
        self.collector = None;
    }

    fn spawn(&mut self) -> Result<(), BackendError> {
        let Some(collector) = self.collector.take() else { return Ok(()) };
        let control = Arc::clone(&self.control);
        let body = move || {
            // Whatever ends the thread, the session must not wait for it in vain.
            let ended = catch_unwind(AssertUnwindSafe(|| collector.run()));
            control.tell_ended();
            ended.unwrap_or_else(|_| only_note(PANICKED))
        };
        let thread = profiler_core::thread::spawn_blocked("omniprof-ops", body);
        let what = "start the thread that records operators".to_owned();
        self.thread = Some(thread.map_err(|source| BackendError::Io { what, source })?);
        Ok(())
    }
}

impl Drop for Operators {
    fn drop(&mut self) {
        // What a person should know was told by `stop`, where it was called.
        let _summary: OperatorSummary = self.stop(Duration::from_secs(1));
    }
}

fn only_note(note: &str) -> OperatorSummary {
    OperatorSummary { notes: vec![note.to_owned()], memory_bytes: 0 }
}

const BUSY: &str = "another session of this process records its operators";
const PANICKED: &str = "the thread that records operators panicked: a fault of the profiler";
