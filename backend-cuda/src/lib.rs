//! The CUDA backend: every kernel, copy and memset of the process, and the calls that caused them,
//! through CUPTI's activity API.
//!
//! Looking for devices loads no library and initialises no driver. libcupti is loaded when a
//! capture is armed, so that one binary serves machines with and without a GPU, and it is always
//! the copy that the process already has. A process that has not loaded the driver is left alone
//! until it does.

mod backend;
mod cupti;
mod decode;
mod driver;
mod kineto;
mod machine;
mod nvml;
mod place;
#[doc(hidden)]
pub mod replay;
mod session;

pub use backend::CudaBackend;
pub use nvml::HostCounters;

use profiler_core::backend::{BackendRole, ProfilerBackend};
use profiler_core::registry::BackendRegistration;

/// The backend, for registries and for a plugin.
pub const REGISTRATION: BackendRegistration = BackendRegistration {
    id: "cuda",
    role: BackendRole::Device,
    priority: 200,
    make: || -> Box<dyn ProfilerBackend> { Box::new(CudaBackend::new()) },
};

inventory::submit! {
    REGISTRATION
}
