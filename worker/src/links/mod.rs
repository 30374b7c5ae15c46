//! How the controller reaches its workers.
//!
//! The controller knows no socket: it sees a [`WorkerLink`] for each worker, sends
//! [`ToAgent`] and receives [`FromAgent`]. On one machine the link is a Unix socket or, in the
//! same process, a call; the same messages may travel on a bus.

mod listener;
mod local;
mod socket;

use std::os::fd::OwnedFd;
use std::time::Duration;

use profiler_agent::link::LinkError;
use profiler_core::control::{FromAgent, ToAgent};

pub use listener::ListenError;
pub(crate) use listener::Listener;
pub use local::LocalLink;
pub use socket::SocketLink;

/// One worker, as the controller reaches it.
///
/// Any thread sends; one thread alone receives. A link that failed stays failed.
pub trait WorkerLink: Send + Sync {
    /// Sends a message, with a file where the link can carry one.
    ///
    /// The file is the link's from then on: an agent of the same process holds a lock by it, which
    /// the closing of any copy would end. Does not wait for an answer; a peer that takes nothing holds up the caller for seconds at
    /// most.
    ///
    /// # Errors
    ///
    /// [`LinkError`] where the peer is gone or takes nothing.
    fn send(&self, message: &ToAgent, file: Option<OwnedFd>) -> Result<(), LinkError>;

    /// Waits for the next message, `timeout` at most where one is given.
    ///
    /// # Errors
    ///
    /// [`LinkError::Timeout`] where nothing came, all else at the link's end.
    fn receive(&self, timeout: Option<Duration>) -> Result<FromAgent, LinkError>;

    /// Whether files can ride on messages; where they cannot, the spool's path is sent.
    fn carries_files(&self) -> bool;

    /// Whether the link itself tells that the peer may be trusted; where it does not, the peer
    /// has to know the token.
    fn is_trusted(&self) -> bool;

    /// The peer's process id as this process sees it, where the link can tell.
    fn peer_pid(&self) -> Option<u32> {
        None
    }

    /// Ends the link, and whoever waits in [`WorkerLink::receive`] returns.
    fn close(&self);
}
