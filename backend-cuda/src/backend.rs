//! The backend's two answers: what is here, and a session.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use profiler_core::backend::{
    BackendId, DriverState, ProfileSession, ProfilerBackend, SessionConfig,
};
use profiler_core::clock::ClockSource;
use profiler_core::environment::variable;
use profiler_core::error::BackendError;
use profiler_core::probe::{DeviceInfo, ProbeReport};
use profiler_core::sink::RecordSink;

use crate::cupti::library::Cupti;
use crate::driver::Driver;
use crate::machine::{Machine, VISIBLE_DEVICES};
use crate::session::CudaSession;

/// The environment variable that names a libcupti, for where none is loaded yet.
const LIBRARY_VARIABLE: &str = "OMNIPROF_LIBCUPTI";

/// The environment variable that names where the machine's files lie, instead of `/`: for
/// containers that mount them elsewhere, and for stand-ins.
const ROOT_VARIABLE: &str = "OMNIPROF_CUDA_ROOT";

/// How long CUPTI stays attached without a session, where nobody says.
const DETACH_AFTER: Duration = Duration::from_secs(60);
/// Free memory of a device that a start wants to find, unless told otherwise.
const MIN_FREE_BYTES: u64 = 64 << 20;

/// Records NVIDIA devices.
#[derive(Debug)]
pub struct CudaBackend {
    visible: Option<String>,
    libraries: Arc<Libraries>,
}

/// The vendor's libraries of this process.
#[derive(Debug)]
pub(crate) struct Libraries {
    /// Where the machine's files lie.
    root: PathBuf,
    cupti: Mutex<Option<Arc<Cupti>>>,
}

impl Libraries {
    /// The process's libcupti; opened once, never closed.
    pub(crate) fn cupti(&self, configured: Option<&Path>) -> Result<Arc<Cupti>, BackendError> {
        let mut opened = self.cupti.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*opened {
            return Ok(Arc::clone(library));
        }
        let machine = Machine::look(&self.root, None);
        let library = Arc::new(Cupti::open(configured, machine.cuda_major())?);
        *opened = Some(Arc::clone(&library));
        Ok(library)
    }
}

impl CudaBackend {
    /// The backend, looking at this machine and this process's environment.
    #[must_use]
    pub fn new() -> Self {
        let root = variable(ROOT_VARIABLE).filter(|root| !root.is_empty());
        let root = root.map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let visible = variable(VISIBLE_DEVICES).and_then(|text| text.into_string().ok());
        Self::at(&root, visible)
    }

    /// The backend, looking at a machine whose files lie below `root`, in a process where
    /// `CUDA_VISIBLE_DEVICES` is `visible`.
    #[must_use]
    pub fn at(root: &Path, visible: Option<String>) -> Self {
        let libraries = Libraries { root: root.to_owned(), cupti: Mutex::default() };
        Self { visible, libraries: Arc::new(libraries) }
    }
}

impl Default for CudaBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl ProfilerBackend for CudaBackend {
    fn id(&self) -> BackendId {
        BackendId::parse("cuda").unwrap_or_else(|_| unreachable!("`cuda` is a valid id"))
    }

    fn probe(&self) -> ProbeReport {
        let machine = Machine::look(&self.libraries.root, self.visible.clone());
        let driver = match &machine.driver {
            Some(version) => format!("driver {version}"),
            None => "no driver loaded".to_owned(),
        };
        if machine.devices.is_empty() {
            let (message, remedy) = match machine.driver {
                None => ("no NVIDIA device: no /dev/nvidia0 and no driver loaded".to_owned(), ""),
                Some(_) => (
                    format!("no NVIDIA device: {driver}, but no /dev/nvidia0 here"),
                    "give the container its devices (`docker run --gpus all`)",
                ),
            };
            return ProbeReport::unavailable("no_device", message, remedy);
        }
        if machine.is_hidden() {
            return ProbeReport::unavailable(
                "no_device",
                format!(
                    "{VISIBLE_DEVICES}={} hides every NVIDIA device from this process",
                    machine.visible.unwrap_or_default()
                ),
                "unset CUDA_VISIBLE_DEVICES or name a device in it",
            );
        }
        let devices = machine.devices.iter().map(|device| DeviceInfo {
            index: device.number,
            name: device.name.clone(),
            uuid: device.uuid.clone(),
        });
        let mut notes = vec![driver];
        notes.extend(crate::place::driver().map(|(_, text)| text));
        ProbeReport::Available { devices: devices.collect(), notes }
    }

