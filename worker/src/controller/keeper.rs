//! What goes on between calls: dead workers, automatic ends, exports, manifests, retention.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use profiler_core::control::WorkerError;

use super::ask::no_answer;
use super::state::Inner;
use crate::manifest::SessionState;
use crate::session::{SpoolFate, WORKER_DIED, look};

/// How often the keeper looks where nothing wakes it.
const PERIOD: Duration = Duration::from_millis(500);

/// The same where no session is open.
const IDLE_PERIOD: Duration = Duration::from_secs(3600);

/// How much longer than its limit a session may take before its workers are given up.
const GRACE_MS: u64 = 60_000;

/// A worker of a session that has to be looked at.
struct Doubt {
    session: String,
    worker: String,
    spool: PathBuf,
}

/// Runs until the controller closes.
pub(super) fn keep(inner: &Arc<Inner>) {
    loop {
        let seen = inner.lock().changes;
        inner.settle_silent();
        inner.settle_overdue();
        inner.resume_stops();
        inner.stop_hosts();
        let open: Vec<String> = {
            let mut state = inner.lock();
            state.release_current();
            if state.closing {
                return;
            }
            let open = state.sessions.values().filter(|session| !session.sealed);
            open.filter(|session| session.record.t0.is_some())
                .map(|session| session.id().to_owned())
                .collect()
        };
        for id in open {
            inner.run_exports(&id);
            inner.seal(&id);
        }
        let is_busy = inner.lock().sessions.values().any(|session| !session.sealed);
        let period = if is_busy { PERIOD } else { IDLE_PERIOD };
        inner.wait_until(period, |state| state.closing || state.changes != seen);
    }
}

impl Inner {
    /// Workers whose link is down: where nobody holds the spool any more, it is all there is.
    fn settle_silent(self: &Arc<Self>) {
        let mut doubts = Vec::new();
        for session in self.lock().sessions.values() {
            for run in session.runs.iter().filter(|run| !run.is_settled() && !run.linked) {
                doubts.push(Doubt {
                    session: session.id().to_owned(),
                    worker: run.key().to_owned(),
                    spool: session.directory.join(&run.record.spool),
                });
            }
        }
        for doubt in doubts {
            let found = look(&doubt.spool);
            let mut state = self.lock();
            let Some(session) = state.sessions.get_mut(&doubt.session) else { continue };
            match found {
                Ok(SpoolFate::Writing) => continue,
                Ok(SpoolFate::Left(result)) => session.take_result(&doubt.worker, *result),
                Err(error) => {
                    let message = format!(
                        "the worker's process is gone and its spool cannot be read: {}",
                        profiler_core::error::chain(&error)
                    );
                    session.take_error(&doubt.worker, WorkerError::new(WORKER_DIED, message));
                }
            }
            state.release_current();
            drop(state);
            self.tell();
        }
    }

    /// Workers that came back after their session's stop, which they did not hear.
    fn resume_stops(&self) {
        let mut stopped = Vec::new();
        for session in self.lock().sessions.values() {
            let Some((t1, reason)) = &session.stop else { continue };
            let unheard =
                session.runs.iter().any(|run| run.linked && !run.stop_sent && !run.is_settled());
            if unheard {
                stopped.push((session.id().to_owned(), *t1, reason.clone()));
            }
        }
        for (id, t1, reason) in stopped {
            self.end(&id, t1, &reason);
        }
    }

    /// Workers that should long be done.
    fn settle_overdue(&self) {
        let now = self.clock.monotonic_ns();
        let mut followers = Vec::new();
        let mut state = self.lock();
        for session in state.sessions.values_mut() {
            let stopped = session.stop.as_ref().map(|(t1, _)| t1.monotonic_ns);
            let Some(t0) = session.record.t0 else { continue };
            for run in session.runs.iter_mut().filter(|run| !run.is_settled()) {
                let limit_ms = run.record.limits.max_session_ms.saturating_add(GRACE_MS);
                let limit_ns = limit_ms.saturating_mul(1_000_000);
                let drain_ns =
                    u64::try_from(self.options.drain_deadline.as_nanos()).unwrap_or(u64::MAX);
                let (overdue, what, timeout) = match stopped {
                    Some(t1) => (
                        now > t1.saturating_add(drain_ns),
                        "stop's drain",
                        self.options.drain_deadline,
                    ),
                    None => (
                        now > t0.monotonic_ns.saturating_add(limit_ns),
                        "session's limit",
                        Duration::from_millis(limit_ms),
                    ),
                };
                if overdue {
                    run.give_up(no_answer(what, timeout));
                    followers.extend(run.exports.iter().filter_map(|export| export.follower()));
                }
            }
        }
        state.release_current();
        drop(state);
        for follower in followers {
            self.exports.kill(follower);
        }
    }

    /// Writes the final manifest of a session to which nothing happens any more.
    fn seal(&self, id: &str) {
        let corrections = {
            let state = self.lock();
            let session = state.sessions.get(id);
            session.filter(|s| s.state() == SessionState::Complete).map(|s| s.corrections)
        };
        let Some(corrections) = corrections else { return };
        if self.write_manifest(id).is_none() {
            return;
        }
        {
            let mut state = self.lock();
            // One that was corrected while its manifest was written is written again.
            if let Some(session) = state.sessions.get_mut(id) {
                session.sealed = session.corrections == corrections;
            }
            state.forget_old();
        }
        self.tell();
        let Some(policy) = &self.options.retention else { return };
        match self.prune(policy, false) {
            Ok(pruned) => {
                for session in &pruned.removed {
                    tracing::info!(%session, "an old session was removed");
                }
            }
            Err(error) => {
                tracing::warn!(error = super::error::message(&error), "old sessions stay");
            }
        }
    }

    /// Ends everything: called once, by the handle's drop.
    pub(super) fn close(&self) {
        let current = {
            let mut state = self.lock();
            state.closing = true;
            state.release_current();
            state.current.clone()
        };
        self.tell();
        if let Some(current) = current {
            self.end(&current, self.clock.now(), "controller_exit");
            self.wait_until(CLOSE_WAIT, |state| {
                state.sessions.get(&current).is_none_or(crate::session::Session::is_settled)
            });
            self.write_manifest(&current);
        }
        self.exports.kill_all();
        let state = self.lock();
        for worker in state.workers.values() {
            worker.link.close();
        }
        for stranger in state.strangers.values() {
            stranger.close();
        }
        drop(state);
        if let Some(listener) = self.listener() {
            listener.wake();
        }
    }
}

/// How long the end of a controller waits for its workers.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
