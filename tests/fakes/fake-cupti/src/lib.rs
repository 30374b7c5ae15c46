//! A libcupti that has no GPU behind it.
//!
//! It exports CUPTI's symbols and a few of its own (`fake_…`), by which a test plays the
//! application: it launches, and decides when kernels end, which calls fail and who else is
//! subscribed. Buffers are per thread, as CUPTI's are since 13.0; `FlushAll` hands over those
//! whose records are complete, a forced one hands over the rest with an end of 0.

#![expect(unsafe_code, reason = "plays a C library")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

const SUCCESS: c_int = 0;
const INVALID_PARAMETER: c_int = 1;
const MAX_LIMIT_REACHED: c_int = 12;
const MULTIPLE_SUBSCRIBERS: c_int = 39;

/// What a record says; as in `records.c`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Activity {
    start: u64,
    end: u64,
    bytes: u64,
    graph_node: u64,
    name: *const c_char,
    correlation: u32,
    thread: u32,
    process: u32,
    cbid: u32,
    stream: u32,
    context: u32,
    device: u32,
    graph: u32,
    grid_x: u32,
    block_x: u32,
}

// SAFETY: the name is a string of the test that is never freed.
unsafe impl Send for Activity {}

unsafe extern "C" {
    fn fake_record_size(kind: u32, version: u32) -> usize;
    fn fake_record_write(out: *mut u8, kind: u32, version: u32, activity: *const Activity);
}

type BufferRequested = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
type BufferCompleted = extern "C" fn(*mut c_void, u32, *mut u8, usize, usize);

/// A buffer that the client lent.
struct Lent {
    address: usize,
    size: usize,
    valid: usize,
    /// Where kernels lie that have not ended.
    running: Vec<(usize, Activity)>,
}

struct Fake {
    version: u32,
    subscribed: bool,
    rival: bool,
    callbacks: Option<(BufferRequested, BufferCompleted)>,
    enabled: BTreeSet<u32>,
    driver_off: BTreeSet<u32>,
    runtime_off: BTreeSet<u32>,
    thread_id_type: u32,
    correlation: u32,
    dropped: usize,
    holding: bool,
    failing: BTreeMap<String, c_int>,
    calls: BTreeMap<String, u64>,
    /// Buffers in use, by thread.
    lent: BTreeMap<u32, Lent>,
    /// Buffers that are full but hold kernels that still run.
    held: Vec<Lent>,
    /// Threads inside `FlushAll`: the real one deadlocks at two.
    flushing: u32,
    flushed_at_once: u32,
}

static FAKE: Mutex<Fake> = Mutex::new(Fake {
    version: 130_001,
    subscribed: false,
    rival: false,
    callbacks: None,
    enabled: BTreeSet::new(),
    driver_off: BTreeSet::new(),
    runtime_off: BTreeSet::new(),
    thread_id_type: 0,
    correlation: 0,
    dropped: 0,
    holding: false,
    failing: BTreeMap::new(),
    calls: BTreeMap::new(),
    lent: BTreeMap::new(),
    held: Vec::new(),
    flushing: 0,
    flushed_at_once: 0,
});

fn fake() -> MutexGuard<'static, Fake> {
    FAKE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers that go back to the client once the lock is released.
type Deliveries = Vec<(BufferCompleted, Lent)>;