    fn driver(&self) -> Option<DriverState> {
        crate::place::driver().map(|(state, _)| state)
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        if config.target_pid.is_some_and(|pid| pid != std::process::id()) {
            return Err(BackendError::InvalidConfig {
                field: "target_pid".to_owned(),
                reason: "CUPTI records the process that it is loaded in, and no other".to_owned(),
            });
        }
        let options = Options::parse(config)?;
        let libraries = Arc::clone(&self.libraries);
        let session = CudaSession::open(libraries, config, options, sink, clock)?;
        Ok(Box::new(session))
    }
}

/// The settings that are this backend's alone.
#[derive(Debug)]
pub(crate) struct Options {
    /// A libcupti, for where none is loaded yet.
    pub(crate) libcupti: Option<PathBuf>,
    /// Start at once, even in a process that has not loaded the driver.
    pub(crate) attach_at_once: bool,
    /// How long CUPTI stays attached without a session; `None` = until the process ends.
    pub(crate) detach_after: Option<Duration>,
    /// A start is refused where a device in use has less free memory than this.
    min_free_bytes: u64,
}

impl Options {
    fn parse(config: &SessionConfig) -> Result<Self, BackendError> {
        let mut options = Self {
            libcupti: variable(LIBRARY_VARIABLE).map(PathBuf::from),
            attach_at_once: false,
            detach_after: Some(DETACH_AFTER),
            min_free_bytes: MIN_FREE_BYTES,
        };
        for (name, value) in config.options.iter().filter(|(name, _)| name.starts_with("cuda.")) {
            let wrong = |reason: &str| BackendError::InvalidConfig {
                field: name.clone(),
                reason: reason.to_owned(),
            };
            match name.as_str() {
                "cuda.libcupti" => {
                    let path = value.as_str().ok_or_else(|| wrong("it is a path"))?;
                    options.libcupti = Some(PathBuf::from(path));
                }
                "cuda.attach" => match value.as_str() {
                    Some("at_once") => options.attach_at_once = true,
                    Some("with_driver") => options.attach_at_once = false,
                    _ => return Err(wrong("it is `at_once` or `with_driver`")),
                },
                "cuda.detach_after_ms" => {
                    options.detach_after = match (value.as_u64(), value.as_str()) {
                        (Some(ms), _) => Some(Duration::from_millis(ms)),
                        (None, Some("off")) => None,
                        _ => return Err(wrong("it is a number of ms or `off`")),
                    };
                }
                "cuda.min_free_bytes" => {
                    let bytes = value.as_u64().ok_or_else(|| wrong("it is a number of bytes"))?;
                    options.min_free_bytes = bytes;
                }
                _ => {
                    return Err(wrong(
                        "the CUDA backend has `cuda.libcupti`, `cuda.attach`, \
                         `cuda.detach_after_ms` and `cuda.min_free_bytes`",
                    ));
                }
            }
        }
        Ok(options)
    }

    /// A program must not run out of the device's memory because it is recorded: CUPTI takes 15 to
    /// 20 MB for its buffers.
    pub(crate) fn check_free_memory(&self) -> Result<(), BackendError> {
        let free = Driver::loaded().and_then(|driver| driver.least_free_bytes());
        match free {
            Some(free) if free < self.min_free_bytes => Err(BackendError::Unavailable {
                code: "out_of_device_memory".to_owned(),
                message: format!(
                    "the device has {:.1} MiB of free memory, of which CUPTI would take some 20 \
                     for its buffers: below {:.1} MiB nothing is started, so that the program does \
                     not run out of it; leave more free, or set `cuda.min_free_bytes` lower",
                    mib(free),
                    mib(self.min_free_bytes)
                ),
            }),
            _ => Ok(()),
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
