//! What comes of a configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::format::TraceFormat;
use super::parse::ConfigValue;
use crate::backend::{BackendId, SessionConfig};
use crate::control::{CaptureConfig, OnUnavailable};
use crate::schedule::{Limits, Schedule};

/// What is recorded, when and into which files.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EffectiveConfig {
    /// Whether the device is recorded.
    pub device: DeviceUse,
    /// Whether the host is recorded.
    pub host: bool,
    /// Whether the application's spans and markers are.
    pub spans: bool,
    /// The device backend to use; `None` = the best available.
    pub backend: Option<BackendId>,
    /// What to do where the device backend cannot start.
    pub on_unavailable: OnUnavailable,
    /// The settings of the backends.
    pub session: SessionConfig,
    /// When to record.
    pub schedule: Schedule,
    /// When to stop at the latest.
    pub limits: Limits,
    /// The formats to export to.
    pub formats: Vec<TraceFormat>,
    /// How many arguments events carry.
    pub arguments: EventArguments,
    /// The root below which traces are written; `None` = the default.
    pub dir: Option<PathBuf>,
}

impl Default for EffectiveConfig {
    fn default() -> Self {
        Self {
            device: DeviceUse::IfAvailable,
            host: true,
            spans: true,
            backend: None,
            on_unavailable: OnUnavailable::default(),
            session: SessionConfig::default(),
            schedule: Schedule::default(),
            limits: Limits::default(),
            formats: vec![TraceFormat::PftraceGz],
            arguments: EventArguments::default(),
            dir: None,
        }
    }
}

impl EffectiveConfig {
    /// What one worker records, given whether it has a device backend that can.
    #[must_use]
    pub fn capture(&self, device_available: bool) -> CaptureConfig {
        let device = match self.device {
            DeviceUse::No => false,
            // Memory is the device's: the worker looks again, and says why there is none.
            DeviceUse::IfAvailable => device_available || self.session.memory,
            DeviceUse::Required => true,
        };
        CaptureConfig {
            device,
            device_required: self.device == DeviceUse::Required,
            host: self.host,
            spans: self.spans,
            backend: self.backend.clone(),
            on_unavailable: self.on_unavailable,
            session: self.session.clone(),
        }
    }
}

/// Whether the device is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "there is no fourth way")]
pub enum DeviceUse {
    /// It is not.
    No,
    /// It is where a worker has a device backend that can record.
    IfAvailable,
    /// It was asked for: where it cannot be recorded, `on_unavailable` says what happens.
    Required,
}

/// How many arguments each event of a trace carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventArguments {
    /// What joins events and names streams.
    #[default]
    Minimal,
    /// All that is known.
    Full,
}

/// A configuration and what came of each of its fields.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AppliedConfig {
    /// What holds.
    pub effective: EffectiveConfig,
    /// The fields that were applied.
    pub applied: Vec<AppliedField>,
    /// The fields that were not.
    pub refused: Vec<RefusedField>,
}

/// A field that was applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AppliedField {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: ConfigValue,
    /// What it does, where that is not plain from its name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub effect: &'static str,
}

/// A field that was not applied. All else holds as if it had not been given.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RefusedField {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: ConfigValue,
    /// Why not, and what to do instead.
    pub reason: &'static str,
}

impl RefusedField {
    /// A field that a caller refuses for a reason of its own.
    #[must_use]
    pub fn new(field: &'static str, value: ConfigValue, reason: &'static str) -> Self {
        Self { field, value, reason }
    }
}