fn deliver(deliveries: Deliveries) {
    for (completed, lent) in deliveries {
        completed(std::ptr::null_mut(), 0, lent.address as *mut u8, lent.size, lent.valid);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

impl Fake {
    /// Counts a call and says what it shall return.
    fn called(&mut self, name: &str) -> c_int {
        *self.calls.entry(name.to_owned()).or_default() += 1;
        self.failing.get(name).copied().unwrap_or(SUCCESS)
    }

    fn thread_id(&self) -> u32 {
        if self.thread_id_type == 1 {
            // SAFETY: takes nothing and cannot fail.
            return unsafe { libc_gettid() } as u32;
        }
        // SAFETY: takes nothing and cannot fail.
        unsafe { libc_pthread_self() as u32 }
    }

    /// Writes a record into the buffer of this thread, asking for a new one where it is full.
    fn record(&mut self, kind: u32, activity: &Activity, running: bool) -> Deliveries {
        let mut deliveries = Vec::new();
        let Some((requested, completed)) = self.callbacks else { return deliveries };
        // SAFETY: plain computation in C.
        let size = unsafe { fake_record_size(kind, self.version) };
        // SAFETY: takes nothing and cannot fail.
        let thread = unsafe { libc_gettid() } as u32;
        let full = self.lent.get(&thread).is_some_and(|lent| lent.valid + size > lent.size);
        if full && let Some(lent) = self.lent.remove(&thread) {
            if lent.running.is_empty() {
                deliveries.push((completed, lent));
            } else {
                self.held.push(lent);
            }
        }
        if !self.lent.contains_key(&thread) {
            let (mut address, mut bytes, mut most) = (std::ptr::null_mut(), 0, 0);
            requested(&raw mut address, &raw mut bytes, &raw mut most);
            if address.is_null() || bytes < size {
                self.dropped += 1;
                return deliveries;
            }
            let lent =
                Lent { address: address as usize, size: bytes, valid: 0, running: Vec::new() };
            self.lent.insert(thread, lent);
        }
        let version = self.version;
        let Some(lent) = self.lent.get_mut(&thread) else { return deliveries };
        let place = (lent.address + lent.valid) as *mut u8;
        // SAFETY: the client lent `size` bytes there, checked above.
        unsafe { fake_record_write(place, kind, version, activity) };
        if running {
            lent.running.push((lent.valid, *activity));
        }
        lent.valid += size;
        deliveries
    }

    /// Takes the buffers that can go back.
    fn flush(&mut self, forced: bool) -> Deliveries {
        let Some((_, completed)) = self.callbacks else { return Vec::new() };
        let mut deliveries = Vec::new();
        let mut kept = Vec::new();
        let held = std::mem::take(&mut self.held);
        let lent = std::mem::take(&mut self.lent);
        for lent in held {
            if forced || lent.running.is_empty() {
                deliveries.push((completed, lent));
            } else {
                kept.push(lent);
            }
        }
        for (thread, lent) in lent {
            if lent.valid > 0 && (forced || lent.running.is_empty()) {
                deliveries.push((completed, lent));
            } else {
                self.lent.insert(thread, lent);
            }
        }
        self.held = kept;
        deliveries
    }

    /// The kernels that run end now.
    fn end_kernels(&mut self) {
        let end = now();
        let version = self.version;
        for lent in self.held.iter_mut().chain(self.lent.values_mut()) {
            for (offset, mut activity) in lent.running.drain(..) {
                activity.end = end;
                let place = (lent.address + offset) as *mut u8;
                // SAFETY: the record lies in a buffer that is still lent.
                unsafe { fake_record_write(place, 10, version, &raw const activity) };
            }
        }
    }
}

unsafe extern "C" {
    #[link_name = "gettid"]
    fn libc_gettid() -> c_int;
    #[link_name = "pthread_self"]
    fn libc_pthread_self() -> usize;
}

// The side of the application and the test.

/// Plays the library's version from now on (`18` = CUDA 12.1 … `130401`).
#[unsafe(no_mangle)]
pub extern "C" fn fake_version(version: u32) {
    fake().version = version;
}

/// Another tool subscribes or leaves.
#[unsafe(no_mangle)]
pub extern "C" fn fake_rival(present: bool) {
    fake().rival = present;
}

/// A call fails with `code` from now on; 0 = it succeeds again.
///
/// # Safety
///
/// `name` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_fail(name: *const c_char, code: c_int) {
    // SAFETY: the caller's duty.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy().into_owned();
    if code == SUCCESS {
        fake().failing.remove(&name);
    } else {
        fake().failing.insert(name, code);
    }
}

/// How often a call was made.
///
/// # Safety
///
/// `name` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_calls(name: *const c_char) -> u64 {
    // SAFETY: the caller's duty.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy().into_owned();
    fake().calls.get(&name).copied().unwrap_or(0)
}

/// All calls that were made.
#[unsafe(no_mangle)]
pub extern "C" fn fake_all_calls() -> u64 {
    fake().calls.values().sum()
}

/// The most threads that were inside `FlushAll` at once.
#[unsafe(no_mangle)]
pub extern "C" fn fake_flushed_at_once() -> u32 {
    fake().flushed_at_once
}

/// Kernels that are launched from now on run until this is called with `false`.
#[unsafe(no_mangle)]
pub extern "C" fn fake_hold(holding: bool) {
    let mut fake = fake();
    fake.holding = holding;
    if !holding {
        fake.end_kernels();
    }
}

/// The driver drops records.
#[unsafe(no_mangle)]
pub extern "C" fn fake_drop(count: usize) {
    fake().dropped += count;
}

