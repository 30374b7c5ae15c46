//! A link to an agent in the controller's own process.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use profiler_agent::LocalAgent;
use profiler_agent::link::LinkError;
use profiler_core::control::{AgentRequest, FromAgent, ToAgent};

use super::WorkerLink;

/// A question to the agent.
struct Ask {
    id: u64,
    request: AgentRequest,
    file: Option<OwnedFd>,
}

/// A link without a socket: questions are answered one at a time, in a thread of the link.
pub struct LocalLink {
    asks: Mutex<Option<Sender<Ask>>>,
    said: Mutex<Receiver<Said>>,
    end: Sender<Said>,
}

enum Said {
    Message(Box<FromAgent>),
    Closed,
}

impl fmt::Debug for LocalLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLink").finish_non_exhaustive()
    }
}

impl LocalLink {
    /// A link to the agent; an agent has one link in its life.
    ///
    /// # Errors
    ///
    /// What the operating system answers where no thread can be had.
    pub fn new(agent: Arc<LocalAgent>) -> io::Result<Self> {
        let (end, said) = channel();
        let (asks, asked) = channel::<Ask>();
        // A receiver that is gone means that the link is closed.
        let _first = end.send(Said::Message(Box::new(FromAgent::Hello(Box::new(agent.hello())))));
        if let Some(events) = agent.events() {
            let tell = end.clone();
            thread::Builder::new().name("omniprof-events".to_owned()).spawn(move || {
                for event in events {
                    if tell.send(Said::Message(Box::new(FromAgent::Event { event }))).is_err() {
                        return;
                    }
                }
                // The agent is gone, and all it had to say is said.
                let _told = tell.send(Said::Closed);
            })?;
        }
        let tell = end.clone();
        thread::Builder::new().name("omniprof-local".to_owned()).spawn(move || {
            for Ask { id, request, file } in asked {
                let outcome = agent.request(request, file);
                if tell.send(Said::Message(Box::new(FromAgent::Reply { id, outcome }))).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { asks: Mutex::new(Some(asks)), said: Mutex::new(said), end })
    }

    /// Gives the agent up. The link closes when nobody else holds the agent either and all it had
    /// to say was taken.
    pub fn finish(&self) {
        drop(lock(&self.asks).take());
    }
}

impl WorkerLink for LocalLink {
    fn send(&self, message: &ToAgent, file: Option<OwnedFd>) -> Result<(), LinkError> {
        let ToAgent::Request { id, request } = message else { return Ok(()) };
        let ask = Ask { id: *id, request: request.clone(), file };
        match &*lock(&self.asks) {
            Some(asks) => asks.send(ask).map_err(|_gone| LinkError::Closed),
            None => Err(LinkError::Closed),
        }
    }

    fn receive(&self, timeout: Option<Duration>) -> Result<FromAgent, LinkError> {
        let said = lock(&self.said);
        let next = match timeout {
            None => said.recv().map_err(|_gone| LinkError::Closed)?,
            Some(timeout) => said.recv_timeout(timeout).map_err(|error| match error {
                RecvTimeoutError::Timeout => LinkError::Timeout,
                RecvTimeoutError::Disconnected => LinkError::Closed,
            })?,
        };
        match next {
            Said::Message(message) => Ok(*message),
            Said::Closed => Err(LinkError::Closed),
        }
    }

    fn carries_files(&self) -> bool {
        true
    }

    fn is_trusted(&self) -> bool {
        true
    }

    fn close(&self) {
        drop(lock(&self.asks).take());
        // The receiver lives as long as the link.
        let _told = self.end.send(Said::Closed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
