//! The side of the application and of the test.
#![expect(unsafe_code, reason = "plays a C library")]

use std::ffi::{c_char, c_int, c_void};

use crate::state::{
    Activity, Deliveries, Fake, SUCCESS, deliver, fake, fake_record_size, now, tell,
};

/// Plays the library's version from now on (`18` = CUDA 12.1 … `130401`).
#[unsafe(no_mangle)]
pub extern "C" fn fake_version(version: u32) {
    fake().version = version;
}

/// Another tool subscribes or leaves.
#[unsafe(no_mangle)]
pub extern "C" fn fake_rival(present: bool) {
    let mut fake = fake();
    fake.rival = present;
    fake.holder = if present { "CUPTI for Nsight Systems".to_owned() } else { String::new() };
}

/// A client that never subscribed records, or stops to.
#[unsafe(no_mangle)]
pub extern "C" fn fake_stranger(recording: bool) {
    fake().stranger = recording;
}

/// Whether launches give no record of the device from now on.
#[unsafe(no_mangle)]
pub extern "C" fn fake_silent(silent: bool) {
    fake().silent = silent;
}

/// What launches and copies return from now on.
#[unsafe(no_mangle)]
pub extern "C" fn fake_result(result: c_int) {
    fake().result = result;
}

/// Whether the application launches a kernel after each kind that is switched off once kernels are.
#[unsafe(no_mangle)]
pub extern "C" fn fake_launches_at_end(launches: bool) {
    fake().launches_at_end = launches;
}

pub(crate) fn launch_once() {
    launch(c"late".as_ptr(), 7, 1, Some(cbid::CUDA_LAUNCH_KERNEL));
}

/// How long `cuptiFinalize` takes from now on.
#[unsafe(no_mangle)]
pub extern "C" fn fake_finalize_ms(ms: u64) {
    fake().finalize_ms = ms;
}

/// How often something happened that must never happen; each is printed.
#[unsafe(no_mangle)]
pub extern "C" fn fake_violations() -> usize {
    let fake = fake();
    for violation in &fake.violations {
        // Onto the standard error of the test that plays the process.
        let line = format!("{violation}\n");
        // SAFETY: the bytes live for the call.
        unsafe { write(2, line.as_ptr().cast(), line.len()) };
    }
    fake.violations.len()
}

/// Kinds that are on.
#[unsafe(no_mangle)]
pub extern "C" fn fake_enabled() -> usize {
    fake().enabled.len()
}

/// Whether anybody is subscribed.
#[unsafe(no_mangle)]
pub extern "C" fn fake_subscribed() -> bool {
    fake().subscribed
}

/// The size of a record of the version, in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn fake_size(kind: u32, version: u32) -> usize {
    // SAFETY: plain computation in C.
    unsafe { fake_record_size(kind, version) }
}

/// From here on an exit of the process while `cuptiFinalize` runs ends it with 42, as a driver
/// that is taken down under CUPTI would crash.
#[unsafe(no_mangle)]
pub extern "C" fn fake_watch_exit() {
    extern "C" fn look() {
        if fake().finalizing {
            // SAFETY: ends the process.
            unsafe { _exit(42) };
        }
    }
    // SAFETY: a plain function of a library that stays loaded.
    unsafe { atexit(look) };
}

