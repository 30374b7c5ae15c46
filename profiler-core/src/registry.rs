//! Which backends there are, and which one records.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::{BackendId, BackendRole, ProfilerBackend};
use crate::probe::ProbeReport;

/// A linked backend, registered with [`inventory::submit!`].
///
/// A backend crate that nothing names is not linked and registers nothing: the one place that
/// names them is `linked.rs` of the agent.
pub struct BackendRegistration {
    /// The id, as [`BackendId::parse`] takes it.
    pub id: &'static str,
    /// What it records.
    pub role: BackendRole,
    /// Of several available device backends the highest records.
    pub priority: u32,
    /// Makes it. Does nothing else: no library, no thread.
    pub make: fn() -> Box<dyn ProfilerBackend>,
}

inventory::collect!(BackendRegistration);

/// Tries a library, and calls the writer with each line of its answer as soon as it is known. The
/// last line is the outcome; a process that ends before it has shown what would happen.
pub type Trial = fn(&std::path::Path, &mut dyn FnMut(&str));

/// What a linked backend tries in a process of its own before a profiled process does it: loading a
/// library that may end the process. `omniprof probe-<backend>` runs it.
#[non_exhaustive]
pub struct TrialRegistration {
    /// The backend's id.
    pub backend: &'static str,
    /// Tries a library.
    pub run: Trial,
}

impl TrialRegistration {
    /// A trial of a backend.
    #[must_use]
    pub const fn new(backend: &'static str, run: Trial) -> Self {
        Self { backend, run }
    }

    /// The trial of a linked backend.
    #[must_use]
    pub fn find(backend: &str) -> Option<&'static Self> {
        inventory::iter::<Self>.into_iter().find(|trial| trial.backend == backend)
    }
}

inventory::collect!(TrialRegistration);

/// A backend of this process.
pub struct RegisteredBackend {
    /// What it records.
    pub role: BackendRole,
    /// Of several available device backends the highest records.
    pub priority: u32,
    /// The backend.
    pub backend: Box<dyn ProfilerBackend>,
}

impl RegisteredBackend {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> BackendId {
        self.backend.id()
    }
}

/// The library that a backend came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginOrigin {
    /// The library.
    pub path: PathBuf,
    /// The plugin's version.
    pub version: String,
}

impl std::fmt::Display for PluginOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plugin {} of version {}", self.path.display(), self.version)
    }
}

/// What a plugin tries in a process of its own, as a [`Trial`] of a linked backend.
pub type PluginTrial = Box<dyn Fn(&std::path::Path, &mut dyn FnMut(&str)) + Send + Sync>;

/// A library that was found and is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPlugin {
    /// The library, or the directory where it is to blame.
    pub path: PathBuf,
    /// A stable word for programs.
    pub code: String,
    /// Why, and what to do.
    pub reason: String,
}

/// The backends of this process, highest priority first, then by id.
#[derive(Default)]
pub struct BackendRegistry {
    backends: Vec<RegisteredBackend>,
    origins: Vec<(BackendId, PluginOrigin)>,
    trials: Vec<(BackendId, PluginTrial)>,
    refused: Vec<RefusedPlugin>,
}

impl BackendRegistry {
    /// No backends.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// All linked backends.
    #[must_use]
    pub fn linked() -> Self {
        let mut registry = Self::empty();
        let mut registrations: Vec<_> =
            inventory::iter::<BackendRegistration>.into_iter().collect();
        registrations.sort_by_key(|r| (std::cmp::Reverse(r.priority), r.id));
        for registration in registrations {
            let backend = RegisteredBackend {
                role: registration.role,
                priority: registration.priority,
                backend: (registration.make)(),
            };
            // Of two linked backends of one id the first in order stays.
            let _taken: Result<(), RefusedBackend> = registry.add(backend);
        }
        registry
    }

    /// The linked backends of the host alone: what can record another process.
    #[must_use]
    pub fn linked_hosts() -> Self {
        let mut registry = Self::linked();
        registry.backends.retain(|backend| backend.role == BackendRole::Host);
        registry
    }

    /// Adds a backend.
    ///
    /// # Errors
    ///
    /// [`RefusedBackend`] where the id is taken: one id, one backend.
    pub fn add(&mut self, backend: RegisteredBackend) -> Result<(), RefusedBackend> {
        let id = backend.id();
        if self.find(&id).is_some() {
            return Err(RefusedBackend { id });
        }
        self.backends.push(backend);
        self.backends.sort_by_key(|b| (std::cmp::Reverse(b.priority), b.id()));
        Ok(())
    }

