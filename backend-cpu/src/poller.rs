//! What the recorder's thread sleeps on.
//!
//! The descriptors are listed anew at each wait, for an epoll descriptor of ours could not be told
//! from one that the program puts in its place, whose reports would then be taken from it. Poll
//! takes nothing from a file, so that a wrong number costs one look at what it stands for.

#![expect(unsafe_code, reason = "waits for numbers that may be another file's by now")]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, IntoRawFd, RawFd};
use std::time::Duration;

use profiler_core::descriptor::{Identity, Kept, LostDescriptor};

/// Descriptors that are waited for; each has a token.
#[derive(Debug, Default)]
pub(crate) struct Poller {
    entries: RefCell<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    number: RawFd,
    identity: Identity,
    token: u64,
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
    /// Rings whose threads have ended, or whose descriptors were closed by the program.
    pub(crate) hung_up: Vec<u32>,
    /// The target has ended.
    pub(crate) target_ended: bool,
}

impl Poller {
    /// Waits for a descriptor from now on, under the number of a ring or one of the tokens of this
    /// module.
    ///
    /// # Errors
    ///
    /// It was closed before it was kept.
    pub(crate) fn add<T: AsFd + IntoRawFd>(&self, kept: &Kept<T>, token: u64) -> io::Result<()> {
        let number = kept.as_raw_fd();
        let identity = kept.identity().ok_or(LostDescriptor { number })?;
        self.entries.borrow_mut().push(Entry { number, identity, token });
        Ok(())
    }

    pub(crate) fn remove<T: AsFd + IntoRawFd>(&self, kept: &Kept<T>) {
        let number = kept.as_raw_fd();
        self.entries.borrow_mut().retain(|entry| entry.number != number);
    }

    /// Sleeps until something is reported or the time is over.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<Ready> {
        let mut entries = self.entries.borrow_mut();
        let can_be_woken = entries.iter().any(|entry| entry.token == COMMAND);
        let timeout = if can_be_woken { timeout } else { timeout.min(UNWOKEN_PERIOD) };
        // Rounded up, so that a rest below a millisecond does not spin.
        let millis = timeout.as_nanos().div_ceil(1_000_000).min(MAX_WAIT_MS) as i32;
        let mut numbers: Vec<libc::pollfd> = entries
            .iter()
            .map(|entry| libc::pollfd { fd: entry.number, events: libc::POLLIN, revents: 0 })
            .collect();
        let count = numbers.len() as libc::nfds_t;
        // SAFETY: the list has so many entries and outlives the call, which reads and writes it.
        if unsafe { libc::poll(numbers.as_mut_ptr(), count, millis) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            return Ok(Ready::default());
        }
        let mut ready = Ready::default();
        let mut reported = numbers.iter().map(|number| number.revents);
        entries.retain(|entry| {
            let flags = reported.next().unwrap_or(0);
            flags == 0 || entry.report(flags, &mut ready)
        });
        Ok(ready)
    }
}

impl Entry {
    /// Notes what was reported; whether the descriptor is still ours.
    fn report(&self, flags: i16, ready: &mut Ready) -> bool {
        // SAFETY: the number is looked at and nothing else: it is closed, ours or another file's.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.number) };
        let is_ours = flags & libc::POLLNVAL == 0 && self.identity.is_of(descriptor);
        match self.token {
            COMMAND => {}
            TARGET_ENDED => ready.target_ended |= is_ours,
            ring => {
                let ring = ring as u32;
                ready.rings.push(ring);
                if !is_ours || flags & (libc::POLLHUP | libc::POLLERR) != 0 {
                    ready.hung_up.push(ring);
                }
            }
        }
        is_ours
    }
}

/// How often a thread looks for commands that nothing can wake any more.
const UNWOKEN_PERIOD: Duration = Duration::from_millis(50);

const MAX_WAIT_MS: u128 = 60_000;
