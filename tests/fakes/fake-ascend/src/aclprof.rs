//! aclprof: its states, its results, the directory that it writes.
//!
//! A device that is recorded has work: `FAKE_ACL_WORK=N` launches N kernels every two milliseconds
//! between a start and a stop, `fake_acl_launch` does so once. With `FAKE_MSPTI_LEDGER=DIR` a line
//! for each is appended to `DIR/<pid>.csv` at the stop: kind, name, when it was launched, began and
//! ended. `FAKE_ACL=docs` answers as the documentation has it where the sources differ;
//! `uninitialised` is a process that has not called aclInit, `busy` one that is recorded already,
//! `dynamic` one that msprof may record at any time, `subscribed` one that has subscribed to a
//! model, `repeated` one that did so before its start, `silent` one in which nothing is written,
//! `broken` one whose stop fails.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

const INVALID_PARAM: c_int = 100_000;
const UNINITIALIZE: c_int = 100_001;
const REPEAT_INITIALIZE: c_int = 100_002;
const ALREADY_RUN: c_int = 100_042;
const NOT_RUN: c_int = 100_043;
const REPEAT_SUBSCRIBE: c_int = 148_046;
const API_CONFLICT: c_int = 148_047;
const FEATURE_UNSUPPORTED: c_int = 200_006;
const MODULES_UNSUPPORTED: c_int = 200_007;
const PROFILING_FAILURE: c_int = 500_005;

/// The bits that this CANN knows.
const KNOWN_BITS: u64 = 0x4_0100_FBFF;
const MSPROFTX: u64 = 0x80;
const HCCL_TRACE: u64 = 0x20;
const ACL_API: u64 = 0x1;
const MOST_DEVICES: u32 = 64;
const DEVICES: u32 = 2;
const EVERY: Duration = Duration::from_millis(2);

const KERNELS: [(&str, &str); 4] = [
    ("MatMulV2_ND_bf16", "AI_CORE"),
    ("FlashAttentionScore_bf16", "MIX_AIC"),
    ("RmsNorm_bf16", "AI_VECTOR_CORE"),
    ("ScatterPaKvCache", "AI_CPU"),
];

/// What a device did. Instants are CLOCK_REALTIME, ns.
struct Task {
    kind: &'static str,
    name: String,
    task_type: &'static str,
    connection: u64,
    launched: u64,
    start: u64,
    end: u64,
}

#[derive(Default)]
struct State {
    directory: Option<PathBuf>,
    configs: Vec<(usize, Vec<u32>, u64)>,
    running: Option<usize>,
    next_config: usize,
    next_connection: u64,
    captures: u32,
    tasks: Vec<Task>,
    worker: Option<JoinHandle<()>>,
    calls: Vec<String>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    let mut state: MutexGuard<'_, Option<State>> =
        STATE.lock().unwrap_or_else(PoisonError::into_inner);
    act(state.get_or_insert_default())
}

static VARIANT: Mutex<Option<String>> = Mutex::new(None);

fn variant() -> String {
    let set = VARIANT.lock().unwrap_or_else(PoisonError::into_inner).clone();
    set.or_else(|| std::env::var("FAKE_ACL").ok()).unwrap_or_default()
}

/// What `FAKE_ACL` sets, from now on.
///
/// # Safety
///
/// `variant` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_acl_variant(variant: *const c_char) {
    // SAFETY: the caller's duty.
    let variant = unsafe { CStr::from_ptr(variant) }.to_string_lossy().into_owned();
    *VARIANT.lock().unwrap_or_else(PoisonError::into_inner) = Some(variant);
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |at| at.as_nanos() as u64)
}

/// # Safety
///
/// `path` is a text of `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclprofInit(path: *const c_char, length: usize) -> c_int {
    if path.is_null() || length == 0 || length >= 4096 {
        return INVALID_PARAM;
    }
    // SAFETY: the caller's duty.
    let text = unsafe { CStr::from_ptr(path) };
    if text.count_bytes() != length || text.to_str().is_err() {
        return INVALID_PARAM;
    }
    let directory = PathBuf::from(text.to_string_lossy().into_owned());
    match variant().as_str() {
        "uninitialised" => return UNINITIALIZE,
        "busy" => return ALREADY_RUN,
        "dynamic" => return FEATURE_UNSUPPORTED,
        "subscribed" => return API_CONFLICT,
        _ => {}
    }
    with(|state| {
        state.calls.push("init".to_owned());
        if state.directory.is_some() {
            return REPEAT_INITIALIZE;
        }
        state.directory = Some(directory);
        0
    })
}

