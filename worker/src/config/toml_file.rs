//! The TOML file.
//!
//! ```toml
//! [profiler_config]             # of all stages
//! sample_hz = 49
//! [stages.2.profiler_config]    # of one stage
//! preset = "full"
//! [server]
//! listen = "127.0.0.1:8790"
//! token_file = "/run/secrets/omniprof"
//! [retention]
//! max_bytes = 21474836480
//! max_sessions = 50
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{ConfigLoadError, Layer, Origin, Scope, Settings};

/// The longest configuration file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    profiler_config: Option<Value>,
    #[serde(default)]
    stages: BTreeMap<String, Stage>,
    #[serde(default)]
    server: Server,
    #[serde(default)]
    retention: RetentionTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    profiler_config: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    listen: Option<String>,
    token_file: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionTable {
    max_bytes: Option<u64>,
    max_sessions: Option<usize>,
}

pub(super) fn read(path: &Path, layers: &mut Vec<Layer>) -> Result<Settings, ConfigLoadError> {
    let text = read_text(path)?;
    let file: File = toml::from_str(&text).map_err(|source| ConfigLoadError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let origin = |place: String| Origin::File { path: path.to_owned(), place };
    if let Some(value) = &file.profiler_config {
        layers.push(Layer::parse(Scope::All, origin("[profiler_config]".to_owned()), value)?);
    }
    for (stage, table) in &file.stages {
        let number = stage.parse().map_err(|source| ConfigLoadError::Stage {
            place: path.display().to_string(),
            stage: stage.clone(),
            source,
        })?;
        if let Some(value) = &table.profiler_config {
            let origin = origin(format!("[stages.{number}.profiler_config]"));
            layers.push(Layer::parse(Scope::Stage(number), origin, value)?);
        }
    }
    Ok(Settings {
        listen: file.server.listen,
        token_file: file.server.token_file,
        max_root_bytes: file.retention.max_bytes,
        max_sessions: file.retention.max_sessions,
    })
}

/// Reads a configuration file, which has an end.
pub(super) fn read_text(path: &Path) -> Result<String, ConfigLoadError> {
    let failed = |source| ConfigLoadError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_FILE_BYTES {
        let path = path.to_owned();
        return Err(ConfigLoadError::TooLong { path, bytes, most: MAX_FILE_BYTES });
    }
    std::fs::read_to_string(path).map_err(failed)
}
