//! The end of a session: one instant to all, then one manifest.

use std::sync::Arc;
use std::time::Duration;

use profiler_core::clock::Instant;
use profiler_core::control::{AgentReply, AgentRequest, Stop, WorkerError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ask::{Answers, Ask, no_answer};
use super::error::StopError;
use super::state::{Inner, State};
use crate::manifest::Manifest;
use crate::session::Session;

/// How long a stop waits for files where it does not say, in ms.
pub const DEFAULT_WAIT_MS: u64 = 5000;

/// What ends a session. Everything is optional.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a request, written by hand with `..default()`")]
pub struct StopRequest {
    /// How long to wait for the files, in ms; 0 = answer as soon as the workers have.
    pub wait_ms: u64,
    /// The session to end; absent = the one that runs, or the last one.
    pub session: Option<String>,
    /// The stages, as vLLM-Omni's clients send them again at the stop. They must cover all that
    /// the session records: a stop ends it as a whole.
    pub stages: Option<Vec<u32>>,
}

impl Default for StopRequest {
    fn default() -> Self {
        Self { wait_ms: DEFAULT_WAIT_MS, session: None, stages: None }
    }
}

/// Why the body of a stop is refused.
#[derive(Debug, thiserror::Error)]
#[error("the body of a stop is not understood; its fields are wait_ms, session, stages")]
#[non_exhaustive]
pub struct StopRequestError {
    /// What is wrong.
    #[source]
    pub source: serde_json::Error,
}

impl StopRequest {
    /// Reads a body. No bytes at all are an empty body.
    ///
    /// # Errors
    ///
    /// [`StopRequestError`].
    pub fn parse(body: &[u8]) -> Result<Self, StopRequestError> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(body).map_err(|source| StopRequestError { source })
    }
}

impl Inner {
    pub(super) fn stop(self: &Arc<Self>, request: &StopRequest) -> Result<Manifest, StopError> {
        let wait = Duration::from_millis(request.wait_ms);
        let begun = std::time::Instant::now();
        let id = self.session_to_stop(request)?;
        self.end(&id, self.clock.now(), "request");
        self.run_exports(&id);
        self.wait_until(wait.saturating_sub(begun.elapsed()), |state| {
            state
                .sessions
                .get(&id)
                .is_none_or(|s| s.is_settled() && s.is_exported() && s.is_summed())
        });
        self.write_manifest(&id).ok_or(StopError::OtherSession { session: id })
    }

    fn session_to_stop(&self, request: &StopRequest) -> Result<String, StopError> {
        let mut state = self.lock();
        state.release_current();
        let newest = state.current.clone().or_else(|| state.last.clone());
        let Some(newest) = newest else { return Err(StopError::NoSession) };
        let id = request.session.clone().unwrap_or(newest);
        let Some(session) = state.sessions.get(&id) else {
            return Err(StopError::OtherSession { session: id });
        };
        let mut recorded: Vec<u32> =
            session.runs.iter().filter_map(|run| run.record.worker.stage).collect();
        recorded.sort_unstable();
        recorded.dedup();
        let covers = |stages: &Vec<u32>| recorded.iter().all(|stage| stages.contains(stage));
        if request.stages.as_ref().is_some_and(|stages| !covers(stages)) {
            let recorded: Vec<String> = recorded.iter().map(u32::to_string).collect();
            return Err(StopError::PartOfSession { recorded: recorded.join(", ") });
        }
        Ok(id)
    }

    /// Tells all workers that still record, and takes their answers. A second call tells only
    /// those that were not told.
    pub(super) fn end(&self, id: &str, t1: Instant, reason: &str) {
        let asks = {
            let mut state = self.lock();
            let State { sessions, workers, .. } = &mut *state;
            let Some(session) = sessions.get_mut(id) else { return };
            stops(session, t1, reason, |key| workers.contains_key(key))
        };
        let asked: Vec<String> = asks.iter().map(|ask| ask.worker.clone()).collect();
        let answers = self.ask_all(asks, self.options.answer_deadline);
        self.take_stopping(id, &asked, answers);
        self.tell();
    }

    fn take_stopping(&self, id: &str, asked: &[String], mut answers: Answers) {
        let mut state = self.lock();
        let Some(session) = state.sessions.get_mut(id) else { return };
        for key in asked {
            match answers.remove(key) {
                Some(Ok(AgentReply::Stopping { status })) => session.take_status(key, *status),
                Some(Ok(_)) => {
                    let error = WorkerError::new("protocol", "the answer to the stop is none");
                    session.take_error(key, error);
                }
                // The keeper looks at its spool, and says then what became of it.
                Some(Err(error)) if error.code == "link_failed" => {}
                Some(Err(error)) => session.take_error(key, error),
                None => session.take_error(key, no_answer("stop", self.options.answer_deadline)),
            }
        }
        state.release_current();
    }
}

fn stops(
    session: &mut Session,
    t1: Instant,
    reason: &str,
    is_joined: impl Fn(&str) -> bool,
) -> Vec<Ask> {
    if session.is_settled() {
        return Vec::new();
    }
    // A stop that overtakes T0 leaves an empty window, not one that ends before it begins.
    let t1 = match session.record.t0 {
        Some(t0) if t0.monotonic_ns > t1.monotonic_ns => t0,
        _ => t1,
    };
    let (t1, reason) = session.stop.get_or_insert_with(|| (t1, reason.to_owned())).clone();
    let fence = session.record.fence;
    let mut asks = Vec::new();
    for run in &mut session.runs {
        if run.is_settled() || run.stop_sent || !is_joined(run.key()) {
            continue;
        }
        run.stop_sent = true;
        asks.push(Ask {
            worker: run.key().to_owned(),
            request: AgentRequest::Stop(Stop { fence, t1, reason: reason.clone() }),
            file: None,
        });
    }
    asks
}
