//! Where events go: to the controller of the moment, or aside until there is one.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use profiler_core::control::{AgentEvent, FromAgent, WorkerResult};

use crate::link::Connection;

/// Results that wait for a controller, at most. The spools hold the same and more.
const MAX_WAITING: usize = 16;

/// Sends events.
#[derive(Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    to: To,
    /// Results that no controller is known to have.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    result: WorkerResult,
    is_sent: bool,
}

#[derive(Default)]
enum To {
    #[default]
    Nobody,
    Link(Arc<Connection>),
    Local(Sender<AgentEvent>),
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events go over this link from now on; results that wait go first.
    pub(crate) fn attach(&self, link: &Arc<Connection>) {
        let mut inner = self.lock();
        inner.to = To::Link(Arc::clone(link));
        for waiting in &mut inner.waiting {
            let result = Box::new(waiting.result.clone());
            waiting.is_sent = send(link, AgentEvent::Finished { result });
        }
    }

    /// Events go to this receiver from now on.
    pub(crate) fn attach_local(&self, sender: Sender<AgentEvent>) {
        self.lock().to = To::Local(sender);
    }

    /// The controller is gone.
    pub(crate) fn detach(&self) {
        self.lock().to = To::Nobody;
    }

    /// The controller asked something after it was sent results: it read them.
    pub(crate) fn confirm(&self) {
        self.lock().waiting.retain(|waiting| !waiting.is_sent);
    }

    /// Tells the controller, if there is one.
    pub(crate) fn tell(&self, event: AgentEvent) {
        let mut inner = self.lock();
        let is_sent = match &inner.to {
            To::Nobody => false,
            // Whoever dropped the receiver does not want to know.
            To::Local(sender) => {
                let _sent: Result<(), _> = sender.send(event);
                return;
            }
            To::Link(link) => send(link, event.clone()),
        };
        let AgentEvent::Finished { result } = event else { return };
        if inner.waiting.len() == MAX_WAITING {
            inner.waiting.pop_front();
        }
        inner.waiting.push_back(Waiting { result: *result, is_sent });
    }
}

/// Whether it was sent. A link that fails closes itself; the link's thread sees that and connects
/// again, and a result waits until then.
fn send(link: &Connection, event: AgentEvent) -> bool {
    link.send(&FromAgent::Event { event }, None).is_ok()
}
