//! The backend that records nothing, as a plugin.

use profiler_core::backend::BackendRole;
use profiler_core::null::NullBackend;
use profiler_core::registry::BackendRegistration;

profiler_core::export_backend!(BackendRegistration {
    id: "null",
    role: BackendRole::Device,
    priority: 1,
    make: || Box::new(NullBackend::new()),
});
