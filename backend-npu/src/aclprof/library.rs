//! The functions of libmsprofiler and libascendcl.

#![expect(unsafe_code, reason = "loads a vendor library and calls it")]

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use profiler_core::error::{BackendError, chain};

use crate::mspti::locate::Homes;

/// Both libraries, in the order in which functions are looked for.
pub(super) const NAMES: [&str; 2] = ["libmsprofiler.so", "libascendcl.so"];

type Init = unsafe extern "C" fn(*const c_char, usize) -> c_int;
type NoArguments = unsafe extern "C" fn() -> c_int;
type CreateConfig = unsafe extern "C" fn(*mut u32, u32, c_int, *const c_void, u64) -> *mut c_void;
type OfConfig = unsafe extern "C" fn(*const c_void) -> c_int;
type SetConfig = unsafe extern "C" fn(c_int, *const c_char, usize) -> c_int;
type Count = unsafe extern "C" fn(*mut u32) -> c_int;

/// `ACL_SUCCESS`.
pub(crate) const SUCCESS: c_int = 0;

/// `ACL_PROF_SYS_HARDWARE_MEM_FREQ`.
pub(crate) const MEMORY_FREQUENCY: c_int = 3;

/// The bits that say what is recorded.
pub(crate) mod data {
    /// Calls of `acl`.
    pub(crate) const ACL_API: u64 = 0x1;
    /// Tasks of the device, with what they are.
    pub(crate) const TASK_TIME: u64 = 0x2;
    /// Counters of the AI cores.
    pub(crate) const AICORE_METRICS: u64 = 0x4;
    /// Work of AI CPUs.
    pub(crate) const AICPU: u64 = 0x8;
    /// Accesses of the L2 cache.
    pub(crate) const L2CACHE: u64 = 0x10;
    /// Collectives.
    pub(crate) const HCCL_TRACE: u64 = 0x20;
    /// Ranges and marks of the application.
    pub(crate) const MSPROFTX: u64 = 0x80;
    /// Calls of the runtime.
    pub(crate) const RUNTIME_API: u64 = 0x100;
    /// Tasks of the device, cheaply.
    pub(crate) const TASK_TIME_L0: u64 = 0x800;
    /// Memory that operators take.
    pub(crate) const TASK_MEMORY: u64 = 0x1000;
}

/// The name of a result.
pub(crate) fn result_name(code: c_int) -> &'static str {
    match code {
        SUCCESS => "ACL_SUCCESS",
        100_000 => "ACL_ERROR_INVALID_PARAM",
        100_001 => "ACL_ERROR_UNINITIALIZE",
        100_002 => "ACL_ERROR_REPEAT_INITIALIZE",
        100_003 => "ACL_ERROR_INVALID_FILE",
        100_010 => "ACL_ERROR_INVALID_PROFILING_CONFIG",
        100_042 => "ACL_ERROR_PROF_ALREADY_RUN",
        100_043 => "ACL_ERROR_PROF_NOT_RUN",
        148_046 => "ACL_ERROR_PROF_REPEAT_SUBSCRIBE",
        148_047 => "ACL_ERROR_PROF_API_CONFLICT",
        200_000 => "ACL_ERROR_BAD_ALLOC",
        200_001 => "ACL_ERROR_API_NOT_SUPPORT",
        200_006 => "ACL_ERROR_FEATURE_UNSUPPORTED",
        200_007 => "ACL_ERROR_PROF_MODULES_UNSUPPORTED",
        500_000 => "ACL_ERROR_INTERNAL_ERROR",
        500_001 => "ACL_ERROR_FAILURE",
        500_004 => "ACL_ERROR_DRV_FAILURE",
        500_005 => "ACL_ERROR_PROFILING_FAILURE",
        _ => "unknown",
    }
}

/// A result as ours.
pub(crate) fn check(call: &'static str, code: c_int) -> Result<(), BackendError> {
    let busy = |who: &str| Err(BackendError::Busy { holder: Some(who.to_owned()) });
    match code {
        SUCCESS => Ok(()),
        100_002 | 100_042 => busy(
            "another profiler of this process holds aclprof (torch_npu.profiler, msprof, or code \
             that calls aclprofInit): stop it first",
        ),
        148_046 | 148_047 => busy(
            "this process is subscribed to aclprof's model interface (aclprofModelSubscribe), \
             which excludes a capture: end that first",
        ),
        100_001 => Err(BackendError::Unavailable {
            code: "device_not_initialised".to_owned(),
            message: format!(
                "{call} answered {code} ({}): the process has not called aclInit yet; start the \
                 capture once its model is loaded",
                result_name(code)
            ),
        }),
        200_006 => Err(BackendError::Unavailable {
            code: "not_supported".to_owned(),
            message: format!(
                "{call} answered {code} ({}): PROFILING_MODE is set, or this chip does not have \
                 it; unset the variable",
                result_name(code)
            ),
        }),
        code => Err(BackendError::Vendor {
            call,
            code: i64::from(code),
            name: result_name(code).to_owned(),
        }),
    }
}

/// The libraries, loaded for the rest of the process's life.
#[derive(Debug)]
pub(crate) struct Aclprof {
    init: Init,
    finalize: NoArguments,
    create_config: CreateConfig,
    destroy_config: OfConfig,
    start: OfConfig,
    stop: OfConfig,
    set_config: Option<SetConfig>,
    device_count: Option<Count>,
    /// What was loaded.
    pub(crate) paths: Vec<PathBuf>,
}

/// What `aclprofCreateConfig` made. Destroyed by [`Aclprof::destroy_config`].
#[derive(Debug)]
pub(crate) struct Config(*mut c_void);

// SAFETY: the vendor's object is opaque to us and bound to no thread.
unsafe impl Send for Config {}

