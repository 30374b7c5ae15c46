//! The workers that a start selects.

use profiler_core::control::CalledWorker;
use profiler_core::identity::WorkerIdentity;
use profiler_core::inject_env::JOINED_BY_LOOKING;
use profiler_core::schedule::StepSource;

use super::error::StartError;
use super::state::{Inner, State, Worker};
use crate::manifest::LeftOut;
use crate::start_request::{Plan, StartRequest};

/// How long a start that waits for workers goes without looking at what they are called.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(250);

/// A worker that a start selects.
pub(super) struct Chosen {
    pub(super) identity: WorkerIdentity,
    pub(super) plan: Plan,
    pub(super) carries_files: bool,
    /// It is looked at from outside, and may be gone at any moment.
    pub(super) outside: bool,
}

impl Inner {
    /// The workers that the request selects, waiting for them to join where it says so.
    pub(super) fn choose(
        &self,
        request: &StartRequest,
    ) -> Result<(Vec<Chosen>, Vec<LeftOut>), StartError> {
        let wait = std::time::Duration::from_millis(request.wait_join_ms.unwrap_or(0));
        let socket = match self.listener() {
            Some(listener) => listener.path().display().to_string(),
            None => "which does not listen".to_owned(),
        };
        let deadline = std::time::Instant::now() + wait;
        let keys = loop {
            if let Some(look) = &self.options.before_start {
                look();
            }
            // Titles change while a server starts.
            self.identify();
            let (chosen, seen, closing) = {
                let state = self.lock();
                (select(&state, request, &socket), state.changes, state.closing)
            };
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match chosen {
                Ok(keys) => break keys,
                Err(error) if closing || left.is_zero() => return Err(error),
                Err(_) => {}
            }
            self.wait_until(left.min(LOOK_AGAIN), |state| state.changes != seen);
        };
        let state = self.lock();
        let mut all = Vec::new();
        let mut without_steps = None;
        let mut left_out = Vec::new();
        for key in keys {
            // A worker that left in between is not there to be asked.
            let Some(worker) = state.workers.get(&key) else { continue };
            let plan = self.plan(request, worker);
            let counted = request.counts_steps().or(plan.counts_steps());
            if counted.is_some() && worker.joined_by == JOINED_BY_LOOKING {
                // It has no steps and nobody expects any; the others count.
                let field = counted.unwrap_or_default();
                without_steps.get_or_insert((field, name_of(&worker.identity)));
                left_out.push(LeftOut::without_steps(&worker.identity, field));
                continue;
            }
            if let (Some(field), StepSource::None) = (counted, &worker.step_source) {
                let worker = name_of(&worker.identity);
                return Err(StartError::NoSteps { field, worker });
            }
            all.push(Chosen {
                identity: worker.identity.clone(),
                carries_files: worker.link.carries_files(),
                outside: worker.joined_by == JOINED_BY_LOOKING,
                plan,
            });
        }
        if let (true, Some((field, worker))) = (all.is_empty(), without_steps) {
            return Err(StartError::NoSteps { field, worker });
        }
        if all.is_empty() {
            return Err(StartError::NoWorkers { socket });
        }
        all.sort_by(|one, other| place_of(&one.identity).cmp(&place_of(&other.identity)));
        Ok((all, left_out))
    }

    /// What the start comes to for a worker.
    pub(super) fn plan(&self, request: &StartRequest, worker: &Worker) -> Plan {
        let defaults = &self.options.defaults;
        let mut plan = request.plan(defaults, &worker.identity, &worker.backends);
        if worker.joined_by == JOINED_BY_LOOKING && request.record_shapes != Some(true) {
            // `with_stack` asks for operators because they have stacks. From outside samples do.
            plan.capture.session.operators = defaults.of(&worker.identity).session.operators;
        }
        plan
    }
}

/// The keys of the workers that the request selects.
fn select(state: &State, request: &StartRequest, socket: &str) -> Result<Vec<String>, StartError> {
    let workers: Vec<&WorkerIdentity> = state
        .joined()
        .filter(|worker| !state.is_superseded(worker))
        .map(|worker| &worker.identity)
        .collect();
    if workers.is_empty() {
        return Err(StartError::NoWorkers { socket: socket.to_owned() });
    }
    let by_stage = StartRequest { stages: request.stages.clone(), ..StartRequest::default() };
    let in_stages: Vec<&WorkerIdentity> =
        workers.iter().copied().filter(|worker| by_stage.selects(worker)).collect();
    known("stage", &request.stages, &workers, |worker| worker.stage)?;
    known("replica", &request.replicas, &in_stages, |worker| worker.replica)?;
    known("rank", &request.ranks, &in_stages, |worker| worker.rank)?;
    let selected = workers.iter().filter(|worker| request.selects(worker));
    let keys: Vec<String> = selected.map(|worker| worker.key.clone()).collect();
    if keys.is_empty() {
        let names: Vec<String> = workers.iter().map(|worker| name_of(worker)).collect();
        return Err(StartError::NoneSelected { exists: names.join("; ") });
    }
    Ok(keys)
}

fn known(
    what: &'static str,
    asked: &Option<Vec<u32>>,
    workers: &[&WorkerIdentity],
    number_of: impl Fn(&WorkerIdentity) -> Option<u32>,
) -> Result<(), StartError> {
    let mut exists: Vec<u32> = workers.iter().filter_map(|worker| number_of(worker)).collect();
    exists.sort_unstable();
    exists.dedup();
    for number in asked.iter().flatten() {
        if exists.contains(number) {
            continue;
        }
        let exists = match exists.as_slice() {
            [] => "none".to_owned(),
            list => list.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        };
        return Err(StartError::Unknown { what, number: *number, exists });
    }
    Ok(())
}

/// The order of workers in answers: stage by stage, rank by rank; what is not known comes last.
fn place_of(worker: &WorkerIdentity) -> (u32, u32, u32, &str) {
    let number = |number: Option<u32>| number.unwrap_or(u32::MAX);
    (number(worker.stage), number(worker.replica), number(worker.rank), &worker.key)
}

/// Who a worker is, in a few words.
pub(super) fn name_of(worker: &WorkerIdentity) -> String {
    let words = CalledWorker::of(worker).in_words().unwrap_or_else(|| worker.program.clone());
    format!("{words} (pid {} on {})", worker.pid, worker.host)
}
