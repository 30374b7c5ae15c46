//! The configuration of this invocation: where each value comes from and which one holds.
//!
//! From the weakest to the strongest: the built-in defaults, the TOML file, the deploy YAML, the
//! environment, the command line. Of one source, what is said for a stage stands above what is
//! said for all.

mod environment;
mod error;
mod layer;
mod resolved;
#[cfg(test)]
mod tests;
mod toml_file;
mod yaml_file;

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

pub(crate) use environment::OTHER_VARIABLES;
pub(crate) use error::ConfigLoadError;
pub(crate) use layer::{Layer, Origin, Scope};
pub(crate) use resolved::{DEFAULT_ROOT, Resolved, ResolvedStage};

/// The TOML file that is read where none is named, if it is there.
pub(crate) const DEFAULT_FILE: &str = "omniprof.toml";

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// A TOML file; without it `omniprof.toml` in the working directory, if it is there.
    #[arg(long, help_heading = "Configuration", value_name = "FILE", env = "OMNIPROF_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// A vLLM-Omni deploy YAML (or older stage configuration): the `profiler_config` of each stage
    /// is taken from it.
    #[arg(
        long,
        help_heading = "Configuration",
        value_name = "FILE",
        env = "OMNIPROF_DEPLOY_CONFIG"
    )]
    pub(crate) deploy_config: Option<PathBuf>,
    /// A profiler configuration for all stages, as JSON.
    #[arg(long, help_heading = "Configuration", value_name = "JSON")]
    pub(crate) profiler_config: Option<String>,
    /// Profiler configurations for single stages, as vLLM-Omni takes them:
    /// `{"0": {"profiler_config": {…}}}`.
    #[arg(long, help_heading = "Configuration", value_name = "JSON")]
    pub(crate) stage_overrides: Option<String>,
}

/// The server's part of the TOML file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) listen: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) max_root_bytes: Option<u64>,
    pub(crate) max_sessions: Option<usize>,
}

impl ConfigArgs {
    /// Reads all sources and lays them over one another.
    pub(crate) fn load(&self) -> Result<Resolved, ConfigLoadError> {
        self.load_with(std::env::vars_os())
    }

    pub(crate) fn load_with(
        &self,
        variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Resolved, ConfigLoadError> {
        let mut layers = Vec::new();
        let mut settings = Settings::default();
        let default = PathBuf::from(DEFAULT_FILE);
        let file = match &self.config {
            Some(path) => Some(path),
            None => default.exists().then_some(&default),
        };
        if let Some(path) = file {
            settings = toml_file::read(path, &mut layers)?;
        }
        if let Some(path) = &self.deploy_config {
            yaml_file::read(path, &mut layers)?;
        }
        let unknown_variables = environment::read(variables, &mut layers)?;
        if let Some(text) = &self.profiler_config {
            let origin = Origin::Flag("--profiler-config");
            let value = parse_json("--profiler-config", text)?;
            layers.push(Layer::parse(Scope::All, origin, &value)?);
        }
        if let Some(text) = &self.stage_overrides {
            read_overrides(&parse_json("--stage-overrides", text)?, &mut layers)?;
        }
        let mut resolved = Resolved::of(layers, settings)?;
        resolved.unknown_variables = unknown_variables;
        Ok(resolved)
    }
}

fn parse_json(flag: &'static str, text: &str) -> Result<Value, ConfigLoadError> {
    serde_json::from_str(text).map_err(|source| ConfigLoadError::Json { flag, source })
}

/// `{"0": {"profiler_config": {…}}}`; other overrides of a stage are the engine's.
fn read_overrides(value: &Value, layers: &mut Vec<Layer>) -> Result<(), ConfigLoadError> {
    const FLAG: &str = "--stage-overrides";
    let misplaced = |what: String| ConfigLoadError::Shape { place: FLAG.to_owned(), what };
    let Value::Object(stages) = value else {
        return Err(misplaced("it is an object of stages, by their numbers".to_owned()));
    };
    for (stage, overrides) in stages {
        let number = stage.parse().map_err(|source| ConfigLoadError::Stage {
            place: FLAG.to_owned(),
            stage: stage.clone(),
            source,
        })?;
        let Value::Object(overrides) = overrides else {
            return Err(misplaced(format!("the overrides of stage {number} are an object")));
        };
        if let Some(value) = overrides.get("profiler_config").filter(|value| !value.is_null()) {
            layers.push(Layer::parse(Scope::Stage(number), Origin::Flag(FLAG), value)?);
        }
    }
    Ok(())
}