impl Aclprof {
    /// Opens the libraries that the process has, or those of its CANN.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] where none is found or a function is missing.
    pub(crate) fn open(homes: &Homes, root: &Path) -> Result<Self, BackendError> {
        let mut libraries = Vec::new();
        let mut paths = Vec::new();
        let mut refused = Vec::new();
        for name in NAMES {
            match load(&homes.libraries(name, root)) {
                Ok((library, path)) => {
                    libraries.push(library);
                    paths.push(path);
                }
                Err(why) => refused.push(why),
            }
        }
        if libraries.is_empty() {
            return Err(BackendError::Unavailable {
                code: "library_missing".to_owned(),
                message: format!(
                    "neither libmsprofiler.so nor libascendcl.so can be loaded ({}): install the \
                     CANN toolkit and source its set_env.sh before the worker starts",
                    refused.join("; ")
                ),
            });
        }
        let this = Self {
            init: symbol(&libraries, &paths, "aclprofInit")?,
            finalize: symbol(&libraries, &paths, "aclprofFinalize")?,
            create_config: symbol(&libraries, &paths, "aclprofCreateConfig")?,
            destroy_config: symbol(&libraries, &paths, "aclprofDestroyConfig")?,
            start: symbol(&libraries, &paths, "aclprofStart")?,
            stop: symbol(&libraries, &paths, "aclprofStop")?,
            set_config: find(&libraries, "aclprofSetConfig"),
            device_count: find(&libraries, "aclrtGetDeviceCount"),
            paths,
        };
        for library in libraries {
            // Never unloaded: they have threads of their own.
            let _handle: *mut c_void = library.into_raw();
        }
        Ok(this)
    }

    /// Names the directory below which raw files are written.
    pub(crate) fn init(&self, directory: &Path) -> Result<(), BackendError> {
        let path = directory.as_os_str().as_encoded_bytes();
        let mut text = path.to_vec();
        text.push(0);
        // SAFETY: a NUL-terminated text and its length without the NUL, as the header asks.
        check("aclprofInit", unsafe { (self.init)(text.as_ptr().cast(), path.len()) })
    }

    /// Ends what [`Self::init`] began.
    pub(crate) fn finalize(&self) -> Result<(), BackendError> {
        // SAFETY: takes nothing.
        check("aclprofFinalize", unsafe { (self.finalize)() })
    }

    /// What shall be recorded, on which devices; `None` = the library does not take it.
    pub(crate) fn create_config(
        &self,
        devices: &mut [u32],
        metrics: c_int,
        what: u64,
    ) -> Option<Config> {
        let count = u32::try_from(devices.len()).ok()?;
        // SAFETY: so many numbers stand there; events are unused and NULL, as the header says.
        let config = unsafe {
            (self.create_config)(devices.as_mut_ptr(), count, metrics, std::ptr::null(), what)
        };
        (!config.is_null()).then_some(Config(config))
    }

    /// Frees a configuration.
    pub(crate) fn destroy_config(&self, config: Config) -> Result<(), BackendError> {
        // SAFETY: it came from `create_config` and is given up here.
        check("aclprofDestroyConfig", unsafe { (self.destroy_config)(config.0) })
    }

    /// Begins to record.
    pub(crate) fn start(&self, config: &Config) -> Result<(), BackendError> {
        // SAFETY: it came from `create_config`.
        check("aclprofStart", unsafe { (self.start)(config.0) })
    }

    /// Ends the recording; files are written until it returns.
    pub(crate) fn stop(&self, config: &Config) -> Result<(), BackendError> {
        // SAFETY: it came from `create_config`, and is the one that was started.
        check("aclprofStop", unsafe { (self.stop)(config.0) })
    }

    /// Sets one of aclprof's numbers; `None` = this CANN has no such function.
    pub(crate) fn set_config(&self, number: c_int, value: &str) -> Option<c_int> {
        let set = self.set_config?;
        let mut text = value.as_bytes().to_vec();
        text.push(0);
        // SAFETY: a NUL-terminated text and its length without the NUL, as the header asks.
        Some(unsafe { set(number, text.as_ptr().cast(), value.len()) })
    }

    /// How many devices the process sees; `None` = the library does not say.
    pub(crate) fn device_count(&self) -> Option<u32> {
        let mut count = 0;
        // SAFETY: the number can be written.
        let code = unsafe { (self.device_count?)(&raw mut count) };
        (code == SUCCESS).then_some(count)
    }
}

/// Loads the first of the places that can be loaded.
fn load(places: &[PathBuf]) -> Result<(Library, PathBuf), String> {
    let mut why = String::new();
    for place in places {
        // SAFETY: initialisers of a library that applications of this CANN link to; unlike
        // libmspti's, they were not seen to end a process.
        match unsafe { Library::open(Some(place), RTLD_LAZY | RTLD_LOCAL) } {
            Ok(library) => return Ok((library, place.clone())),
            Err(error) => why = chain(&error),
        }
    }
    Err(why)
}

fn find<T: Copy>(libraries: &[Library], name: &str) -> Option<T> {
    libraries.iter().find_map(|library| {
        // SAFETY: each caller names the type that the headers of AscendCL give the symbol.
        let found = unsafe { library.get::<T>(name.as_bytes()) };
        found.ok().map(|symbol| *symbol)
    })
}

fn symbol<T: Copy>(
    libraries: &[Library],
    paths: &[PathBuf],
    name: &str,
) -> Result<T, BackendError> {
    find(libraries, name).ok_or_else(|| {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        BackendError::Unavailable {
            code: "symbol_missing".to_owned(),
            message: format!(
                "{} has no {name}: source the set_env.sh of a CANN that has it before the worker \
                 starts",
                paths.join(" and ")
            ),
        }
    })
}
