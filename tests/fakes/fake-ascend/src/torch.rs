//! libtorch_npu, as far as a profiler looks at it.

use std::sync::atomic::{AtomicI8, Ordering};

static LEVEL: AtomicI8 = AtomicI8::new(-1);

/// `torch_npu::profiler::GetTraceLevel()`.
#[unsafe(export_name = "_ZN9torch_npu8profiler13GetTraceLevelEv")]
pub extern "C" fn trace_level() -> i8 {
    LEVEL.load(Ordering::Relaxed)
}

/// The stand-in's profiler starts at a level, or ends: -1.
#[unsafe(no_mangle)]
pub extern "C" fn fake_trace_level(level: i8) {
    LEVEL.store(level, Ordering::Relaxed);
}