/// The application launches a kernel `count` times on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn fake_launch(name: *const c_char, count: u64, stream: u32, grid: u32) {
    const CUDA_LAUNCH_KERNEL: u32 = 211;
    for _ in 0..count {
        let mut fake = fake();
        fake.correlation = fake.correlation.wrapping_add(1).max(1);
        let start = now();
        let call = Activity {
            start,
            end: start + 500,
            bytes: 0,
            graph_node: 0,
            name,
            correlation: fake.correlation,
            thread: fake.thread_id(),
            process: std::process::id(),
            cbid: CUDA_LAUNCH_KERNEL,
            stream,
            context: 1,
            device: 0,
            graph: 0,
            grid_x: grid,
            block_x: 128,
        };
        let mut deliveries = Vec::new();
        if fake.enabled.contains(&5) && !fake.runtime_off.contains(&CUDA_LAUNCH_KERNEL) {
            deliveries.extend(fake.record(5, &call, false));
        }
        if fake.enabled.contains(&10) {
            let holding = fake.holding;
            let end = if holding { 0 } else { start + 1_500 };
            let kernel = Activity { start: start + 600, end, ..call };
            deliveries.extend(fake.record(10, &kernel, holding));
        }
        drop(fake);
        deliver(deliveries);
    }
}

/// The application copies and sets memory, one of each.
#[unsafe(no_mangle)]
pub extern "C" fn fake_copy(bytes: u64, stream: u32) {
    let mut fake = fake();
    fake.correlation = fake.correlation.wrapping_add(1).max(1);
    let start = now();
    let activity = Activity {
        start,
        end: start + 2_000,
        bytes,
        graph_node: 0,
        name: std::ptr::null(),
        correlation: fake.correlation,
        thread: fake.thread_id(),
        process: std::process::id(),
        cbid: 41,
        stream,
        context: 1,
        device: 0,
        graph: 0,
        grid_x: 0,
        block_x: 0,
    };
    let mut deliveries = Vec::new();
    for kind in [1, 2] {
        if fake.enabled.contains(&kind) {
            deliveries.extend(fake.record(kind, &activity, false));
        }
    }
    drop(fake);
    deliver(deliveries);
}

/// The driver delivers a record of a kind that nobody asked for.
#[unsafe(no_mangle)]
pub extern "C" fn fake_unknown(kind: u32) {
    let mut fake = fake();
    let activity = Activity {
        start: 0,
        end: 0,
        bytes: 0,
        graph_node: 0,
        name: std::ptr::null(),
        correlation: 0,
        thread: 0,
        process: 0,
        cbid: 0,
        stream: 0,
        context: 0,
        device: 0,
        graph: 0,
        grid_x: 0,
        block_x: 0,
    };
    let deliveries = fake.record(kind, &activity, false);
    drop(fake);
    deliver(deliveries);
}

// The side of the profiler: CUPTI's symbols.

macro_rules! answer {
    ($name:literal, |$fake:ident| $body:expr) => {{
        let mut $fake = fake();
        match $fake.called($name) {
            SUCCESS => $body,
            code => code,
        }
    }};
}

/// `cuptiGetVersion`, as CUPTI documents it.
///
/// # Safety
///
/// `version` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiGetVersion(version: *mut u32) -> c_int {
    answer!("cuptiGetVersion", |fake| {
        // SAFETY: the caller's duty.
        unsafe { *version = fake.version };
        SUCCESS
    })
}

/// `cuptiGetTimestamp`, as CUPTI documents it.
///
/// # Safety
///
/// `time` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiGetTimestamp(time: *mut u64) -> c_int {
    answer!("cuptiGetTimestamp", |_fake| {
        // SAFETY: the caller's duty.
        unsafe { *time = now() };
        SUCCESS
    })
}

/// `cuptiGetResultString`, as CUPTI documents it.
///
/// # Safety
///
/// `text` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiGetResultString(code: c_int, text: *mut *const c_char) -> c_int {
    let name = match code {
        MULTIPLE_SUBSCRIBERS => c"CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED",
        INVALID_PARAMETER => c"CUPTI_ERROR_INVALID_PARAMETER",
        _ => c"CUPTI_ERROR_UNKNOWN",
    };
    // SAFETY: the caller's duty.
    unsafe { *text = name.as_ptr() };
    SUCCESS
}

/// `cuptiGetCallbackName`, as CUPTI documents it.
///
/// # Safety
///
/// `name` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiGetCallbackName(
    domain: u32,
    id: u32,
    name: *mut *const c_char,
) -> c_int {
    let text = match (domain, id) {
        (2, 211) => c"cudaLaunchKernel_v7000",
        (1, 307) => c"cuLaunchKernel",
        _ => return INVALID_PARAMETER,
    };
    // SAFETY: the caller's duty.
    unsafe { *name = text.as_ptr() };
    SUCCESS
}

/// `cuptiSubscribe`, as CUPTI documents it.
///
/// # Safety
///
/// `handle` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiSubscribe(
    handle: *mut *mut c_void,
    _callback: *const c_void,
    _data: *mut c_void,
) -> c_int {
    answer!("cuptiSubscribe", |fake| {
        if fake.subscribed || fake.rival {
            return MULTIPLE_SUBSCRIBERS;
        }
        fake.subscribed = true;
        // SAFETY: the caller's duty.
        unsafe { *handle = 0x5EED as *mut c_void };
        SUCCESS
    })
}

