//! The start of a session: choose, lay out, arm all, commit all.

use std::fs::File;
use std::sync::{Arc, PoisonError};

use profiler_core::clock::Instant;
use profiler_core::config::EventArguments;
use profiler_core::control::{
    AgentReply, AgentRequest, Arm, CalledWorker, Commit, OnUnavailable, WorkerError,
};
use profiler_core::identity::WorkerIdentity;
use profiler_core::schedule::Limits;
use profiler_core::trace_path::{SessionDir, SessionId, SessionLabel, TracePath, TraceRootError};
use serde::Serialize;
use utoipa::ToSchema;

use super::ask::{Answers, Ask, no_answer};
use super::choose::{Chosen, name_of};
use super::error::StartError;
use super::state::Inner;
use crate::manifest::{ErrorLine, InstantLine, LeftOut, LimitsLine};
use crate::session::{LINK_FAILED, RECORD_FILE, Session, SessionRecord, WorkerRecord, spread};
use crate::start_request::StartRequest;

/// How often an id is drawn anew where it is taken.
const ID_TRIES: u32 = 8;

/// The version of a session's record.
const RECORD_VERSION: u32 = 1;

/// What a start gives back.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct StartAnswer {
    /// The session's id.
    pub session: String,
    /// The directory of its files.
    pub directory: String,
    /// T0: from here on rows belong to the window (steps and delays count from here).
    #[schema(value_type = InstantLine)]
    pub t0: Instant,
    /// How far the workers' arm answers lie apart.
    pub armed_spread_ns: u64,
    /// How far the instants lie apart at which the workers read the commit.
    pub commit_spread_ns: u64,
    /// How long after T0 the last worker read the commit, which loses nothing; 0 = before.
    pub commit_late_ns: u64,
    /// The workers that were asked.
    pub workers: Vec<StartedWorker>,
    /// Workers that the start selects and did not ask, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What of the body is applied otherwise than other servers do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A worker of a start.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct StartedWorker {
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
    /// The device backend that records, absent = none.
    pub backend: Option<String>,
    /// Why this one.
    pub why: String,
    /// What it records less than asked, or why it records nothing.
    #[schema(value_type = Option<ErrorLine>)]
    pub error: Option<WorkerError>,
    /// The start accepted beforehand that it records less (`on_unavailable`, `allow_partial`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// The limits in force.
    #[schema(value_type = LimitsLine)]
    pub limits: Limits,
}

impl StartAnswer {
    /// Whether every worker records what was asked, or what the start accepted.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.workers.iter().all(|worker| worker.error.is_none() || worker.accepted)
    }
}

/// Ends the claim on the start that is under way, however it ends.
struct StartTurn<'a> {
    inner: &'a Inner,
}

impl Drop for StartTurn<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.inner.lock();
            state.starting = false;
            state.laid_out = None;
        }
        self.inner.tell();
    }
}

impl Inner {
    pub(super) fn start(
        self: &Arc<Self>,
        request: &StartRequest,
    ) -> Result<StartAnswer, StartError> {
        let label = request
            .label()
            .map(|label| SessionLabel::parse(&label))
            .transpose()
            .map_err(|source| StartError::Label { source })?;
        let turn = self.take_turn()?;
        let (mut chosen, left_out) = self.choose(request)?;
        chosen.extend(self.host(&chosen));
        let (dir, mut record) = self.lay_out(label.as_ref())?;
        record.allow_partial = request.allow_partial.unwrap_or(false);
        record.merge = request.merge_profiles.unwrap_or(false);
        record.request = request.clone();
        record.left_out = left_out;
        record.merge_arguments = self.options.defaults.all.arguments;
        let made = self.make_spools(&dir, &mut record, &chosen);
        let files = match made {
            Ok(files) => files,
            Err(error) => {
                self.discard(&dir);
                return Err(error);
            }
        };
        let answer = self.arm_and_commit(&dir, record, &chosen, files);
        if answer.is_err() {
            self.discard(&dir);
        }
        drop(turn);
        // Those that joined meanwhile.
        let joined: Vec<String> = self.lock().workers.keys().cloned().collect();
        for key in joined {
            self.spawn_late(&key);
        }
        answer
    }

