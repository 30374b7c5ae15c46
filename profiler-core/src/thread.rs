//! Threads of the profiler inside a profiled process.
//!
//! A signal of the process must never run the application's handler on a thread of ours: such a
//! thread blocks all signals from its first instruction on.
#![expect(unsafe_code, reason = "signal masks and signal 0 go through libc")]

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

/// A signal mask as it was; dropping it puts it back.
#[must_use]
#[derive(Debug)]
pub struct SignalMask {
    before: Option<libc::sigset_t>,
    // The mask belongs to the thread that made it.
    not_send: std::marker::PhantomData<*const ()>,
}

/// Blocks every signal that can be blocked, for the calling thread, until the answer is dropped.
pub fn block_signals() -> SignalMask {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a set of ours; sigfillset writes it whole.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: sigfillset wrote `all`; the old mask goes to a set of ours.
    let result =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let before = match result {
        // SAFETY: on success pthread_sigmask has written the old mask.
        0 => Some(unsafe { before.assume_init() }),
        _ => None,
    };
    SignalMask { before, not_send: std::marker::PhantomData }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        // SAFETY: the mask is one that pthread_sigmask gave; a null old set is allowed by POSIX.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
    }
}

/// Starts a thread that has all signals blocked. Names begin with `omniprof-` and have at most 15
/// bytes, or the kernel cuts them.
///
/// # Errors
///
/// What the operating system answers.
pub fn spawn_blocked<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // The new thread inherits the mask of this one.
    let _blocked = block_signals();
    Builder::new().name(name.to_owned()).spawn(move || {
        let _account = Account;
        body()
    })
}

/// Processor time of the threads of [`spawn_blocked`] that have ended.
static ENDED_CPU_NS: AtomicU64 = AtomicU64::new(0);

/// The processor time of all threads of ours that have ended, in this process's life.
///
/// Such a thread no longer has a name that begins with `omniprof-`: whoever adds those that live
/// counts none twice.
#[must_use]
pub fn ended_cpu_ns() -> u64 {
    ENDED_CPU_NS.load(Ordering::Acquire)
}

/// Closes a thread's account when it ends, by a panic as well.
struct Account;

impl Drop for Account {
    fn drop(&mut self) {
        // With its old name it would be counted twice for the moment that it still lives.
        if rustix::thread::set_name(c"ended").is_err() {
            return;
        }
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
        let ns = u64::try_from(spent.tv_nsec).unwrap_or(0);
        ENDED_CPU_NS.fetch_add(seconds.saturating_mul(1_000_000_000) + ns, Ordering::AcqRel);
    }
}

/// Whether a thread of this process lives; where the kernel does not say, it does.
///
/// One that took a dead one's number is alive, too.
#[must_use]
pub fn is_alive(thread: u32) -> bool {
    // SAFETY: signal 0 is sent to nobody, only the receiver's existence is looked at.
    let result =
        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread as libc::pid_t, 0) };
    // Any other refusal (a seccomp filter's) says nothing of the thread.
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}
