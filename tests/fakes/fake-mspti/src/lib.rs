//! A libmspti that has no NPU behind it.
//!
//! It exports MSPTI's symbols and a few of its own (`fake_…`), by which a test plays the
//! application, the driver and rival tools. What it does beside its header is what the vendor's
//! library was seen to do: one global slot for callbacks, a buffer asked for at the first record
//! under the lock that recording threads take, rotation at 80 %, full buffers handed back on a
//! thread of their own, `FlushAll` handing back on its caller's thread with the lock held, a
//! cursor of `GetNextRecord` that belongs to the thread, and result codes by kind, version and
//! preload.
//!
//! Variables for processes that nobody drives from inside: `FAKE_MSPTI_CANN` (`80`, `81`, `82`,
//! `90`, `91`), `FAKE_MSPTI_CRASH` (`load`, `hang`, `call`), `FAKE_MSPTI_CHANNEL` (`off`),
//! `FAKE_MSPTI_WORK` and `FAKE_MSPTI_LEDGER` (see the module `work`).

#![expect(unsafe_code, reason = "plays a C library")]

pub mod arrivals;
pub mod companions;
pub mod play;
pub mod records;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use records::Activity;

const SUCCESS: c_int = 0;
const INVALID_PARAMETER: c_int = 1;
const MULTIPLE_SUBSCRIBERS: c_int = 2;
const MAX_LIMIT_REACHED: c_int = 3;
const QUEUE_EMPTY: c_int = 5;
const WITHOUT_LD_PRELOAD: c_int = 6;
const INNER: c_int = 999;

/// The one handle that is given out.
const HANDLE: usize = 0x5EED;

type Request = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
type Complete = extern "C" fn(*mut u8, usize, usize);

/// What the library knows beside its records.
struct Fake {
    /// Times ten: 80, 81, 82, 90, 91.
    cann: u32,
    /// What a test says of LD_PRELOAD, else the environment counts.
    preload: Option<bool>,
    subscribed: bool,
    rival: bool,
    enabled: BTreeSet<u32>,
    /// How many kinds were on when the subscription was last given back.
    kinds_at_unsubscribe: u64,
    /// Kernels that were registered since this library is loaded, where that was too late for those
    /// before.
    registered: Option<BTreeSet<String>>,
    /// Whether starting the device's channel works; `Enable` does not tell.
    has_channel: bool,
    external: BTreeMap<u32, Vec<u64>>,
    failing: BTreeMap<String, c_int>,
    calls: BTreeMap<String, u64>,
}

static FAKE: Mutex<Option<Fake>> = Mutex::new(None);

/// The state, made at first use from the environment.
fn with<T>(look: impl FnOnce(&mut Fake) -> T) -> T {
    let mut fake: MutexGuard<'_, Option<Fake>> =
        FAKE.lock().unwrap_or_else(PoisonError::into_inner);
    look(fake.get_or_insert_with(Fake::new))
}