/// # Safety
///
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclprofFinalize() -> c_int {
    with(|state| {
        state.calls.push("finalize".to_owned());
        match state.directory.take() {
            None => NOT_RUN,
            Some(_) if state.running.is_some() => PROFILING_FAILURE,
            Some(_) => 0,
        }
    })
}

/// # Safety
///
/// `devices` are `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclprofCreateConfig(
    devices: *const u32,
    count: u32,
    _metrics: c_int,
    events: *const c_void,
    bits: u64,
) -> *mut c_void {
    let none = std::ptr::null_mut();
    if !events.is_null() || count > MOST_DEVICES || (count > 0 && devices.is_null()) {
        return none;
    }
    if count == 0 && bits & MSPROFTX == 0 {
        return none;
    }
    // SAFETY: the caller's duty.
    let numbers = unsafe { std::slice::from_raw_parts(devices, count as usize) }.to_vec();
    let mut unique = numbers.clone();
    unique.sort_unstable();
    unique.dedup();
    if unique.len() != numbers.len() || unique.iter().any(|number| *number >= DEVICES) {
        return none;
    }
    with(|state| {
        state.next_config += 1;
        state.configs.push((state.next_config, numbers, bits));
        std::ptr::without_provenance_mut(state.next_config << 4)
    })
}

/// # Safety
///
/// `config` is one of `aclprofCreateConfig`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclprofDestroyConfig(config: *const c_void) -> c_int {
    let number = config.addr() >> 4;
    with(|state| {
        state.calls.push("destroy".to_owned());
        let before = state.configs.len();
        state.configs.retain(|(known, ..)| *known != number);
        if state.configs.len() == before { INVALID_PARAM } else { 0 }
    })
}

/// # Safety
///
/// `config` is one of `aclprofCreateConfig`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclprofStart(config: *const c_void) -> c_int {
    let number = config.addr() >> 4;
    let variant = variant();
    let is_by_docs = variant == "docs";
    with(|state| {
        state.calls.push("start".to_owned());
        if variant == "repeated" {
            return REPEAT_SUBSCRIBE;
        }
        let Some((_, _, bits)) = state.configs.iter().find(|(known, ..)| *known == number) else {
            return INVALID_PARAM;
        };
        let bits = *bits;
        if state.directory.is_none() {
            if is_by_docs {
                return NOT_RUN;
            }
            state.directory = Some(PathBuf::from("./"));
        }
        if bits == 0 {
            return INVALID_PARAM;
        }
        if bits & !KNOWN_BITS != 0 {
            return MODULES_UNSUPPORTED;
        }
        if let Some(running) = state.running {
            // A second start is compared with the first, and starts nothing.
            let same =
                |(known, _, other): &(usize, Vec<u32>, u64)| *known == running && *other == bits;
            return if state.configs.iter().any(same) { 0 } else { INVALID_PARAM };
        }
        state.running = Some(number);
        state.tasks.clear();
        let work = std::env::var("FAKE_ACL_WORK").ok().and_then(|text| text.parse().ok());
        if let Some(count) = work.filter(|count| *count > 0) {
            state.worker = std::thread::Builder::new()
                .name("fake-npu".to_owned())
                .spawn(move || work_until_stopped(count))
                .ok();
        }
        0
    })
}

/// # Safety
///
/// `config` is one of `aclprofCreateConfig`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclprofStop(config: *const c_void) -> c_int {
    let number = config.addr() >> 4;
    let (code, worker) = with(|state| {
        state.calls.push("stop".to_owned());
        if state.running != Some(number) {
            return (NOT_RUN, None);
        }
        state.running = None;
        (0, state.worker.take())
    });
    if let Some(worker) = worker {
        drop(worker.join());
    }
    if code != 0 {
        return code;
    }
    if variant() == "broken" {
        return PROFILING_FAILURE;
    }
    if variant() == "silent" {
        return 0;
    }
    with(|state| match write(state, number) {
        Ok(()) => 0,
        Err(_) => PROFILING_FAILURE,
    })
}

/// # Safety
///
/// `config` is one of `aclprofCreateConfig`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclprofWarmup(config: *const c_void) -> c_int {
    let number = config.addr() >> 4;
    with(|state| {
        if state.configs.iter().all(|(known, ..)| *known != number) {
            return INVALID_PARAM;
        }
        if state.running.is_some() { API_CONFLICT } else { 0 }
    })
}

