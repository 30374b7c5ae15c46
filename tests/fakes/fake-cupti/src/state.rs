//! What the stand-in remembers.
#![expect(unsafe_code, reason = "writes into buffers of its client")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const SUCCESS: c_int = 0;
pub(crate) const INVALID_PARAMETER: c_int = 1;
pub(crate) const MAX_LIMIT_REACHED: c_int = 12;
pub(crate) const MULTIPLE_SUBSCRIBERS: c_int = 39;

/// What a record says; as in `records.c`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Activity {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    pub(crate) graph_node: u64,
    pub(crate) name: *const c_char,
    pub(crate) correlation: u32,
    pub(crate) thread: u32,
    pub(crate) process: u32,
    pub(crate) cbid: u32,
    pub(crate) stream: u32,
    pub(crate) context: u32,
    pub(crate) device: u32,
    pub(crate) graph: u32,
    pub(crate) grid_x: u32,
    pub(crate) block_x: u32,
}

impl Activity {
    /// Nothing.
    pub(crate) const NONE: Self = Self {
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
}

// SAFETY: the name is a string of the test that is never freed.
unsafe impl Send for Activity {}

unsafe extern "C" {
    pub(crate) fn fake_record_size(kind: u32, version: u32) -> usize;
    fn fake_record_write(out: *mut u8, kind: u32, version: u32, activity: *const Activity);
}

pub(crate) type BufferRequested = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
pub(crate) type BufferCompleted = extern "C" fn(*mut c_void, u32, *mut u8, usize, usize);

pub(crate) type Callback = extern "C" fn(*mut c_void, u32, u32, *const c_void);

/// The functions that the application can call, by domain and number: `cudaLaunchKernel`,
/// `cudaMemcpyAsync`, `cuLaunchKernel`, `cuMemcpyAsync`, `cuCtxGetCurrent`.
pub(crate) const FUNCTIONS: [(u32, u32); 5] = [(2, 211), (2, 41), (1, 307), (1, 306), (1, 304)];

/// `CUpti_CallbackData`.
#[repr(C)]
struct CallbackData {
    site: u32,
    name: *const c_char,
    parameters: *const c_void,
    result: *const c_void,
    symbol: *const c_char,
    context: *const c_void,
    context_id: u32,
    correlation_data: *mut u64,
    correlation: u32,
}

// As layouts.txt has it of every version.
const _: () = assert!(
    size_of::<CallbackData>() == 72
        && std::mem::offset_of!(CallbackData, result) == 24
        && std::mem::offset_of!(CallbackData, correlation) == 64
);

/// A buffer that the client lent.
pub(crate) struct Lent {
    address: usize,
    size: usize,
    valid: usize,
    /// Where kernels lie that have not ended.
    running: Vec<(usize, Activity)>,
}

pub(crate) struct Fake {
    pub(crate) version: u32,
    pub(crate) subscribed: bool,
    pub(crate) rival: bool,
    /// What the rival calls itself.
    pub(crate) holder: String,
    /// A client records that has not subscribed.
    pub(crate) stranger: bool,
    pub(crate) callbacks: Option<(BufferRequested, BufferCompleted)>,
    pub(crate) enabled: BTreeSet<u32>,
    /// Whom to call back, and with what.
    pub(crate) subscriber: Option<(Callback, usize)>,
    /// The functions that are called back for, by domain and number.
    pub(crate) called_back: BTreeSet<(u32, u32)>,
    /// The application launches a kernel after each kind that is switched off once kernels are.
    pub(crate) launches_at_end: bool,
    /// What calls return from now on.
    pub(crate) result: c_int,
    pub(crate) thread_id_type: u32,
    pub(crate) correlation: u32,
    pub(crate) dropped: usize,
    pub(crate) holding: bool,
    pub(crate) failing: BTreeMap<String, c_int>,
    pub(crate) calls: BTreeMap<String, u64>,
    /// Buffers in use, by thread.
    pub(crate) lent: BTreeMap<u32, Lent>,
    /// Buffers that are full but hold kernels that still run.
    pub(crate) held: Vec<Lent>,
    /// Threads inside `FlushAll`: the real one deadlocks at two.
    pub(crate) flushing: u32,
    pub(crate) flushed_at_once: u32,
    /// Launches give no record of the device.
    pub(crate) silent: bool,
    /// `cuptiFinalize` is being called.
    pub(crate) finalizing: bool,
    pub(crate) finalize_ms: u64,
    /// What must never happen: a call during a finalize, a finalize while something is on.
    pub(crate) violations: Vec<String>,
}

static FAKE: Mutex<Fake> = Mutex::new(Fake {
    version: 130_001,
    subscribed: false,
    rival: false,
    holder: String::new(),
    stranger: false,
    callbacks: None,
    enabled: BTreeSet::new(),
    subscriber: None,
    called_back: BTreeSet::new(),
    launches_at_end: false,
    result: SUCCESS,
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
    silent: false,
    finalizing: false,
    finalize_ms: 0,
    violations: Vec::new(),
});

pub(crate) fn fake() -> MutexGuard<'static, Fake> {
    FAKE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers that go back to the client once the lock is released.
pub(crate) type Deliveries = Vec<(BufferCompleted, Lent)>;

pub(crate) fn deliver(deliveries: Deliveries) {
    for (completed, lent) in deliveries {
        completed(std::ptr::null_mut(), 0, lent.address as *mut u8, lent.size, lent.valid);
    }
}

/// A call's begin or end, as the subscriber is told it; without the lock, for the client may call.
pub(crate) fn tell(site: u32, domain: u32, function: u32, correlation: u32) {
    let (callback, data, result) = {
        let fake = fake();
        let Some((callback, data)) = fake.subscriber else { return };
        if !fake.called_back.contains(&(domain, function)) {
            return;
        }
        (callback, data, fake.result)
    };
    let mut kept = 0;
    let at_end: *const c_void = (&raw const result).cast();
    let info = CallbackData {
        site,
        name: std::ptr::null(),
        parameters: std::ptr::null(),
        result: if site == 1 { at_end } else { std::ptr::null() },
        symbol: std::ptr::null(),
        context: std::ptr::null(),
        context_id: 1,
        correlation_data: &raw mut kept,
        correlation,
    };
    callback(data as *mut c_void, domain, function, (&raw const info).cast());
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

impl Fake {
    /// Counts a call and says what it shall return.
    pub(crate) fn called(&mut self, name: &str) -> c_int {
        *self.calls.entry(name.to_owned()).or_default() += 1;
        if self.finalizing {
            self.violations.push(format!("{name} during cuptiFinalize"));
        }
        self.failing.get(name).copied().unwrap_or(SUCCESS)
    }

    /// Whether the subscriber is called back for a function.
    pub(crate) fn call_back(&mut self, domain: u32, function: u32, on: bool) {
        if on {
            self.called_back.insert((domain, function));
        } else {
            self.called_back.remove(&(domain, function));
        }
    }

    pub(crate) fn thread_id(&self) -> u32 {
        if self.thread_id_type == 1 {
            // SAFETY: takes nothing and cannot fail.
            return unsafe { libc_gettid() } as u32;
        }
        // SAFETY: takes nothing and cannot fail.
        unsafe { libc_pthread_self() as u32 }
    }

    /// Writes a record into the buffer of this thread, asking for a new one where it is full.
    pub(crate) fn record(&mut self, kind: u32, activity: &Activity, running: bool) -> Deliveries {
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
    pub(crate) fn flush(&mut self, forced: bool) -> Deliveries {
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
    pub(crate) fn end_kernels(&mut self) {
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
