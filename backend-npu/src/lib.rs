//! The Ascend backend: every kernel and collective of the process, the calls that launched them and
//! the ranges that the application marked, through MSPTI; where that cannot be, or on request,
//! through aclprof or torch_npu's profiler, whose files are imported after the stop.
//!
//! Looking for devices loads nothing. libmspti is loaded only where there are devices, and only
//! after another process has tried it: loading it where its companions are missing ends a process.
//! aclprof's libraries are opened at a start.
//! One binary serves machines with and without Ascend.
//!
//! **No device has run this.** It was written from the vendor's documentation, its published
//! sources and observations of its host side, and is proved on a stand-in (`tests/fakes`).

mod aclprof;
mod address_map;
mod backend;
mod chip;
mod decode;
mod machine;
mod mspti;
mod options;
mod preflight;
mod preload;
mod ranges;
mod raw_dir;
#[doc(hidden)]
pub mod replay;
mod replays;
mod session;
mod torch_npu;
mod trial;

pub use backend::NpuBackend;

use profiler_core::backend::{BackendRole, ProfilerBackend};
use profiler_core::registry::{BackendRegistration, TrialRegistration};

/// The backend, for registries and for a plugin.
pub const REGISTRATION: BackendRegistration = BackendRegistration {
    id: "npu",
    role: BackendRole::Device,
    priority: 190,
    make: || -> Box<dyn ProfilerBackend> { Box::new(NpuBackend::new()) },
};

inventory::submit! {
    REGISTRATION
}

/// What it tries in a process of its own, for registries and for a plugin.
pub const TRIAL: TrialRegistration = TrialRegistration::new("npu", trial::run);

inventory::submit! {
    TRIAL
}
