//! An application that launches on the stand-in for libcupti.
#![expect(unsafe_code, reason = "plays an application that calls a C library")]

use std::ffi::{CStr, OsStr, c_char};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

const KERNEL: &CStr = c"void add<float>(float*)";
const STREAM: u32 = 7;

/// An application that has loaded the stand-in.
pub(super) struct Application {
    launch: extern "C" fn(*const c_char, u64, u32, u32),
    violations: extern "C" fn() -> usize,
}

impl Application {
    /// Loads the stand-in into this process, for as long as it lives.
    ///
    /// # Errors
    ///
    /// It is not there, or is another library.
    pub(super) fn load(library: &OsStr) -> anyhow::Result<Self> {
        // SAFETY: a library of this workspace, which does nothing as it is loaded.
        let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }?;
        // SAFETY: the type that the stand-in gives the symbol.
        let launch = *unsafe { library.get::<extern "C" fn(_, _, _, _)>(b"fake_launch") }?;
        // SAFETY: the type that the stand-in gives the symbol.
        let violations = *unsafe { library.get::<extern "C" fn() -> usize>(b"fake_violations") }?;
        // It stays loaded: the symbols outlive the handle.
        let _handle = library.into_raw();
        Ok(Self { launch, violations })
    }

    /// Launches so many kernels.
    pub(super) fn launch(&self, kernels: u64) {
        (self.launch)(KERNEL.as_ptr(), kernels, STREAM, 4);
    }

    /// How often the library was called as its documentation forbids.
    pub(super) fn violations(&self) -> usize {
        (self.violations)()
    }
}
