//! What a start body comes to for one worker, together with the configuration.

use std::collections::BTreeMap;

use profiler_core::backend::BackendRole;
use profiler_core::config::{DeviceUse, EffectiveConfig, EventArguments, TraceFormat};
use profiler_core::control::{BackendProbe, CaptureConfig};
use profiler_core::identity::WorkerIdentity;
use profiler_core::probe::ProbeReport;
use profiler_core::schedule::{Limits, Schedule};

use super::{Activities, StartRequest};

/// The id of the host's backend, which as a device backend means none.
const HOST_BACKEND: &str = "cpu";

/// What is recorded where the body does not say.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "filled by whoever reads a configuration")]
pub struct SessionDefaults {
    /// The configuration of all stages.
    pub all: EffectiveConfig,
    /// Other configurations for some stages.
    pub stages: BTreeMap<u32, EffectiveConfig>,
}

impl SessionDefaults {
    /// The configuration of a worker's stage.
    #[must_use]
    pub fn of(&self, worker: &WorkerIdentity) -> &EffectiveConfig {
        worker.stage.and_then(|stage| self.stages.get(&stage)).unwrap_or(&self.all)
    }
}

/// A start for one worker.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// What to record.
    pub capture: CaptureConfig,
    /// When to record.
    pub schedule: Schedule,
    /// When to stop at the latest.
    pub limits: Limits,
    /// The formats to write, the followed one first.
    pub formats: Vec<TraceFormat>,
    /// How many arguments the events of its traces carry.
    pub arguments: EventArguments,
    /// Why no device is recorded, where nobody said that none shall be.
    pub note: Option<String>,
    /// It is the host's part: counters of its devices, and no worker.
    pub is_host: bool,
}

impl Plan {
    /// The setting by which steps are counted, where they are.
    #[must_use]
    pub fn counts_steps(&self) -> Option<&'static str> {
        let Schedule { delay_steps, start_step, wait_steps, warmup_steps, active_steps, .. } =
            &self.schedule;
        let settings = [
            ("delay_iterations", *delay_steps > 0),
            ("start_step", start_step.is_some()),
            ("wait_iterations", *wait_steps > 0),
            ("warmup_iterations", *warmup_steps > 0),
            ("max_iterations", active_steps.is_some() || self.limits.max_steps.is_some()),
        ];
        settings.into_iter().find(|(_, counts)| *counts).map(|(setting, _)| setting)
    }
}

impl StartRequest {
    /// The label of the session, `None` = none.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        let parts = [self.profile_prefix.as_deref(), self.profile_id.as_deref()];
        let given: Vec<&str> = parts.into_iter().flatten().collect();
        (!given.is_empty()).then(|| given.join("-"))
    }

    /// Whether the worker is among those that the body selects.
    #[must_use]
    pub fn selects(&self, worker: &WorkerIdentity) -> bool {
        let fits = |list: &Option<Vec<u32>>, number: Option<u32>| match list {
            None => true,
            Some(list) => number.is_some_and(|number| list.contains(&number)),
        };
        fits(&self.stages, worker.stage)
            && fits(&self.replicas, worker.replica)
            && fits(&self.ranks, worker.rank)
    }

    /// What the start comes to for this worker.
    #[must_use]
    pub fn plan(
        &self,
        defaults: &SessionDefaults,
        worker: &WorkerIdentity,
        backends: &[BackendProbe],
    ) -> Plan {
        let mut config = defaults.of(worker).clone();
        self.override_capture(&mut config);
        self.override_schedule(&mut config.schedule, &mut config.limits);
        self.override_limits(&mut config.limits);
        if let Some(formats) = &self.formats {
            config.formats.clone_from(formats);
        }
        let mut formats = Vec::new();
        for format in config.formats.iter().copied() {
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        let available = backends
            .iter()
            .any(|backend| backend.role == BackendRole::Device && backend.report.is_available());
        let without = config.device == DeviceUse::IfAvailable && !available;
        Plan {
            capture: config.capture(available),
            schedule: config.schedule,
            limits: config.limits,
            formats,
            arguments: config.arguments,
            note: without.then(|| no_device(backends)),
            is_host: false,
        }
    }

    /// The field by which the body counts steps, where it does.
    #[must_use]
    pub fn counts_steps(&self) -> Option<&'static str> {
        let some = |steps: Option<u64>| steps.is_some_and(|steps| steps > 0);
        let fields = [
            ("num_steps", some(self.num_steps)),
            ("max_iterations", some(self.max_iterations)),
            ("delay_iterations", some(self.delay_iterations)),
            ("start_step", self.start_step.is_some()),
        ];
        fields.into_iter().find(|(_, counts)| *counts).map(|(field, _)| field)
    }

    fn override_capture(&self, config: &mut EffectiveConfig) {
        if let Some(list) = &self.activities {
            let activities = Activities::of(list);
            config.host = activities.host;
            config.spans = activities.host;
            config.device = activities.device;
            config.session.memory = activities.memory;
            // Who names the host asks for all of it. A body that names nothing gets what costs no
            // more than its share; a worker that is looked at from outside goes without.
            config.session.operators |= activities.host;
        }
        if let Some(backend) = &self.backend {
            if backend.as_str() == HOST_BACKEND {
                config.device = DeviceUse::No;
                config.backend = None;
            } else {
                config.device = DeviceUse::Required;
                config.backend = Some(backend.clone());
            }
        }
        config.session.preset = self.preset.unwrap_or(config.session.preset);
        config.session.with_stack = self.with_stack.unwrap_or(config.session.with_stack);
        config.session.record_shapes = self.record_shapes.unwrap_or(config.session.record_shapes);
        if self.with_stack == Some(true) || self.record_shapes == Some(true) {
            // Both are parts of operators.
            config.session.operators = true;
        }
        config.on_unavailable = self.on_unavailable.unwrap_or(config.on_unavailable);
    }

    fn override_schedule(&self, schedule: &mut Schedule, limits: &mut Limits) {
        if let Some(steps) = self.delay_iterations {
            schedule.delay_steps = steps;
            schedule.start_step = None;
        }
        if let Some(step) = self.start_step {
            schedule.start_step = Some(step);
            schedule.delay_steps = 0;
        }
        let Some(steps) = self.max_iterations.or(self.num_steps) else { return };
        // Whatever count was configured, this one is meant.
        limits.max_steps = None;
        schedule.active_steps = (steps > 0).then_some(steps);
        schedule.repeat = 1;
    }

    fn override_limits(&self, limits: &mut Limits) {
        if let Some(duration_ms) = self.duration_ms {
            limits.duration_ms = Some(duration_ms);
            // A window longer than the default limit was asked for by name.
            limits.max_session_ms = limits.max_session_ms.max(duration_ms.saturating_mul(2));
        }
        limits.max_bytes = self.max_bytes.unwrap_or(limits.max_bytes);
    }
}

fn no_device(backends: &[BackendProbe]) -> String {
    let mut reasons = Vec::new();
    for backend in backends {
        let ProbeReport::Unavailable { reason } = &backend.report else { continue };
        if backend.role == BackendRole::Device {
            reasons.push(format!("{}: {}", backend.id, reason.message));
        }
    }
    if reasons.is_empty() {
        return "the host alone: this worker has no device backend".to_owned();
    }
    format!("the host alone: no device backend is available ({})", reasons.join("; "))
}
