//! The doors, and the one thread behind them.
#![expect(unsafe_code, reason = "symbols and calls of C")]

use std::ffi::{CStr, c_char, c_int};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU32, Ordering};

use profiler_agent::Agent;
use profiler_agent::nvtx::GetExportTable;
use profiler_core::inject_env::{
    Door, JOIN_PROGRAMS_VARIABLE, JOIN_VARIABLE, JoinPolicy, PRELOAD_VARIABLE, Programs,
    SOCKET_VARIABLE,
};
use profiler_core::schedule::StepSource;
use profiler_core::thread::spawn_blocked;

use crate::loaded;

/// What a door says: the driver and NVTX unload a file that says anything else.
const WELL: c_int = 1;

/// The process that the thread was started in, 0 = none. A forked child has another id.
static STARTED_IN: AtomicU32 = AtomicU32::new(0);

/// The CUDA driver's door.
#[unsafe(no_mangle)]
extern "C" fn InitializeInjection() -> c_int {
    guarded(|| {
        if policy().opens(Door::Cuda) {
            start(Door::Cuda);
        }
    });
    WELL
}

/// NVTX's door. Each program and library that uses NVTX comes by, with tables of its own.
///
/// # Safety
///
/// `get_export_table` is null or NVTX's function of that name.
#[unsafe(no_mangle)]
unsafe extern "C" fn InitializeInjectionNvtx2(get_export_table: Option<GetExportTable>) -> c_int {
    guarded(|| {
        if !policy().opens(Door::Nvtx) {
            return;
        }
        // SAFETY: the caller vouches for the function.
        if unsafe { profiler_agent::nvtx::attach(get_export_table) } {
            start(Door::Nvtx);
        }
    });
    WELL
}

/// The loader's door: called for every way to load this file, with what `main` gets.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = loaded;

extern "C" fn loaded(
    _count: c_int,
    _arguments: *const *const c_char,
    _environment: *const *const c_char,
) {
    guarded(|| {
        // The cheapest question first: most processes have nothing to do with omniprof.
        if variable(c"OMNIPROF_SOCKET").is_none() || !is_preloaded() {
            return;
        }
        if policy().opens(Door::Preload) && is_wanted() {
            start(Door::Preload);
        }
    });
}

/// Whether the loader brought this file in by `LD_PRELOAD`, rather than a driver.
fn is_preloaded() -> bool {
    let Some(list) = variable(c"LD_PRELOAD") else { return false };
    let Some(own) = loaded::own_path() else { return false };
    let own = file_name(&own);
    list.split([':', ' ']).any(|path| file_name(path) == own)
}

/// Whether this is a program of the kind that joins when it starts.
fn is_wanted() -> bool {
    let programs = Programs::parse(&variable(c"OMNIPROF_JOIN_PROGRAMS").unwrap_or_default());
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let program = program.to_string_lossy();
    let mut libraries = Vec::new();
    loaded::libraries(|path| libraries.push(file_name(&path.to_string_lossy()).to_owned()));
    programs.take(file_name(&program), libraries.iter().map(String::as_str))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn policy() -> JoinPolicy {
    variable(c"OMNIPROF_JOIN").and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A variable that is set and not empty. At a door the program waits for us, as it does for the
/// driver, which reads its environment at the same moment.
fn variable(name: &CStr) -> Option<String> {
    // SAFETY: the name ends with a zero.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: the C library's values end with a zero; it is copied before anybody else runs here.
    let value = unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

// The names above are those of the contract.
const _: () = {
    assert!(is_same(c"OMNIPROF_SOCKET", SOCKET_VARIABLE));
    assert!(is_same(c"LD_PRELOAD", PRELOAD_VARIABLE));
    assert!(is_same(c"OMNIPROF_JOIN", JOIN_VARIABLE));
    assert!(is_same(c"OMNIPROF_JOIN_PROGRAMS", JOIN_PROGRAMS_VARIABLE));
};

const fn is_same(one: &CStr, other: &str) -> bool {
    let (one, other) = (one.to_bytes(), other.as_bytes());
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

/// Starts the thread, once a process.
fn start(door: Door) {
    let process = std::process::id();
    if STARTED_IN.swap(process, Ordering::AcqRel) == process {
        return;
    }
    let life = move || {
        // The hook is of this file's copy of the standard library: the program's stays. A panic is
        // told in the answer to what caused it.
        std::panic::set_hook(Box::new(|_| {}));
        let agent = Agent::builder().joined_by(door.joined_by()).step_source(StepSource::None);
        // Why it is none is told to the controller, where there is one; the program is not told.
        let _served: Result<(), profiler_agent::AgentError> = agent.serve();
    };
    if let Err(_refused) = spawn_blocked("omniprof-link", life) {
        // The next door may find room for a thread.
        STARTED_IN.store(0, Ordering::Release);
    }
}

fn guarded(call: impl FnOnce() + std::panic::UnwindSafe) {
    let _done: std::thread::Result<()> = catch_unwind(call);
}