impl Fake {
    fn new() -> Self {
        let cann = std::env::var("FAKE_MSPTI_CANN").ok().and_then(|text| text.parse().ok());
        Self {
            cann: cann.unwrap_or(91),
            preload: None,
            subscribed: false,
            rival: false,
            enabled: BTreeSet::new(),
            kinds_at_unsubscribe: 0,
            registered: companions::is_late().then(BTreeSet::new),
            has_channel: std::env::var("FAKE_MSPTI_CHANNEL").as_deref() != Ok("off"),
            external: BTreeMap::new(),
            failing: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    /// Counts a call and says what it shall return.
    fn called(&mut self, name: &str) -> c_int {
        *self.calls.entry(name.to_owned()).or_default() += 1;
        self.failing.get(name).copied().unwrap_or(SUCCESS)
    }

    fn is_preloaded(&self) -> bool {
        self.preload.unwrap_or_else(|| {
            std::env::var("LD_PRELOAD").is_ok_and(|list| list.contains("libmspti.so"))
        })
    }

    fn last_kind(&self) -> u32 {
        match self.cann {
            ..81 => 4,
            81 => 8,
            82..90 => 9,
            _ => 12,
        }
    }

    fn enable(&mut self, kind: u32) -> c_int {
        if kind == 0 || kind > self.last_kind() {
            return INVALID_PARAMETER;
        }
        if (4..=7).contains(&kind) && self.cann >= 90 && !self.is_preloaded() {
            return WITHOUT_LD_PRELOAD;
        }
        self.enabled.insert(kind);
        SUCCESS
    }

    /// Whether a record of this kind comes about.
    fn records(&self, kind: u32) -> bool {
        let of_device = matches!(kind, 2 | 4 | 9);
        // Before CANN 9 devices were found by the interposer of aclrtSetDevice alone.
        let finds_devices = self.cann >= 90 || self.is_preloaded();
        self.enabled.contains(&kind) && (!of_device || (self.has_channel && finds_devices))
    }

    /// A kernel whose registration was missed has no type, and is skipped.
    fn knows(&self, kernel: &Activity) -> bool {
        let Some(registered) = &self.registered else { return true };
        // SAFETY: names of activities are null or C strings.
        let name = (!kernel.name.is_null()).then(|| unsafe { CStr::from_ptr(kernel.name) });
        name.is_some_and(|name| registered.contains(&*name.to_string_lossy()))
    }

    fn callback_call(&mut self, name: &str) -> c_int {
        match self.called(name) {
            SUCCESS if !self.is_preloaded() => WITHOUT_LD_PRELOAD,
            code => code,
        }
    }
}

/// A call of the profiler: counted, and ended by what the test or the companions make of it.
fn answer(name: &str, act: impl FnOnce(&mut Fake) -> c_int) -> c_int {
    companions::end_if_broken();
    with(|fake| match fake.called(name) {
        SUCCESS => act(fake),
        code => code,
    })
}

/// `msptiSubscribe`.
///
/// # Safety
///
/// `handle` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msptiSubscribe(
    handle: *mut *mut c_void,
    _callback: *const c_void,
    _data: *mut c_void,
) -> c_int {
    answer("msptiSubscribe", |fake| {
        if handle.is_null() {
            return INVALID_PARAMETER;
        }
        if fake.subscribed || fake.rival {
            return MULTIPLE_SUBSCRIBERS;
        }
        fake.subscribed = true;
        // SAFETY: the caller's duty.
        unsafe { *handle = HANDLE as *mut c_void };
        SUCCESS
    })
}

/// `msptiUnsubscribe`. Kinds stay enabled.
#[unsafe(no_mangle)]
pub extern "C" fn msptiUnsubscribe(handle: *mut c_void) -> c_int {
    answer("msptiUnsubscribe", |fake| {
        if handle as usize != HANDLE {
            return INVALID_PARAMETER;
        }
        fake.subscribed = false;
        fake.kinds_at_unsubscribe = fake.enabled.len() as u64;
        SUCCESS
    })
}

/// `msptiEnableCallback`.
#[unsafe(no_mangle)]
pub extern "C" fn msptiEnableCallback(_on: u32, _handle: *mut c_void, _d: u32, _id: u32) -> c_int {
    with(|fake| fake.callback_call("msptiEnableCallback"))
}

/// `msptiEnableDomain`.
#[unsafe(no_mangle)]
pub extern "C" fn msptiEnableDomain(_on: u32, _handle: *mut c_void, _domain: u32) -> c_int {
    with(|fake| fake.callback_call("msptiEnableDomain"))
}

/// `msptiActivityRegisterCallbacks`: one slot for the process, the last writer has it.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityRegisterCallbacks(
    request: Option<Request>,
    complete: Option<Complete>,
) -> c_int {
    let code = answer("msptiActivityRegisterCallbacks", |_fake| SUCCESS);
    let (Some(request), Some(complete)) = (request, complete) else { return INVALID_PARAMETER };
    if code == SUCCESS {
        records::register(request, complete);
    }
    code
}

