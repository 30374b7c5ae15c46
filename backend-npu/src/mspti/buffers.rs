//! The buffers that MSPTI fills.
//!
//! MSPTI asks for a buffer on a recording thread and gives it back on any thread, in both cases
//! while other recording threads wait for its lock. So neither callback allocates, locks, logs or
//! calls MSPTI, and both take the same time whatever a buffer's size is.
//!
//! Buffers come from `posix_memalign`: another client that takes the callback slot, as torch_npu
//! does, ends by calling `free` on ours. A buffer that does not come back is never touched again.

#![expect(unsafe_code, reason = "hands memory to a vendor library and takes it back")]

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

/// The size of a buffer: the smallest that MSPTI does not warn of, so that it comes back soonest.
pub(crate) const BUFFER_BYTES: usize = 2 << 20;
/// Buffers that are ready before a capture starts, and kept after it.
const READY_BUFFERS: usize = 8;
/// Buffers that the pool can hold at all.
const MOST_BUFFERS: usize = 256;
const ALIGNMENT: usize = 4096;

const EMPTY: u8 = 0;
const HELD: u8 = 1;
const LENT: u8 = 2;

/// A place for a buffer.
struct Slot {
    address: AtomicUsize,
    state: AtomicU8,
    valid: AtomicUsize,
}

/// A buffer that MSPTI gave back.
pub(crate) struct Completed {
    slot: usize,
    address: NonNull<u8>,
    valid: usize,
}

// SAFETY: the buffer is owned memory of this process; who holds the value may use it.
unsafe impl Send for Completed {}

// SAFETY: what is shared is only read.
unsafe impl Sync for Completed {}

impl Completed {
    /// The address of the first byte.
    pub(crate) fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// What MSPTI wrote.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: MSPTI gave the buffer back and wrote `valid` bytes of it, which lie inside it
        // (checked when it came back); nobody else holds it until it is recycled.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.valid) }
    }
}

/// The pool of the process.
pub(crate) struct Pool {
    slots: Vec<Slot>,
    free: ArrayQueue<usize>,
    completed: ArrayQueue<usize>,
    /// Buffers that exist, wherever they are.
    total: AtomicUsize,
    /// The most of them at once, in this capture.
    peak: AtomicUsize,
    limit: AtomicUsize,
    lent: AtomicUsize,
    /// Records that MSPTI dropped because it was given no buffer: exactly one each time.
    declined: AtomicU64,
    /// Buffers that came back and were never ours, and the bytes that were written into them.
    foreign: AtomicU64,
    foreign_bytes: AtomicU64,
    recording: AtomicBool,
}

/// The pool of the process; made at the first call.
pub(crate) fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let slot = || Slot {
            address: AtomicUsize::new(0),
            state: AtomicU8::new(EMPTY),
            valid: AtomicUsize::new(0),
        };
        Pool {
            slots: std::iter::repeat_with(slot).take(MOST_BUFFERS).collect(),
            free: ArrayQueue::new(MOST_BUFFERS),
            completed: ArrayQueue::new(MOST_BUFFERS),
            total: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            declined: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            foreign_bytes: AtomicU64::new(0),
            recording: AtomicBool::new(false),
        }
    })
}

