//! Who a worker is.

use serde::{Deserialize, Serialize};

/// A worker: one process, as everything that names it sees it.
///
/// `stage`, `role`, `replica` and `rank` are what the pipeline calls it and may be unknown;
/// the rest is what the machine says and is always known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerIdentity {
    /// The pipeline stage, from 0.
    pub stage: Option<u32>,
    /// What the stage does (`thinker`, `diffusion`).
    pub role: Option<String>,
    /// The replica of the stage, from 0.
    pub replica: Option<u32>,
    /// The rank within the replica, from 0.
    pub rank: Option<u32>,
    /// The host's name.
    pub host: String,
    /// The process's id, as it sees it itself.
    pub pid: u32,
    /// Distinguishes processes that all else makes equal: `WorkerKey`.
    pub key: String,
    /// The kernel's boot id: equal on processes whose CLOCK_MONOTONIC is the same.
    pub boot_id: String,
    /// The time namespace's inode: likewise.
    pub time_namespace: u64,
    /// The pid namespace's inode: pids are comparable where it is equal.
    pub pid_namespace: u64,
    /// When the process started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
    /// The executable's name.
    pub program: String,
}
