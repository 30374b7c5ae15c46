//! NVIDIA devices.
//!
//! This release finds them and says plainly that it does not record them yet. Looking loads no
//! library, opens no device and initialises no driver: all it reads are device nodes, the kernel
//! module's version and one environment variable.

mod backend;
mod machine;

pub use backend::CudaBackend;

use profiler_core::backend::{BackendRole, ProfilerBackend};
use profiler_core::registry::BackendRegistration;

inventory::submit! {
    BackendRegistration {
        id: "cuda",
        role: BackendRole::Device,
        priority: 200,
        make: || -> Box<dyn ProfilerBackend> { Box::new(CudaBackend::new()) },
    }
}
