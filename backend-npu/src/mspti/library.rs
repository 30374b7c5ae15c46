//! libmspti's functions.

#![expect(unsafe_code, reason = "loads a vendor library and calls it")]

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::error::BackendError;

use super::locate::mapped_library;

/// `MSPTI_SUCCESS`.
pub(crate) const SUCCESS: c_int = 0;
/// `MSPTI_ERROR_INVALID_PARAMETER`.
pub(crate) const INVALID_PARAMETER: c_int = 1;
/// `MSPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED`.
pub(crate) const MULTIPLE_SUBSCRIBERS: c_int = 2;
/// `MSPTI_ERROR_MAX_LIMIT_REACHED`: the end of a buffer.
pub(crate) const END_OF_BUFFER: c_int = 3;
/// `MSPTI_ERROR_WITHOUT_LD_PRELOAD`.
pub(crate) const WITHOUT_LD_PRELOAD: c_int = 6;

/// The name of a result code.
pub(crate) fn result_name(code: c_int) -> &'static str {
    match code {
        SUCCESS => "MSPTI_SUCCESS",
        INVALID_PARAMETER => "MSPTI_ERROR_INVALID_PARAMETER",
        MULTIPLE_SUBSCRIBERS => "MSPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED",
        END_OF_BUFFER => "MSPTI_ERROR_MAX_LIMIT_REACHED",
        4 => "MSPTI_ERROR_DEVICE_OFFLINE",
        5 => "MSPTI_ERROR_QUEUE_EMPTY",
        WITHOUT_LD_PRELOAD => "MSPTI_ERROR_WITHOUT_LD_PRELOAD",
        999 => "MSPTI_ERROR_INNER",
        _ => "unknown",
    }
}

/// Called by MSPTI, on a recording thread under its lock, when it wants a buffer.
pub(crate) type BufferRequested = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
/// Called by MSPTI, on any thread, when a buffer is done.
pub(crate) type BufferCompleted = extern "C" fn(*mut u8, usize, usize);

type Subscribe = unsafe extern "C" fn(*mut *mut c_void, *const c_void, *mut c_void) -> c_int;
type Unsubscribe = unsafe extern "C" fn(*mut c_void) -> c_int;
type RegisterCallbacks = unsafe extern "C" fn(BufferRequested, BufferCompleted) -> c_int;
type OfKind = unsafe extern "C" fn(u32) -> c_int;
type NextRecord = unsafe extern "C" fn(*mut u8, usize, *mut *mut u8) -> c_int;

/// A subscription that could not be given back; there is one a process.
static LEFT: Mutex<Option<Subscriber>> = Mutex::new(None);

/// A libmspti that is loaded for the rest of the process's life.
#[derive(Debug)]
pub(crate) struct Mspti {
    subscribe: Subscribe,
    unsubscribe: Unsubscribe,
    register_callbacks: RegisterCallbacks,
    enable: OfKind,
    disable: OfKind,
    flush_all: OfKind,
    next_record: NextRecord,
    /// The file.
    pub(crate) path: PathBuf,
    /// Whether libascendcl was there first, so that kernels may have been registered unseen.
    pub(crate) is_late: bool,
}

