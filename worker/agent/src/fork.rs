//! A forked child of a profiled process is inert.
//!
//! It has our memory and our descriptors, but none of our threads. In the child, before `fork`
//! returns there, recording is switched off and the descriptors that we hold are turned into ones
//! of `/dev/null`: the controller must see the end of the link when the parent ends, and the
//! numbers must not become those of other files while values here still own them.
//!
//! Frameworks fork their workers from a server that has not touched the device. Such a child may
//! enter anew when it opens the device itself, where its parent had never recorded: then nothing
//! of ours was under way that a fork could have cut in two.
#![expect(unsafe_code, reason = "pthread_atfork, and what may be called in a forked child")]

use std::os::fd::RawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

/// Descriptors of ours at a time, at most: a link, a lock and a few spools.
const MAX_DESCRIPTORS: usize = 16;

static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// How many forks lie between this process and the one that loaded the library.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Whether this process or one that it was forked from ever recorded.
static HAS_RECORDED: AtomicBool = AtomicBool::new(false);

/// A descriptor that is to be closed in a child, and the file that it is.
struct Place {
    /// -1 = free.
    descriptor: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
}

static DESCRIPTORS: [Place; MAX_DESCRIPTORS] = [const {
    Place { descriptor: AtomicI32::new(-1), device: AtomicU64::new(0), inode: AtomicU64::new(0) }
}; MAX_DESCRIPTORS];

/// Whether this process was forked from one that an agent entered, and has not entered anew.
pub(crate) fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

/// How many forks lie between this process and the one that loaded the library.
#[inline]
pub(crate) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// A session begins: children that are forked from now on stay inert.
pub(crate) fn recorded() {
    HAS_RECORDED.store(true, Ordering::Relaxed);
}

/// Lets a forked child be a process like others; `false` where it must stay inert.
pub(crate) fn enter_anew() -> bool {
    if is_child() && !HAS_RECORDED.load(Ordering::Relaxed) {
        IS_CHILD.store(false, Ordering::Relaxed);
    }
    !is_child()
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
        let Some((device, inode)) = identity(descriptor) else { return Self(-1) };
        for place in &DESCRIPTORS {
            // What stands beside a free place is read by nobody.
            let free = place.descriptor.compare_exchange(
                -1,
                descriptor,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if free.is_ok() {
                place.device.store(device, Ordering::Release);
                place.inode.store(inode, Ordering::Release);
                break;
            }
        }
        Self(descriptor)
    }
}

impl Drop for NotInherited {
    fn drop(&mut self) {
        if self.0 < 0 {
            return;
        }
        for place in &DESCRIPTORS {
            let gone =
                place.descriptor.compare_exchange(self.0, -1, Ordering::AcqRel, Ordering::Relaxed);
            if gone.is_ok() {
                return;
            }
        }
    }
}

/// Device and inode of an open file. May be called in a forked child.
fn identity(descriptor: RawFd) -> Option<(u64, u64)> {
    let mut found = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the pointer is to a local value, which the call fills when it succeeds.
    if unsafe { libc::fstat(descriptor, found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded and has filled it.
    let found = unsafe { found.assume_init() };
    Some((found.st_dev, found.st_ino))
}

extern "C" fn in_child() {
    IS_CHILD.store(true, Ordering::Relaxed);
    FORKS.fetch_add(1, Ordering::Relaxed);
    crate::spans::switch_off();
    // SAFETY: `open` may be called in a forked child; the path ends with a zero.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    for place in &DESCRIPTORS {
        let descriptor = place.descriptor.swap(-1, Ordering::Relaxed);
        let file = (place.device.load(Ordering::Relaxed), place.inode.load(Ordering::Relaxed));
        // A program may have closed it, and its number be another file's.
        if descriptor < 0 || identity(descriptor) != Some(file) {
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