/// `cuptiUnsubscribe`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiUnsubscribe(_handle: *mut c_void) -> c_int {
    answer!("cuptiUnsubscribe", |fake| {
        fake.subscribed = false;
        SUCCESS
    })
}

/// `cuptiActivityRegisterCallbacks`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityRegisterCallbacks(
    requested: BufferRequested,
    completed: BufferCompleted,
) -> c_int {
    answer!("cuptiActivityRegisterCallbacks", |fake| {
        fake.callbacks = Some((requested, completed));
        SUCCESS
    })
}

/// `cuptiActivityEnable`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityEnable(kind: u32) -> c_int {
    answer!("cuptiActivityEnable", |fake| {
        fake.enabled.insert(kind);
        match kind {
            4 => fake.driver_off.clear(),
            5 => fake.runtime_off.clear(),
            _ => {}
        }
        SUCCESS
    })
}

/// `cuptiActivityDisable`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityDisable(kind: u32) -> c_int {
    answer!("cuptiActivityDisable", |fake| {
        fake.enabled.remove(&kind);
        SUCCESS
    })
}

/// `cuptiActivityEnableRuntimeApi`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityEnableRuntimeApi(id: u32, on: u8) -> c_int {
    answer!("cuptiActivityEnableRuntimeApi", |fake| {
        if on == 0 {
            fake.runtime_off.insert(id);
        } else {
            fake.runtime_off.remove(&id);
        }
        SUCCESS
    })
}

/// `cuptiActivityEnableDriverApi`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityEnableDriverApi(id: u32, on: u8) -> c_int {
    answer!("cuptiActivityEnableDriverApi", |fake| {
        if on == 0 {
            fake.driver_off.insert(id);
        } else {
            fake.driver_off.remove(&id);
        }
        SUCCESS
    })
}

/// `cuptiActivityFlushAll`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityFlushAll(flag: u32) -> c_int {
    let deliveries = {
        let mut fake = fake();
        let code = fake.called("cuptiActivityFlushAll");
        if code != SUCCESS {
            return code;
        }
        fake.flushing += 1;
        fake.flushed_at_once = fake.flushed_at_once.max(fake.flushing);
        fake.flush(flag == 1)
    };
    deliver(deliveries);
    fake().flushing -= 1;
    SUCCESS
}

/// `cuptiActivityGetNextRecord`, as CUPTI documents it.
///
/// # Safety
///
/// `buffer` holds `valid` bytes of records; `record` can be read and written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiActivityGetNextRecord(
    buffer: *mut u8,
    valid: usize,
    record: *mut *mut u8,
) -> c_int {
    let version = fake().version;
    // SAFETY: the caller's duty.
    let current = unsafe { *record };
    let offset = if current.is_null() {
        0
    } else {
        // SAFETY: the record lies in the buffer and begins with its kind.
        let kind = unsafe { current.cast::<u32>().read_unaligned() };
        // SAFETY: plain computation in C.
        let size = unsafe { fake_record_size(kind, version) };
        (current as usize - buffer as usize) + size
    };
    if offset >= valid {
        return MAX_LIMIT_REACHED;
    }
    // SAFETY: inside the buffer, checked above.
    let next = unsafe { buffer.add(offset) };
    // SAFETY: the caller's duty.
    unsafe { *record = next };
    SUCCESS
}

/// `cuptiActivityGetNumDroppedRecords`, as CUPTI documents it.
///
/// # Safety
///
/// `dropped` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiActivityGetNumDroppedRecords(
    _context: *mut c_void,
    _stream: u32,
    dropped: *mut usize,
) -> c_int {
    answer!("cuptiActivityGetNumDroppedRecords", |fake| {
        // SAFETY: the caller's duty.
        unsafe { *dropped = std::mem::take(&mut fake.dropped) };
        SUCCESS
    })
}

/// `cuptiActivitySetAttribute`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivitySetAttribute(
    _attribute: u32,
    _size: *mut usize,
    _value: *mut c_void,
) -> c_int {
    answer!("cuptiActivitySetAttribute", |_fake| SUCCESS)
}

/// `cuptiSetThreadIdType`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiSetThreadIdType(kind: u32) -> c_int {
    answer!("cuptiSetThreadIdType", |fake| {
        fake.thread_id_type = kind;
        SUCCESS
    })
}

/// `cuptiGetThreadIdType`, as CUPTI documents it.
///
/// # Safety
///
/// `kind` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiGetThreadIdType(kind: *mut u32) -> c_int {
    answer!("cuptiGetThreadIdType", |fake| {
        // SAFETY: the caller's duty.
        unsafe { *kind = fake.thread_id_type };
        SUCCESS
    })
}
