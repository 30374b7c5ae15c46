//! A process that msprof records. One test: the variable is the process's.
#![expect(unsafe_code, reason = "sets a variable of this process")]

mod support;

use std::sync::Arc;

use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::error::BackendError;

#[test]
fn a_process_of_msprof_is_busy_by_name() {
    let fake = support::fake();
    for name in ["PROFILER_SAMPLECONFIG", "PROFILING_MODE"] {
        // SAFETY: this process has no other thread that reads variables.
        unsafe { std::env::set_var(name, "dynamic") };
        let opened = fake.backend().open(
            &SessionConfig::default(),
            Arc::new(MemorySink::default()),
            Arc::new(SystemClock::new()),
        );
        let Err(error) = opened.map(drop) else { panic!("opened beside msprof") };
        assert!(matches!(error, BackendError::Busy { .. }), "{error}");
        assert!(error.to_string().contains(&format!("({name} is set)")), "{error}");
        // SAFETY: as above.
        unsafe { std::env::remove_var(name) };
    }
}
