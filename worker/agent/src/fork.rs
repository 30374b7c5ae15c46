//! A forked child of a profiled process is inert.
//!
//! It has our memory and our descriptors, but none of our threads. In the child, before `fork`
//! returns there, recording is switched off and the descriptors that we hold are turned into ones
//! of `/dev/null`: the controller must see the end of the link when the parent ends, and the
//! numbers must not become those of other files while values here still own them.
#![expect(unsafe_code, reason = "pthread_atfork, and what may be called in a forked child")]

use std::os::fd::RawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Descriptors of ours at a time, at most: a link and a few spools.
const MAX_DESCRIPTORS: usize = 16;

static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// What is to be closed in a child; -1 = free.
static DESCRIPTORS: [AtomicI32; MAX_DESCRIPTORS] = [const { AtomicI32::new(-1) }; MAX_DESCRIPTORS];

/// Whether this process was forked from one that an agent entered.
pub(crate) fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

/// Arranges for children. Once is enough, more changes nothing.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler is a function of this program, which is never unloaded, and calls
        // only what POSIX allows in a forked child.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        // Without memory for the handler children are recognised by their pid alone.
        debug_assert_eq!(failed, 0, "pthread_atfork fails for want of memory only");
    });
}

/// A descriptor that a forked child must not hold, for as long as this value lives.
///
/// It must be dropped before the descriptor is closed, whose number may soon be another's.
#[derive(Debug)]
pub(crate) struct NotInherited(RawFd);

impl NotInherited {
    /// Where too many are guarded already, this one stays open in children.
    pub(crate) fn new(descriptor: RawFd) -> Self {
        for place in &DESCRIPTORS {
            let free = place.compare_exchange(-1, descriptor, Ordering::AcqRel, Ordering::Relaxed);
            if free.is_ok() {
                break;
            }
        }
        Self(descriptor)
    }
}

impl Drop for NotInherited {
    fn drop(&mut self) {
        for place in &DESCRIPTORS {
            let gone = place.compare_exchange(self.0, -1, Ordering::AcqRel, Ordering::Relaxed);
            if gone.is_ok() {
                return;
            }
        }
    }
}

extern "C" fn in_child() {
    IS_CHILD.store(true, Ordering::Relaxed);
    crate::spans::switch_off();
    // SAFETY: `open` may be called in a forked child; the path ends with a zero.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    for place in &DESCRIPTORS {
        let descriptor = place.swap(-1, Ordering::Relaxed);
        if descriptor < 0 {
            continue;
        }
        if null < 0 {
            // SAFETY: the number is one of ours; `close` may be called in a forked child. The
            // value that owns it is never dropped there (`Agent` sees to that).
            unsafe { libc::close(descriptor) };
            continue;
        }
        // SAFETY: both numbers are open here; `dup3` may be called in a forked child.
        unsafe { libc::dup3(null, descriptor, libc::O_CLOEXEC) };
    }
    if null >= 0 {
        // SAFETY: the number was opened above and belongs to nobody else.
        unsafe { libc::close(null) };
    }
}
