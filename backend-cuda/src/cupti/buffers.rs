//! The buffers that CUPTI fills.
//!
//! CUPTI asks for buffers on application threads, inside CUDA calls, and gives them back on any
//! thread. So the pool is lock-free, and neither callback allocates, locks, logs or calls CUPTI.
//! A capture's decoder thread keeps enough buffers ready; only where it could not keep up is a
//! buffer mapped by the application's thread (counted as a stall). Past the memory limit records go
//! into small discard buffers, which are counted and thrown away; past those CUPTI is told to drop
//! and count them itself, where its version can.

#![expect(unsafe_code, reason = "hands memory to a vendor library and takes it back")]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The size of a buffer. CUPTI recommends 1 to 10 MiB; small ones come back sooner.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;
/// Buffers that are ready before a capture starts.
const READY_BUFFERS: usize = 8;
/// Buffers to which the decoder grows the pool in the background.
const BACKGROUND_BUFFERS: usize = 64;
/// Buffers that the pool can hold at all.
const MOST_BUFFERS: usize = 4096;
const DISCARD_BYTES: usize = 64 << 10;
const DISCARD_BUFFERS: usize = 64;

/// A buffer, by its address.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Buffer(NonNull<u8>);

// SAFETY: a buffer is owned memory of this process; who holds the value may use it.
unsafe impl Send for Buffer {}

/// A buffer that CUPTI gave back.
pub(crate) struct Completed {
    buffer: Buffer,
    valid: usize,
    /// Its records were never wanted, only their number is.
    pub(crate) discard: bool,
}

impl Completed {
    /// The address of the first byte.
    pub(crate) fn address(&self) -> *mut u8 {
        self.buffer.0.as_ptr()
    }

    /// How many bytes CUPTI wrote.
    pub(crate) fn valid(&self) -> usize {
        self.valid
    }
}

/// The pool of the process.
pub(crate) struct Pool {
    free: ArrayQueue<Buffer>,
    discard: ArrayQueue<Buffer>,
    completed: ArrayQueue<Completed>,
    /// Buffers that exist, wherever they are.
    total: AtomicUsize,
    /// Buffers that may exist.
    limit: AtomicUsize,
    /// The most buffers that there were in this capture.
    most: AtomicUsize,
    /// What the callbacks of this capture took of the threads that called CUDA, in nanoseconds.
    spent_ns: AtomicU64,
    /// Buffers that CUPTI holds.
    lent: AtomicUsize,
    /// Requests that had to map memory on an application's thread.
    stalls: AtomicU64,
    /// Bytes that CUPTI wrote into the last discard buffer, whose records cannot be told apart.
    uncounted_bytes: AtomicU64,
    /// Whether what is in completed buffers is wanted.
    recording: AtomicBool,
    /// Whether this libcupti takes "no buffer" for an answer, and counts what it drops.
    may_decline: AtomicBool,
}

/// The pool of the process; made at the first call.
pub(crate) fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool {
        free: ArrayQueue::new(MOST_BUFFERS),
        discard: ArrayQueue::new(DISCARD_BUFFERS),
        completed: ArrayQueue::new(MOST_BUFFERS + DISCARD_BUFFERS),
        total: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        spent_ns: AtomicU64::new(0),
        limit: AtomicUsize::new(0),
        lent: AtomicUsize::new(0),
        stalls: AtomicU64::new(0),
        uncounted_bytes: AtomicU64::new(0),
        recording: AtomicBool::new(false),
        may_decline: AtomicBool::new(false),
    })
}

