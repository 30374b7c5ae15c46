//! The door to the backends: what panics behind it stays behind it.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use profiler_core::backend::{
    BackendId, DriverState, ProfileSession, SessionConfig, SessionSummary,
};
use profiler_core::clock::ClockSource;
use profiler_core::control::BackendProbe;
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::registry::{BackendRegistry, PluginOrigin, RefusedPlugin, RegisteredBackend};
use profiler_core::sink::RecordSink;

/// The backends of a process, each called behind a catch. One that panicked is not used again.
pub(crate) struct Backends {
    registry: BackendRegistry,
    panicked: Arc<Panicked>,
}

/// The backends that panicked, and what they said.
#[derive(Default)]
struct Panicked(Mutex<BTreeMap<BackendId, String>>);

impl Panicked {
    fn of(&self, id: &BackendId) -> Option<BackendError> {
        let panicked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let message = panicked.get(id)?.clone();
        Some(BackendError::Panicked { backend: id.to_string(), message })
    }

    /// Calls a backend and remembers where it panics.
    fn guard<T>(
        &self,
        id: &BackendId,
        call: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        if let Some(error) = self.of(id) {
            return Err(error);
        }
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => result,
            Err(payload) => {
                let message = panic_text(payload);
                let mut panicked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                panicked.insert(id.clone(), message.clone());
                Err(BackendError::Panicked { backend: id.to_string(), message })
            }
        }
    }
}

/// The code of a backend that panicked.
const PANICKED: &str = "backend_panicked";

/// Why a device backend was chosen, or none.
pub(crate) struct Choice {
    pub(crate) device: Option<BackendId>,
    pub(crate) why: String,
    /// The reason for which none is available, where one was asked for.
    pub(crate) unavailable: Option<(String, String)>,
}

impl Backends {
    pub(crate) fn new(registry: BackendRegistry) -> Self {
        Self { registry, panicked: Arc::default() }
    }

    pub(crate) fn find(&self, id: &BackendId) -> Option<&RegisteredBackend> {
        self.registry.find(id)
    }

    /// Plugins that were found and are not used.
    pub(crate) fn refused_plugins(&self) -> Vec<RefusedPlugin> {
        self.registry.refused_plugins().to_vec()
    }

    /// The plugins that backends came in.
    pub(crate) fn origins(&self) -> impl Iterator<Item = (BackendId, &PluginOrigin)> {
        let ids = self.registry.iter().map(RegisteredBackend::id);
        ids.filter_map(|id| self.registry.origin(&id).map(|origin| (id, origin)))
    }

    /// Asks all backends what they find.
    pub(crate) fn probe(&self) -> Vec<BackendProbe> {
        self.registry
            .iter()
            .map(|registered| BackendProbe {
                id: registered.id(),
                role: registered.role,
                priority: registered.priority,
                report: self.probe_one(registered),
                driver: self.driver_of(registered),
                plugin: self.registry.origin(&registered.id()).cloned(),
            })
            .collect()
    }

    fn driver_of(&self, registered: &RegisteredBackend) -> Option<DriverState> {
        let asked = self.panicked.guard(&registered.id(), || Ok(registered.backend.driver()));
        asked.ok().flatten()
    }

    fn probe_one(&self, registered: &RegisteredBackend) -> ProbeReport {
        let probed = self.panicked.guard(&registered.id(), || Ok(registered.backend.probe()));
        probed.unwrap_or_else(|error| {
            ProbeReport::unavailable(
                error.code(),
                error.to_string(),
                "report this; until the process restarts the backend is not used",
            )
        })
    }

    /// Picks the device backend for a session; where it is required, that there is none is told.
    pub(crate) fn choose_device(&self, forced: Option<&BackendId>, is_required: bool) -> Choice {
        let selected = catch_unwind(AssertUnwindSafe(|| {
            self.registry.select_device_by(forced, |registered| self.probe_one(registered))
        }));
        let Ok(selection) = selected else {
            let why = "the choice of a device backend panicked".to_owned();
            return Choice {
                device: None,
                unavailable: Some(("panicked".into(), why.clone())),
                why,
            };
        };
        let codes = || {
            selection.reports.iter().filter_map(|(_, report)| match report {
                ProbeReport::Unavailable { reason } => Some(reason.code.as_str()),
                _ => None,
            })
        };
        // Where nobody asked for a device, a machine without one records the host alone. One that
        // was asked for, or whose backend broke, is missed.
        let code = match (&selection.chosen, forced) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(codes().next().unwrap_or("no_such_backend")),
            (None, None) if is_required => Some(codes().next().unwrap_or("no_device")),
            (None, None) => codes().find(|code| *code == PANICKED),
        };
        let unavailable = code.map(|code| (code.to_owned(), selection.why.clone()));
        Choice { device: selection.chosen, why: selection.why, unavailable }
    }

    /// Whether a session of these settings gives allocations and frees as rows. One that panics
    /// over it is told of when it is opened.
    pub(crate) fn records_memory(&self, id: &BackendId, config: &SessionConfig) -> bool {
        let Some(registered) = self.find(id) else { return false };
        let asked = self.panicked.guard(id, || Ok(registered.backend.records_memory(config)));
        asked.unwrap_or(false)
    }

    /// Opens a session.
    pub(crate) fn open(
        &self,
        id: &BackendId,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<OpenSession, BackendError> {
        let Some(registered) = self.find(id) else {
            return Err(BackendError::Unavailable {
                code: "no_such_backend".to_owned(),
                message: format!("this process has no backend `{id}`"),
            });
        };
        let session = self.panicked.guard(id, || registered.backend.open(config, sink, clock))?;
        Ok(OpenSession {
            id: id.clone(),
            panicked: Arc::clone(&self.panicked),
            session: Some(session),
            is_started: false,
        })
    }
}

/// A session of a backend, called behind a catch.
pub(crate) struct OpenSession {
    id: BackendId,
    panicked: Arc<Panicked>,
    session: Option<Box<dyn ProfileSession>>,
    is_started: bool,
}

impl OpenSession {
    pub(crate) fn id(&self) -> &BackendId {
        &self.id
    }

    pub(crate) fn is_started(&self) -> bool {
        self.is_started
    }

    pub(crate) fn start(&mut self) -> Result<(), BackendError> {
        self.call(|session| session.start())?;
        self.is_started = true;
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), BackendError> {
        self.call(|session| session.flush())
    }

    pub(crate) fn stop(mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        self.call(|session| session.stop(drain))
    }

    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Box<dyn ProfileSession>) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let Some(session) = &mut self.session else { return Err(BackendError::NotStarted) };
        self.panicked.guard(&self.id, || call(session))
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        // A session that panicked once may do so again while it is taken down.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(session))) {
            let message = panic_text(payload);
            let mut panicked = self.panicked.0.lock().unwrap_or_else(PoisonError::into_inner);
            panicked.entry(self.id.clone()).or_insert(message);
        }
    }
}

/// The text of a panic. The payload is dropped behind a catch: its own drop may panic, too.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "a panic without a text".to_owned(),
    };
    // What its drop says goes nowhere.
    let _dropped: std::thread::Result<()> = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    text
}
