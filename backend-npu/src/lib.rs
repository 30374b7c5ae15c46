//! Ascend devices.
//!
//! This release finds them and says plainly that it does not record them yet. Looking loads no
//! library, opens no device and initialises no driver: Ascend's libraries end a process that loads
//! them where their companions are missing.

mod backend;
mod machine;

pub use backend::NpuBackend;

use profiler_core::backend::{BackendRole, ProfilerBackend};
use profiler_core::registry::BackendRegistration;

inventory::submit! {
    BackendRegistration {
        id: "npu",
        role: BackendRole::Device,
        priority: 190,
        make: || -> Box<dyn ProfilerBackend> { Box::new(NpuBackend::new()) },
    }
}
