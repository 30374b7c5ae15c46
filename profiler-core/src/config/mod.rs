//! What is recorded, when and into which files: one configuration for language-model and diffusion
//! stages alike.
//!
//! It takes vLLM's `ProfilerConfig` as it is, and fields of our own beside it. A field is applied,
//! or refused by its name with a reason; none is ignored in silence. [`ProfilerConfig`] holds what
//! was written, [`ProfilerConfig::apply`] says what comes of it.

mod apply;
mod effective;
mod error;
mod field;
#[cfg(test)]
mod field_tests;
mod format;
mod parse;
#[cfg(test)]
mod tests;

pub use effective::{
    AppliedConfig, AppliedField, DeviceUse, EffectiveConfig, EventArguments, RefusedField,
};
pub use error::ConfigError;
pub use field::{FIELDS, Field, FieldKind, FieldOrigin};
pub use format::{TraceFormat, UnknownFormat};
pub use parse::{ConfigValue, ProfilerConfig, closest};
