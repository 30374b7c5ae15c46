//! What the recorder's thread sleeps on.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// An epoll descriptor; each descriptor in it has a token.
#[derive(Debug)]
pub(crate) struct Poller {
    fd: OwnedFd,
}

/// A command waits.
pub(crate) const COMMAND: u64 = 1 << 32;
/// The target has ended.
pub(crate) const TARGET_ENDED: u64 = 2 << 32;

/// What was reported since the last look.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// Rings that are half full.
    pub(crate) rings: Vec<u32>,
    /// Rings whose threads have ended.
    pub(crate) hung_up: Vec<u32>,
    /// The target has ended.
    pub(crate) target_ended: bool,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { fd: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Adds a ring's event.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, ring: u32) -> io::Result<()> {
        self.add_token(fd, u64::from(ring))
    }

    /// Adds a descriptor under one of the tokens of this module.
    pub(crate) fn add_token(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.fd, fd, data, epoll::EventFlags::IN)?)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // It may have been removed before.
        let _absent: rustix::io::Result<()> = epoll::delete(&self.fd, fd);
    }

    /// Sleeps until something is reported or the time is over.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<Ready> {
        let mut events = Vec::with_capacity(MAX_EVENTS);
        // Rounded up, so that a rest below a millisecond does not spin.
        let millis = timeout.as_nanos().div_ceil(1_000_000).min(MAX_WAIT_MS) as i64;
        let timeout = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        match epoll::wait(&self.fd, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = Ready::default();
        for event in events {
            let (flags, data) = (event.flags, event.data);
            match data.u64() {
                COMMAND => {}
                TARGET_ENDED => ready.target_ended = true,
                ring => {
                    let ring = ring as u32;
                    ready.rings.push(ring);
                    if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                        ready.hung_up.push(ring);
                    }
                }
            }
        }
        Ok(ready)
    }
}

/// Reports taken at a time; the rest comes at the next look.
const MAX_EVENTS: usize = 64;

const MAX_WAIT_MS: u128 = 60_000;
