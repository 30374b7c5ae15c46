//! A worker that a start selects and that is not asked.

use profiler_core::control::CalledWorker;
use profiler_core::identity::WorkerIdentity;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The code of a worker that was left out because steps are counted and it has none.
const NO_STEPS: &str = "no_steps";

/// A worker that the start selects and leaves out: it records nothing, and nothing is missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct LeftOut {
    /// The pipeline stage.
    pub stage: Option<u32>,
    /// What the stage does.
    pub role: Option<String>,
    /// The replica of the stage.
    pub replica: Option<u32>,
    /// The rank within the replica.
    pub rank: Option<u32>,
    /// The host.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// What tells it from a process that all else makes equal.
    pub key: String,
    /// The executable's name.
    pub program: String,
    /// A stable word for the reason.
    pub code: String,
    /// Why, and what to do.
    pub message: String,
}

impl LeftOut {
    /// A worker without steps, of a start that counts them by this field.
    pub(crate) fn without_steps(worker: &WorkerIdentity, field: &str) -> Self {
        Self {
            stage: worker.stage,
            role: worker.role.clone(),
            replica: worker.replica,
            rank: worker.rank,
            host: worker.host.clone(),
            pid: worker.pid,
            key: worker.key.clone(),
            program: worker.program.clone(),
            code: NO_STEPS.to_owned(),
            message: format!(
                "`{field}` counts steps, and this worker has none: it is not recorded; \
                 `duration_ms` records all"
            ),
        }
    }

    /// Who the worker is, in a few words.
    #[must_use]
    pub fn name(&self) -> String {
        let called = CalledWorker {
            stage: self.stage,
            role: self.role.clone(),
            replica: self.replica,
            rank: self.rank,
        };
        called.in_words().unwrap_or_else(|| self.program.clone())
    }
}
