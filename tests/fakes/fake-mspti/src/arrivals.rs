//! What devices hand over late: at a flush to come, and not when it ran.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use crate::play::next_correlation;
use crate::record;
use crate::records::Activity;

/// Kernels that are handed over at a flush.
struct Arrival {
    kernel: Activity,
    count: u64,
    /// Flushes until then.
    flushes: u64,
    /// Whether as many come at each flush after that.
    is_endless: bool,
}

// SAFETY: the names are never freed.
unsafe impl Send for Arrival {}

struct Arrivals {
    awaited: Vec<Arrival>,
    recorded: u64,
}

static ARRIVALS: Mutex<Arrivals> = Mutex::new(Arrivals { awaited: Vec::new(), recorded: 0 });

/// `count` kernels that began at `start` are handed over at the `flushes`-th flush from now; with
/// `is_endless`, as many at each after it.
#[unsafe(no_mangle)]
pub extern "C" fn fake_arrives(
    name: *const c_char,
    count: u64,
    start: u64,
    flushes: u64,
    is_endless: bool,
) {
    let kernel_type = c"KERNEL_AICORE".as_ptr();
    let kernel = Activity { start, end: start + 1_000, name, kernel_type, ..Activity::NOTHING };
    let mut arrivals = ARRIVALS.lock().unwrap_or_else(PoisonError::into_inner);
    arrivals.awaited.push(Arrival { kernel, count, flushes, is_endless });
}

/// How many such kernels were recorded.
#[unsafe(no_mangle)]
pub extern "C" fn fake_arrived() -> u64 {
    ARRIVALS.lock().unwrap_or_else(PoisonError::into_inner).recorded
}

/// The library is flushed.
pub(crate) fn arrive() {
    let mut arrivals = ARRIVALS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut recorded = 0;
    arrivals.awaited.retain_mut(|arrival| {
        arrival.flushes = arrival.flushes.saturating_sub(1);
        if arrival.flushes > 0 {
            return true;
        }
        for _ in 0..arrival.count {
            let kernel = Activity { correlation: next_correlation(), ..arrival.kernel };
            recorded += u64::from(record(2, &kernel));
        }
        arrival.is_endless
    });
    arrivals.recorded += recorded;
}

/// Nothing more arrives.
pub(crate) fn forget() {
    let mut arrivals = ARRIVALS.lock().unwrap_or_else(PoisonError::into_inner);
    *arrivals = Arrivals { awaited: Vec::new(), recorded: 0 };
}
