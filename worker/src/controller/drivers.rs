//! What the workers' drivers keep of a capture after its end: a backend takes its driver out of
//! the process some time later, which its worker says only when it is asked.

use std::time::{Duration, Instant};

use profiler_core::backend::DriverState;
use profiler_core::control::{AgentReply, AgentRequest};

use super::ask::Ask;
use super::state::Inner;

/// How long a worker may take to say it.
const DEADLINE: Duration = Duration::from_millis(250);

/// A worker is asked at most so often.
const EVERY: Duration = Duration::from_secs(1);

/// A driver that kept something as its session ended.
pub(super) struct Residue {
    /// The session.
    pub(super) session: String,
    /// When the worker was asked last.
    pub(super) asked: Option<Instant>,
}

impl Inner {
    /// Asks the workers whose drivers kept something, and corrects what their manifests say.
    pub(super) fn look_at_drivers(&self) {
        let mut asks = Vec::new();
        for (key, worker) in &mut self.lock().workers {
            let Some(residue) = worker.residue.as_mut().filter(|_| worker.status.is_none()) else {
                continue;
            };
            if residue.asked.is_some_and(|asked| asked.elapsed() < EVERY) {
                continue;
            }
            residue.asked = Some(Instant::now());
            asks.push(Ask { worker: key.clone(), request: AgentRequest::Probe, file: None });
        }
        if asks.is_empty() {
            return;
        }
        let answers = self.ask_all(asks, DEADLINE);
        let mut state = self.lock();
        for (key, answer) in answers {
            let Ok(AgentReply::Probed { backends }) = answer else { continue };
            let Some(worker) = state.workers.get_mut(&key) else { continue };
            let is_detached = backends.iter().any(|b| b.driver == Some(DriverState::Detached));
            worker.backends = backends;
            let Some(residue) = worker.residue.take_if(|_| is_detached) else { continue };
            let Some(session) = state.sessions.get_mut(&residue.session) else { continue };
            session.detached(&key);
        }
        drop(state);
        self.tell();
    }
}
