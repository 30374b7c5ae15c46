//! The backend's answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use profiler_core::backend::{BackendId, ProfileSession, ProfilerBackend, SessionConfig};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::probe::{ProbeReport, UnavailableReason};
use profiler_core::sink::RecordSink;

use crate::machine::{Machine, VISIBLE_DEVICES};

/// Finds NVIDIA devices; does not record them yet.
#[derive(Debug)]
pub struct CudaBackend {
    root: PathBuf,
    visible: Option<String>,
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
        Self { root: root.to_owned(), visible }
    }

    fn reason(&self) -> UnavailableReason {
        let machine = Machine::look(&self.root, self.visible.clone());
        let reason = |code: &str, message: String, remedy: &str| UnavailableReason {
            code: code.to_owned(),
            message,
            remedy: remedy.to_owned(),
        };
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
            return reason("no_device", message, remedy);
        }
        if machine.is_hidden() {
            return reason(
                "no_device",
                format!(
                    "{VISIBLE_DEVICES}={} hides every NVIDIA device from this process",
                    machine.visible.unwrap_or_default()
                ),
                "unset CUDA_VISIBLE_DEVICES or name a device in it",
            );
        }
        reason(
            "not_supported_yet",
            format!(
                "{} NVIDIA device(s) found ({driver}), but this release does not record them",
                machine.devices.len()
            ),
            "record the host's side with the `cpu` backend, which works beside any device",
        )
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
        ProbeReport::Unavailable { reason: self.reason() }
    }

    fn open(
        &self,
        _config: &SessionConfig,
        _sink: Arc<dyn RecordSink>,
        _clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        let UnavailableReason { code, message, remedy } = self.reason();
        let message = match remedy.as_str() {
            "" => message,
            remedy => format!("{message}: {remedy}"),
        };
        Err(BackendError::Unavailable { code, message })
    }
}
