//! What every backend must keep, kept by this one with signal timers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

mod support;

profiler_core::conformance_tests!(support::Work::with("signal_timer", "auto"));
