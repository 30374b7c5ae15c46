//! vLLM-Omni's YAML files.
//!
//! Read are `profiler_config` at the top (all stages), in the entries of `stages` (the deploy
//! schema) and of `stage_args` (the older one, there also under `engine_args`), and the files that
//! `base_config` names below them. A `profiler_config` at any other place is an error: it would
//! be ignored in silence.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::toml_file::read_text;
use super::{ConfigLoadError, Layer, Origin, Scope};

const KEY: &str = "profiler_config";

/// The lists that hold stages.
const LISTS: [&str; 2] = ["stages", "stage_args"];

/// Where an entry of a stage may hold it, besides at its top.
const INNER: [&str; 2] = ["engine_args", "engine_extras"];

/// How many files `base_config` may lead through.
const MAX_BASES: usize = 8;

pub(super) fn read(path: &Path, layers: &mut Vec<Layer>) -> Result<(), ConfigLoadError> {
    let mut files: Vec<(PathBuf, Map<String, Value>)> = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next {
        if files.len() >= MAX_BASES {
            return Err(ConfigLoadError::TooManyBases { path, most: MAX_BASES });
        }
        let root = parse(&path)?;
        let base = root.get("base_config").and_then(Value::as_str);
        next = base.map(|base| path.parent().unwrap_or(Path::new("")).join(base));
        files.push((path, root));
    }
    // The deepest base is the weakest.
    for (path, root) in files.iter().rev() {
        read_one(path, root, layers)?;
    }
    Ok(())
}

fn parse(path: &Path) -> Result<Map<String, Value>, ConfigLoadError> {
    let text = read_text(path)?;
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text)
        .map_err(|source| ConfigLoadError::Yaml { path: path.to_owned(), source })?;
    match to_json(value) {
        Value::Object(root) => Ok(root),
        Value::Null => Ok(Map::new()),
        _ => Err(ConfigLoadError::Shape {
            place: path.display().to_string(),
            what: "the file is a mapping with `stages`".to_owned(),
        }),
    }
}

fn read_one(
    path: &Path,
    root: &Map<String, Value>,
    layers: &mut Vec<Layer>,
) -> Result<(), ConfigLoadError> {
    let shape = |what: String| ConfigLoadError::Shape { place: path.display().to_string(), what };
    let mut rest = root.clone();
    if let Some(value) = rest.remove(KEY).filter(|value| !value.is_null()) {
        layers.push(layer(path, Scope::All, KEY.to_owned(), &value)?);
    }
    for list in LISTS {
        let Some(stages) = rest.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for (index, entry) in stages.iter_mut().enumerate() {
            let place = format!("{list}[{index}]");
            let Some(entry) = entry.as_object_mut() else { continue };
            let mut found = Vec::new();
            if let Some(value) = entry.remove(KEY) {
                found.push((format!("{place}.{KEY}"), value));
            }
            for inner in INNER {
                let held = entry.get_mut(inner).and_then(Value::as_object_mut);
                if let Some(value) = held.and_then(|held| held.remove(KEY)) {
                    found.push((format!("{place}.{inner}.{KEY}"), value));
                }
            }
            found.retain(|(_, value)| !value.is_null());
            if found.is_empty() {
                continue;
            }
            let stage = match entry.get("stage_id") {
                Some(stage) => stage.as_u64().and_then(|stage| u32::try_from(stage).ok()),
                None => u32::try_from(index).ok(),
            };
            let stage = stage
                .ok_or_else(|| shape(format!("{place}: `stage_id` is no number of a stage")))?;
            for (place, value) in found {
                layers.push(layer(path, Scope::Stage(stage), place, &value)?);
            }
        }
    }
    match misplaced(&Value::Object(rest), &mut String::new()) {
        None => Ok(()),
        Some(place) => Err(shape(format!(
            "`{place}` is not read: put it under an entry of `stages`, or give it by \
             `--stage-overrides`"
        ))),
    }
}

fn layer(
    path: &Path,
    scope: Scope,
    place: String,
    value: &Value,
) -> Result<Layer, ConfigLoadError> {
    Layer::parse(scope, Origin::File { path: path.to_owned(), place }, value)
}

/// The place of a `profiler_config` that nobody read.
fn misplaced(value: &Value, place: &mut String) -> Option<String> {
    let length = place.len();
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (format!(".{key}"), value)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, value)| (format!("[{index}]"), value)).collect()
        }
        _ => return None,
    };
    for (step, value) in inner {
        place.push_str(&step);
        if step.strip_prefix('.') == Some(KEY) && !value.is_null() {
            return Some(place.trim_start_matches('.').to_owned());
        }
        if let Some(found) = misplaced(value, place) {
            return Some(found);
        }
        place.truncate(length);
    }
    None
}

/// YAML as JSON has it: keys are texts, tags are left off.
fn to_json(value: serde_yaml_ng::Value) -> Value {
    match value {
        serde_yaml_ng::Value::Null => Value::Null,
        serde_yaml_ng::Value::Bool(flag) => Value::Bool(flag),
        serde_yaml_ng::Value::Number(number) => {
            let whole =
                number.as_u64().map(Value::from).or_else(|| number.as_i64().map(Value::from));
            whole.unwrap_or_else(|| number.as_f64().map_or(Value::Null, Value::from))
        }
        serde_yaml_ng::Value::String(text) => Value::String(text),
        serde_yaml_ng::Value::Sequence(list) => list.into_iter().map(to_json).collect(),
        serde_yaml_ng::Value::Mapping(map) => {
            let pair = |(key, value)| Some((key_text(key)?, to_json(value)));
            Value::Object(map.into_iter().filter_map(pair).collect())
        }
        serde_yaml_ng::Value::Tagged(tagged) => to_json(tagged.value),
    }
}

fn key_text(key: serde_yaml_ng::Value) -> Option<String> {
    match to_json(key) {
        Value::String(text) => Some(text),
        Value::Array(_) | Value::Object(_) => None,
        other => Some(other.to_string()),
    }
}
