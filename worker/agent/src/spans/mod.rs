//! What the application marks itself: spans, markers and steps.

use std::sync::Arc;

use profiler_core::clock::ClockSource;
use profiler_core::spool::SpoolWriter;

pub(crate) struct SpanSession;

impl SpanSession {
    pub(crate) fn begin(_writer: &SpoolWriter, _clock: Arc<dyn ClockSource>) -> Self {
        Self
    }
    pub(crate) fn stop(&self) {}
    pub(crate) fn end(self) {}
}

pub(crate) fn switch_off() {}

pub(crate) fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_pid().unsigned_abs()
}

pub(crate) fn set_steps(_core: &Arc<crate::core::Core>) {}
pub(crate) fn clear_steps() {}
pub(crate) fn pool_bytes() -> u64 {
    0
}
