//! libnvidia-ml's functions, each of which may be missing.

#![expect(unsafe_code, reason = "loads a vendor library and calls it")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::error::BackendError;

/// The library's name; the driver brings it.
const SONAME: &str = "libnvidia-ml.so.1";

const SUCCESS: c_int = 0;

/// A device, as the library names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle(*mut c_void);

// SAFETY: the library's handles are valid on any thread for as long as it is initialised.
unsafe impl Send for Handle {}

/// `nvmlUtilization_t`: shares of time, in percent.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Utilization {
    /// Some kernel ran.
    pub(crate) gpu: u32,
    /// Memory was read or written.
    pub(crate) memory: u32,
}

/// `nvmlMemory_t`, bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) free: u64,
    pub(crate) used: u64,
}

/// `nvmlClockType_t`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Clock {
    Multiprocessors = 1,
    Memory = 2,
}

/// `nvmlGpmSupport_t`.
#[repr(C)]
struct GpmSupport {
    version: u32,
    is_supported: u32,
}

/// `nvmlGpmMetric_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct GpmMetric {
    id: u32,
    result: c_int,
    value: f64,
    short_name: *const c_char,
    long_name: *const c_char,
    unit: *const c_char,
}

/// Metrics that one question may hold; newer headers make room for some hundred.
const GPM_METRICS: usize = 512;

/// `nvmlGpmMetricsGet_t`.
#[repr(C)]
struct GpmQuestion {
    version: u32,
    count: u32,
    first: *mut c_void,
    second: *mut c_void,
    metrics: [GpmMetric; GPM_METRICS],
}

/// A sample that GPM fills; given back by [`Nvml::free_sample`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct GpmSample(*mut c_void);

// SAFETY: an allocation of the library, which any thread may use.
unsafe impl Send for GpmSample {}

