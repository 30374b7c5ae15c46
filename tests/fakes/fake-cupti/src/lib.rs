//! A libcupti that has no GPU behind it.
//!
//! It exports CUPTI's symbols and a few of its own (`fake_…`), by which a test plays the
//! application: it launches, and decides when kernels end, which calls fail and who else is
//! subscribed. Buffers are per thread, as CUPTI's are since 13.0; `FlushAll` hands over those
//! whose records are complete, a forced one hands over the rest with an end of 0. A launch through
//! the runtime has a driver call inside, of the same correlation: its record comes first, its
//! callbacks between those of the runtime call.

#![expect(unsafe_code, reason = "plays a C library")]

pub mod application;
mod state;

use std::ffi::{c_char, c_int, c_void};

use state::{
    Activity, BufferCompleted, BufferRequested, Callback, FUNCTIONS, INVALID_PARAMETER,
    MAX_LIMIT_REACHED, MULTIPLE_SUBSCRIBERS, SUCCESS, deliver, fake, fake_record_size, now,
};

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
    callback: Callback,
    data: *mut c_void,
) -> c_int {
    answer!("cuptiSubscribe", |fake| {
        if fake.subscribed || fake.rival {
            return MULTIPLE_SUBSCRIBERS;
        }
        fake.subscribed = true;
        fake.subscriber = Some((callback, data as usize));
        fake.called_back.clear();
        // SAFETY: the caller's duty.
        unsafe { *handle = 0x5EED as *mut c_void };
        SUCCESS
    })
}

/// `CUpti_SubscriberParams`.
#[repr(C)]
pub struct SubscriberParams {
    size: usize,
    name: *const c_char,
    old_name: *mut c_char,
    old_size: usize,
}

/// `cuptiSubscribe_v2`, as CUPTI 13.0 documents it.
///
/// # Safety
///
/// `handle` can be written; `params` is null or as CUPTI wants it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiSubscribe_v2(
    handle: *mut *mut c_void,
    callback: Callback,
    data: *mut c_void,
    params: *mut SubscriberParams,
) -> c_int {
    if !params.is_null() {
        // SAFETY: the caller's duty.
        let params = unsafe { &*params };
        if params.size != size_of::<SubscriberParams>() {
            return INVALID_PARAMETER;
        }
        let holder = fake().holder.clone();
        if !params.old_name.is_null() && holder.len() < params.old_size {
            // SAFETY: the client gave that much room, and the name is shorter.
            unsafe {
                params.old_name.copy_from_nonoverlapping(holder.as_ptr().cast(), holder.len())
            };
        }
    }
    // SAFETY: the caller's duty.
    unsafe { cuptiSubscribe(handle, callback, data) }
}

/// `cuptiUnsubscribe`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiUnsubscribe(_handle: *mut c_void) -> c_int {
    answer!("cuptiUnsubscribe", |fake| {
        fake.subscribed = false;
        fake.subscriber = None;
        if !fake.called_back.is_empty() {
            fake.violations.push("cuptiUnsubscribe while something is called back for".to_owned());
        }
        fake.called_back.clear();
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
        SUCCESS
    })
}

/// `cuptiActivityEnableAndDump`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityEnableAndDump(kind: u32) -> c_int {
    let deliveries = {
        let mut fake = fake();
        let code = fake.called("cuptiActivityEnableAndDump");
        if code != SUCCESS {
            return code;
        }
        fake.enabled.insert(kind);
        let existing = Activity { stream: 7, context: 1, ..Activity::NONE };
        fake.record(kind, &existing, false)
    };
    deliver(deliveries);
    SUCCESS
}

/// `cuptiActivityDisable`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityDisable(kind: u32) -> c_int {
    let (code, launches) = {
        let mut fake = fake();
        let code = fake.called("cuptiActivityDisable");
        if code == SUCCESS {
            fake.enabled.remove(&kind);
        }
        (
            code,
            fake.launches_at_end && !fake.enabled.contains(&application::kind::CONCURRENT_KERNEL),
        )
    };
    if launches {
        application::launch_once();
    }
    code
}

/// `cuptiEnableCallback`, as CUPTI documents it. Of the functions it has those that the stand-in's
/// application can call.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiEnableCallback(
    on: u32,
    _subscriber: *mut c_void,
    domain: u32,
    function: u32,
) -> c_int {
    answer!("cuptiEnableCallback", |fake| {
        if !FUNCTIONS.contains(&(domain, function)) {
            return INVALID_PARAMETER;
        }
        fake.call_back(domain, function, on != 0);
        SUCCESS
    })
}

/// `cuptiEnableDomain`, as CUPTI documents it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiEnableDomain(on: u32, _subscriber: *mut c_void, domain: u32) -> c_int {
    answer!("cuptiEnableDomain", |fake| {
        for (_, function) in FUNCTIONS.iter().filter(|(of, _)| *of == domain) {
            fake.call_back(domain, *function, on != 0);
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

/// `cuptiActivityGetEnabledKinds`, as CUPTI 13.2 documents it; tells the number alone.
///
/// # Safety
///
/// `count` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiActivityGetEnabledKinds(
    _subscriber: *mut c_void,
    _kinds: *mut u32,
    _size: *mut u32,
    count: *mut u32,
) -> c_int {
    answer!("cuptiActivityGetEnabledKinds", |fake| {
        let kinds = fake.enabled.len() as u32 + u32::from(fake.stranger);
        // SAFETY: the caller's duty.
        unsafe { *count = kinds };
        SUCCESS
    })
}

/// `cuptiActivityRegisterTimestampCallback`, as CUPTI documents it. Nobody shall call it.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiActivityRegisterTimestampCallback(_callback: *const c_void) -> c_int {
    answer!("cuptiActivityRegisterTimestampCallback", |_fake| SUCCESS)
}

/// `cuptiFinalize`, as CUPTI documents it. Takes as long as the test says.
#[unsafe(no_mangle)]
pub extern "C" fn cuptiFinalize() -> c_int {
    let pause = {
        let mut fake = fake();
        let code = fake.called("cuptiFinalize");
        if code != SUCCESS {
            return code;
        }
        if !fake.subscribed {
            fake.violations.push("cuptiFinalize without the subscription".to_owned());
        }
        if !fake.enabled.is_empty() || fake.stranger || fake.flushing > 0 {
            fake.violations.push("cuptiFinalize while something records".to_owned());
        }
        fake.finalizing = true;
        std::time::Duration::from_millis(fake.finalize_ms)
    };
    std::thread::sleep(pause);
    let mut fake = fake();
    fake.finalizing = false;
    fake.subscribed = false;
    fake.subscriber = None;
    fake.called_back.clear();
    fake.callbacks = None;
    fake.enabled.clear();
    fake.lent.clear();
    fake.held.clear();
    SUCCESS
}
