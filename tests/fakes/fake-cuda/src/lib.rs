//! A CUDA driver that has no GPU behind it and does one thing: at the first `cuInit` it opens the
//! file that `CUDA_INJECTION64_PATH` names and calls its `InitializeInjection`, as NVIDIA's does.

#![expect(unsafe_code, reason = "plays a C library")]

use std::ffi::{c_int, c_uint};
use std::sync::Once;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// The driver's.
///
/// Returns 0, as the real one does whatever the injected file says.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> c_int {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(path) = std::env::var_os("CUDA_INJECTION64_PATH") else { return };
        // SAFETY: whoever set the variable vouches for the file.
        let Ok(library) = (unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }) else {
            return;
        };
        // SAFETY: the driver's documentation gives the symbol this type.
        let door = unsafe { library.get::<extern "C" fn() -> c_int>(c"InitializeInjection") };
        // A file that says 0 is closed, as any other is that has no such door.
        if door.is_ok_and(|door| door() != 0) {
            // It stays loaded.
            let _handle = library.into_raw();
        }
    });
    0
}