impl Pool {
    /// Gets ready for a capture that may take `max_bytes`.
    pub(crate) fn arm(&self, max_bytes: u64, may_decline: bool) {
        self.may_decline.store(may_decline, Ordering::Relaxed);
        let limit = (max_bytes as usize / BUFFER_BYTES).clamp(READY_BUFFERS, MOST_BUFFERS);
        self.limit.store(limit, Ordering::Relaxed);
        self.stalls.store(0, Ordering::Relaxed);
        self.spent_ns.store(0, Ordering::Relaxed);
        self.most.store(self.total.load(Ordering::Relaxed), Ordering::Relaxed);
        self.uncounted_bytes.store(0, Ordering::Relaxed);
        while self.total.load(Ordering::Relaxed) < READY_BUFFERS && self.grow() {}
        // The shared discard buffer is mapped here, not on an application's thread.
        let _shared = last_resort();
        while !self.discard.is_full() {
            // Not touched before they are needed: most captures never throw anything away, and
            // where one does, a page fault is the least of its costs.
            let Some(buffer) = map(DISCARD_BYTES, false) else { break };
            if self.discard.push(buffer).is_err() {
                unmap(buffer, DISCARD_BYTES);
                break;
            }
        }
        self.recording.store(true, Ordering::Release);
    }

    /// Keeps enough buffers ready; called by the decoder, off the application's threads.
    pub(crate) fn replenish(&self) {
        let wanted = BACKGROUND_BUFFERS.min(self.limit.load(Ordering::Relaxed));
        while self.free.len() < READY_BUFFERS && self.total.load(Ordering::Relaxed) < wanted {
            if !self.grow() {
                return;
            }
        }
    }

    /// Ends a capture: memory goes back, except for the buffers of the next start.
    pub(crate) fn disarm(&self) {
        self.recording.store(false, Ordering::Release);
        while self.total.load(Ordering::Relaxed) > READY_BUFFERS {
            let Some(buffer) = self.free.pop() else { return };
            unmap(buffer, BUFFER_BYTES);
            self.total.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn grow(&self) -> bool {
        let Some(buffer) = map(BUFFER_BYTES, true) else { return false };
        self.count_new();
        if self.free.push(buffer).is_err() {
            self.total.fetch_sub(1, Ordering::Relaxed);
            unmap(buffer, BUFFER_BYTES);
            return false;
        }
        true
    }

    fn count_new(&self) {
        let before = self.total.fetch_add(1, Ordering::Relaxed);
        self.most.fetch_max(before + 1, Ordering::Relaxed);
    }

    /// The most memory that this capture's buffers took.
    pub(crate) fn most_bytes(&self) -> u64 {
        let buffers = self.most.load(Ordering::Relaxed) * BUFFER_BYTES;
        (buffers + (DISCARD_BUFFERS + 1) * DISCARD_BYTES) as u64
    }

    /// What this capture's callbacks took of the threads that called CUDA.
    pub(crate) fn spent_ns(&self) -> u64 {
        self.spent_ns.load(Ordering::Relaxed)
    }

    /// The next buffer that CUPTI gave back.
    pub(crate) fn completed(&self) -> Option<Completed> {
        self.completed.pop()
    }

    /// Takes back a buffer that was read. CUPTI is told that buffers are zero when it gets them.
    pub(crate) fn recycle(&self, completed: Completed) {
        let buffer = completed.buffer;
        // SAFETY: CUPTI gave the buffer back and wrote `valid` bytes of it, which lie inside it
        // (checked when it came back); nobody else holds it.
        unsafe { std::ptr::write_bytes(buffer.0.as_ptr(), 0, completed.valid) };
        let queue = if completed.discard { &self.discard } else { &self.free };
        if queue.push(buffer).is_err() {
            let bytes = if completed.discard { DISCARD_BYTES } else { BUFFER_BYTES };
            unmap(buffer, bytes);
        }
    }

    /// Buffers that CUPTI holds.
    pub(crate) fn lent(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Requests of this capture that mapped memory on an application's thread.
    pub(crate) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    /// Takes the bytes that went where their records cannot be told apart.
    pub(crate) fn take_uncounted_bytes(&self) -> u64 {
        self.uncounted_bytes.swap(0, Ordering::Relaxed)
    }

    /// A buffer and its size; `None` declines.
    fn lend(&self) -> Option<(Buffer, usize)> {
        let lent = self.pick();
        if lent.is_some() {
            self.lent.fetch_add(1, Ordering::Relaxed);
        }
        lent
    }

    fn pick(&self) -> Option<(Buffer, usize)> {
        if let Some(buffer) = self.free.pop() {
            return Some((buffer, BUFFER_BYTES));
        }
        if self.recording.load(Ordering::Acquire)
            && self.total.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
            && let Some(buffer) = map(BUFFER_BYTES, false)
        {
            self.count_new();
            self.stalls.fetch_add(1, Ordering::Relaxed);
            return Some((buffer, BUFFER_BYTES));
        }
        match self.discard.pop() {
            Some(buffer) => Some((buffer, DISCARD_BYTES)),
            None if self.may_decline.load(Ordering::Relaxed) => None,
            None => Some((last_resort(), DISCARD_BYTES)),
        }
    }

    fn take_back(&self, buffer: Buffer, size: usize, valid: usize) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
        if buffer == last_resort() {
            self.uncounted_bytes.fetch_add(valid as u64, Ordering::Relaxed);
            return;
        }
        let discard = size == DISCARD_BYTES;
        let valid = valid.min(size);
        let completed = Completed { buffer, valid, discard };
        // The queue has room for every buffer that can exist.
        if self.completed.push(completed).is_err() {
            self.uncounted_bytes.fetch_add(valid as u64, Ordering::Relaxed);
        }
    }
}

/// The buffer that is handed out when nothing else is left, to several threads at once: what is
/// written there is never read.
fn last_resort() -> Buffer {
    static SHARED: OnceLock<usize> = OnceLock::new();
    let address = *SHARED.get_or_init(|| match map(DISCARD_BYTES, true) {
        Some(buffer) => buffer.0.as_ptr() as usize,
        // Without 64 KiB of memory the process is lost anyway; CUPTI accepts "no buffer" as null.
        None => 0,
    });
    Buffer(NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling()))
}

fn map(bytes: usize, touched: bool) -> Option<Buffer> {
    let flags = if touched { MapFlags::PRIVATE | MapFlags::POPULATE } else { MapFlags::PRIVATE };
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
    let mapped = unsafe {
        mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)
    };
    mapped.ok().and_then(|address| NonNull::new(address.cast::<u8>())).map(Buffer)
}

