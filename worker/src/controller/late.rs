//! Workers that join while a session records: they are taken into it, and marked `late`.

use std::sync::Arc;
use std::thread;

use profiler_core::control::{AgentReply, AgentRequest, Commit, WorkerError};
use profiler_core::inject_env::JOINED_BY_LOOKING;
use profiler_core::schedule::StepSource;
use profiler_core::trace_path::SessionDir;

use super::ask::{Ask, no_answer};
use super::choose::Chosen;
use super::start::make_spool;
use super::state::Inner;
use crate::manifest::{LeftOut, SessionState};
use crate::session::{SessionRecord, WorkerRecord, WorkerRun};

impl Inner {
    /// Takes a worker that has just joined into the session that records, where it fits.
    pub(super) fn spawn_late(self: &Arc<Self>, key: &str) {
        if self.late_worker(key).is_none() {
            return;
        }
        let (inner, key) = (Arc::clone(self), key.to_owned());
        let spawned = thread::Builder::new()
            .name("omniprof-late".to_owned())
            .spawn(move || inner.take_late(&key));
        if let Err(error) = spawned {
            tracing::warn!(%error, "a late worker is left out");
        }
    }

    fn take_late(self: &Arc<Self>, key: &str) {
        let Some((worker, record)) = self.late_worker(key) else { return };
        let Ok(dir) = self.open_session(&record.session) else { return };
        let (file, mut entry) = match make_spool(&dir, &worker) {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(error = super::error::message(&error), "a late worker is left out");
                return;
            }
        };
        entry.late = true;
        entry.may_record_less = true;
        let ask = self.arm(&dir, &record, &worker, file, &entry);
        let record = {
            let mut state = self.lock();
            let session = state.sessions.get_mut(&record.session).filter(|session| {
                // Stopped meanwhile, or the worker was taken in by another thread.
                session.state() == SessionState::Recording
                    && session.runs.iter().all(|run| run.key() != key)
            });
            let Some(session) = session else {
                drop(state);
                drop(ask);
                return discard_spool(&dir, &entry);
            };
            session.record.workers.push(entry.clone());
            session.runs.push(WorkerRun::new(&entry));
            session.record.clone()
        };
        self.keep_newest_record(&dir, &record.session);
        let timeout = self.options.arm_deadline;
        let armed = self.ask_all(vec![ask], timeout).remove(key);
        if self.late_armed(&record.session, key, armed.unwrap_or(Err(no_answer("arm", timeout)))) {
            self.commit_late(&record, key);
        }
        self.run_exports(&record.session);
        self.tell();
    }

    /// The worker and the session that it fits into, where there is one.
    fn late_worker(&self, key: &str) -> Option<(Chosen, SessionRecord)> {
        let mut state = self.lock();
        // A start may yet be rolled back; it looks for late workers at its end.
        if state.starting {
            return None;
        }
        state.release_current();
        let session = state.sessions.get(state.current.as_ref()?)?;
        let worker = state.workers.get(key).filter(|_| state.host.as_deref() != Some(key))?;
        let request = &session.record.request;
        if request.follow == Some(false) {
            return None;
        }
        let known = session.runs.iter().any(|run| run.key() == key);
        let is_asked = request.selects(&worker.identity) && !state.is_superseded(worker);
        if known || session.state() != SessionState::Recording || !is_asked {
            return None;
        }
        let plan = self.plan(request, worker);
        if let (Some(field), StepSource::None) = (plan.counts_steps(), &worker.step_source) {
            let line = LeftOut::without_steps(&worker.identity, field);
            let id = session.id().to_owned();
            let left_out = &mut state.sessions.get_mut(&id)?.record.left_out;
            if left_out.iter().all(|known| known.key != line.key) {
                left_out.push(line);
            }
            return None;
        }
        let chosen = Chosen {
            identity: worker.identity.clone(),
            plan,
            carries_files: worker.link.carries_files(),
            outside: worker.joined_by == JOINED_BY_LOOKING,
        };
        Some((chosen, session.record.clone()))
    }

    /// Notes the answer to the arm; says whether the worker is to be committed.
    fn late_armed(
        &self,
        session: &str,
        key: &str,
        answer: Result<AgentReply, WorkerError>,
    ) -> bool {
        let mut state = self.lock();
        let Some(session) = state.sessions.get_mut(session) else { return false };
        let stopped = session.stop.is_some();
        let Some(run) = session.run_mut(key) else { return false };
        let error = match answer {
            Ok(AgentReply::Armed(armed)) => {
                run.take_armed(*armed);
                // Stopped meanwhile: the keeper tells the worker.
                return !stopped;
            }
            Ok(_) => WorkerError::new("protocol", "the answer to the arm is none"),
            Err(error) => error,
        };
        // Nobody asked for it when the session began.
        run.give_up(error);
        run.accepted = true;
        false
    }

    fn commit_late(&self, record: &SessionRecord, key: &str) {
        let Some(t0) = record.t0 else { return };
        let commit = Commit { fence: record.fence, t0 };
        let ask = Ask { worker: key.to_owned(), request: AgentRequest::Commit(commit), file: None };
        let timeout = self.options.answer_deadline;
        let answer = self.ask_all(vec![ask], timeout).remove(key);
        let refused = {
            let mut state = self.lock();
            let Some(session) = state.sessions.get_mut(&record.session) else { return };
            let Some(run) = session.run_mut(key) else { return };
            let answer = answer.unwrap_or(Err(no_answer("commit", timeout)));
            let Some(error) = run.take_committed(answer) else { return };
            run.give_up(error.clone());
            run.accepted = true;
            (run.record.worker.clone(), error)
        };
        self.disarm(record.fence, &[refused], None);
    }
}

/// Removes the empty spool of a worker that was not taken in: no record names it.
fn discard_spool(dir: &SessionDir, entry: &WorkerRecord) {
    let path = dir.path().join(&entry.spool);
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(%error, path = %path.display(), "an empty spool stays");
    }
}
