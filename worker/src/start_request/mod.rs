//! The body of `POST /start_profile`: the closed union of what the known servers' clients send.
//!
//! vLLM-Omni sends `stages`; vLLM's Rust front end `profile_prefix`, `delay_iterations` and
//! `max_iterations`; SGLang the rest of its profile request. A field is applied, or refused by
//! name with a reason: none is ignored in silence.

mod activity;
mod phase;
mod plan;

use profiler_core::backend::{BackendId, Preset};
use profiler_core::config::{Field, FieldKind, TraceFormat};
use profiler_core::control::OnUnavailable;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

pub use activity::{Activities, Activity};
pub use phase::Phase;
pub use plan::{Plan, SessionDefaults};

/// The longest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 64 << 10;

/// The longest time a start waits for workers to join, in ms.
pub const MAX_WAIT_JOIN_MS: u64 = 600_000;

/// What to record, and when. Everything is optional; an empty body means all stages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StartRequest {
    /// The stages to record; absent = all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<u32>>,
    /// The replicas to record, of each stage; absent = all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<u32>>,
    /// The ranks to record, counted within a replica; absent = all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Vec<u32>>,
    /// A label that becomes part of the session's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_prefix: Option<String>,
    /// A second label, as SGLang's clients send it; stands after the prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_id: Option<String>,
    /// Steps to let pass before the window.
    #[serde(deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub delay_iterations: Option<u64>,
    /// Steps to record, then the session ends by itself; 0 = no such limit.
    #[serde(deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub max_iterations: Option<u64>,
    /// The same as `max_iterations`, as SGLang's clients send it.
    #[serde(deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub num_steps: Option<u64>,
    /// The absolute step, counted from the process's first, at which the window begins.
    #[serde(deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub start_step: Option<u64>,
    /// What to record; absent = `CPU` without operators and, where a device can be recorded, `GPU`.
    /// `CPU` by name asks for operators too, where a process is recorded from within.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activities: Option<Vec<Activity>>,
    /// Take the stacks of operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with_stack: Option<bool>,
    /// Record the shapes of operators' inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_shapes: Option<bool>,
    /// Prefill and decode are recorded by one window whatever this says, and lie in one trace, told
    /// apart by their spans; if true, the answer notes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_by_stage: Option<bool>,
    /// Both, or none: a step does not say its phase, so that one alone is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_stages: Option<Vec<Phase>>,
    /// Also write one trace of all workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_profiles: Option<bool>,
    /// Time to record, in ms, then the session ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The most bytes that a worker's spool may take, with raw files of a vendor's tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// The formats to write; absent = the configured ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<FormatName>>)]
    pub formats: Option<Vec<TraceFormat>>,
    /// How much a device backend records.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PresetName>)]
    pub preset: Option<Preset>,
    /// Record with the workers that can, where some cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_partial: Option<bool>,
    /// The device backend to use; `cpu` = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub backend: Option<BackendId>,
    /// What to do where the device backend cannot start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OnUnavailableName>)]
    pub on_unavailable: Option<OnUnavailable>,
    /// How long to wait for the named workers to join, in ms; absent = not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_join_ms: Option<u64>,
    /// Whether workers that join later are recorded as well, marked `late`; absent = they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
}

/// The names of presets, for the schema.
#[derive(ToSchema)]
#[schema(as = Preset, rename_all = "snake_case")]
#[expect(dead_code, reason = "describes a type of another crate")]
enum PresetName {
    Gpu,
    Launch,
    Full,
}

/// The names of formats, for the schema.
#[derive(ToSchema)]
#[schema(as = Format, rename_all = "kebab-case")]
#[expect(dead_code, reason = "describes a type of another crate")]
enum FormatName {
    PftraceGz,
    Pftrace,
    KinetoGz,
    Kineto,
    Parquet,
    Table,
    Csv,
    Speedscope,
    Folded,
}

/// The choices of `on_unavailable`, for the schema.
#[derive(ToSchema)]
#[schema(as = OnUnavailable, rename_all = "snake_case")]
#[expect(dead_code, reason = "describes a type of another crate")]
enum OnUnavailableName {
    Fail,
    Degrade,
}

/// The fields of a start body.
pub const FIELDS: [&str; 24] = [
    "stages",
    "replicas",
    "ranks",
    "profile_prefix",
    "profile_id",
    "delay_iterations",
    "max_iterations",
    "num_steps",
    "start_step",
    "activities",
    "with_stack",
    "record_shapes",
    "profile_by_stage",
    "profile_stages",
    "merge_profiles",
    "duration_ms",
    "max_bytes",
    "formats",
    "preset",
    "allow_partial",
    "backend",
    "on_unavailable",
    "wait_join_ms",
    "follow",
];

/// Fields that clients are known to send and that are refused whatever their value.
const REFUSED: [(&str, &str); 6] = [
    (
        "output_dir",
        "the directory is the server's to choose (`--dir`, `OMNIPROF_DIR`): a request that names \
         paths could overwrite files; label the session with `profile_prefix`, and take the files' \
         paths from the manifest that the stop returns",
    ),
    (
        "trace_path_template",
        "a template lets two workers meet in one file; label the session with `profile_prefix`, \
         and take the files' paths from the manifest that the stop returns",
    ),
    (
        "run_id",
        "a session names itself and the start's answer says how; label it with `profile_prefix`",
    ),
    ("config", "name the settings as fields of the body; each is applied or refused by name"),
    (
        "shape_discovery",
        "no backend has it; `record_shapes` records the shapes of operators' inputs",
    ),
    ("profile_name", "the label is called `profile_prefix`"),
];

