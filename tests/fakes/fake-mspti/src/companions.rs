//! The libraries that libmspti loads while it is loaded itself, and what becomes of it without.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set where a call must end the process.
static BROKEN: AtomicBool = AtomicBool::new(false);
/// Set where libascendcl was there first.
static LATE: AtomicBool = AtomicBool::new(false);

/// Runs when the library is loaded, before `dlopen` returns.
#[unsafe(no_mangle)]
pub extern "C" fn fake_loaded() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    LATE.store(maps.contains("/libascendcl.so"), Ordering::Relaxed);
    match std::env::var("FAKE_MSPTI_CRASH").as_deref() {
        Ok("load") => std::process::abort(),
        Ok("hang") => loop {
            std::thread::park();
        },
        Ok("call") => BROKEN.store(true, Ordering::Relaxed),
        _ => {}
    }
    if !is_loadable("libprofapi.so") || !is_loadable("libascendalog.so") {
        segfault();
    }
    if !is_loadable("libascend_hal.so") {
        BROKEN.store(true, Ordering::Relaxed);
    }
}

/// Whether kernels may have been registered before this library was loaded.
pub(crate) fn is_late() -> bool {
    LATE.load(Ordering::Relaxed)
}

/// The vendor's library throws where a function of the driver is missing.
pub(crate) fn end_if_broken() {
    if BROKEN.load(Ordering::Relaxed) {
        std::process::abort();
    }
}

fn is_loadable(name: &str) -> bool {
    let home = std::env::var("ASCEND_HOME_PATH").ok();
    let beside = home.map(|home| format!("{home}/lib64/{name}"));
    beside.into_iter().chain([name.to_owned()]).any(|path| {
        let Ok(path) = CString::new(path) else { return false };
        // SAFETY: a C string; the companions' initialisers are those of stand-ins.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY) };
        !handle.is_null()
    })
}

fn segfault() -> ! {
    // SAFETY: page 0 is never mapped; ending the process is what the vendor's library does here.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(0) };
    std::process::abort()
}