impl Mspti {
    /// Opens the library at `path`; with `loaded_only` only where the process has it already.
    ///
    /// A library that was not loaded runs its initialisers here, which end the process where the
    /// library's companions are missing: whoever calls this has had it tried by another process.
    ///
    /// # Errors
    ///
    /// [`BackendError::Library`] where it cannot be loaded, [`BackendError::Unavailable`] where a
    /// function is missing.
    pub(crate) fn open(path: &Path, loaded_only: bool) -> Result<Self, BackendError> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let is_late = !loaded_only && mapped_library(&maps, "libascendcl.so").is_some();
        // Its interposers of acl and HCCL must not be found by others: never RTLD_GLOBAL.
        let flags = RTLD_NOW | RTLD_LOCAL | if loaded_only { libc::RTLD_NOLOAD } else { 0 };
        // SAFETY: initialisers ran in a process that tried this very file, or have run already.
        let library = unsafe { Library::open(Some(path), flags) }.map_err(|error| {
            BackendError::Library { path: path.to_owned(), source: Box::new(error) }
        })?;
        let this = Self {
            subscribe: symbol(&library, path, "msptiSubscribe")?,
            unsubscribe: symbol(&library, path, "msptiUnsubscribe")?,
            register_callbacks: symbol(&library, path, "msptiActivityRegisterCallbacks")?,
            enable: symbol(&library, path, "msptiActivityEnable")?,
            disable: symbol(&library, path, "msptiActivityDisable")?,
            flush_all: symbol(&library, path, "msptiActivityFlushAll")?,
            next_record: symbol(&library, path, "msptiActivityGetNextRecord")?,
            path: path.to_owned(),
            is_late,
        };
        // Never unloaded: it has threads of its own and keeps our callbacks.
        let _handle: *mut c_void = library.into_raw();
        Ok(this)
    }

    /// Becomes the one subscriber of the process.
    pub(crate) fn subscribe(&self) -> Result<Subscriber, BackendError> {
        let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(left) = left {
            self.unsubscribe(left)?;
        }
        let mut handle = std::ptr::null_mut();
        // SAFETY: MSPTI's header gives these types and allows a null callback; the handle is ours.
        let code =
            unsafe { (self.subscribe)(&raw mut handle, std::ptr::null(), std::ptr::null_mut()) };
        check("msptiSubscribe", code)?;
        Ok(Subscriber(handle))
    }

    /// Gives the subscription back. Kinds stay enabled: disable them first. What cannot be given
    /// back is tried again before the next.
    pub(crate) fn unsubscribe(&self, subscriber: Subscriber) -> Result<(), BackendError> {
        // SAFETY: the handle came from `subscribe`.
        let outcome = check("msptiUnsubscribe", unsafe { (self.unsubscribe)(subscriber.0) });
        if outcome.is_err() {
            *LEFT.lock().unwrap_or_else(PoisonError::into_inner) = Some(subscriber);
        }
        outcome
    }

    /// Takes the process's one slot for buffer callbacks, whoever had it.
    pub(crate) fn register_callbacks(
        &self,
        requested: BufferRequested,
        completed: BufferCompleted,
    ) -> Result<(), BackendError> {
        // SAFETY: both are functions of this program, which is never unloaded.
        let code = unsafe { (self.register_callbacks)(requested, completed) };
        check("msptiActivityRegisterCallbacks", code)
    }

    /// Switches a kind on; the code of the library, since which codes are errors depends on it.
    /// Success does not mean that the device's channel works.
    pub(crate) fn enable(&self, kind: u32) -> c_int {
        // SAFETY: takes any number.
        unsafe { (self.enable)(kind) }
    }

    /// Switches a kind off.
    pub(crate) fn disable(&self, kind: u32) -> Result<(), BackendError> {
        // SAFETY: takes any number.
        check("msptiActivityDisable", unsafe { (self.disable)(kind) })
    }

    /// Makes MSPTI hand over the buffer in use, on this thread, before it returns.
    pub(crate) fn flush_all(&self) -> Result<(), BackendError> {
        // SAFETY: the flag is reserved; any number is allowed.
        check("msptiActivityFlushAll", unsafe { (self.flush_all)(1) })
    }

    /// One step of this thread's walk over a buffer: the code, and the record if it is `SUCCESS`.
    ///
    /// `buffer` holds `valid` bytes that MSPTI wrote.
    pub(crate) fn next_record(&self, buffer: *mut u8, valid: usize) -> (c_int, *mut u8) {
        let mut record = std::ptr::null_mut();
        // SAFETY: the caller gives a buffer that MSPTI completed with so many bytes.
        let code = unsafe { (self.next_record)(buffer, valid, &raw mut record) };
        (code, record)
    }
}

/// A code as a result.
pub(crate) fn check(call: &'static str, code: c_int) -> Result<(), BackendError> {
    match code {
        SUCCESS => Ok(()),
        MULTIPLE_SUBSCRIBERS => Err(BackendError::Busy {
            holder: Some(
                "another MSPTI client of this process holds its one subscription (torch_npu's \
                 profiler, msmonitor, taskd): stop it first"
                    .to_owned(),
            ),
        }),
        code => Err(BackendError::Vendor {
            call,
            code: i64::from(code),
            name: result_name(code).to_owned(),
        }),
    }
}

fn symbol<T: Copy>(library: &Library, path: &Path, name: &str) -> Result<T, BackendError> {
    // SAFETY: each caller names the type that MSPTI's headers give the symbol since CANN 8.0.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|_absent| BackendError::Unavailable {
        code: "symbol_missing".to_owned(),
        message: format!(
            "{} has no {name}: it is no libmspti of CANN 8.0 or later; name the right one by \
             OMNIPROF_LIBMSPTI",
            path.display()
        ),
    })
}

/// A subscription. Given back by [`Mspti::unsubscribe`].
#[derive(Debug)]
pub(crate) struct Subscriber(*mut c_void);

// SAFETY: MSPTI's handle is an opaque number to us and may be used from any thread.
unsafe impl Send for Subscriber {}
