//! Errors of a configuration: what is wrong with the text itself.

use super::format::did_you_mean;

/// Why a configuration cannot be read. What can be read and not be had is no error: it is refused
/// by [`super::ProfilerConfig::apply`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is no object of fields and values.
    #[error("a profiler configuration is an object of fields, this is {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// There is no such field.
    #[error("there is no field `{field}`{}: `omniprof config --fields` lists all", did_you_mean(*suggestion))]
    UnknownField {
        /// The field.
        field: String,
        /// The field that was perhaps meant.
        suggestion: Option<&'static str>,
    },
    /// The field's value is of another type.
    #[error("field `{field}` takes {expected}, this is {found}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// What it takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The number is too small or too large.
    #[error("field `{field}` is {value}, it may be {min} to {max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What was given.
        value: String,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The text is none of the choices.
    #[error("field `{field}` has no choice {value:?}{}; there are {choices}", did_you_mean(*suggestion))]
    UnknownChoice {
        /// The field.
        field: &'static str,
        /// What was given.
        value: String,
        /// What was perhaps meant.
        suggestion: Option<&'static str>,
        /// What there is.
        choices: String,
    },
    /// The text does not fit the field.
    #[error("field `{field}` cannot be {value:?}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What was given.
        value: String,
        /// Why not.
        reason: String,
    },
    /// Two fields contradict each other.
    #[error("`{one}` and `{other}` contradict each other: {reason}")]
    Conflict {
        /// One.
        one: &'static str,
        /// The other.
        other: &'static str,
        /// How.
        reason: &'static str,
    },
}
