//! What a test calls to play the application, the driver and other tools.

use std::ffi::{CStr, c_char, c_int};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::records::{self, Activity};
use crate::{SUCCESS, record, with};

/// CLOCK_REALTIME, ns.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

/// The calling thread's number.
pub(crate) fn thread() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::gettid() as u32 }
}

/// Plays the library of this CANN from now on: 80, 81, 82, 90, 91.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cann(version: u32) {
    with(|fake| fake.cann = version);
}

/// The process was started with libmspti in LD_PRELOAD, or not.
#[unsafe(no_mangle)]
pub extern "C" fn fake_preload(preloaded: bool) {
    with(|fake| fake.preload = Some(preloaded));
}

/// Whether the device's channel can be started; where not, `Enable` succeeds all the same.
#[unsafe(no_mangle)]
pub extern "C" fn fake_channel(works: bool) {
    with(|fake| fake.has_channel = works);
}

/// A call fails with `code` from now on; 0 = it succeeds again.
///
/// # Safety
///
/// `name` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_fail(name: *const c_char, code: c_int) {
    // SAFETY: the caller's duty.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    with(|fake| match code {
        SUCCESS => fake.failing.remove(&name),
        code => fake.failing.insert(name, code),
    });
}

/// How often a call was made.
///
/// # Safety
///
/// `name` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_calls(name: *const c_char) -> u64 {
    // SAFETY: the caller's duty.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    with(|fake| fake.calls.get(&name).copied().unwrap_or(0))
}

/// All calls that were made.
#[unsafe(no_mangle)]
pub extern "C" fn fake_all_calls() -> u64 {
    with(|fake| fake.calls.values().sum())
}

/// How many kinds are on.
#[unsafe(no_mangle)]
pub extern "C" fn fake_enabled() -> u64 {
    with(|fake| fake.enabled.len() as u64)
}

/// How many kinds were on when the subscription was last given back: the library leaves them on.
#[unsafe(no_mangle)]
pub extern "C" fn fake_kinds_at_unsubscribe() -> u64 {
    with(|fake| fake.kinds_at_unsubscribe)
}

/// The application registers a kernel. Only a library that was loaded late asks for it.
///
/// # Safety
///
/// `name` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_register(name: *const c_char) {
    // SAFETY: the caller's duty.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    with(|fake| {
        if let Some(registered) = &mut fake.registered {
            registered.insert(name);
        }
    });
}

/// Another tool holds the one subscription, or leaves.
#[unsafe(no_mangle)]
pub extern "C" fn fake_rival(present: bool) {
    with(|fake| fake.rival = present);
}

extern "C" fn rival_request(buffer: *mut *mut u8, size: *mut usize, most: *mut usize) {
    const BYTES: usize = 2 << 20;
    // SAFETY: plain allocation.
    let memory = unsafe { libc::malloc(BYTES) };
    // SAFETY: the library passes three places to write to.
    unsafe { *buffer = memory.cast() };
    // SAFETY: as above.
    unsafe { *size = BYTES };
    // SAFETY: as above.
    unsafe { *most = 0 };
}

extern "C" fn rival_complete(buffer: *mut u8, _size: usize, _valid: usize) {
    // SAFETY: this is what torch_npu does with every buffer, its own or not; ours are malloc's too.
    unsafe { libc::free(buffer.cast()) };
}

/// Another tool takes the callback slot, as torch_npu does even where its subscription failed; it
/// frees whatever comes back.
#[unsafe(no_mangle)]
pub extern "C" fn fake_rival_takes_the_slot() {
    records::register(rival_request, rival_complete);
}

/// Records one activity; 1 where its kind is off.
///
/// # Safety
///
/// `activity` points to an [`Activity`] whose names are never freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_emit(kind: u32, activity: *const Activity) -> c_int {
    // SAFETY: the caller's duty.
    let activity = unsafe { *activity };
    c_int::from(!record(kind, &activity))
}

/// The driver hands over a record of a kind that this library itself does not know.
#[unsafe(no_mangle)]
pub extern "C" fn fake_unknown(kind: u32) {
    records::write(kind, &Activity::NOTHING);
}

/// Records are longer by so many bytes from now on, as a later version might have them.
#[unsafe(no_mangle)]
pub extern "C" fn fake_grow(bytes: usize) {
    records::grow(bytes);
}

/// The application launches a kernel `count` times on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn fake_launch(
    name: *const c_char,
    kernel_type: *const c_char,
    count: u64,
    stream: u32,
) {
    for _ in 0..count {
        let correlation = next_correlation();
        launch(name, kernel_type, stream, correlation, now(), 1_500);
    }
}

/// As many kernel records as fast as they come, without launches.
#[unsafe(no_mangle)]
pub extern "C" fn fake_burst(name: *const c_char, kernel_type: *const c_char, count: u64) {
    let start = now();
    let mut activity = Activity { name, kernel_type, stream: 3, ..Activity::NOTHING };
    for number in 0..count {
        activity.start = start + number * 10;
        activity.end = activity.start + 9;
        activity.correlation = next_correlation();
        records::write(2, &activity);
    }
}

static CORRELATION: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

pub(crate) fn next_correlation() -> u64 {
    CORRELATION.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
}

/// One launch with all its records; says when the kernel began, if it was recorded.
pub(crate) fn launch(
    name: *const c_char,
    kernel_type: *const c_char,
    stream: u32,
    correlation: u64,
    at: u64,
    duration: u64,
) -> Option<u64> {
    let call = Activity {
        start: at,
        end: at + 500,
        correlation,
        name: c"aclrtLaunchKernel".as_ptr(),
        process: std::process::id(),
        thread: thread(),
        stream,
        ..Activity::NOTHING
    };
    for kind in [3, 12] {
        record(kind, &call);
    }
    let pushed: Vec<(u32, u64)> = with(|fake| {
        let tops = fake.external.iter().filter_map(|(kind, ids)| Some((*kind, *ids.last()?)));
        tops.collect()
    });
    for (external_kind, id) in pushed {
        record(8, &Activity { external_kind, id, ..call });
    }
    let start = at + 600;
    let kernel = Activity { start, end: start + duration, name, kernel_type, ..call };
    record(2, &kernel).then_some(start)
}

/// Records that were dropped for want of a buffer.
#[unsafe(no_mangle)]
pub extern "C" fn fake_dropped() -> u64 {
    records::dropped()
}

/// Copies how long the profiler's completions took, in ns, into `out`; says how many there were,
/// and forgets them.
///
/// # Safety
///
/// `out` has room for `room` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_completion_ns(out: *mut u32, room: usize) -> usize {
    let taken = records::take_completion_ns();
    let count = taken.len().min(room);
    // SAFETY: the caller's duty; the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(taken.as_ptr(), out, count) };
    count
}

/// As freshly loaded, except for records under way.
#[unsafe(no_mangle)]
pub extern "C" fn fake_reset() {
    with(|fake| {
        fake.cann = 91;
        fake.preload = None;
        fake.rival = false;
        fake.has_channel = true;
        fake.external.clear();
        fake.failing.clear();
    });
    records::grow(0);
    records::forget();
    crate::arrivals::forget();
}
