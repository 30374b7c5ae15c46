//! Signals, taken as they come and with who sent them.
#![expect(unsafe_code, reason = "signal masks and signalfd go through libc")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The signals that are meant for the command. Those that cannot be blocked reach it by nobody's
/// help; SIGTSTP and its like stop the launcher as well, which is right.
const FORWARDED: [i32; 7] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signal {
    pub(super) number: i32,
    /// The kernel sent it, not a process: of those above, because of a key or a hang-up of the
    /// terminal, which the whole foreground group gets.
    pub(super) of_terminal: bool,
}

/// From its making on, the signals are told here and no longer end the process.
pub(super) struct Signals {
    descriptor: OwnedFd,
    /// The mask that this process began with, which its child is to have.
    before: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals, for the calling thread and all that it starts from now on: called
    /// before the first thread.
    pub(super) fn take() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is to a set of ours; sigemptyset writes it whole.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset wrote it.
        let mut set = unsafe { set.assume_init() };
        for signal in FORWARDED.into_iter().chain([libc::SIGCHLD]) {
            // SAFETY: the set is initialised, and the number one of a signal.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: the set is initialised; the old mask goes to a set of ours.
        let blocked =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        // SAFETY: on success pthread_sigmask has written the old mask.
        let before = unsafe { before.assume_init() };
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: -1 makes a new descriptor; the set is initialised.
        let descriptor = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd made it, and nobody else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor, before })
    }

    /// Waits for the next one, so long at most; `None` also for one that says only that a child
    /// changed.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> io::Result<Option<Signal>> {
        let timeout = at_most.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut polled = [PollFd::new(&self.descriptor, PollFlags::IN)];
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut bytes = [0_u8; SIZE];
        match rustix::io::read(self.descriptor.as_fd(), &mut bytes) {
            Ok(SIZE) => {}
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // The first two fields: the signal's number and an errno; then the code.
        let number = |at: usize| i32::from_ne_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let (signal, code) = (number(0), number(8));
        if signal == libc::SIGCHLD {
            return Ok(None);
        }
        Ok(Some(Signal { number: signal, of_terminal: code == libc::SI_KERNEL }))
    }

    /// Puts the mask back that this process began with; for a child, between fork and exec.
    pub(super) fn put_back(before: &libc::sigset_t) -> io::Result<()> {
        // SAFETY: the mask is one that pthread_sigmask gave; a null old set is allowed by POSIX.
        let done =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        if done == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(done)) }
    }

    pub(super) fn before(&self) -> libc::sigset_t {
        self.before
    }
}

impl Signal {
    /// Whether somebody wants this process to end.
    pub(super) fn is_wish_to_end(self) -> bool {
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM].contains(&self.number)
    }
}
