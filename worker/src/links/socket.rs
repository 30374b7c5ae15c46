//! Links over Unix sockets.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use profiler_agent::link::{Connection, LinkError, OVERFLOW_UID, Peer};
use profiler_core::control::{FromAgent, ToAgent};

use super::WorkerLink;

/// A link to another process.
#[derive(Debug)]
pub struct SocketLink {
    connection: Connection,
    trusted: bool,
    peer_pid: Option<u32>,
}

impl SocketLink {
    /// A link over an accepted connection.
    ///
    /// # Errors
    ///
    /// [`LinkError::ForeignPeer`] where the peer is another user of this machine.
    pub fn accept(connection: Connection) -> Result<Self, LinkError> {
        let Peer { uid, pid, .. } = connection.peer()?;
        let own = rustix::process::geteuid().as_raw();
        let trusted = uid == own || uid == 0;
        if !trusted && uid != OVERFLOW_UID {
            connection.close();
            return Err(LinkError::ForeignPeer { uid, own });
        }
        Ok(Self { connection, trusted, peer_pid: (pid != 0).then_some(pid) })
    }
}

impl WorkerLink for SocketLink {
    fn send(&self, message: &ToAgent, file: Option<OwnedFd>) -> Result<(), LinkError> {
        self.connection.send(message, file.as_ref().map(OwnedFd::as_fd))
    }

    fn receive(&self, timeout: Option<Duration>) -> Result<FromAgent, LinkError> {
        receive(&self.connection, timeout)
    }

    fn carries_files(&self) -> bool {
        true
    }

    fn is_trusted(&self) -> bool {
        self.trusted
    }

    fn peer_pid(&self) -> Option<u32> {
        self.peer_pid
    }

    fn close(&self) {
        self.connection.close();
    }
}

fn receive(connection: &Connection, timeout: Option<Duration>) -> Result<FromAgent, LinkError> {
    // No message of an agent carries a file; one that comes is closed here.
    let (message, _file) = match timeout {
        None => connection.recv()?,
        Some(timeout) => connection.recv_timeout(timeout)?,
    };
    Ok(message)
}