    fn take_turn(&self) -> Result<StartTurn<'_>, StartError> {
        let mut state = self.lock();
        if state.closing {
            return Err(StartError::Closing);
        }
        state.release_current();
        if let Some(session) = state.current.clone() {
            return Err(StartError::Running { session });
        }
        if state.starting {
            return Err(StartError::Running { session: String::new() });
        }
        state.starting = true;
        Ok(StartTurn { inner: self })
    }

    fn lay_out(
        &self,
        label: Option<&SessionLabel>,
    ) -> Result<(SessionDir, SessionRecord), StartError> {
        let fence = {
            let claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
            let claim = claim.as_ref().ok_or(StartError::Closing)?;
            self.root.next_fence(claim).map_err(|source| StartError::Root { source })?
        };
        let mut tries = 0;
        let dir = loop {
            let id = SessionId::generate(&*self.clock, label);
            tries += 1;
            self.lock().laid_out = Some(id.to_string());
            match self.root.create_session(&id) {
                Ok(dir) => break dir,
                Err(TraceRootError::Exists { .. }) if tries < ID_TRIES => {}
                Err(source) => return Err(StartError::Root { source }),
            }
        };
        let record = SessionRecord {
            schema_version: RECORD_VERSION,
            session: dir.id().to_string(),
            prefix: label.map(|label| label.given().to_owned()),
            fence,
            asked: self.clock.now(),
            t0: None,
            request: StartRequest::default(),
            merge: false,
            merge_arguments: EventArguments::default(),
            allow_partial: false,
            workers: Vec::new(),
            left_out: Vec::new(),
        };
        Ok((dir, record))
    }

    fn make_spools(
        &self,
        dir: &SessionDir,
        record: &mut SessionRecord,
        chosen: &[Chosen],
    ) -> Result<Vec<File>, StartError> {
        let mut files = Vec::new();
        for worker in chosen {
            let (file, entry) = make_spool(dir, worker)?;
            files.push(file);
            let may_record_less = entry.may_record_less || record.allow_partial;
            record.workers.push(WorkerRecord { may_record_less, ..entry });
        }
        self.keep_record(dir, record)?;
        Ok(files)
    }

    pub(super) fn keep_record(
        &self,
        dir: &SessionDir,
        record: &SessionRecord,
    ) -> Result<(), StartError> {
        let json =
            serde_json::to_vec_pretty(record).map_err(|source| StartError::Record { source })?;
        dir.write(RECORD_FILE, &json).map_err(|source| StartError::Root { source })
    }

    /// Writes the record of a session that runs, as it is now.
    pub(super) fn keep_newest_record(&self, dir: &SessionDir, id: &str) {
        // One after the other: a slow thread would take back what a quick one has added.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.lock().sessions.get(id).map(|session| session.record.clone());
        let Some(record) = record else { return };
        // The session runs: what the disk does not take costs adoption, not the capture.
        if let Err(error) = self.keep_record(dir, &record) {
            tracing::warn!(error = super::error::message(&error), "no record was kept");
        }
    }

    fn arm_and_commit(
        self: &Arc<Self>,
        dir: &SessionDir,
        record: SessionRecord,
        chosen: &[Chosen],
        files: Vec<File>,
    ) -> Result<StartAnswer, StartError> {
        let id = record.session.clone();
        let fence = record.fence;
        let asks = self.arms(dir, &record, chosen, files);
        {
            let mut state = self.lock();
            let session = Session::new(record, dir.path().to_owned());
            state.sessions.insert(id.clone(), session);
            state.current = Some(id.clone());
        }
        let armed = self.ask_all(asks, self.options.arm_deadline);
        let mut failed = self.take_armed(&id, chosen, armed);
        if !self.does_without(&id, chosen, &failed) {
            self.disarm(fence, &[], Some(chosen));
            self.forget(&id);
            return Err(not_armed(chosen, failed));
        }
        self.disarm(fence, &failed, None);
        self.accept_failures(&id, failed.clone());
        // An instant that every worker reads while it is still to come, on an idle machine.
        let mut t0 = self.clock.now();
        let lead = u64::try_from(self.options.commit_lead.as_nanos()).unwrap_or(0);
        t0.monotonic_ns += lead;
        t0.realtime_ns += lead;
        let before = self.lock().last.clone();
        let commits = self.begin(&id, fence, t0);
        let answers = self.ask_all(commits, self.options.answer_deadline);
        let refused = self.take_committed(&id, answers);
        failed.extend(refused.iter().cloned());
        if !self.does_without(&id, chosen, &failed) {
            self.disarm(fence, &[], Some(chosen));
            self.lock().last = before;
            self.forget(&id);
            return Err(not_armed(chosen, failed));
        }
        self.disarm(fence, &refused, None);
        self.accept_failures(&id, refused);
        self.keep_newest_record(dir, &id);
        self.run_exports(&id);
        self.tell();
        // Whoever reads the answer may act at once, and what it does is to be inside the window.
        let left = t0.monotonic_ns.saturating_sub(self.clock.monotonic_ns());
        std::thread::sleep(std::time::Duration::from_nanos(left.min(lead)));
        Ok(self.answer(&id))
    }

    fn arms(
        &self,
        dir: &SessionDir,
        record: &SessionRecord,
        chosen: &[Chosen],
        files: Vec<File>,
    ) -> Vec<Ask> {
        let mut asks = Vec::new();
        for ((worker, file), entry) in chosen.iter().zip(files).zip(&record.workers) {
            asks.push(self.arm(dir, record, worker, file, entry));
        }
        asks
    }

    /// The question that arms one worker.
    pub(super) fn arm(
        &self,
        dir: &SessionDir,
        record: &SessionRecord,
        worker: &Chosen,
        file: File,
        entry: &WorkerRecord,
    ) -> Ask {
        let path = dir.path().join(&entry.spool).display().to_string();
        Ask {
            worker: worker.identity.key.clone(),
            request: AgentRequest::Arm(Box::new(Arm {
                session: record.session.clone(),
                prefix: record.prefix.clone(),
                fence: record.fence,
                spool_path: (!worker.carries_files).then_some(path),
                capture: worker.plan.capture.clone(),
                schedule: worker.plan.schedule.clone(),
                limits: worker.plan.limits.clone(),
                called: Some(CalledWorker::of(&worker.identity)),
                commit_within_ms: self.options.commit_within_ms(),
            })),
            file: worker.carries_files.then_some(file),
        }
    }

    /// Notes who is ready; gives back who is not, and why.
    fn take_armed(
        &self,
        id: &str,
        chosen: &[Chosen],
        mut answers: Answers,
    ) -> Vec<(WorkerIdentity, WorkerError)> {
        let mut failed = Vec::new();
        let mut state = self.lock();
        let Some(session) = state.sessions.get_mut(id) else { return failed };
        for worker in chosen {
            let key = &worker.identity.key;
            let error = match answers.remove(key) {
                Some(Ok(AgentReply::Armed(armed))) => {
                    session.take_armed(key, *armed);
                    continue;
                }
                Some(Ok(_)) => WorkerError::new("protocol", "the answer to the arm is none"),
                Some(Err(error)) => error,
                None => no_answer("arm", self.options.arm_deadline),
            };
            failed.push((worker.identity.clone(), error));
        }
        failed
    }

    /// Whether the start goes on without those that failed.
    fn does_without(
        &self,
        id: &str,
        chosen: &[Chosen],
        failed: &[(WorkerIdentity, WorkerError)],
    ) -> bool {
        let asked = chosen.iter().filter(|worker| !worker.plan.is_host).count();
        let missing = || failed.iter().filter(|(who, _)| is_worker(chosen, who));
        // Processes end: one that nobody expects to stay is not missed.
        let gone = missing().filter(|(worker, error)| is_gone(chosen, worker, error)).count();
        let missing = missing().count();
        if gone == missing {
            return missing == 0 || gone < asked;
        }
        let state = self.lock();
        let partial = state.sessions.get(id).is_some_and(|session| session.record.allow_partial);
        partial && missing < asked
    }

    /// The start said beforehand that it does without them.
    fn accept_failures(&self, id: &str, failed: Vec<(WorkerIdentity, WorkerError)>) {
        let mut state = self.lock();
        let Some(session) = state.sessions.get_mut(id) else { return };
        for (worker, error) in failed {
            let Some(run) = session.run_mut(&worker.key) else { continue };
            run.give_up(error);
            run.accepted = true;
        }
    }

    /// Tells workers to forget the session: those that failed, or on a rollback all.
    pub(super) fn disarm(
        &self,
        fence: u64,
        failed: &[(WorkerIdentity, WorkerError)],
        all: Option<&[Chosen]>,
    ) {
        let mut keys: Vec<&str> = failed.iter().map(|(worker, _)| worker.key.as_str()).collect();
        keys.extend(all.into_iter().flatten().map(|worker| worker.identity.key.as_str()));
        let asks = keys
            .into_iter()
            .map(|key| Ask {
                worker: key.to_owned(),
                request: AgentRequest::Disarm { fence },
                file: None,
            })
            .collect();
        // A worker that does not hear it disarms itself for want of a commit, and one that has heard
        // that at its limits.
        let _answers = self.ask_all(asks, self.options.answer_deadline);
    }

    /// Fixes T0, and makes the questions that tell it.
    fn begin(&self, id: &str, fence: u64, t0: Instant) -> Vec<Ask> {
        let mut state = self.lock();
        state.last = Some(id.to_owned());
        let Some(session) = state.sessions.get_mut(id) else { return Vec::new() };
        session.record.t0 = Some(t0);
        let mut asks = Vec::new();
        for run in &mut session.runs {
            if run.armed.is_none() {
                continue;
            }
            asks.push(Ask {
                worker: run.key().to_owned(),
                request: AgentRequest::Commit(Commit { fence, t0 }),
                file: None,
            });
        }
        asks
    }

    /// Notes who has begun; gives back who did not.
    fn take_committed(&self, id: &str, mut answers: Answers) -> Vec<(WorkerIdentity, WorkerError)> {
        let mut refused = Vec::new();
        let mut state = self.lock();
        let Some(session) = state.sessions.get_mut(id) else { return refused };
        for run in &mut session.runs {
            if run.armed.is_none() {
                continue;
            }
            let silent = no_answer("commit", self.options.answer_deadline);
            let answer = answers.remove(run.key()).unwrap_or(Err(silent));
            if let Some(error) = run.take_committed(answer) {
                refused.push((run.record.worker.clone(), error));
            }
        }
        refused
    }

    fn answer(&self, id: &str) -> StartAnswer {
        let state = self.lock();
        let mut answer = StartAnswer {
            session: id.to_owned(),
            directory: String::new(),
            t0: Instant::default(),
            armed_spread_ns: 0,
            commit_spread_ns: 0,
            commit_late_ns: 0,
            workers: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
        };
        let Some(session) = state.sessions.get(id) else { return answer };
        answer.directory = session.directory.display().to_string();
        answer.t0 = session.record.t0.unwrap_or_default();
        answer.left_out.clone_from(&session.record.left_out);
        answer.notes = session.record.request.notes();
        let workers = || session.runs.iter().filter(|run| !run.record.host);
        let armed = workers().filter_map(|run| run.armed.as_ref());
        answer.armed_spread_ns = spread(armed.map(|armed| armed.at.monotonic_ns));
        let committed = || workers().filter_map(|run| run.committed);
        answer.commit_spread_ns = spread(committed().map(|at| at.monotonic_ns));
        let last = committed().map(|at| at.monotonic_ns).max().unwrap_or(0);
        answer.commit_late_ns = last.saturating_sub(answer.t0.monotonic_ns);
        for run in workers() {
            let (worker, armed) = (&run.record.worker, run.armed.as_ref());
            let note = run.record.note.clone().unwrap_or_default();
            let degraded = armed.and_then(|armed| armed.degraded.clone());
            answer.workers.push(StartedWorker {
                stage: worker.stage,
                role: worker.role.clone(),
                replica: worker.replica,
                rank: worker.rank,
                host: worker.host.clone(),
                pid: worker.pid,
                key: worker.key.clone(),
                backend: armed.and_then(|armed| armed.backend.as_ref()).map(ToString::to_string),
                why: if note.is_empty() {
                    armed.map(|armed| armed.why.clone()).unwrap_or_default()
                } else {
                    note
                },
                accepted: match &run.error {
                    Some(_) => run.accepted,
                    None => degraded.as_ref().is_some_and(|error| run.accepts(error)),
                },
                error: run.error.clone().or(degraded),
                limits: run.record.limits.clone(),
            });
        }
        answer
    }

    /// A start that failed leaves nothing behind.
    fn discard(&self, dir: &SessionDir) {
        if let Err(error) = self.root.remove_session(dir.id()) {
            tracing::warn!(error = super::error::message(&error), "a failed start left files");
        }
    }

    fn forget(&self, id: &str) {
        let session = {
            let mut state = self.lock();
            if state.current.as_deref() == Some(id) {
                state.current = None;
            }
            state.sessions.remove(id)
        };
        // They follow from the first commit on.
        let exports = session.iter().flat_map(|session| &session.runs).flat_map(|run| &run.exports);
        for follower in exports.filter_map(|export| export.follower()) {
            self.exports.kill(follower);
        }
    }
}

