//! What a backend finds when it looks at the machine.

use serde::{Deserialize, Serialize};

/// A backend's answer to "can you record here?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProbeReport {
    /// It can.
    Available {
        /// What it would record.
        devices: Vec<DeviceInfo>,
        /// What a person should know beforehand (a fallback, a missing permission and the setting
        /// to change).
        notes: Vec<String>,
    },
    /// It cannot.
    Unavailable {
        /// Why, and what to do.
        reason: UnavailableReason,
    },
}

impl ProbeReport {
    /// Available without anything further to say.
    #[must_use]
    pub fn available(devices: Vec<DeviceInfo>) -> Self {
        Self::Available { devices, notes: Vec::new() }
    }

    /// Unavailable.
    #[must_use]
    pub fn unavailable(code: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unavailable {
            reason: UnavailableReason {
                code: code.to_owned(),
                message: message.into(),
                remedy: remedy.into(),
            },
        }
    }

    /// Whether it can record.
    #[must_use]
    pub fn is_available(&self) -> bool {
        matches!(self, Self::Available { .. })
    }
}

/// Why a backend cannot record, in a form on which a person can act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnavailableReason {
    /// A stable word for programs (`no_driver`, `library_missing`, `busy`).
    pub code: String,
    /// What was found or missed, with paths and versions.
    pub message: String,
    /// What would make it available; empty where nothing would.
    pub remedy: String,
}

/// A device that a backend can record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The number by which rows name it.
    pub index: u32,
    /// What the vendor calls it.
    pub name: String,
    /// The vendor's unique id, empty = not known before the driver is initialised.
    pub uuid: String,
}
