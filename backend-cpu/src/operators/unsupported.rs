//! Processors on which nobody has looked at libtorch's callbacks yet.

use std::sync::Arc;
use std::time::Duration;

use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::sink::RecordSink;

use super::{OperatorPlan, OperatorSummary};

/// Records nothing, and says so.
pub(crate) struct Operators {
    plan: OperatorPlan,
    sink: Arc<dyn RecordSink>,
}

const REASON: &str = "operators are recorded on x86-64 only: how libtorch passes its callbacks' \
                      results on this processor is not proved yet";

impl Operators {
    /// Prepares the recording.
    ///
    /// # Errors
    ///
    /// None on this processor.
    pub(crate) fn open(
        plan: OperatorPlan,
        sink: &Arc<dyn RecordSink>,
        _clock: &Arc<dyn ClockSource>,
    ) -> Result<Self, BackendError> {
        Ok(Self { plan, sink: Arc::clone(sink) })
    }

    /// Begins to record.
    ///
    /// # Errors
    ///
    /// None on this processor.
    pub(crate) fn start(&mut self) -> Result<(), BackendError> {
        if self.plan.rows {
            self.sink.fact("cpu.operators", "none");
            self.sink.fact("cpu.operators.reason", REASON);
        }
        Ok(())
    }

    /// Emits what is there.
    pub(crate) fn flush(&self, _timeout: Duration) {}

    /// Ends the recording.
    pub(crate) fn stop(&mut self, _timeout: Duration) -> OperatorSummary {
        match self.plan.rows {
            true => OperatorSummary { notes: vec![REASON.to_owned()], memory_bytes: 0 },
            false => OperatorSummary::default(),
        }
    }

    /// In a forked child there is nothing to forget.
    pub(crate) fn forget(&mut self) {}
}
