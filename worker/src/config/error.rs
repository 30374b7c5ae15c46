//! Errors of loading a configuration.

use std::path::PathBuf;

use profiler_core::config::ConfigError;

/// Why the configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigLoadError {
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file is longer than any configuration.
    #[error("{} has {bytes} bytes, at most {most} are read", path.display())]
    TooLong { path: PathBuf, bytes: u64, most: u64 },
    /// A file is no TOML, or has a key that is not known.
    #[error("{} cannot be read as TOML", path.display())]
    Toml {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A file is no YAML.
    #[error("{} cannot be read as YAML", path.display())]
    Yaml {
        path: PathBuf,
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// A flag's value is no JSON.
    #[error("{flag} cannot be read as JSON")]
    Json {
        flag: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// Something does not have the shape that it should.
    #[error("{place}: {what}")]
    Shape { place: String, what: String },
    /// A stage's number is none.
    #[error("{place}: {stage:?} is no number of a stage")]
    Stage {
        place: String,
        stage: String,
        #[source]
        source: std::num::ParseIntError,
    },
    /// A variable's value is no UTF-8.
    #[error("the variable {name} holds what is no UTF-8")]
    Variable { name: String },
    /// Base files of a deploy YAML name each other in a circle, or too deep.
    #[error("{}: `base_config` leads through more than {most} files", path.display())]
    TooManyBases { path: PathBuf, most: usize },
    /// A profiler configuration is wrong.
    #[error("{origin}")]
    Config {
        origin: String,
        #[source]
        source: ConfigError,
    },
}