impl Pool {
    /// Gets ready for a capture that may take `max_bytes`.
    pub(crate) fn arm(&self, max_bytes: u64) {
        let limit = usize::try_from(max_bytes / BUFFER_BYTES as u64).unwrap_or(usize::MAX);
        self.limit.store(limit.clamp(2, MOST_BUFFERS), Ordering::Relaxed);
        for counter in [&self.declined, &self.foreign, &self.foreign_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
        self.peak.store(self.total.load(Ordering::Relaxed), Ordering::Relaxed);
        self.replenish();
        self.recording.store(true, Ordering::Release);
    }

    /// Keeps enough buffers ready; called by the decoder, off the application's threads.
    pub(crate) fn replenish(&self) {
        let limit = self.limit.load(Ordering::Relaxed);
        while self.free.len() < READY_BUFFERS && self.total.load(Ordering::Relaxed) < limit {
            let Some(slot) =
                self.slots.iter().position(|slot| slot.state.load(Ordering::Acquire) == EMPTY)
            else {
                return;
            };
            let Some(address) = allocate() else { return };
            self.slots[slot].address.store(address, Ordering::Relaxed);
            self.slots[slot].state.store(HELD, Ordering::Release);
            let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
            self.peak.fetch_max(total, Ordering::Relaxed);
            self.put_free(slot);
        }
    }

    fn put_free(&self, slot: usize) {
        // The queue has a place for every slot.
        if self.free.push(slot).is_err() {
            self.drop_slot(slot);
        }
    }

    /// Ends a capture; says how many buffers did not come back, which nobody touches any more.
    pub(crate) fn disarm(&self) -> usize {
        self.recording.store(false, Ordering::Release);
        let mut missing = 0;
        for slot in &self.slots {
            if slot.state.compare_exchange(LENT, EMPTY, Ordering::AcqRel, Ordering::Acquire).is_ok()
            {
                slot.address.store(0, Ordering::Relaxed);
                self.total.fetch_sub(1, Ordering::Relaxed);
                self.lent.fetch_sub(1, Ordering::Relaxed);
                missing += 1;
            }
        }
        missing
    }

    /// Gives memory back, except for the buffers of the next capture; after the last was read.
    pub(crate) fn trim(&self) {
        while self.total.load(Ordering::Relaxed) > READY_BUFFERS {
            let Some(slot) = self.free.pop() else { break };
            self.drop_slot(slot);
        }
    }

    fn drop_slot(&self, slot: usize) {
        let address = self.slots[slot].address.swap(0, Ordering::Relaxed);
        // SAFETY: the address came from `posix_memalign`; the slot was in no queue and not lent.
        unsafe { libc::free(std::ptr::with_exposed_provenance_mut(address)) };
        self.slots[slot].state.store(EMPTY, Ordering::Release);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// The next buffer that MSPTI gave back.
    pub(crate) fn completed(&self) -> Option<Completed> {
        let slot = self.completed.pop()?;
        let address = self.slots[slot].address.load(Ordering::Relaxed);
        let valid = self.slots[slot].valid.load(Ordering::Relaxed);
        let address = NonNull::new(std::ptr::with_exposed_provenance_mut(address))?;
        Some(Completed { slot, address, valid })
    }

    /// Takes back a buffer that was read.
    pub(crate) fn recycle(&self, completed: Completed) {
        let Completed { slot, .. } = completed;
        self.put_free(slot);
    }

    /// Buffers that MSPTI holds.
    pub(crate) fn lent(&self) -> usize {
        self.lent.load(Ordering::Acquire)
    }

    /// Buffers that wait to be read.
    pub(crate) fn waiting(&self) -> usize {
        self.completed.len()
    }

    /// The most memory that buffers took in this capture.
    pub(crate) fn peak_bytes(&self) -> u64 {
        (self.peak.load(Ordering::Relaxed) * BUFFER_BYTES) as u64
    }

    /// Takes the number of records that were dropped for want of a buffer.
    pub(crate) fn take_declined(&self) -> u64 {
        self.declined.swap(0, Ordering::Relaxed)
    }

    /// Takes the number of others' buffers that came back to us, and how many bytes they held.
    pub(crate) fn take_foreign(&self) -> (u64, u64) {
        (self.foreign.swap(0, Ordering::Relaxed), self.foreign_bytes.swap(0, Ordering::Relaxed))
    }

    fn lend(&self) -> Option<usize> {
        if !self.recording.load(Ordering::Acquire) {
            return None;
        }
        let Some(slot) = self.free.pop() else {
            self.declined.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        self.lent.fetch_add(1, Ordering::Relaxed);
        self.slots[slot].state.store(LENT, Ordering::Release);
        Some(self.slots[slot].address.load(Ordering::Relaxed))
    }

    fn take_back(&self, address: usize, valid: usize) {
        // At most a few hundred words are looked at, whatever the buffer holds.
        let found = self.slots.iter().position(|slot| {
            slot.address.load(Ordering::Relaxed) == address
                && slot
                    .state
                    .compare_exchange(LENT, HELD, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
        });
        let Some(slot) = found else {
            self.foreign.fetch_add(1, Ordering::Relaxed);
            self.foreign_bytes.fetch_add(valid as u64, Ordering::Relaxed);
            return;
        };
        self.slots[slot].valid.store(valid.min(BUFFER_BYTES), Ordering::Relaxed);
        // The queue has a place for every slot, and this one was in no queue: it is taken.
        let _pushed: Result<(), usize> = self.completed.push(slot);
        self.lent.fetch_sub(1, Ordering::Release);
    }
}

/// A buffer whose pages are there.
fn allocate() -> Option<usize> {
    let mut address = std::ptr::null_mut();
    // SAFETY: writes the address of fresh memory, or fails.
    let code = unsafe { libc::posix_memalign(&raw mut address, ALIGNMENT, BUFFER_BYTES) };
    if code != 0 || address.is_null() {
        return None;
    }
    // SAFETY: so many bytes were allocated just now.
    unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, BUFFER_BYTES) };
    Some(address.expose_provenance())
}

/// MSPTI wants a buffer.
pub(crate) extern "C" fn buffer_requested(
    buffer: *mut *mut u8,
    size: *mut usize,
    max_records: *mut usize,
) {
    let lent = pool().lend();
    let bytes = if lent.is_some() { BUFFER_BYTES } else { 0 };
    let address = std::ptr::with_exposed_provenance_mut(lent.unwrap_or(0));
    // SAFETY: MSPTI passes three places to write to.
    unsafe { *buffer = address };
    // SAFETY: as above.
    unsafe { *size = bytes };
    // SAFETY: as above; 0 means as many records as fit.
    unsafe { *max_records = 0 };
}

/// MSPTI gives a buffer back; null where it had been given none.
pub(crate) extern "C" fn buffer_completed(buffer: *mut u8, _size: usize, valid: usize) {
    if !buffer.is_null() {
        pool().take_back(buffer.expose_provenance(), valid);
    }
}