/// Why a start body is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartRequestError {
    /// The body is longer than [`MAX_BODY_BYTES`].
    #[error("the body has {len} bytes, {MAX_BODY_BYTES} at most are read")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The body is no JSON object.
    #[error("the body is no JSON object")]
    NotJson {
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// There is no such field.
    #[error("there is no field `{field}`; the fields are {}", FIELDS.join(", "))]
    UnknownField {
        /// The field.
        field: String,
    },
    /// The field is known and not taken.
    #[error("`{field}` is refused: {reason}")]
    Refused {
        /// The field.
        field: String,
        /// Why.
        reason: String,
    },
    /// A field has a value that it cannot have.
    #[error("`{field}` cannot be read")]
    Value {
        /// The field, with the place inside it.
        field: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Two fields contradict each other.
    #[error("`{one}` and `{other}` contradict each other: {reason}")]
    Conflict {
        /// One field.
        one: &'static str,
        /// The other.
        other: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A field's value is of the right type and out of bounds.
    #[error("`{field}` must be {bound}")]
    OutOfBounds {
        /// The field.
        field: &'static str,
        /// What it must be.
        bound: String,
    },
}

impl StartRequestError {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "body_too_long",
            Self::NotJson { .. } => "invalid_json",
            Self::UnknownField { .. } => "unknown_field",
            Self::Refused { .. } => "refused_field",
            Self::Value { .. } => "invalid_field",
            Self::Conflict { .. } => "conflicting_fields",
            Self::OutOfBounds { .. } => "out_of_bounds",
        }
    }
}

impl StartRequestError {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLong { .. } => 413,
            Self::NotJson { .. } => 400,
            _ => 422,
        }
    }
}

impl StartRequest {
    /// Reads a body. No bytes at all are an empty body.
    ///
    /// # Errors
    ///
    /// [`StartRequestError`], which names the field.
    pub fn parse(body: &[u8]) -> Result<Self, StartRequestError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(StartRequestError::TooLong { len: body.len() });
        }
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(body).map_err(|source| StartRequestError::NotJson { source })?;
        for (field, value) in &fields {
            if FIELDS.contains(&field.as_str()) {
                continue;
            }
            let refused = REFUSED.iter().find(|(name, _)| name == field);
            match refused {
                // A client that spells out an option it does not use sends null.
                Some(_) if value.is_null() => {}
                Some((_, reason)) => {
                    let reason = (*reason).to_owned();
                    return Err(StartRequestError::Refused { field: field.clone(), reason });
                }
                None => return Err(StartRequestError::UnknownField { field: field.clone() }),
            }
        }
        let request: Self = serde_path_to_error::deserialize(serde_json::Value::Object(fields))
            .map_err(|error| StartRequestError::Value {
                field: error.path().to_string(),
                source: error.into_inner(),
            })?;
        request.check()?;
        Ok(request)
    }

    /// A request for these stages, with a label.
    #[must_use]
    pub fn for_stages(prefix: Option<&str>, stages: Option<&[u32]>) -> Self {
        Self {
            stages: stages.map(<[u32]>::to_vec),
            profile_prefix: prefix.map(str::to_owned),
            ..Self::default()
        }
    }

    /// What makes sense field by field may still contradict itself.
    fn check(&self) -> Result<(), StartRequestError> {
        self.check_phases()?;
        for (field, list) in
            [("stages", &self.stages), ("replicas", &self.replicas), ("ranks", &self.ranks)]
        {
            if list.as_ref().is_some_and(Vec::is_empty) {
                let bound = "absent, or a list that is not empty".to_owned();
                return Err(StartRequestError::OutOfBounds { field, bound });
            }
        }
        if self.max_iterations.is_some() && self.num_steps.is_some() {
            return Err(StartRequestError::Conflict {
                one: "max_iterations",
                other: "num_steps",
                reason: "both say how many steps to record",
            });
        }
        if self.start_step.is_some() && self.delay_iterations.is_some_and(|steps| steps > 0) {
            return Err(StartRequestError::Conflict {
                one: "start_step",
                other: "delay_iterations",
                reason: "both say at which step the window begins",
            });
        }
        for (field, value) in [("duration_ms", self.duration_ms), ("max_bytes", self.max_bytes)] {
            // What a configuration refuses, a body cannot ask for.
            let kind = Field::find(field).map(|field| field.kind);
            let Some(FieldKind::Number { min, max }) = kind else { continue };
            if value.is_some_and(|value| value < min || value > max) {
                let bound = format!("a number from {min} to {max}");
                return Err(StartRequestError::OutOfBounds { field, bound });
            }
        }
        if self.wait_join_ms.is_some_and(|ms| ms > MAX_WAIT_JOIN_MS) {
            let bound = format!("at most {MAX_WAIT_JOIN_MS}");
            return Err(StartRequestError::OutOfBounds { field: "wait_join_ms", bound });
        }
        Ok(())
    }
}

/// SGLang's own client sends its step counts as text.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
        Other(serde_json::Value),
    }
    match Option::<Either>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Either::Number(number)) => Ok(Some(number)),
        Some(Either::Text(text)) => match text.as_str() {
            // Python's `str(None)`.
            "None" => Ok(None),
            text => text.parse().map(Some).map_err(|_not_one| not_a_number(text)),
        },
        Some(Either::Other(value)) => Err(not_a_number(&value.to_string())),
    }
}

fn not_a_number<E: serde::de::Error>(found: &str) -> E {
    E::custom(format_args!("a whole number of at least 0 is expected, found {found:.40}"))
}
