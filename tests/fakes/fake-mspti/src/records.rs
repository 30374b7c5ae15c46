//! Buffers, and the records in them.

use std::cell::Cell;
use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::{Complete, Request};

/// What a record says; as in `records.c`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// When it began, CLOCK_REALTIME in ns.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// The launch.
    pub correlation: u64,
    /// Bytes of a copy, memset or allocation.
    pub bytes: u64,
    /// Where an allocation lies.
    pub address: u64,
    /// The number of a marker, or an external id.
    pub id: u64,
    /// Elements of a communication.
    pub count: u64,
    /// Bandwidth of an HCCL record.
    pub bandwidth: f64,
    /// The name.
    pub name: *const c_char,
    /// The kernel's type.
    pub kernel_type: *const c_char,
    /// The marker's domain.
    pub domain: *const c_char,
    /// The communication's algorithm.
    pub algorithm: *const c_char,
    /// The communicator.
    pub communicator: *const c_char,
    /// A marker's flag.
    pub flag: u32,
    /// A marker's source: 0 host, 1 device.
    pub source: u32,
    /// The process.
    pub process: u32,
    /// The thread.
    pub thread: u32,
    /// The device.
    pub device: u32,
    /// The stream.
    pub stream: u32,
    /// A memset's value.
    pub value: u32,
    /// 0 allocates, 1 releases.
    pub operation: u32,
    /// The kind of memory.
    pub memory_kind: u32,
    /// The direction of a copy.
    pub copy_kind: u32,
    /// The type of a communication's elements.
    pub data_type: u32,
    /// The kind of an external id.
    pub external_kind: u32,
    /// Whether a copy or memset was asynchronous.
    pub is_async: u32,
    /// Bytes that a later version of the library appended to its record.
    pub growth: u32,
}

impl Activity {
    /// Nothing at all.
    pub const NOTHING: Self = Self {
        start: 0,
        end: 0,
        correlation: 0,
        bytes: 0,
        address: 0,
        id: 0,
        count: 0,
        bandwidth: 0.0,
        name: std::ptr::null(),
        kernel_type: std::ptr::null(),
        domain: std::ptr::null(),
        algorithm: std::ptr::null(),
        communicator: std::ptr::null(),
        flag: 0,
        source: 0,
        process: 0,
        thread: 0,
        device: 0,
        stream: 0,
        value: 0,
        operation: 0,
        memory_kind: 0,
        copy_kind: 0,
        data_type: 0,
        external_kind: 0,
        is_async: 0,
        growth: 0,
    };
}

unsafe extern "C" {
    fn fake_record_size(kind: u32) -> usize;
    fn fake_record_write(out: *mut u8, kind: u32, activity: *const Activity);
}

/// The size of records of kinds that nobody knows.
const UNKNOWN_BYTES: usize = 64;

/// A buffer that the client lent.
struct Lent {
    address: usize,
    size: usize,
    valid: usize,
}

/// What recording threads share, behind the one lock.
struct Records {
    callbacks: Option<(Request, Complete)>,
    current: Option<Lent>,
    /// What a later version appends to each record; 0 as long as the layouts hold.
    growth: usize,
    completion_ns: Vec<u32>,
    dropped: u64,
}

static RECORDS: Mutex<Records> = Mutex::new(Records {
    callbacks: None,
    current: None,
    growth: 0,
    completion_ns: Vec::new(),
    dropped: 0,
});

thread_local! {
    static CURSOR: Cell<usize> = const { Cell::new(0) };
}

fn lock() -> MutexGuard<'static, Records> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn size(kind: u32) -> usize {
    // SAFETY: plain computation in C.
    unsafe { fake_record_size(kind) }
}

pub(crate) fn register(request: Request, complete: Complete) {
    lock().callbacks = Some((request, complete));
}

/// Writes a record, under the lock that every recording thread takes.
pub(crate) fn write(kind: u32, activity: &Activity) {
    let mut records = lock();
    let Some((request, complete)) = records.callbacks else { return };
    let known = size(kind);
    let bytes = if known == 0 { UNKNOWN_BYTES } else { known + records.growth };
    if records.current.is_none() {
        let (mut address, mut size, mut most) = (std::ptr::null_mut(), 0, 0);
        request(&raw mut address, &raw mut size, &raw mut most);
        if address.is_null() || size < bytes {
            records.dropped += 1;
            complete(std::ptr::null_mut(), 0, 0);
            return;
        }
        records.current = Some(Lent { address: address as usize, size, valid: 0 });
    }
    let Some(lent) = &mut records.current else { return };
    let place = (lent.address + lent.valid) as *mut u8;
    // SAFETY: the client lent so many bytes there: the buffer is given back before it overflows.
    unsafe { fake_record_write(place, kind, activity) };
    lent.valid += bytes;
    let is_full = lent.valid * 10 >= lent.size * 8 || lent.valid + UNKNOWN_BYTES * 2 > lent.size;
    if is_full && let Some(full) = records.current.take() {
        drop(records);
        let give_back = move || complete_timed(complete, &full);
        let thread = std::thread::Builder::new().name("mspti-complete".to_owned()).spawn(give_back);
        drop(thread);
    }
}

/// Hands over the buffer in use, on the caller's thread, with the lock held.
pub(crate) fn flush() {
    let mut records = lock();
    let Some((_, complete)) = records.callbacks else { return };
    let Some(lent) = records.current.take() else { return };
    let begin = Instant::now();
    complete(lent.address as *mut u8, lent.size, lent.valid);
    let took = begin.elapsed();
    records.completion_ns.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
}

fn complete_timed(complete: Complete, lent: &Lent) {
    let begin = Instant::now();
    complete(lent.address as *mut u8, lent.size, lent.valid);
    let took = begin.elapsed();
    lock().completion_ns.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
}

/// A record of a kind that this library does not know.
pub(crate) struct UnknownKind;

/// The next record by this thread's cursor; `None` at the end, which alone resets the cursor.
///
/// # Safety
///
/// `buffer` holds `valid` bytes of records.
pub(crate) unsafe fn next(buffer: *mut u8, valid: usize) -> Result<Option<*mut u8>, UnknownKind> {
    let cursor = CURSOR.get();
    if cursor >= valid {
        CURSOR.set(0);
        return Ok(None);
    }
    // SAFETY: the cursor lies inside the buffer, checked above.
    let record = unsafe { buffer.add(cursor) };
    // SAFETY: a record begins with its kind; records lie at multiples of 8.
    let kind = unsafe { record.cast::<u32>().read_unaligned() };
    let known = size(kind);
    if known == 0 {
        return Err(UnknownKind);
    }
    // Growth is set while nothing is recorded; reading it without the lock would be a race.
    CURSOR.set(cursor + known + GROWTH.load(std::sync::atomic::Ordering::Relaxed));
    Ok(Some(record))
}

static GROWTH: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Plays a later version, whose records are longer by so many bytes.
pub(crate) fn grow(bytes: usize) {
    lock().growth = bytes;
    GROWTH.store(bytes, std::sync::atomic::Ordering::Relaxed);
}

/// Forgets the buffer in use without giving it back.
pub(crate) fn forget() {
    lock().current = None;
}

/// Records that were dropped for want of a buffer.
pub(crate) fn dropped() -> u64 {
    lock().dropped
}

/// Takes how long the client's completions took.
pub(crate) fn take_completion_ns() -> Vec<u32> {
    std::mem::take(&mut lock().completion_ns)
}
