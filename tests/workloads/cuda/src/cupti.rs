//! CUPTI's functions, as far as a collector that reads nothing calls them.

#![expect(unsafe_code, reason = "loads a vendor library and calls it")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use anyhow::{Context as _, ensure};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

pub(crate) type BufferRequested = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
pub(crate) type BufferCompleted = extern "C" fn(*mut c_void, u32, *mut u8, usize, usize);
type Callback = extern "C" fn(*mut c_void, u32, u32, *const c_void);

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($arg:ty),*);)*) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($arg),*) -> c_int,)*
        }

        impl Functions {
            fn load(library: &Library) -> anyhow::Result<Self> {
                Ok(Self {
                    $($field: {
                        // SAFETY: the signature is that of CUPTI's header for this symbol; enums
                        // cross as the C `int` that they are.
                        let found = unsafe {
                            library.get::<unsafe extern "C" fn($($arg),*) -> c_int>($symbol)
                        };
                        *found?
                    },)*
                })
            }
        }
    };
}

functions! {
    get_version = b"cuptiGetVersion\0": fn(*mut u32);
    callback_name = b"cuptiGetCallbackName\0": fn(u32, u32, *mut *const c_char);
    subscribe = b"cuptiSubscribe\0": fn(*mut *mut c_void, Callback, *mut c_void);
    unsubscribe = b"cuptiUnsubscribe\0": fn(*mut c_void);
    register_callbacks = b"cuptiActivityRegisterCallbacks\0": fn(BufferRequested, BufferCompleted);
    enable = b"cuptiActivityEnable\0": fn(u32);
    enable_and_dump = b"cuptiActivityEnableAndDump\0": fn(u32);
    disable = b"cuptiActivityDisable\0": fn(u32);
    flush_all = b"cuptiActivityFlushAll\0": fn(u32);
    next_record = b"cuptiActivityGetNextRecord\0": fn(*mut u8, usize, *mut *mut u8);
    set_attribute = b"cuptiActivitySetAttribute\0": fn(u32, *mut usize, *mut c_void);
    set_thread_id_type = b"cuptiSetThreadIdType\0": fn(u32);
}

type EnableFunction = unsafe extern "C" fn(u32, u8) -> c_int;

/// A subscribed libcupti.
pub(crate) struct Cupti {
    functions: Functions,
    /// CUDA 12.5 and later.
    enable_runtime_function: Option<EnableFunction>,
    enable_driver_function: Option<EnableFunction>,
    subscriber: usize,
    /// `cuptiGetVersion`.
    pub(crate) version: u32,
}

impl Cupti {
    /// Opens the library that `OMNIPROF_LIBCUPTI` names, or the loaded one, and subscribes.
    pub(crate) fn subscribe() -> anyhow::Result<Self> {
        extern "C" fn ignore(_data: *mut c_void, _domain: u32, _id: u32, _info: *const c_void) {}
        let library = open()?;
        let functions = Functions::load(&library).context("this libcupti is too old")?;
        let function = |name: &[u8]| {
            // SAFETY: both functions have this signature in CUPTI's header.
            let found = unsafe { library.get::<EnableFunction>(name) };
            found.ok().map(|found| *found)
        };
        let enable_runtime_function = function(b"cuptiActivityEnableRuntimeApi\0");
        let enable_driver_function = function(b"cuptiActivityEnableDriverApi\0");
        // Never unloaded: CUPTI keeps our callbacks.
        let _handle: *mut c_void = library.into_raw();
        let mut this = Self {
            functions,
            enable_runtime_function,
            enable_driver_function,
            subscriber: 0,
            version: 0,
        };
        // SAFETY: stores a number.
        check("cuptiGetVersion", unsafe { (this.functions.get_version)(&raw mut this.version) })?;
        let mut subscriber = std::ptr::null_mut();
        // SAFETY: stores a handle; the callback lives as long as the program.
        check("cuptiSubscribe", unsafe {
            (this.functions.subscribe)(&raw mut subscriber, ignore, std::ptr::null_mut())
        })?;
        this.subscriber = subscriber as usize;
        Ok(this)
    }

    pub(crate) fn unsubscribe(&self) -> anyhow::Result<()> {
        // SAFETY: the handle came from the subscription.
        check("cuptiUnsubscribe", unsafe {
            (self.functions.unsubscribe)(self.subscriber as *mut c_void)
        })
    }

