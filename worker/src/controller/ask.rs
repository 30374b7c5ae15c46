//! Asking many workers at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use profiler_core::control::{AgentReply, AgentRequest, Outcome, ToAgent, WorkerError};

use super::state::Inner;
use crate::links::WorkerLink;
use crate::session::NO_ANSWER;

/// How many questions a worker may leave unanswered before it is asked no more: so that what it
/// does not read never fills its socket, where it would hold up the others.
const MAX_UNANSWERED: usize = 16;

/// A question to one worker.
pub(super) struct Ask {
    /// The worker's key.
    pub(super) worker: String,
    pub(super) request: AgentRequest,
    /// The file that rides on it.
    pub(super) file: Option<File>,
}

/// What the workers answered, by key: as many answers as questions.
pub(super) type Answers = BTreeMap<String, Result<AgentReply, WorkerError>>;

impl Inner {
    /// Asks all, then waits for all, `timeout` at most.
    pub(super) fn ask_all(&self, asks: Vec<Ask>, timeout: Duration) -> Answers {
        let deadline = Instant::now() + timeout;
        let mut answers = Answers::new();
        let (sender, receiver) = channel();
        let mut open = 0;
        for ask in asks {
            match self.send(ask.worker.clone(), ask, &sender) {
                Ok(()) => open += 1,
                Err((worker, error)) => {
                    answers.insert(worker, Err(error));
                }
            }
        }
        // Each question holds a sender of its own: one that is dropped unanswered shows here.
        drop(sender);
        gather(&receiver, open, deadline, &mut answers);
        answers
    }

    fn send(
        &self,
        worker: String,
        ask: Ask,
        sender: &Sender<(String, Outcome)>,
    ) -> Result<(), (String, WorkerError)> {
        let (link, id) = match self.enlist(&worker, sender) {
            Ok(enlisted) => enlisted,
            Err(error) => return Err((worker, error)),
        };
        let message = ToAgent::Request { id, request: ask.request };
        let sent = link.send(&message, ask.file.map(Into::into));
        let Err(error) = sent else { return Ok(()) };
        if let Some(known) = self.lock().workers.get_mut(&worker) {
            known.pending.remove(&id);
        }
        let message = format!("the link failed: {}", profiler_core::error::chain(&error));
        Err((worker, WorkerError::new("link_failed", message)))
    }

    fn enlist(
        &self,
        worker: &str,
        sender: &Sender<(String, Outcome)>,
    ) -> Result<(Arc<dyn WorkerLink>, u64), WorkerError> {
        let mut state = self.lock();
        let id = state.next_number();
        let Some(known) = state.workers.get_mut(worker) else {
            return Err(WorkerError::new("not_joined", "the worker's link is down"));
        };
        if known.pending.len() >= MAX_UNANSWERED {
            let message = format!("{MAX_UNANSWERED} earlier requests are unanswered");
            return Err(WorkerError::new(NO_ANSWER, message));
        }
        known.pending.insert(id, sender.clone());
        Ok((Arc::clone(&known.link), id))
    }
}

/// Takes answers until all are there, nobody is left who could answer, or the deadline.
fn gather(
    receiver: &Receiver<(String, Outcome)>,
    mut open: usize,
    deadline: Instant,
    answers: &mut Answers,
) {
    while open > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((worker, outcome)) = receiver.recv_timeout(left) else { return };
        let answer = match outcome {
            Outcome::Done(reply) => Ok(*reply),
            Outcome::Failed(error) => Err(error),
        };
        answers.insert(worker, answer);
        open -= 1;
    }
}

/// The error of a worker that has not answered.
pub(super) fn no_answer(what: &str, timeout: Duration) -> WorkerError {
    let message = format!("no answer to the {what} within {} ms", timeout.as_millis());
    WorkerError::new(NO_ANSWER, message)
}