/// `msptiActivityEnable`.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityEnable(kind: u32) -> c_int {
    let code = answer("msptiActivityEnable", |fake| fake.enable(kind));
    if code == SUCCESS && kind == 2 {
        work::begin();
    }
    code
}

/// `msptiActivityDisable`.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityDisable(kind: u32) -> c_int {
    if kind == 2 {
        work::end();
    }
    answer("msptiActivityDisable", |fake| {
        if kind == 0 || kind > fake.last_kind() {
            return INVALID_PARAMETER;
        }
        fake.enabled.remove(&kind);
        SUCCESS
    })
}

/// `msptiActivityIsEnabled`.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityIsEnabled(kind: u32) -> bool {
    with(|fake| fake.enabled.contains(&kind))
}

/// `msptiActivityEnableMarkerDomain`.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityEnableMarkerDomain(name: *const c_char) -> c_int {
    answer("msptiActivityEnableMarkerDomain", |_| not_null(name))
}

/// `msptiActivityDisableMarkerDomain`.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityDisableMarkerDomain(name: *const c_char) -> c_int {
    answer("msptiActivityDisableMarkerDomain", |_| not_null(name))
}

fn not_null(name: *const c_char) -> c_int {
    if name.is_null() { INVALID_PARAMETER } else { SUCCESS }
}

/// `msptiActivityGetNextRecord`: ignores `*record` on entry and goes on where this thread was,
/// whatever the buffer.
///
/// # Safety
///
/// `buffer` is null or holds `valid` bytes of records; `record` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msptiActivityGetNextRecord(
    buffer: *mut u8,
    valid: usize,
    record: *mut *mut u8,
) -> c_int {
    if buffer.is_null() {
        return INVALID_PARAMETER;
    }
    // SAFETY: the caller's duty.
    match unsafe { records::next(buffer, valid) } {
        Ok(Some(next)) => {
            // SAFETY: the caller's duty.
            unsafe { *record = next };
            SUCCESS
        }
        Ok(None) => MAX_LIMIT_REACHED,
        Err(records::UnknownKind) => INNER,
    }
}

/// `msptiActivityFlushAll`.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityFlushAll(_flag: u32) -> c_int {
    let code = answer("msptiActivityFlushAll", |_fake| SUCCESS);
    if code == SUCCESS {
        arrivals::arrive();
        records::flush();
    }
    code
}

/// `msptiActivityFlushPeriod`: would hand over full buffers only, which go back by themselves.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityFlushPeriod(_ms: u32) -> c_int {
    answer("msptiActivityFlushPeriod", |_fake| SUCCESS)
}

/// `msptiActivityPushExternalCorrelationId`: one stack a kind for the whole process.
#[unsafe(no_mangle)]
pub extern "C" fn msptiActivityPushExternalCorrelationId(kind: u32, id: u64) -> c_int {
    answer("msptiActivityPushExternalCorrelationId", |fake| {
        fake.external.entry(kind).or_default().push(id);
        SUCCESS
    })
}

/// `msptiActivityPopExternalCorrelationId`.
///
/// # Safety
///
/// `last` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msptiActivityPopExternalCorrelationId(kind: u32, last: *mut u64) -> c_int {
    answer("msptiActivityPopExternalCorrelationId", |fake| {
        if last.is_null() {
            return INVALID_PARAMETER;
        }
        let Some(id) = fake.external.get_mut(&kind).and_then(Vec::pop) else { return QUEUE_EMPTY };
        // SAFETY: the caller's duty.
        unsafe { *last = id };
        SUCCESS
    })
}

/// Records an activity if its kind is on; says whether it was.
fn record(kind: u32, activity: &Activity) -> bool {
    if !with(|fake| fake.records(kind) && (kind != 2 || fake.knows(activity))) {
        return false;
    }
    records::write(kind, activity);
    true
}