    pub(crate) fn register(
        &self,
        requested: BufferRequested,
        completed: BufferCompleted,
    ) -> anyhow::Result<()> {
        // SAFETY: both functions live as long as the program and keep CUPTI's contract.
        check("cuptiActivityRegisterCallbacks", unsafe {
            (self.functions.register_callbacks)(requested, completed)
        })
    }

    pub(crate) fn enable(&self, kind: u32, dump: bool) -> anyhow::Result<()> {
        let function = if dump { self.functions.enable_and_dump } else { self.functions.enable };
        // SAFETY: takes any number.
        check("cuptiActivityEnable", unsafe { function(kind) })
    }

    pub(crate) fn disable(&self, kind: u32) -> anyhow::Result<()> {
        // SAFETY: takes any number.
        check("cuptiActivityDisable", unsafe { (self.functions.disable)(kind) })
    }

    /// Takes a runtime function out of the records, where the library can.
    pub(crate) fn leave_out_runtime(&self, function: u32) {
        if let Some(enable) = self.enable_runtime_function {
            // SAFETY: takes any number; one that the library does not have is refused.
            let _refused: c_int = unsafe { enable(function, 0) };
        }
    }

    /// Takes a driver function out of the records, where the library can.
    pub(crate) fn leave_out_driver(&self, function: u32) {
        if let Some(enable) = self.enable_driver_function {
            // SAFETY: as above.
            let _refused: c_int = unsafe { enable(function, 0) };
        }
    }

    pub(crate) fn flush(&self, forced: bool) -> anyhow::Result<()> {
        // SAFETY: called by one thread at a time, outside of callbacks.
        check("cuptiActivityFlushAll", unsafe { (self.functions.flush_all)(u32::from(forced)) })
    }

    pub(crate) fn set_attribute(&self, attribute: u32, mut value: u8) {
        let mut size = 1;
        // An older library has no such attribute.
        // SAFETY: CUPTI reads one byte.
        let _refused: c_int = unsafe {
            (self.functions.set_attribute)(attribute, &raw mut size, (&raw mut value).cast())
        };
    }

    pub(crate) fn use_system_thread_ids(&self) -> anyhow::Result<()> {
        const SYSTEM: u32 = 1;
        // SAFETY: takes a number.
        check("cuptiSetThreadIdType", unsafe { (self.functions.set_thread_id_type)(SYSTEM) })
    }

    /// Where the records of a completed buffer begin, with the end of the last behind them.
    pub(crate) fn records(&self, buffer: &mut [u8]) -> Vec<usize> {
        let (start, valid) = (buffer.as_mut_ptr(), buffer.len());
        let mut record = std::ptr::null_mut();
        let mut offsets = Vec::new();
        loop {
            // SAFETY: the buffer was completed by CUPTI; the record is null or from this call.
            let code = unsafe { (self.functions.next_record)(start, valid, &raw mut record) };
            if code != 0 || record.is_null() {
                break;
            }
            offsets.push((record as usize).wrapping_sub(start as usize));
        }
        offsets.push(valid);
        offsets
    }

    /// The name of an API function.
    pub(crate) fn function_name(&self, domain: u32, function: u32) -> Option<Vec<u8>> {
        let mut name = std::ptr::null();
        // SAFETY: stores a pointer to a static string, or fails.
        let code = unsafe { (self.functions.callback_name)(domain, function, &raw mut name) };
        if code != 0 { None } else { text_at(name as u64) }
    }
}

/// The text that a record points to.
pub(crate) fn text_at(address: u64) -> Option<Vec<u8>> {
    if address == 0 {
        return None;
    }
    // SAFETY: CUPTI's records point to NUL-terminated strings that live at least until the buffer
    // is handed back.
    let text = unsafe { CStr::from_ptr(address as *const c_char) };
    Some(text.to_bytes().to_vec())
}

fn open() -> anyhow::Result<Library> {
    let configured = std::env::var_os("OMNIPROF_LIBCUPTI");
    let names = ["libcupti.so.13", "libcupti.so.12", "libcupti.so"].map(Into::into);
    let mut last = None;
    for name in configured.into_iter().chain(names) {
        // SAFETY: loading runs the library's initialisers, which only register themselves.
        match unsafe { Library::open(Some(Path::new(&name)), RTLD_NOW | RTLD_LOCAL) } {
            Ok(library) => return Ok(library),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no name to look for")?).context("no libcupti: name it by OMNIPROF_LIBCUPTI")
}

fn check(call: &str, code: c_int) -> anyhow::Result<()> {
    ensure!(code == 0, "{call}: {code}");
    Ok(())
}