macro_rules! symbols {
    ($($field:ident = $symbol:literal: fn($($arg:ty),*);)*) => {
        #[derive(Debug)]
        struct Symbols {
            $($field: Option<unsafe extern "C" fn($($arg),*) -> c_int>,)*
        }

        impl Symbols {
            fn load(library: &Library) -> Self {
                Self {
                    $($field: {
                        // SAFETY: the signature is that of the vendor's header for this symbol.
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
    init = b"nvmlInit_v2\0": fn();
    shutdown = b"nvmlShutdown\0": fn();
    driver_version = b"nvmlSystemGetDriverVersion\0": fn(*mut c_char, u32);
    count = b"nvmlDeviceGetCount_v2\0": fn(*mut u32);
    handle = b"nvmlDeviceGetHandleByIndex_v2\0": fn(u32, *mut *mut c_void);
    name = b"nvmlDeviceGetName\0": fn(*mut c_void, *mut c_char, u32);
    uuid = b"nvmlDeviceGetUUID\0": fn(*mut c_void, *mut c_char, u32);
    utilization = b"nvmlDeviceGetUtilizationRates\0": fn(*mut c_void, *mut Utilization);
    memory = b"nvmlDeviceGetMemoryInfo\0": fn(*mut c_void, *mut Memory);
    clock = b"nvmlDeviceGetClockInfo\0": fn(*mut c_void, u32, *mut u32);
    power = b"nvmlDeviceGetPowerUsage\0": fn(*mut c_void, *mut u32);
    temperature = b"nvmlDeviceGetTemperature\0": fn(*mut c_void, u32, *mut u32);
    throttle = b"nvmlDeviceGetCurrentClocksThrottleReasons\0": fn(*mut c_void, *mut u64);
    gpm_support = b"nvmlGpmQueryDeviceSupport\0": fn(*mut c_void, *mut GpmSupport);
    gpm_alloc = b"nvmlGpmSampleAlloc\0": fn(*mut *mut c_void);
    gpm_free = b"nvmlGpmSampleFree\0": fn(*mut c_void);
    gpm_sample = b"nvmlGpmSampleGet\0": fn(*mut c_void, *mut c_void);
    gpm_metrics = b"nvmlGpmMetricsGet\0": fn(*mut GpmQuestion);
}

/// The library, initialised; dropping it ends its use.
#[derive(Debug)]
pub(crate) struct Nvml {
    symbols: Symbols,
}

/// Calls a function of the library; `None` where it is missing or refuses.
macro_rules! ask {
    ($self:ident.$field:ident($($arg:expr),*)) => {
        match $self.symbols.$field {
            // SAFETY: the arguments are of the types that the vendor's header gives and live for
            // the call; handles came from the library, which is initialised.
            Some(function) => (unsafe { function($($arg),*) } == SUCCESS).then_some(()),
            None => None,
        }
    };
}

impl Nvml {
    /// Whether the library can be loaded.
    pub(crate) fn is_there() -> bool {
        open().is_some()
    }

    /// Loads and initialises the library.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] where it is missing or the driver does not answer.
    pub(crate) fn open() -> Result<Self, BackendError> {
        let refused = |code: &str, message: String| BackendError::Unavailable {
            code: code.to_owned(),
            message,
        };
        let Some(library) = open() else { return Err(Self::missing()) };
        let symbols = Symbols::load(&library);
        // Never unloaded: the driver's libraries start threads.
        let _handle: *mut c_void = library.into_raw();
        let Some(init) = symbols.init else {
            return Err(refused("symbol_missing", format!("{SONAME} has no nvmlInit_v2")));
        };
        // SAFETY: takes nothing.
        let code = unsafe { init() };
        if code != SUCCESS {
            return Err(refused(
                "nvml_failed",
                format!("nvmlInit gave {code}: the driver does not answer (see `nvidia-smi`)"),
            ));
        }
        Ok(Self { symbols })
    }

    /// The refusal where there is no library.
    pub(crate) fn missing() -> BackendError {
        BackendError::Unavailable {
            code: "nvml_missing".to_owned(),
            message: format!(
                "{SONAME} was not found: it comes with the driver (give the container the \
                 driver capability `utility`)"
            ),
        }
    }

    /// The major version of the driver, 0 = not told.
    pub(crate) fn driver_major(&self) -> u32 {
        let text = self.text(|text, size| ask!(self.driver_version(text, size)));
        text.and_then(|text| text.split('.').next()?.parse().ok()).unwrap_or(0)
    }

    /// The devices, in the library's order.
    pub(crate) fn devices(&self) -> Vec<Handle> {
        let mut count = 0;
        if ask!(self.count(&raw mut count)).is_none() {
            return Vec::new();
        }
        let device = |index| {
            let mut handle = std::ptr::null_mut();
            ask!(self.handle(index, &raw mut handle)).map(|()| Handle(handle))
        };
        (0..count).filter_map(device).collect()
    }

    /// A device's name.
    pub(crate) fn name(&self, device: Handle) -> Option<String> {
        self.text(|text, size| ask!(self.name(device.0, text, size)))
    }

    /// A device's unique id as text (`GPU-…`).
    pub(crate) fn uuid(&self, device: Handle) -> Option<String> {
        self.text(|text, size| ask!(self.uuid(device.0, text, size)))
    }

    /// How busy a device was lately.
    pub(crate) fn utilization(&self, device: Handle) -> Option<Utilization> {
        let mut value = Utilization::default();
        ask!(self.utilization(device.0, &raw mut value)).map(|()| value)
    }

    /// How full a device's memory is.
    pub(crate) fn memory(&self, device: Handle) -> Option<Memory> {
        let mut value = Memory::default();
        ask!(self.memory(device.0, &raw mut value)).map(|()| value)
    }

    /// A clock, MHz.
    pub(crate) fn clock(&self, device: Handle, clock: Clock) -> Option<u32> {
        let mut value = 0;
        ask!(self.clock(device.0, clock as u32, &raw mut value)).map(|()| value)
    }

    /// Power drawn, mW.
    pub(crate) fn power(&self, device: Handle) -> Option<u32> {
        let mut value = 0;
        ask!(self.power(device.0, &raw mut value)).map(|()| value)
    }

    /// Temperature of the chip, degrees Celsius.
    pub(crate) fn temperature(&self, device: Handle) -> Option<u32> {
        const CHIP: u32 = 0;
        let mut value = 0;
        ask!(self.temperature(device.0, CHIP, &raw mut value)).map(|()| value)
    }

    /// Why clocks are held down, as bits (`nvmlClocksThrottleReasons`).
    pub(crate) fn throttle(&self, device: Handle) -> Option<u64> {
        let mut value = 0;
        ask!(self.throttle(device.0, &raw mut value)).map(|()| value)
    }

    /// Whether a device has performance monitoring (Hopper and later).
    pub(crate) fn has_gpm(&self, device: Handle) -> bool {
        let mut support = GpmSupport { version: 1, is_supported: 0 };
        ask!(self.gpm_support(device.0, &raw mut support)).is_some() && support.is_supported != 0
    }

    /// A sample to fill.
    pub(crate) fn new_sample(&self) -> Option<GpmSample> {
        let mut sample = std::ptr::null_mut();
        ask!(self.gpm_alloc(&raw mut sample)).map(|()| GpmSample(sample))
    }

    /// Gives a sample back.
    pub(crate) fn free_sample(&self, sample: GpmSample) {
        ask!(self.gpm_free(sample.0)).unwrap_or(());
    }

    /// Fills a sample.
    pub(crate) fn sample(&self, device: Handle, sample: GpmSample) -> Option<()> {
        ask!(self.gpm_sample(device.0, sample.0))
    }

    /// The values of metrics between two samples; those that the device does not have are `None`.
    pub(crate) fn metrics<const N: usize>(
        &self,
        between: [GpmSample; 2],
        ids: [u32; N],
    ) -> Option<[Option<f64>; N]> {
        const { assert!(N <= GPM_METRICS, "a question holds no more") };
        let none = GpmMetric {
            id: 0,
            result: 0,
            value: 0.0,
            short_name: std::ptr::null(),
            long_name: std::ptr::null(),
            unit: std::ptr::null(),
        };
        let [first, second] = between;
        let mut question = Box::new(GpmQuestion {
            version: 1,
            count: N as u32,
            first: first.0,
            second: second.0,
            metrics: [none; GPM_METRICS],
        });
        for (metric, id) in question.metrics.iter_mut().zip(ids) {
            metric.id = id;
        }
        ask!(self.gpm_metrics(&raw mut *question))?;
        Some(std::array::from_fn(|index| {
            let metric = question.metrics[index];
            (metric.result == SUCCESS && metric.value.is_finite()).then_some(metric.value)
        }))
    }

    fn text(&self, ask: impl FnOnce(*mut c_char, u32) -> Option<()>) -> Option<String> {
        const BYTES: usize = 96;
        let mut text = [0_u8; BYTES];
        ask(text.as_mut_ptr().cast(), BYTES as u32)?;
        let text = CStr::from_bytes_until_nul(&text).ok()?;
        Some(text.to_string_lossy().into_owned())
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // The library counts its users.
        ask!(self.shutdown()).unwrap_or(());
    }
}

fn open() -> Option<Library> {
    // SAFETY: the driver's own library, whose initialisers start nothing.
    unsafe { Library::open(Some(Path::new(SONAME)), RTLD_NOW | RTLD_LOCAL) }.ok()
}
