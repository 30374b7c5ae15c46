//! What wakes the recorder's thread: a pair of sockets, for these are files of their own, by which
//! they can be told from what a program puts in their place, and to write into one whose other end
//! was closed need not raise a signal.

use std::io;
use std::os::fd::OwnedFd;

use profiler_core::descriptor::{Kept, raise};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

/// A bell: rung from any thread, also from a signal handler, and heard by one.
#[derive(Debug)]
pub(crate) struct Wake {
    ring: Kept<OwnedFd>,
    heard: Kept<OwnedFd>,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (heard, ring) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok(Self { ring: Kept::new(raise(ring)), heard: Kept::new(raise(heard)) })
    }

    /// Becomes readable when it was rung.
    pub(crate) fn descriptor(&self) -> &Kept<OwnedFd> {
        &self.heard
    }

    /// Rings; makes system calls and nothing else.
    pub(crate) fn ring(&self) {
        let Ok(ring) = self.ring.get() else { return };
        // A full one wakes the thread as well.
        let _count: rustix::io::Result<usize> = send(ring, &[1], SendFlags::NOSIGNAL);
    }

    /// Takes what was rung.
    pub(crate) fn take(&self) {
        let Ok(heard) = self.heard.get() else { return };
        let mut rung = [0_u8; 64];
        // Empty when something else woke the thread; a rest wakes it once more.
        let _count = recv(heard, &mut rung, RecvFlags::empty());
    }
}
