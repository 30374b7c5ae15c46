//! What every backend must keep, kept by this one with perf events, in both layouts, and without
//! samples.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

mod support;

use support::Work;

mod inherited {
    profiler_core::conformance_tests!(super::Work::with("perf_event", "inherited"));
}

mod per_thread {
    profiler_core::conformance_tests!(super::Work::with("perf_event", "per_thread"));
}

mod counters_alone {
    profiler_core::conformance_tests!(super::Work::counters());
}
