//! Steps that other layers mark: ranges of libtorch (`record_function`) or NVTX, by their names.
//!
//! Whoever sees ranges asks [`is_wanted`] and tells [`range_begins`]; whoever counts steps by a
//! pattern of names listens. So a backend needs to know no agent.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static LISTENER: OnceLock<fn(&str)> = OnceLock::new();
static IS_WANTED: AtomicBool = AtomicBool::new(false);

/// Lets `begins` hear the names of ranges from now on. The process has one listener: the first
/// stays.
///
/// It is called on the application's threads and must neither block nor panic.
pub fn listen(begins: fn(&str)) {
    // The first stays, as told above.
    LISTENER.set(begins).ok();
    IS_WANTED.store(true, Ordering::Release);
}

/// Names are no steps any more, until the next [`listen`].
pub fn ignore() {
    IS_WANTED.store(false, Ordering::Release);
}

/// Whether ranges may be steps.
#[must_use]
pub fn is_wanted() -> bool {
    IS_WANTED.load(Ordering::Relaxed)
}

/// A range of this name begins.
pub fn range_begins(name: &str) {
    if is_wanted()
        && let Some(begins) = LISTENER.get()
    {
        begins(name);
    }
}