/// Makes a worker's spool, and what the session's record says of it.
pub(super) fn make_spool(
    dir: &SessionDir,
    worker: &Chosen,
) -> Result<(File, WorkerRecord), StartError> {
    let place = match worker.plan.is_host {
        true => TracePath::host(&worker.identity),
        false => TracePath::worker(&worker.identity),
    };
    let (file, spool) =
        dir.create_file(&place, "spool").map_err(|source| StartError::Root { source })?;
    let record = WorkerRecord {
        worker: worker.identity.clone(),
        spool,
        limits: worker.plan.limits.clone(),
        formats: worker.plan.formats.clone(),
        arguments: worker.plan.arguments,
        note: worker.plan.note.clone(),
        late: false,
        host: worker.plan.is_host,
        may_record_less: worker.plan.capture.on_unavailable == OnUnavailable::Degrade,
    };
    Ok((file, record))
}

fn not_armed(chosen: &[Chosen], failed: Vec<(WorkerIdentity, WorkerError)>) -> StartError {
    let workers = failed.into_iter().filter(|(who, _)| is_worker(chosen, who));
    StartError::NotArmed { workers: workers.map(|(who, error)| (name_of(&who), error)).collect() }
}

/// Whether it is one of the workers. The host's counters are extra: no start fails for want of them.
fn is_worker(chosen: &[Chosen], who: &WorkerIdentity) -> bool {
    !chosen.iter().any(|chosen| chosen.plan.is_host && chosen.identity.key == who.key)
}

/// Whether a worker that did not begin has left since it was chosen, with its process.
/// `no_session`, `session_over`: its session has ended with it, or is about to.
fn is_gone(chosen: &[Chosen], worker: &WorkerIdentity, error: &WorkerError) -> bool {
    let outside = chosen.iter().any(|one| one.outside && one.identity.key == worker.key);
    outside
        && matches!(error.code.as_str(), LINK_FAILED | "not_joined" | "no_session" | "session_over")
}