/// # Safety
///
/// `value` is a text of `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclprofSetConfig(
    number: c_int,
    value: *const c_char,
    length: usize,
) -> c_int {
    if value.is_null() || length == 0 || length > 256 || !(1..=16).contains(&number) {
        return INVALID_PARAM;
    }
    with(|state| state.calls.push(format!("set {number}")));
    0
}

/// # Safety
///
/// `count` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDeviceCount(count: *mut u32) -> c_int {
    // SAFETY: the caller's duty.
    unsafe { *count = DEVICES };
    0
}

/// Launches so many kernels, where a device is recorded.
#[unsafe(no_mangle)]
pub extern "C" fn fake_acl_launch(count: u64) {
    with(|state| launch(state, count));
}

/// Whether the calls so far, in order and parted by blanks, are these; they are forgotten.
///
/// # Safety
///
/// `expected` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_acl_calls(expected: *const c_char) -> bool {
    // SAFETY: the caller's duty.
    let expected = unsafe { CStr::from_ptr(expected) }.to_string_lossy();
    with(|state| std::mem::take(&mut state.calls).join(" ") == expected)
}

fn work_until_stopped(count: u64) {
    while with(|state| {
        launch(state, count);
        state.running.is_some()
    }) {
        std::thread::sleep(EVERY);
    }
}

fn launch(state: &mut State, count: u64) {
    let Some(running) = state.running else { return };
    let bits = state.configs.iter().find(|(known, ..)| *known == running).map_or(0, |one| one.2);
    let began = now();
    for number in 0..count {
        let (name, task_type) = KERNELS[(number % KERNELS.len() as u64) as usize];
        state.next_connection += 1;
        let connection = state.next_connection;
        let launched = began + number * 2_000;
        let start = launched + 1_000;
        let end = start + 1_000 + (connection * 37) % 900;
        state.tasks.push(Task {
            kind: "kernel",
            name: name.to_owned(),
            task_type,
            connection,
            launched: if bits & ACL_API == 0 { start } else { launched },
            start,
            end,
        });
    }
    if bits & HCCL_TRACE != 0 {
        let at = began + count * 2_000;
        state.tasks.push(Task {
            kind: "communication",
            name: "hcom_allReduce_".to_owned(),
            task_type: "",
            connection: 0,
            launched: at,
            start: at,
            end: at + 4_000,
        });
    }
}

/// The directory, with raw data that only the stand-in for msprof reads.
fn write(state: &mut State, number: usize) -> std::io::Result<()> {
    let Some(below) = &state.directory else { return Ok(()) };
    state.captures += 1;
    let place = format!("PROF_{:06}_20261124120000{:03}_ABCDEFGH", state.captures, state.captures);
    let place = below.join(place);
    let Some((_, devices, bits)) = state.configs.iter().find(|(known, ..)| *known == number) else {
        return Ok(());
    };
    let info = |folder: &Path| -> std::io::Result<()> {
        std::fs::create_dir_all(folder.join("data"))?;
        for file in ["info.json", "sample.json", "start_info", "end_info"] {
            std::fs::write(folder.join(file), "{}")?;
        }
        Ok(())
    };
    info(&place.join("host"))?;
    std::fs::write(place.join("host/host_start.log"), format!("bits {bits:#x}\n"))?;
    for device in devices {
        info(&place.join(format!("device_{device}")))?;
    }
    let Some(first) = devices.first() else { return Ok(()) };
    let mut raw = format!("{},{first},{bits}\n", std::process::id());
    let mut ledger = String::new();
    for task in state.tasks.drain(..) {
        let Task { kind, name, task_type, connection, launched, start, end } = task;
        raw += &format!("{kind},{name},{task_type},{connection},{launched},{start},{end}\n");
        ledger += &format!("{kind},{name},{launched},{start},{end}\n");
    }
    std::fs::write(place.join(format!("device_{first}/data/fake.slice_0")), raw)?;
    let Some(ledgers) = std::env::var_os("FAKE_MSPTI_LEDGER") else { return Ok(()) };
    let ledgers = PathBuf::from(ledgers).join(format!("{}.csv", std::process::id()));
    let mut file = std::fs::File::options().create(true).append(true).open(ledgers)?;
    file.write_all(ledger.as_bytes())
}
