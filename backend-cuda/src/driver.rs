//! The CUDA driver, where the process has loaded it: what may be asked of it before CUPTI.
//!
//! <https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__PRIMARY__CTX.html>

#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::ffi::{c_int, c_uint, c_void};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

type Context = *mut c_void;

/// The driver that the process has.
pub(crate) struct Driver(Library);

impl Driver {
    /// The driver, if the process has loaded it.
    pub(crate) fn loaded() -> Option<Self> {
        let name = Path::new("libcuda.so.1");
        let flags = RTLD_NOW | RTLD_LOCAL | libc::RTLD_NOLOAD;
        // SAFETY: loads nothing: only a library that is loaded already is found.
        unsafe { Library::open(Some(name), flags) }.ok().map(Self)
    }

    /// Free memory of the device that has the least of it, among those whose primary context this
    /// process has made, in bytes; `None` = there is none yet, or the driver does not tell.
    pub(crate) fn least_free_bytes(&self) -> Option<u64> {
        let functions = Functions::of(&self.0)?;
        let mut count = 0;
        // SAFETY: stores a number; where the driver is not initialised it says so.
        if unsafe { (functions.device_count)(&raw mut count) } != 0 {
            return None;
        }
        (0..count).filter_map(|device| functions.free_bytes(device)).min()
    }
}

struct Functions {
    device_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    primary_state: unsafe extern "C" fn(c_int, *mut c_uint, *mut c_int) -> c_int,
    retain: unsafe extern "C" fn(*mut Context, c_int) -> c_int,
    release: unsafe extern "C" fn(c_int) -> c_int,
    push: unsafe extern "C" fn(Context) -> c_int,
    pop: unsafe extern "C" fn(*mut Context) -> c_int,
    memory: unsafe extern "C" fn(*mut usize, *mut usize) -> c_int,
}

/// A function of the library, of the type that its field has.
macro_rules! function {
    ($library:ident, $name:literal) => {{
        // SAFETY: the driver's header gives the symbol the type that the field has; a device's
        // number is its `CUdevice`.
        let found = unsafe { $library.get($name) };
        *found.ok()?
    }};
}

impl Functions {
    fn of(library: &Library) -> Option<Self> {
        Some(Self {
            device_count: function!(library, c"cuDeviceGetCount"),
            primary_state: function!(library, c"cuDevicePrimaryCtxGetState"),
            retain: function!(library, c"cuDevicePrimaryCtxRetain"),
            release: function!(library, c"cuDevicePrimaryCtxRelease_v2"),
            push: function!(library, c"cuCtxPushCurrent_v2"),
            pop: function!(library, c"cuCtxPopCurrent_v2"),
            memory: function!(library, c"cuMemGetInfo_v2"),
        })
    }

    fn free_bytes(&self, device: c_int) -> Option<u64> {
        let (mut flags, mut is_active) = (0, 0);
        // SAFETY: stores two numbers; makes no context.
        let told = unsafe { (self.primary_state)(device, &raw mut flags, &raw mut is_active) };
        if told != 0 || is_active == 0 {
            return None;
        }
        let mut context = std::ptr::null_mut();
        // SAFETY: stores a handle; the context is there, and is kept by this until its release.
        if unsafe { (self.retain)(&raw mut context, device) } != 0 {
            return None;
        }
        let free = self.free_bytes_in(context);
        // SAFETY: gives back what was retained above.
        let _released: c_int = unsafe { (self.release)(device) };
        free
    }

    fn free_bytes_in(&self, context: Context) -> Option<u64> {
        // SAFETY: the caller has retained the context.
        if unsafe { (self.push)(context) } != 0 {
            return None;
        }
        let (mut free, mut total) = (0, 0);
        // SAFETY: stores two numbers; this thread has a context.
        let told = unsafe { (self.memory)(&raw mut free, &raw mut total) };
        let mut own = std::ptr::null_mut();
        // SAFETY: takes off what was pushed above; the thread has what it had before.
        let _popped: c_int = unsafe { (self.pop)(&raw mut own) };
        (told == 0).then_some(free as u64)
    }
}
