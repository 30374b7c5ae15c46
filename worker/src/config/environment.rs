//! `OMNIPROF_*` variables.

use std::ffi::OsString;

use profiler_core::config::{FIELDS, ProfilerConfig};

use super::{ConfigLoadError, Layer, Origin, Scope};

const PREFIX: &str = "OMNIPROF_";

/// Variables that mean something else than a field.
pub(crate) const OTHER_VARIABLES: &[(&str, &str)] = &[
    ("OMNIPROF_CONFIG", "the TOML file, as `--config`"),
    ("OMNIPROF_DEPLOY_CONFIG", "the deploy YAML, as `--deploy-config`"),
    ("OMNIPROF_LISTEN", "the address that a server listens at, as `--listen`"),
    ("OMNIPROF_SERVER", "the server's address, as `--server`"),
    ("OMNIPROF_TOKEN_FILE", "the file that holds the server's token, as `--token-file`"),
    ("OMNIPROF_SOCKET", "the directory of the socket by which workers meet their controller"),
    ("OMNIPROF_BIN_DIR", "the directory of the `omniprof` program that exports"),
    ("OMNIPROF_LIBCUPTI", "a libcupti, for workers that have none loaded when a capture is armed"),
    ("OMNIPROF_LIBMSPTI", "a libmspti, for workers that do not find that of their CANN"),
    ("OMNIPROF_NPU_ROOT", "the folder below which Ascend's devices and driver are looked for [/]"),
    (
        "OMNIPROF_PLUGIN_DIR",
        "the directory of backends in libraries of their own, which workers load as they join",
    ),
    ("OMNIPROF_STAGE", "the pipeline stage of a process, as `omniprof run --stage` sets it"),
    ("OMNIPROF_ROLE", "what the stage does, as `omniprof run --role` sets it"),
    ("OMNIPROF_REPLICA", "the replica of the stage, as `omniprof run --replica` sets it"),
    ("OMNIPROF_RANK", "the rank within the replica, where no rule finds it"),
    ("OMNIPROF_MAP", "the rules of `omniprof run --map`, as a JSON list"),
    ("OMNIPROF_JOIN", "how the processes of `omniprof run` become workers, as `--join`"),
    (
        "OMNIPROF_JOIN_PROGRAMS",
        "patterns of programs that join when the injected file is preloaded",
    ),
    ("OMNIPROF_FACT_VARIABLES", "further variables that a worker reports as facts"),
    ("OMNIPROF_STEP_MARKER", "a pattern of NVTX ranges and marks that are steps"),
    ("OMNIPROF_LOG", "what the command logs to standard error (`warn`, `info`, `debug`)"),
];

/// Adds a layer for each variable that names a field; returns the variables of ours that mean
/// nothing.
pub(super) fn read(
    variables: impl Iterator<Item = (OsString, OsString)>,
    layers: &mut Vec<Layer>,
) -> Result<Vec<String>, ConfigLoadError> {
    let mut ours: Vec<(String, OsString)> = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
        .collect();
    ours.sort();
    let mut unknown = Vec::new();
    for (name, value) in ours {
        let field = FIELDS.iter().find(|field| field.variable().as_ref() == Some(&name));
        let Some(field) = field else {
            if !OTHER_VARIABLES.iter().any(|(other, _)| *other == name) {
                unknown.push(name);
            }
            continue;
        };
        let Ok(text) = value.into_string() else {
            return Err(ConfigLoadError::Variable { name });
        };
        let config = ProfilerConfig::parse_text(field.name, &text)
            .map_err(|source| ConfigLoadError::Config { origin: name.clone(), source })?;
        layers.push(Layer { scope: Scope::All, origin: Origin::Variable(name), config });
    }
    Ok(unknown)
}
