//! The only place that names backend crates.
//!
//! A backend registers itself with `inventory`; a crate that nothing names is not linked and
//! registers nothing.

use std::time::{Duration, Instant};

#[cfg(feature = "cpu")]
use backend_cpu as _;
#[cfg(feature = "cuda")]
use backend_cuda as _;
#[cfg(feature = "npu")]
use backend_npu as _;

use profiler_core::registry::BackendRegistry;

/// The backends that this build links.
const LINKED: &[&str] = &[
    #[cfg(feature = "cpu")]
    "cpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "npu")]
    "npu",
];

/// Far longer than a program takes to be loaded.
const LOADING: Duration = Duration::from_secs(5);

/// The backends that are linked.
///
/// They register themselves in constructors of the file. A thread that another constructor of the
/// same file started, as the injected file's does, may be here before them: it waits.
pub(crate) fn registry() -> BackendRegistry {
    let deadline = Instant::now() + LOADING;
    loop {
        let registry = BackendRegistry::linked();
        let is_there = |id: &&str| registry.iter().any(|backend| backend.id().as_str() == *id);
        if LINKED.iter().all(is_there) || Instant::now() >= deadline {
            return registry;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

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
