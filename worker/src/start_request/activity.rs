//! What the `activities` of a start body name.

use profiler_core::config::DeviceUse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum Activity {
    /// Counters, sampled stacks, operators and spans. Operators do not show from outside a process:
    /// there the others are all of it.
    Cpu,
    /// The device, through its backend.
    Gpu,
    /// Allocations and frees, by the device's backend.
    Mem,
}

/// The activities of a start, read as what they switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activities {
    /// Record the host.
    pub host: bool,
    /// Record the device: where it is named it must be there, and memory is recorded by its
    /// backend, where there is one.
    pub device: DeviceUse,
    /// Record allocations and frees.
    pub memory: bool,
}

impl Activities {
    /// What a list switches on.
    #[must_use]
    pub fn of(list: &[Activity]) -> Self {
        let memory = list.contains(&Activity::Mem);
        Self {
            host: list.contains(&Activity::Cpu),
            device: match list.contains(&Activity::Gpu) {
                true => DeviceUse::Required,
                false if memory => DeviceUse::IfAvailable,
                false => DeviceUse::No,
            },
            memory,
        }
    }
}
