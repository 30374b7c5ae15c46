//! The libtorch_npu that a process has; it cannot be opened alone.

#![expect(unsafe_code, reason = "looks into a vendor library and calls it")]

use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use profiler_core::error::BackendError;

use crate::mspti::locate::mapped_library;

const NAME: &str = "libtorch_npu.so";

/// `torch_npu::profiler::GetTraceLevel()`, which gives a signed byte: the level that its profiler
/// records at, or -1. All of its other functions that start and stop are hidden.
const TRACE_LEVEL: &[u8] = b"_ZN9torch_npu8profiler13GetTraceLevelEv";

/// The process's libtorch_npu.
#[derive(Debug)]
pub(crate) struct TorchNpu {
    trace_level: Option<unsafe extern "C" fn() -> i8>,
    /// The file.
    pub(crate) path: PathBuf,
}

impl TorchNpu {
    /// The library, where the process has it.
    pub(crate) fn find() -> Option<Self> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let path = mapped_library(&maps, NAME)?;
        // SAFETY: the library is not loaded here; its initialisers have run already.
        let library =
            unsafe { Library::open(Some(&path), RTLD_LAZY | RTLD_LOCAL | libc::RTLD_NOLOAD) }
                .ok()?;
        // SAFETY: the declaration in torch_npu's published source, unchanged from 2.1 to 2.14.
        let found = unsafe { library.get::<unsafe extern "C" fn() -> i8>(TRACE_LEVEL) };
        let trace_level = found.ok().map(|symbol| *symbol);
        // One more reference keeps the function where it is.
        let _handle: *mut std::ffi::c_void = library.into_raw();
        Some(Self { trace_level, path })
    }

    /// Whether this version tells the level.
    pub(crate) fn tells_its_level(&self) -> bool {
        self.trace_level.is_some()
    }

    /// The level at which its profiler records now: 0 to 2; `None` = it does not, or records the
    /// host alone, or this version does not say.
    pub(crate) fn trace_level(&self) -> Option<i8> {
        // SAFETY: it reads two atomics.
        let level = unsafe { (self.trace_level?)() };
        (level >= 0).then_some(level)
    }
}

/// Ascend allows one profiler a process.
pub(crate) fn refuse_beside_its_profiler() -> Result<(), BackendError> {
    match TorchNpu::find().and_then(|library| library.trace_level()) {
        None => Ok(()),
        Some(level) => Err(BackendError::Busy {
            holder: Some(format!(
                "torch_npu.profiler records this process at Level{level}, and Ascend allows one \
                 profiler: stop it first"
            )),
        }),
    }
}