fn unmap(buffer: Buffer, bytes: usize) {
    // SAFETY: the buffer came from `map` with this size and is in no queue and not lent.
    // A mapping that cannot be removed stays until the process ends.
    unsafe { munmap(buffer.0.as_ptr().cast(), bytes) }.ok();
}

/// Counts the time of a callback.
struct Spent {
    begin: std::time::Instant,
}

impl Spent {
    fn begin() -> Self {
        Self { begin: std::time::Instant::now() }
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        let ns = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        pool().spent_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

/// CUPTI wants a buffer.
///
/// <https://docs.nvidia.com/cupti/api/group__CUPTI__ACTIVITY__API.html>
pub(crate) extern "C" fn buffer_requested(
    buffer: *mut *mut u8,
    size: *mut usize,
    max_records: *mut usize,
) {
    let _spent = Spent::begin();
    let (address, bytes) = match pool().lend() {
        Some((lent, bytes)) => (lent.0.as_ptr(), bytes),
        None => (std::ptr::null_mut(), 0),
    };
    // SAFETY: CUPTI passes three places to write to.
    unsafe { *buffer = address };
    // SAFETY: as above.
    unsafe { *size = bytes };
    // SAFETY: as above; 0 means as many records as fit.
    unsafe { *max_records = 0 };
}

/// CUPTI gives a buffer back.
pub(crate) extern "C" fn buffer_completed(
    _context: *mut c_void,
    _stream: u32,
    buffer: *mut u8,
    size: usize,
    valid: usize,
) {
    let Some(buffer) = NonNull::new(buffer) else { return };
    let _spent = Spent::begin();
    pool().take_back(Buffer(buffer), size, valid);
}
