//! libcupti's functions, each of which may be missing.

#![expect(unsafe_code, reason = "loads a vendor library and calls it")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::error::BackendError;

use super::locate::{self, Candidate};

/// `CUPTI_SUCCESS`.
pub(crate) const SUCCESS: c_int = 0;
/// `CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED`.
pub(crate) const MULTIPLE_SUBSCRIBERS: c_int = 39;

/// Called by CUPTI, on an application thread, when it wants a buffer.
pub(crate) type BufferRequested = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
/// Called by CUPTI, on any thread, when a buffer is done.
pub(crate) type BufferCompleted = extern "C" fn(*mut c_void, u32, *mut u8, usize, usize);
/// A subscriber's callback.
pub(crate) type Callback = extern "C" fn(*mut c_void, u32, u32, *const c_void);

/// `CUpti_SubscriberParams` as CUDA 13.0 has it; later libraries take it by its size.
#[repr(C)]
struct SubscriberParams {
    bytes: usize,
    name: *const c_char,
    holder: *mut c_char,
    holder_bytes: usize,
}

/// `CUPTI_OLD_SUBSCRIBER_NAME_MIN_LEN`.
const HOLDER_BYTES: usize = 64;

macro_rules! symbols {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal: fn($($arg:ty),*);)*) => {
        /// The functions, by name of the C symbol.
        #[derive(Debug)]
        struct Symbols {
            $($(#[$doc])* $field: Option<unsafe extern "C" fn($($arg),*) -> c_int>,)*
        }

        impl Symbols {
            fn load(library: &Library) -> Self {
                Self {
                    $($field: {
                        // SAFETY: the signature is that of CUPTI's headers 12.1 to 13.4 for this
                        // symbol; enums cross as the C `int` that they are.
                        let found = unsafe {
                            library.get::<unsafe extern "C" fn($($arg),*) -> c_int>($symbol)
                        };
                        found.ok().map(|symbol| *symbol)
                    },)*
                }
            }
        }
    };
}

symbols! {
    get_version = b"cuptiGetVersion\0": fn(*mut u32);
    get_timestamp = b"cuptiGetTimestamp\0": fn(*mut u64);
    get_result_string = b"cuptiGetResultString\0": fn(c_int, *mut *const c_char);
    get_callback_name = b"cuptiGetCallbackName\0": fn(u32, u32, *mut *const c_char);
    subscribe = b"cuptiSubscribe\0": fn(*mut *mut c_void, Callback, *mut c_void);
    subscribe_v2 = b"cuptiSubscribe_v2\0": fn(*mut *mut c_void, Callback, *mut c_void, *mut SubscriberParams);
    unsubscribe = b"cuptiUnsubscribe\0": fn(*mut c_void);
    register_callbacks = b"cuptiActivityRegisterCallbacks\0": fn(BufferRequested, BufferCompleted);
    enable = b"cuptiActivityEnable\0": fn(u32);
    disable = b"cuptiActivityDisable\0": fn(u32);
    enable_and_dump = b"cuptiActivityEnableAndDump\0": fn(u32);
    enable_callback = b"cuptiEnableCallback\0": fn(u32, *mut c_void, u32, u32);
    enable_domain = b"cuptiEnableDomain\0": fn(u32, *mut c_void, u32);
    flush_all = b"cuptiActivityFlushAll\0": fn(u32);
    next_record = b"cuptiActivityGetNextRecord\0": fn(*mut u8, usize, *mut *mut u8);
    dropped_records = b"cuptiActivityGetNumDroppedRecords\0": fn(*mut c_void, u32, *mut usize);
    set_attribute = b"cuptiActivitySetAttribute\0": fn(u32, *mut usize, *mut c_void);
    set_thread_id_type = b"cuptiSetThreadIdType\0": fn(u32);
    get_thread_id_type = b"cuptiGetThreadIdType\0": fn(*mut u32);
    enabled_kinds = b"cuptiActivityGetEnabledKinds\0": fn(*mut c_void, *mut u32, *mut u32, *mut u32);
    finalize = b"cuptiFinalize\0": fn();
}

/// A libcupti that is loaded for the rest of the process's life.
#[derive(Debug)]
pub(crate) struct Cupti {
    symbols: Symbols,
    /// How it was found, for facts.
    pub(crate) found: String,
    /// `cuptiGetVersion`: 18 to 28 for CUDA 12.1 to 12.9, then 130000 and up.
    pub(crate) version: u32,
}

/// The oldest version that this backend reads: CUDA 12.1.
const OLDEST_VERSION: u32 = 18;

/// The oldest version that can be detached: CUDA 12.6. Older ones crash where graphs were captured.
const DETACH_VERSION: u32 = 24;

/// CUPTI's refusals that a person can do something about.
mod refusal {
    use std::ffi::c_int;

    pub(super) const OUT_OF_MEMORY: c_int = 8;
    pub(super) const VIRTUAL_DEVICE: c_int = 33;
    pub(super) const PRIVILEGES: c_int = 35;
    pub(super) const VIRTUAL_DEVICE_PRIVILEGES: c_int = 40;
    pub(super) const CONFIDENTIAL_COMPUTING: c_int = 41;
    pub(super) const MINING_DEVICE: c_int = 42;
    pub(super) const MIG_DEVICE: c_int = 43;
    pub(super) const SLI_DEVICE: c_int = 44;
    pub(super) const WSL_DEVICE: c_int = 45;
}

macro_rules! call {
    ($self:ident.$field:ident($($arg:expr),*), $name:literal) => {
        match $self.symbols.$field {
            Some(function) => {
                // SAFETY: the arguments are of the types that CUPTI's header gives and live for the
                // call; what else the function asks for is kept by the one caller of this method.
                let code = unsafe { function($($arg),*) };
                $self.check($name, code)
            }
            None => Err($self.missing($name)),
        }
    };
}

impl Cupti {
    /// Opens the libcupti of this process, or the best that can be loaded.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] where none is found or it is too old.
    pub(crate) fn open(
        configured: Option<&Path>,
        driver_major: Option<u32>,
    ) -> Result<Self, BackendError> {
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|source| {
            BackendError::Io { what: "reading /proc/self/maps".to_owned(), source }
        })?;
        let mut tried = Vec::new();
        for candidate in locate::candidates(&maps, configured, driver_major) {
            let Some((library, found)) = open_candidate(&candidate) else {
                tried.push(candidate);
                continue;
            };
            let symbols = Symbols::load(&library);
            if symbols.get_version.is_none() {
                continue;
            }
            // Never unloaded: CUPTI keeps our callbacks.
            let _handle: *mut c_void = library.into_raw();
            return Self::with_symbols(symbols, found);
        }
        Err(BackendError::Unavailable {
            code: "library_missing".to_owned(),
            message: format!(
                "no libcupti was found (looked at {} places); install the CUPTI of the CUDA version in use \
                 (the wheel nvidia-cuda-cupti, or the toolkit), or name it by OMNIPROF_LIBCUPTI",
                tried.len()
            ),
        })
    }

    fn with_symbols(symbols: Symbols, found: String) -> Result<Self, BackendError> {
        let mut this = Self { symbols, found, version: 0 };
        let mut version = 0;
        call!(this.get_version(&raw mut version), "cuptiGetVersion")?;
        this.version = version;
        if version < OLDEST_VERSION {
            return Err(BackendError::Unavailable {
                code: "library_too_old".to_owned(),
                message: format!(
                    "libcupti {version} ({}) is older than CUDA 12.1, the oldest that is read",
                    this.found
                ),
            });
        }
        Ok(this)
    }

    /// The name of a result code.
    fn result_name(&self, code: c_int) -> String {
        let Some(function) = self.symbols.get_result_string else { return "unknown".to_owned() };
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: takes any code and stores a pointer to a static string, or fails.
        let outcome = unsafe { function(code, &raw mut text) };
        if outcome != SUCCESS || text.is_null() {
            return "unknown".to_owned();
        }
        // SAFETY: on success it is a NUL-terminated string of the library, which is never unloaded.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    fn missing(&self, name: &str) -> BackendError {
        BackendError::Unavailable {
            code: "symbol_missing".to_owned(),
            message: format!("libcupti {} ({}) has no {name}", self.version, self.found),
        }
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), BackendError> {
        let refused = |code: &str, message: String| {
            Err(BackendError::Unavailable { code: code.to_owned(), message })
        };
        match code {
            SUCCESS => Ok(()),
            MULTIPLE_SUBSCRIBERS => Err(BackendError::Busy { holder: None }),
            refusal::PRIVILEGES => Err(BackendError::Permission {
                what: format!("{call} (CUPTI_ERROR_INSUFFICIENT_PRIVILEGES)"),
                remedy: "load the kernel module with NVreg_RestrictProfilingToAdminUsers=0, or \
                         give the process CAP_SYS_ADMIN"
                    .to_owned(),
            }),
            refusal::VIRTUAL_DEVICE_PRIVILEGES => Err(BackendError::Permission {
                what: format!("{call} on this virtual GPU"),
                remedy: "enable profiling for the virtual machine on its host \
                         (vGPU plugin parameter enable_profiling=1)"
                    .to_owned(),
            }),
            refusal::OUT_OF_MEMORY => refused(
                "out_of_device_memory",
                format!(
                    "{call}: CUPTI found no memory for its buffers; free some 20 MB of the device's memory"
                ),
            ),
            refusal::VIRTUAL_DEVICE
            | refusal::CONFIDENTIAL_COMPUTING
            | refusal::MINING_DEVICE
            | refusal::MIG_DEVICE
            | refusal::SLI_DEVICE
            | refusal::WSL_DEVICE => refused(
                "device_not_supported",
                format!(
                    "CUPTI does not serve this kind of device: {call} gave {code} ({})",
                    self.result_name(code)
                ),
            ),
            code => Err(BackendError::Vendor {
                call,
                code: i64::from(code),
                name: self.result_name(code),
            }),
        }
    }

    /// CUPTI's clock now, ns.
    pub(crate) fn timestamp(&self) -> Result<u64, BackendError> {
        let mut time = 0;
        call!(self.get_timestamp(&raw mut time), "cuptiGetTimestamp")?;
        Ok(time)
    }

    /// The name of an API function, `None` where CUPTI does not know it.
    pub(crate) fn callback_name(&self, domain: u32, function: u32) -> Option<String> {
        let name = self.symbols.get_callback_name?;
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: takes any numbers and stores a pointer to a static string, or fails.
        let code = unsafe { name(domain, function, &raw mut text) };
        if code != SUCCESS || text.is_null() {
            return None;
        }
        // SAFETY: on success it is a NUL-terminated string of the library, which is never unloaded.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        // Versions are part of the symbol, not of the function that a user called.
        let base = text.split("_v").next().unwrap_or(&text);
        Some(base.to_owned())
    }

    /// Becomes the one subscriber of the process, which `callback` is called for.
    ///
    /// # Errors
    ///
    /// [`BackendError::Busy`] where another tool is, by its name where the library tells it.
    pub(crate) fn subscribe(&self, callback: Callback) -> Result<Subscriber, BackendError> {
        let (mut handle, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
        match call!(self.subscribe(&raw mut handle, callback, nothing), "cuptiSubscribe") {
            Ok(()) => Ok(Subscriber(handle)),
            Err(BackendError::Busy { .. }) => Err(BackendError::Busy { holder: self.holder() }),
            Err(error) => Err(error),
        }
    }

    /// The name of whoever holds the subscription (CUDA 13.0 and later).
    ///
    /// Only a subscription that is refused tells it; the capture itself stays with the older
    /// call, after which the process can be detached.
    fn holder(&self) -> Option<String> {
        self.symbols.subscribe_v2?;
        let mut name = [0_u8; HOLDER_BYTES];
        let mut params = SubscriberParams {
            bytes: size_of::<SubscriberParams>(),
            name: c"omniprof".as_ptr(),
            holder: name.as_mut_ptr().cast(),
            holder_bytes: name.len(),
        };
        let mut handle = std::ptr::null_mut();
        let asked = call!(
            self.subscribe_v2(&raw mut handle, ignore, std::ptr::null_mut(), &raw mut params),
            "cuptiSubscribe_v2"
        );
        if asked.is_ok() {
            // It left in between; the next start is told so by succeeding.
            drop(self.unsubscribe(&Subscriber(handle)));
            return None;
        }
        let text = CStr::from_bytes_until_nul(&name).ok()?.to_string_lossy();
        holder_named(&text)
    }

    /// Gives the subscription back.
    pub(crate) fn unsubscribe(&self, subscriber: &Subscriber) -> Result<(), BackendError> {
        call!(self.unsubscribe(subscriber.0), "cuptiUnsubscribe")
    }

    /// Says who hands out and takes buffers.
    pub(crate) fn register_callbacks(
        &self,
        requested: BufferRequested,
        completed: BufferCompleted,
    ) -> Result<(), BackendError> {
        call!(self.register_callbacks(requested, completed), "cuptiActivityRegisterCallbacks")
    }

    /// Switches a kind of activity on.
    pub(crate) fn enable(&self, kind: u32) -> Result<(), BackendError> {
        call!(self.enable(kind), "cuptiActivityEnable")
    }

    /// Switches a kind of activity on and asks for what exists already.
    pub(crate) fn enable_and_dump(&self, kind: u32) -> Result<(), BackendError> {
        if self.symbols.enable_and_dump.is_none() {
            return self.enable(kind);
        }
        call!(self.enable_and_dump(kind), "cuptiActivityEnableAndDump")
    }

    /// Switches a kind of activity off.
    pub(crate) fn disable(&self, kind: u32) -> Result<(), BackendError> {
        call!(self.disable(kind), "cuptiActivityDisable")
    }

    /// Makes CUPTI call back for one function; numbers that the library does not have it refuses.
    pub(crate) fn enable_callback(
        &self,
        subscriber: &Subscriber,
        domain: u32,
        function: u32,
    ) -> Result<(), BackendError> {
        call!(self.enable_callback(1, subscriber.0, domain, function), "cuptiEnableCallback")
    }

    /// Makes CUPTI call back for all functions of a domain, or for none of them.
    pub(crate) fn enable_domain(
        &self,
        subscriber: &Subscriber,
        domain: u32,
        on: bool,
    ) -> Result<(), BackendError> {
        call!(self.enable_domain(u32::from(on), subscriber.0, domain), "cuptiEnableDomain")
    }

    /// Makes CUPTI hand over what is complete; with `forced` also what is not, which is then never
    /// delivered again. One thread at a time: two deadlock inside CUPTI.
    pub(crate) fn flush_all(&self, forced: bool) -> Result<(), BackendError> {
        call!(self.flush_all(u32::from(forced)), "cuptiActivityFlushAll")
    }

    /// Records that CUPTI dropped since the last call.
    pub(crate) fn dropped_records(&self) -> Result<u64, BackendError> {
        let mut dropped = 0;
        call!(
            self.dropped_records(std::ptr::null_mut(), 0, &raw mut dropped),
            "cuptiActivityGetNumDroppedRecords"
        )?;
        Ok(dropped as u64)
    }

    /// Sets an attribute whose value is one byte or one machine word.
    pub(crate) fn set_attribute(
        &self,
        attribute: u32,
        value: &mut [u8],
    ) -> Result<(), BackendError> {
        let mut size = value.len();
        call!(
            self.set_attribute(attribute, &raw mut size, value.as_mut_ptr().cast()),
            "cuptiActivitySetAttribute"
        )
    }

    /// Makes records carry `gettid` numbers (`1`) or pthread handles (`0`); process-wide.
    pub(crate) fn set_thread_id_type(&self, kind: u32) -> Result<(), BackendError> {
        call!(self.set_thread_id_type(kind), "cuptiSetThreadIdType")
    }

    /// Whether anybody records, where the library tells (CUDA 13.2 and later).
    pub(crate) fn is_recording(&self) -> Option<bool> {
        let mut kinds = 0;
        call!(
            self.enabled_kinds(
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                &raw mut kinds
            ),
            "cuptiActivityGetEnabledKinds"
        )
        .ok()?;
        Some(kinds > 0)
    }

    /// Whether the library can be taken out of a process that goes on working.
    pub(crate) fn can_detach(&self) -> bool {
        self.version >= DETACH_VERSION && self.symbols.finalize.is_some()
    }

    /// Takes CUPTI out of the process. The caller holds the subscription, which ends with it.
    pub(crate) fn finalize(&self) -> Result<(), BackendError> {
        call!(self.finalize(), "cuptiFinalize")
    }

    /// What thread numbers records carry.
    pub(crate) fn thread_id_type(&self) -> Result<u32, BackendError> {
        let mut kind = 0;
        call!(self.get_thread_id_type(&raw mut kind), "cuptiGetThreadIdType")?;
        Ok(kind)
    }

    /// The record after `record` in a completed buffer; null asks for the first.
    ///
    /// `buffer` holds `valid` bytes that CUPTI wrote; `record` is null or came from this call.
    pub(crate) fn next_record(
        &self,
        buffer: *mut u8,
        valid: usize,
        record: *mut u8,
    ) -> Option<*mut u8> {
        let function = self.symbols.next_record?;
        let mut record = record;
        // SAFETY: the caller gives a buffer that CUPTI completed and a record of that buffer.
        let code = unsafe { function(buffer, valid, &raw mut record) };
        (code == SUCCESS && !record.is_null()).then_some(record)
    }
}

/// A callback for subscribers that want none.
pub(crate) extern "C" fn ignore(_data: *mut c_void, _domain: u32, _id: u32, _info: *const c_void) {}

fn open_candidate(candidate: &Candidate) -> Option<(Library, String)> {
    let open = |path: &Path, flags: c_int| {
        // SAFETY: loading runs the library's initialisers; libcupti's do no more than register
        // themselves (checked for 12.1 to 13.4), and a loaded library's have already run.
        unsafe { Library::open(Some(path), flags) }.ok()
    };
    let loaded_only = RTLD_NOW | RTLD_LOCAL | libc::RTLD_NOLOAD;
    match candidate {
        Candidate::Mapped(path) => {
            Some((open(path, loaded_only)?, format!("{} (already loaded)", path.display())))
        }
        Candidate::Loaded(name) => {
            Some((open(Path::new(name), loaded_only)?, format!("{name} (already loaded)")))
        }
        Candidate::Global => {
            let library = Library::this();
            // SAFETY: the symbol is only looked up here.
            let present = unsafe { library.get::<unsafe extern "C" fn()>(b"cuptiGetVersion\0") };
            present.ok()?;
            Some((library, "linked into the program".to_owned()))
        }
        Candidate::File(path) => {
            Some((open(path, RTLD_NOW | RTLD_LOCAL)?, path.display().to_string()))
        }
        Candidate::Named(name) => {
            let path = PathBuf::from(name);
            Some((open(&path, RTLD_NOW | RTLD_LOCAL)?, (*name).to_owned()))
        }
    }
}

/// A subscription. Given back by [`Cupti::unsubscribe`].
#[derive(Debug)]
pub(crate) struct Subscriber(*mut c_void);

// SAFETY: CUPTI's handle is an opaque number to us and may be used from any thread.
unsafe impl Send for Subscriber {}

/// The holder's name, unless it gave none: PyTorch's profiler subscribes by the older call, and
/// libcupti 13.0 then says `CUPTI for <not provided>`.
fn holder_named(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && !text.contains("<not provided>")).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_holder_without_a_name_has_none() {
        let named = super::holder_named("CUPTI for Nsight Systems ");
        assert_eq!(named.as_deref(), Some("CUPTI for Nsight Systems"));
        assert_eq!(super::holder_named("CUPTI for <not provided>"), None);
        assert_eq!(super::holder_named(" "), None);
    }
}
