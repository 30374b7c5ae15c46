//! When a session records: delays, steps, windows and limits.
//!
//! [`Schedule`] and [`Limits`] are what a controller asks for; [`Machine`] turns them, steps and
//! time into windows. It is pure: it reads no clock and owns no thread.

mod machine;
#[cfg(test)]
mod tests;

pub use machine::{Machine, Output, ScheduleError, StopCause};

use serde::{Deserialize, Serialize};

/// Where a worker's steps come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepSource {
    /// The application calls `step()`.
    Api,
    /// A span or marker whose name matches the pattern begins a step.
    Marker(String),
    /// There are none: windows are given by time alone.
    None,
}

/// When a session records, counted from its commit.
///
/// The order is: `delay_ms`, then `delay_steps` (or up to `start_step`), then `repeat` times
/// (`wait_steps`, `warmup_steps`, `active_steps`). Without `active_steps` one window runs until
/// the stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// Time before anything else.
    pub delay_ms: u64,
    /// Steps to let pass after that.
    pub delay_steps: u64,
    /// The absolute step (counted from the process's first) at which the first window begins.
    pub start_step: Option<u64>,
    /// Steps to let pass before each warm-up.
    pub wait_steps: u64,
    /// Steps that are recorded, counted and discarded before each window.
    pub warmup_steps: u64,
    /// Steps of a window; `None` = until the stop.
    pub active_steps: Option<u64>,
    /// How many windows; 0 = until the stop.
    pub repeat: u32,
}

/// When a session ends at the latest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Time from the first window's begin, the gaps between windows included; `None` = only
    /// `max_session_ms`.
    pub duration_ms: Option<u64>,
    /// Steps inside windows, over all windows.
    pub max_steps: Option<u64>,
    /// Time from the commit, whatever else happens.
    pub max_session_ms: u64,
    /// Bytes of the spool, and of raw files that a vendor's tool writes beside it.
    pub max_bytes: u64,
    /// The share of the file system that stays free, in percent.
    pub min_free_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            duration_ms: None,
            max_steps: None,
            max_session_ms: 10 * 60 * 1000,
            max_bytes: 4 << 30,
            min_free_percent: 5,
        }
    }
}
