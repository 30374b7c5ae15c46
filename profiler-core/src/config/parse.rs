//! Reading a configuration, and laying one over another.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::error::ConfigError;
use super::field::{FIELDS, Field, FieldKind, FieldOrigin};
use crate::backend::BackendId;

/// A configuration as it was written: fields and values that fit them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ProfilerConfig {
    values: BTreeMap<&'static str, ConfigValue>,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ConfigValue {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(u64),
    /// A text or choice.
    Text(String),
    /// Several choices.
    List(Vec<String>),
    /// An object.
    Table(Map<String, Value>),
}

impl ProfilerConfig {
    /// Reads an object of fields. `null` counts as not given.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] of the first field that is unknown or whose value does not fit.
    pub fn parse(value: &Value) -> Result<Self, ConfigError> {
        let Value::Object(fields) = value else {
            return Err(ConfigError::NotAnObject { found: name_of(value) });
        };
        let mut config = Self::default();
        for (name, value) in fields {
            let field = find(name)?;
            if !value.is_null() {
                config.put(field, read(field, value)?)?;
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Reads one field from a text, as environment variables and the command line give it: `1`,
    /// `true`, `on` and `yes` (and their opposites) are flags, lists are separated by commas.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where the field is unknown or the text does not fit.
    pub fn parse_text(name: &str, text: &str) -> Result<Self, ConfigError> {
        let field = find(name)?;
        let mut config = Self::default();
        config.put(field, read_text(field, text.trim())?)?;
        config.check()?;
        Ok(config)
    }

    /// Lays another configuration over this one: what it says holds, also where the two use
    /// different names of one setting.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Conflict`] where the two contradict each other in different settings.
    pub fn overlay(&mut self, upper: &Self) -> Result<(), ConfigError> {
        for name in upper.values.keys() {
            let Some(field) = Field::find(name) else { continue };
            self.values.retain(|held, _| {
                Field::find(held).is_none_or(|held| held.setting() != field.setting())
            });
        }
        self.values.extend(upper.values.iter().map(|(name, value)| (*name, value.clone())));
        self.check()
    }

    /// The fields that were given, by name.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &ConfigValue)> {
        self.values.iter().map(|(name, value)| (*name, value))
    }

    /// Whether nothing was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether it is a configuration of vLLM's: it has a field that only vLLM has.
    #[must_use]
    pub fn is_vllm(&self) -> bool {
        self.values
            .keys()
            .any(|name| Field::find(name).is_some_and(|field| field.origin == FieldOrigin::Vllm))
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.values.get(name) {
            Some(ConfigValue::Flag(flag)) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.values.get(name) {
            Some(ConfigValue::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(ConfigValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn put(&mut self, field: &Field, value: ConfigValue) -> Result<(), ConfigError> {
        let rival = self.values.iter().find(|(held, held_value)| {
            **held_value != value
                && Field::find(held).is_some_and(|held| held.setting() == field.setting())
        });
        if let Some((other, _)) = rival {
            return Err(ConfigError::Conflict {
                one: other,
                other: field.name,
                reason: "they are two names of one setting and have different values",
            });
        }
        self.values.insert(field.name, value);
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.values.contains_key("start_step")
            && self.number("delay_iterations").is_some_and(|steps| steps > 0)
        {
            return Err(ConfigError::Conflict {
                one: "start_step",
                other: "delay_iterations",
                reason: "both say at which step the first window begins",
            });
        }
        self.check_activities()?;
        if let (Some(duration), Some(most)) =
            (self.number("duration_ms"), self.number("max_session_ms"))
            && duration > most
        {
            return Err(ConfigError::Conflict {
                one: "duration_ms",
                other: "max_session_ms",
                reason: "the session would end before the window does",
            });
        }
        Ok(())
    }
}

impl ProfilerConfig {
    fn check_activities(&self) -> Result<(), ConfigError> {
        let Some(ConfigValue::List(activities)) = self.values.get("activities") else {
            return Ok(());
        };
        let has = |activity: &str| activities.iter().any(|item| item == activity);
        let conflict =
            |other, reason| Err(ConfigError::Conflict { one: "activities", other, reason });
        match self.text("backend") {
            Some("cpu") if has("GPU") => {
                return conflict("backend", "`cpu` records no device and `GPU` asks for one");
            }
            Some("cpu") | None => {}
            Some(_) if !has("GPU") && !has("MEM") => {
                return conflict(
                    "backend",
                    "a device backend is named, and neither `GPU` nor `MEM` is",
                );
            }
            Some(_) => {}
        }
        let memory = self.flag("memory").or_else(|| self.flag("torch_profiler_with_memory"));
        if memory == Some(false) && has("MEM") {
            return conflict("memory", "`MEM` asks for what it switches off");
        }
        Ok(())
    }
}

fn find(name: &str) -> Result<&'static Field, ConfigError> {
    Field::find(name).ok_or_else(|| ConfigError::UnknownField {
        field: name.chars().take(64).collect(),
        suggestion: closest(name, FIELDS.iter().map(|field| field.name)),
    })
}

fn read(field: &Field, value: &Value) -> Result<ConfigValue, ConfigError> {
    let wrong = || ConfigError::WrongType {
        field: field.name,
        expected: field.kind.to_string(),
        found: shown(value),
    };
    match (field.kind, value) {
        (FieldKind::Flag, Value::Bool(flag)) => Ok(ConfigValue::Flag(*flag)),
        (FieldKind::Number { min, max }, Value::Number(number)) => {
            // A whole number may have been written as 5.0 by whatever made the file.
            let whole = number.as_u64().or_else(|| {
                let float = number.as_f64()?;
                (float.fract() == 0.0 && (0.0..1e15).contains(&float)).then_some(float as u64)
            });
            match whole {
                Some(whole) if (min..=max).contains(&whole) => Ok(ConfigValue::Number(whole)),
                _ => {
                    let value = number.to_string();
                    Err(ConfigError::OutOfRange { field: field.name, value, min, max })
                }
            }
        }
        (FieldKind::Text, Value::String(text)) => read_plain(field, text),
        (FieldKind::Choice(choices), Value::String(text)) => {
            Ok(ConfigValue::Text(choose(field, choices, text)?))
        }
        (FieldKind::Choices(choices), Value::Array(items)) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            read_list(field, choices, texts.ok_or_else(wrong)?)
        }
        (FieldKind::Table, Value::Object(table)) => read_table(field, table),
        _ => Err(wrong()),
    }
}

fn read_text(field: &Field, text: &str) -> Result<ConfigValue, ConfigError> {
    let wrong = || ConfigError::WrongType {
        field: field.name,
        expected: field.kind.to_string(),
        found: shown(&Value::from(text)),
    };
    match field.kind {
        FieldKind::Flag => match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "on" | "yes" => Ok(ConfigValue::Flag(true)),
            "0" | "false" | "off" | "no" => Ok(ConfigValue::Flag(false)),
            _ => Err(wrong()),
        },
        FieldKind::Number { .. } => {
            let Ok(number) = text.parse::<u64>() else { return Err(wrong()) };
            read(field, &Value::from(number))
        }
        FieldKind::Text | FieldKind::Choice(_) => read(field, &Value::from(text)),
        FieldKind::Choices(choices) => {
            read_list(field, choices, text.split(',').map(str::trim).collect())
        }
        FieldKind::Table => {
            let Ok(table) = serde_json::from_str::<Value>(text) else { return Err(wrong()) };
            read(field, &table)
        }
    }
}

fn read_plain(field: &Field, text: &str) -> Result<ConfigValue, ConfigError> {
    let invalid = |reason: &str| ConfigError::Invalid {
        field: field.name,
        value: text.chars().take(80).collect(),
        reason: reason.to_owned(),
    };
    if text.contains('\0') {
        return Err(invalid("it holds a zero byte"));
    }
    match field.setting() {
        "backend" if BackendId::parse(text).is_err() => {
            return Err(invalid("a backend is named by 1 to 32 lower case letters, digits or `-`"));
        }
        // vLLM writes the empty text for no directory.
        "dir" if text.is_empty() && field.origin == FieldOrigin::Own => {
            return Err(invalid("a directory is expected"));
        }
        _ => {}
    }
    Ok(ConfigValue::Text(text.to_owned()))
}

fn read_list(
    field: &Field,
    choices: &'static [&'static str],
    texts: Vec<&str>,
) -> Result<ConfigValue, ConfigError> {
    let mut list: Vec<String> = Vec::new();
    for text in texts {
        let choice = choose(field, choices, text)?;
        if !list.contains(&choice) {
            list.push(choice);
        }
    }
    if list.is_empty() {
        return Err(ConfigError::WrongType {
            field: field.name,
            expected: field.kind.to_string(),
            found: "an empty list".to_owned(),
        });
    }
    Ok(ConfigValue::List(list))
}

fn read_table(field: &Field, table: &Map<String, Value>) -> Result<ConfigValue, ConfigError> {
    for (backend, settings) in table {
        let invalid = |reason: &str| ConfigError::Invalid {
            field: field.name,
            value: backend.chars().take(80).collect(),
            reason: reason.to_owned(),
        };
        if BackendId::parse(backend).is_err() {
            return Err(invalid("its keys are backends"));
        }
        if !settings.is_object() {
            return Err(invalid("a backend's settings are an object"));
        }
    }
    Ok(ConfigValue::Table(table.clone()))
}

fn choose(
    field: &Field,
    choices: &'static [&'static str],
    text: &str,
) -> Result<String, ConfigError> {
    let found = choices.iter().find(|choice| choice.eq_ignore_ascii_case(text));
    match found {
        Some(choice) => Ok((*choice).to_owned()),
        None => Err(ConfigError::UnknownChoice {
            field: field.name,
            value: text.chars().take(80).collect(),
            suggestion: closest(text, choices.iter().copied()),
            choices: choices.join(", "),
        }),
    }
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Number { .. } => f.write_str("a whole number"),
            Self::Text => f.write_str("a text"),
            Self::Choice(choices) => write!(f, "one of {}", choices.join(", ")),
            Self::Choices(choices) => write!(f, "a list of {}", choices.join(", ")),
            Self::Table => f.write_str("an object of settings by backend"),
        }
    }
}

impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::List(list) => f.write_str(&list.join(", ")),
            Self::Table(table) => write!(f, "{}", Value::Object(table.clone())),
        }
    }
}

impl Serialize for ConfigValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(flag) => flag.serialize(serializer),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
            Self::Table(table) => table.serialize(serializer),
        }
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a flag",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn shown(value: &Value) -> String {
    let text: String = value.to_string().chars().take(80).collect();
    format!("{} ({text})", name_of(value))
}

/// The candidate that was perhaps meant: less than a third of its characters are other ones.
pub fn closest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text: Vec<char> = text.chars().take(64).flat_map(char::to_lowercase).collect();
    let near = candidates.map(|candidate| {
        let chars: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        // A part of a name (`with_stack` for `torch_profiler_with_stack`) is near too.
        let inside = text.len() >= 4 && chars.windows(text.len()).any(|window| window == text);
        let distance = if inside { 1 } else { edits(&text, &chars) };
        (distance, chars.len(), candidate)
    });
    let (distance, length, candidate) = near.min()?;
    (distance * 3 < length).then_some(candidate)
}

/// Levenshtein's distance.
fn edits(one: &[char], other: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, left) in one.iter().enumerate() {
        let mut corner = row[0];
        row[0] = index + 1;
        for (column, right) in other.iter().enumerate() {
            let replaced = corner + usize::from(left != right);
            corner = row[column + 1];
            row[column + 1] = replaced.min(corner + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
