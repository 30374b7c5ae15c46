//! The backend's two answers: what is here, and a session.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use profiler_core::backend::{BackendId, ProfileSession, ProfilerBackend, SessionConfig};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::probe::{DeviceInfo, ProbeReport};
use profiler_core::sink::RecordSink;

use crate::cupti::library::Cupti;
use crate::machine::{Machine, VISIBLE_DEVICES};
use crate::session::CudaSession;

/// The environment variable that names a libcupti, for where none is loaded yet.
const LIBRARY_VARIABLE: &str = "OMNIPROF_LIBCUPTI";

/// Records NVIDIA devices.
#[derive(Debug)]
pub struct CudaBackend {
    root: PathBuf,
    visible: Option<String>,
    library: Mutex<Option<Arc<Cupti>>>,
}

impl CudaBackend {
    /// The backend, looking at this machine and this process's environment.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Path::new("/"), std::env::var(VISIBLE_DEVICES).ok())
    }

    /// The backend, looking at a machine whose files lie below `root`, in a process where
    /// `CUDA_VISIBLE_DEVICES` is `visible`.
    #[must_use]
    pub fn at(root: &Path, visible: Option<String>) -> Self {
        Self { root: root.to_owned(), visible, library: Mutex::default() }
    }

    /// The process's libcupti; opened once, never closed.
    fn library(&self, options: &Options) -> Result<Arc<Cupti>, BackendError> {
        let mut opened = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*opened {
            return Ok(Arc::clone(library));
        }
        let machine = Machine::look(&self.root, None);
        let library = Arc::new(Cupti::open(options.libcupti.as_deref(), machine.cuda_major())?);
        *opened = Some(Arc::clone(&library));
        Ok(library)
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
        let machine = Machine::look(&self.root, self.visible.clone());
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
        ProbeReport::Available { devices: devices.collect(), notes: vec![driver] }
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
        let library = self.library(&options)?;
        let session = CudaSession::open(library, config, options, sink, clock)?;
        Ok(Box::new(session))
    }
}

/// The settings that are this backend's alone.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// A libcupti, for where none is loaded yet.
    libcupti: Option<PathBuf>,
    /// Start at once, even in a process that has not loaded the driver.
    pub(crate) attach_at_once: bool,
}

impl Options {
    fn parse(config: &SessionConfig) -> Result<Self, BackendError> {
        let mut options = Self {
            libcupti: std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from),
            ..Self::default()
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
                _ => return Err(wrong("the CUDA backend has `cuda.libcupti` and `cuda.attach`")),
            }
        }
        Ok(options)
    }
}
