//! The only place that names backend crates.
//!
//! A backend registers itself with `inventory`; a crate that nothing names is not linked and
//! registers nothing.

#[cfg(feature = "cpu")]
use backend_cpu as _;
#[cfg(feature = "cuda")]
use backend_cuda as _;
#[cfg(feature = "npu")]
use backend_npu as _;
use profiler_core::registry::BackendRegistry;

/// The backend that reads the counters of the host's devices, alone: for the one agent of a host
/// that has it. `None` where this build has none.
#[must_use]
pub fn host_counters() -> Option<BackendRegistry> {
    #[cfg(feature = "cuda")]
    {
        use profiler_core::backend::BackendRole;
        use profiler_core::registry::RegisteredBackend;

        let mut registry = BackendRegistry::empty();
        let backend = Box::new(backend_cuda::HostCounters::new());
        // Nothing else is in it.
        registry.add(RegisteredBackend { role: BackendRole::Host, priority: 0, backend }).ok()?;
        Some(registry)
    }
    #[cfg(not(feature = "cuda"))]
    None
}