unsafe extern "C" {
    fn _exit(code: c_int) -> !;
    fn atexit(handler: extern "C" fn()) -> c_int;
    fn write(file: c_int, text: *const c_void, bytes: usize) -> isize;
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

/// Kernels that run go on; those that are launched from now on end.
#[unsafe(no_mangle)]
pub extern "C" fn fake_release_new() {
    fake().holding = false;
}

/// The driver drops records.
#[unsafe(no_mangle)]
pub extern "C" fn fake_drop(count: usize) {
    fake().dropped += count;
}

/// `CUpti_runtime_api_trace_cbid` and `CUpti_driver_api_trace_cbid`.
mod cbid {
    pub(super) const CUDA_LAUNCH_KERNEL: u32 = 211;
    pub(super) const CUDA_MEMCPY_ASYNC: u32 = 41;
    pub(super) const CU_LAUNCH_KERNEL: u32 = 307;
    pub(super) const CU_MEMCPY_ASYNC: u32 = 306;
    pub(super) const CU_CTX_GET_CURRENT: u32 = 304;
}

/// `CUpti_CallbackDomain`.
const DRIVER_API: u32 = 1;
const RUNTIME_API: u32 = 2;
/// `CUpti_ApiCallbackSite`.
const ENTER: u32 = 0;
const EXIT: u32 = 1;

/// `CUpti_ActivityKind`.
pub(crate) mod kind {
    pub(crate) const MEMCPY: u32 = 1;
    pub(crate) const MEMSET: u32 = 2;
    pub(crate) const DRIVER: u32 = 4;
    pub(crate) const RUNTIME: u32 = 5;
    pub(crate) const CONCURRENT_KERNEL: u32 = 10;
    pub(crate) const OVERHEAD: u32 = 17;
    pub(crate) const MEMCPY_PEER: u32 = 22;
    pub(crate) const SYNCHRONIZATION: u32 = 38;
}

impl Fake {
    fn next_call(&mut self) -> Activity {
        self.correlation = self.correlation.wrapping_add(1).max(1);
        let start = now();
        Activity {
            start,
            end: start + 500,
            correlation: self.correlation,
            thread: self.thread_id(),
            process: std::process::id(),
            context: 1,
            ..Activity::NONE
        }
    }

    /// Records of the driver call, and of the runtime call around it, unless the application calls
    /// the driver itself.
    fn calls(&mut self, call: &Activity, driver: u32, runtime: Option<u32>) -> Deliveries {
        let mut deliveries = Vec::new();
        for function in [driver, cbid::CU_CTX_GET_CURRENT] {
            if self.enabled.contains(&kind::DRIVER) {
                let inner = Activity {
                    start: call.start + 100,
                    end: call.end - 100,
                    cbid: function,
                    ..*call
                };
                deliveries.extend(self.record(kind::DRIVER, &inner, false));
            }
        }
        if let Some(runtime) = runtime
            && self.enabled.contains(&kind::RUNTIME)
        {
            let outer = Activity { cbid: runtime, ..*call };
            deliveries.extend(self.record(kind::RUNTIME, &outer, false));
        }
        deliveries
    }

    fn work(&mut self, kind: u32, work: &Activity, running: bool) -> Deliveries {
        if !self.enabled.contains(&kind) || self.silent {
            return Vec::new();
        }
        self.record(kind, work, running)
    }
}

/// Does what a call does, with the callbacks of its begin and end around it, and those of the
/// driver calls that a runtime call makes.
fn with_callbacks(correlation: u32, driver: u32, runtime: Option<u32>, does: impl FnOnce()) {
    if let Some(function) = runtime {
        tell(ENTER, RUNTIME_API, function, correlation);
    }
    tell(ENTER, DRIVER_API, driver, correlation);
    does();
    tell(EXIT, DRIVER_API, driver, correlation);
    for site in [ENTER, EXIT] {
        tell(site, DRIVER_API, cbid::CU_CTX_GET_CURRENT, correlation);
    }
    if let Some(function) = runtime {
        tell(EXIT, RUNTIME_API, function, correlation);
    }
}

fn launch(name: *const c_char, stream: u32, grid: u32, runtime: Option<u32>) {
    let call = fake().next_call();
    with_callbacks(call.correlation, cbid::CU_LAUNCH_KERNEL, runtime, || {
        launched(&Activity { name, stream, grid_x: grid, block_x: 128, ..call }, runtime);
    });
}

fn launched(call: &Activity, runtime: Option<u32>) {
    let mut fake = fake();
    let holding = fake.holding;
    let end = if holding { 0 } else { call.start + 1_500 };
    let kernel = Activity { start: call.start + 600, end, ..*call };
    // The device's record has its place from the launch on.
    let mut deliveries = fake.work(kind::CONCURRENT_KERNEL, &kernel, holding);
    deliveries.extend(fake.calls(call, cbid::CU_LAUNCH_KERNEL, runtime));
    drop(fake);
    deliver(deliveries);
}

/// The application launches a kernel `count` times on this thread, through the runtime.
#[unsafe(no_mangle)]
pub extern "C" fn fake_launch(name: *const c_char, count: u64, stream: u32, grid: u32) {
    for _ in 0..count {
        launch(name, stream, grid, Some(cbid::CUDA_LAUNCH_KERNEL));
    }
}

/// The same through the driver.
#[unsafe(no_mangle)]
pub extern "C" fn fake_launch_by_driver(name: *const c_char, count: u64, stream: u32) {
    for _ in 0..count {
        launch(name, stream, 1, None);
    }
}

/// The application copies, copies to another device and sets memory, one of each.
#[unsafe(no_mangle)]
pub extern "C" fn fake_copy(bytes: u64, stream: u32) {
    let runtime = Some(cbid::CUDA_MEMCPY_ASYNC);
    for kind in [kind::MEMCPY, kind::MEMCPY_PEER, kind::MEMSET] {
        let call = Activity { bytes, stream, ..fake().next_call() };
        with_callbacks(call.correlation, cbid::CU_MEMCPY_ASYNC, runtime, || {
            let mut fake = fake();
            let work = Activity { end: call.start + 2_000, ..call };
            let mut deliveries = fake.work(kind, &work, false);
            deliveries.extend(fake.calls(&call, cbid::CU_MEMCPY_ASYNC, runtime));
            drop(fake);
            deliver(deliveries);
        });
    }
}

/// The application waits for a stream, and CUPTI takes some time for itself.
#[unsafe(no_mangle)]
pub extern "C" fn fake_wait(stream: u32) {
    let mut fake = fake();
    let call = Activity { stream, ..fake.next_call() };
    let mut deliveries = Vec::new();
    for kind in [kind::SYNCHRONIZATION, kind::OVERHEAD] {
        deliveries.extend(fake.work(kind, &call, false));
    }
    drop(fake);
    deliver(deliveries);
}

/// The driver delivers a record of a kind that nobody asked for.
#[unsafe(no_mangle)]
pub extern "C" fn fake_unknown(kind: u32) {
    let deliveries = fake().record(kind, &Activity::NONE, false);
    deliver(deliveries);
}
