//! A place for a pool that any thread may look at.
#![expect(unsafe_code, reason = "a pointer that was put in as a reference is read as one")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::{ChunkPool, Shared};

/// A place for the pool of the current session, readable from any thread at the price of one
/// load.
pub struct PoolCell {
    shared: AtomicPtr<Shared>,
}

impl std::fmt::Debug for PoolCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolCell").field("pool", &self.get()).finish()
    }
}

impl Default for PoolCell {
    fn default() -> Self {
        Self::new()
    }
}

impl PoolCell {
    /// A place without a pool.
    #[must_use]
    pub const fn new() -> Self {
        Self { shared: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Puts a pool in, or takes out the one that is.
    pub fn set(&self, pool: Option<ChunkPool>) {
        let shared = pool.map_or(std::ptr::null(), |pool| std::ptr::from_ref(pool.shared));
        self.shared.store(shared.cast_mut(), Ordering::Release);
    }

    /// Whether there is a pool. The cheapest question there is for code that is not being
    /// profiled.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.load(Ordering::Relaxed).is_null()
    }

    /// The pool, if there is one and it is open.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<ChunkPool> {
        let shared = NonNull::new(self.shared.load(Ordering::Acquire))?;
        // SAFETY: `set` puts in `&'static Shared` only.
        let shared: &'static Shared = unsafe { shared.as_ref() };
        match shared.pool.load(Ordering::Relaxed) {
            0 => None,
            pool => Some(ChunkPool { shared, pool }),
        }
    }
}
