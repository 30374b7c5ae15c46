//! One source's word on one scope.

use std::fmt;
use std::path::PathBuf;

use profiler_core::config::ProfilerConfig;
use serde_json::Value;

use super::ConfigLoadError;

/// Whom a layer concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Stage(u32),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    File { path: PathBuf, place: String },
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, place } => write!(f, "{} {place}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A configuration, whom it concerns and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) scope: Scope,
    pub(crate) origin: Origin,
    pub(crate) config: ProfilerConfig,
}

impl Layer {
    /// Reads one. vLLM-Omni also takes the object as a text of JSON.
    pub(crate) fn parse(
        scope: Scope,
        origin: Origin,
        value: &Value,
    ) -> Result<Self, ConfigLoadError> {
        let inner: Option<Value> = value.as_str().and_then(|text| serde_json::from_str(text).ok());
        match ProfilerConfig::parse(inner.as_ref().unwrap_or(value)) {
            Ok(config) => Ok(Self { scope, origin, config }),
            Err(source) => Err(ConfigLoadError::Config { origin: origin.to_string(), source }),
        }
    }
}
