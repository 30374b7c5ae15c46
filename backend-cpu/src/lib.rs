//! The host's side of a process: sampled stacks of all its threads, its counters, and the operators
//! of libtorch where it has that loaded.
//!
//! Stacks are sampled by perf events with a software clock: the kernel copies registers and the
//! top of the stack into a ring, one thread of ours drains it, unwinds with the modules' own
//! tables and interns the stacks. Addresses become names only at export. Where perf is refused, a
//! process that embeds us is sampled by signal timers instead; which sampler ran, and why, is a
//! fact of the capture (`cpu.sampler`, `cpu.sampler.reason`). Where neither can be had, counters
//! go on and the reason names the setting to change.
//!
//! Registers itself as `cpu`; it records beside a device backend or alone.

mod backend;
mod counters;
mod elf;
mod intake;
mod maps;
mod modules;
mod operators;
mod perf;
mod perf_record;
mod perf_sampler;
mod plan;
mod poller;
mod process;
#[cfg(feature = "python")]
mod python;
mod recorder;
mod refusal;
mod registers;
mod sample_rows;
mod sampler;
mod seccomp;
mod session;
mod shared;
mod signal;
mod signal_sampler;
mod usage;
mod wake;

pub use backend::CpuBackend;

use profiler_core::backend::{BackendRole, ProfilerBackend};
use profiler_core::registry::BackendRegistration;

/// The backend, for registries and for a plugin.
pub const REGISTRATION: BackendRegistration = BackendRegistration {
    id: "cpu",
    role: BackendRole::Host,
    priority: 0,
    make: || -> Box<dyn ProfilerBackend> { Box::new(CpuBackend::new()) },
};

inventory::submit! {
    REGISTRATION
}
