//! The backend's answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use profiler_core::backend::{BackendId, ProfileSession, ProfilerBackend, SessionConfig};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::probe::{ProbeReport, UnavailableReason};
use profiler_core::sink::RecordSink;

use crate::machine::{Machine, VISIBLE_DEVICES};

/// Finds Ascend devices; does not record them yet.
#[derive(Debug)]
pub struct NpuBackend {
    root: PathBuf,
    visible: Option<String>,
}

impl NpuBackend {
    /// The backend, looking at this machine and this process's environment.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Path::new("/"), std::env::var(VISIBLE_DEVICES).ok())
    }

    /// The backend, looking at a machine whose files lie below `root`, in a process where
    /// `ASCEND_RT_VISIBLE_DEVICES` is `visible`.
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
        let driver = match (&machine.driver, machine.library) {
            (Some(version), _) => format!("driver {version}"),
            (None, true) => "driver of unknown version".to_owned(),
            (None, false) => "no driver library in /usr/local/Ascend/driver".to_owned(),
        };
        if machine.devices.is_empty() {
            let (message, remedy) = match machine.manager || machine.library {
                false => ("no Ascend device: no /dev/davinci0 and no driver".to_owned(), ""),
                true => (
                    format!("no Ascend device: {driver}, but no /dev/davinci0 here"),
                    "give the container its devices (`docker run --device /dev/davinci0 --device \
                     /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc`)",
                ),
            };
            return reason("no_device", message, remedy);
        }
        if !machine.manager {
            return reason(
                "no_device",
                format!(
                    "{} Ascend device node(s) found, but no /dev/davinci_manager, without which \
                     none can be opened",
                    machine.devices.len()
                ),
                "give the container that node too (`docker run --device /dev/davinci_manager`)",
            );
        }
        if machine.is_hidden() {
            return reason(
                "no_device",
                format!(
                    "{VISIBLE_DEVICES}={} hides every Ascend device from this process",
                    machine.visible.unwrap_or_default()
                ),
                "unset ASCEND_RT_VISIBLE_DEVICES or name a device in it",
            );
        }
        reason(
            "not_supported_yet",
            format!(
                "{} Ascend device(s) found ({driver}), but this release does not record them",
                machine.devices.len()
            ),
            "record the host's side with the `cpu` backend, which works beside any device",
        )
    }
}

impl Default for NpuBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl ProfilerBackend for NpuBackend {
    fn id(&self) -> BackendId {
        BackendId::parse("npu").unwrap_or_else(|_| unreachable!("`npu` is a valid id"))
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