    /// Adds a backend that came in a library.
    ///
    /// # Errors
    ///
    /// [`RefusedBackend`] where the id is taken: a linked backend stays.
    pub fn add_plugin(
        &mut self,
        backend: RegisteredBackend,
        origin: PluginOrigin,
        trial: Option<PluginTrial>,
    ) -> Result<(), RefusedBackend> {
        let id = backend.id();
        self.add(backend)?;
        self.trials.extend(trial.map(|trial| (id.clone(), trial)));
        self.origins.push((id, origin));
        Ok(())
    }

    /// Tries a library as a backend would load it, linked or a plugin; this process may die of it.
    /// `false` where there is no such backend, or nothing that it would try.
    pub fn run_trial(
        &self,
        backend: &BackendId,
        library: &std::path::Path,
        write: &mut dyn FnMut(&str),
    ) -> bool {
        if let Some(trial) = TrialRegistration::find(backend.as_str()) {
            (trial.run)(library, write);
            return true;
        }
        match self.trials.iter().find(|(of, _)| of == backend) {
            Some((_, trial)) => trial(library, write),
            None => return false,
        }
        true
    }

    /// Remembers a library that is not used, so that people see why.
    pub fn refuse_plugin(&mut self, refused: RefusedPlugin) {
        self.refused.push(refused);
    }

    /// The library that a backend came in, `None` where it is linked.
    #[must_use]
    pub fn origin(&self, id: &BackendId) -> Option<&PluginOrigin> {
        self.origins.iter().find(|(of, _)| of == id).map(|(_, origin)| origin)
    }

    /// Libraries that were found and are not used.
    #[must_use]
    pub fn refused_plugins(&self) -> &[RefusedPlugin] {
        &self.refused
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &RegisteredBackend> {
        self.backends.iter()
    }

    /// The backend of that id.
    #[must_use]
    pub fn find(&self, id: &BackendId) -> Option<&RegisteredBackend> {
        self.backends.iter().find(|backend| backend.id() == *id)
    }

    /// Picks the device backend for a session, and says why.
    ///
    /// `forced` names one; otherwise the available one of highest priority records. Reports are
    /// in the order of the backends that were asked.
    #[must_use]
    pub fn select_device(&self, forced: Option<&BackendId>) -> Selection {
        self.select_device_by(forced, |candidate| candidate.backend.probe())
    }

    /// Like [`BackendRegistry::select_device`], with backends asked in the caller's way.
    pub fn select_device_by(
        &self,
        forced: Option<&BackendId>,
        mut probe: impl FnMut(&RegisteredBackend) -> ProbeReport,
    ) -> Selection {
        let mut reports = Vec::new();
        let mut chosen = None;
        for candidate in self.iter().filter(|b| b.role == BackendRole::Device) {
            let id = candidate.id();
            if forced.is_some_and(|forced| *forced != id) {
                continue;
            }
            let report = probe(candidate);
            if chosen.is_none() && report.is_available() {
                chosen = Some(id.clone());
            }
            reports.push((id, report));
        }
        let why = explain(chosen.as_ref(), forced, &reports);
        Selection { chosen, why, reports }
    }
}

fn explain(
    chosen: Option<&BackendId>,
    forced: Option<&BackendId>,
    reports: &[(BackendId, ProbeReport)],
) -> String {
    match (chosen, forced) {
        (Some(id), Some(_)) => format!("`{id}` was asked for and is available"),
        (Some(id), None) => format!("`{id}` is the available device backend of highest priority"),
        (None, Some(id)) => match reports.first() {
            None => format!("`{id}` was asked for; this process has no such device backend"),
            Some((_, report)) => {
                format!("`{id}` was asked for; {}{}", reason_of(report), remedy_of(report))
            }
        },
        (None, None) if reports.is_empty() => "this process has no device backend".to_owned(),
        (None, None) => {
            let reasons: Vec<String> =
                reports.iter().map(|(id, r)| format!("`{id}`: {}", reason_of(r))).collect();
            format!("no device backend is available ({})", reasons.join("; "))
        }
    }
}

fn reason_of(report: &ProbeReport) -> &str {
    match report {
        ProbeReport::Available { .. } => "available",
        ProbeReport::Unavailable { reason } => &reason.message,
    }
}

/// What whoever asked for that backend can do.
fn remedy_of(report: &ProbeReport) -> String {
    match report {
        ProbeReport::Unavailable { reason } if !reason.remedy.is_empty() => {
            format!(": {}", reason.remedy)
        }
        _ => String::new(),
    }
}

/// Which device backend records, and why.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The backend, `None` = none.
    pub chosen: Option<BackendId>,
    /// One sentence for manifests.
    pub why: String,
    /// What each asked backend answered.
    pub reports: Vec<(BackendId, ProbeReport)>,
}

/// A backend was not added: its id is taken.
#[derive(Debug, thiserror::Error)]
#[error("backend `{id}` is refused: this process already has a backend of that id")]
pub struct RefusedBackend {
    /// The id.
    pub id: BackendId,
}
