//! `omniprof config`: what holds, and where each value comes from.

use std::collections::BTreeMap;

use profiler_core::config::{
    AppliedField, ConfigValue, EffectiveConfig, FIELDS, FieldOrigin, RefusedField,
};
use serde::Serialize;

use crate::cli::{CommandError, ConfigCommandArgs, Exit, Output};
use crate::config::{OTHER_VARIABLES, Origin, Resolved, ResolvedStage};

#[derive(Serialize)]
struct Document<'a> {
    root: String,
    root_origin: String,
    all: StageDocument<'a>,
    stages: BTreeMap<u32, StageDocument<'a>>,
    unknown_variables: &'a [String],
}

#[derive(Serialize)]
struct StageDocument<'a> {
    given: BTreeMap<&'static str, Given<'a>>,
    effective: &'a EffectiveConfig,
    applied: &'a [AppliedField],
    refused: &'a [RefusedField],
}

#[derive(Serialize)]
struct Given<'a> {
    value: &'a ConfigValue,
    origin: String,
}

pub(super) fn run(args: &ConfigCommandArgs, out: &Output) -> Result<Exit, CommandError> {
    if args.fields {
        return fields(args.json, out);
    }
    if args.variables {
        return variables(args.json, out);
    }
    let resolved = args.config.load()?;
    let root = resolved.root(args.root.dir.as_deref()).display().to_string();
    let root_origin = match &args.root.dir {
        Some(_) => "--dir".to_owned(),
        None => origin_of_root(&resolved),
    };
    let document = Document {
        root,
        root_origin,
        all: document(args.stage.map_or(&resolved.all, |stage| resolved.stage(stage))),
        stages: match args.stage {
            Some(_) => BTreeMap::new(),
            None => resolved.stages.iter().map(|(n, stage)| (*n, document(stage))).collect(),
        },
        unknown_variables: &resolved.unknown_variables,
    };
    if args.json {
        out.json(&document)?;
    } else {
        out.text(&text(&document, args.stage))?;
    }
    Ok(Exit::Done)
}

fn document(stage: &ResolvedStage) -> StageDocument<'_> {
    let given = |(name, value)| {
        let origin = stage.origins.get(name).map(Origin::to_string).unwrap_or_default();
        (name, Given { value, origin })
    };
    StageDocument {
        given: stage.config.fields().map(given).collect(),
        effective: &stage.applied.effective,
        applied: &stage.applied.applied,
        refused: &stage.applied.refused,
    }
}

fn origin_of_root(resolved: &Resolved) -> String {
    let stages = std::iter::once(&resolved.all).chain(resolved.stages.values());
    for stage in stages.filter(|stage| stage.applied.effective.dir.is_some()) {
        for name in ["dir", "torch_profiler_dir"] {
            if let Some(origin) = stage.origins.get(name) {
                return origin.to_string();
            }
        }
    }
    "default".to_owned()
}

fn text(document: &Document<'_>, stage: Option<u32>) -> String {
    let mut text = format!("root: {} ({})\n", document.root, document.root_origin);
    let title = stage.map_or_else(|| "all stages".to_owned(), |stage| format!("stage {stage}"));
    stage_text(&title, &document.all, None, &mut text);
    for (stage, own) in &document.stages {
        let title = format!("stage {stage}, where it differs");
        stage_text(&title, own, Some(&document.all), &mut text);
    }
    for name in document.unknown_variables {
        push(&mut text, &format!("\nnote: the variable {name} means nothing to omniprof\n"));
    }
    text
}

fn stage_text(
    title: &str,
    stage: &StageDocument<'_>,
    all: Option<&StageDocument<'_>>,
    text: &mut String,
) {
    push(text, &format!("\n{title}\n"));
    let known = all.map(|all| effective_values(all.effective)).unwrap_or_default();
    let refusal = |name: &str| stage.refused.iter().find(|refused| refused.field == name);
    for (name, value) in effective_values(stage.effective) {
        if known.contains(&(name, value.clone())) {
            continue;
        }
        let origins: Vec<&str> = stage
            .given
            .iter()
            .filter(|(given, _)| setting(given) == name && refusal(given).is_none())
            .map(|(_, given)| given.origin.as_str())
            .collect();
        let origin = match origins.last() {
            Some(origin) => (*origin).to_owned(),
            None => implied(name, stage),
        };
        push(text, &format!("  {name:<18} {value:<28} {origin}\n"));
    }
    for (heading, lines) in [
        (
            "applied",
            stage
                .applied
                .iter()
                .filter(|applied| !applied.effect.is_empty())
                .map(|applied| (applied.field, &applied.value, applied.effect))
                .collect::<Vec<_>>(),
        ),
        (
            "refused",
            stage
                .refused
                .iter()
                .map(|refused| (refused.field, &refused.value, refused.reason))
                .collect(),
        ),
    ] {
        if lines.is_empty() {
            continue;
        }
        push(text, &format!("  {heading}:\n"));
        for (field, value, why) in lines {
            let origin = stage.given.get(field).map_or("", |given| &given.origin);
            push(text, &format!("    {field} = {value} ({origin}): {why}\n"));
        }
    }
}

/// The field that sets what a field sets.
fn setting(name: &str) -> &str {
    FIELDS.iter().find(|field| field.name == name).map_or(name, |field| field.setting())
}

/// Where a value comes from that no field of its name gave.
fn implied(name: &str, stage: &StageDocument<'_>) -> String {
    let default = EffectiveConfig::default();
    let is_default = effective_values(&default)
        .into_iter()
        .zip(effective_values(stage.effective))
        .any(|((field, one), (_, other))| field == name && one == other);
    if is_default {
        return "default".to_owned();
    }
    for by in ["profiler", "activities", "backend"] {
        if let Some(given) = stage.given.get(by) {
            return format!("implied by {by} ({})", given.origin);
        }
    }
    "implied".to_owned()
}

/// What holds, under the names of the fields that set it, in one order.
fn effective_values(effective: &EffectiveConfig) -> Vec<(&'static str, String)> {
    let (session, schedule, limits) = (&effective.session, &effective.schedule, &effective.limits);
    let or = |value: Option<u64>, none: &str| {
        value.map_or_else(|| none.to_owned(), |value| value.to_string())
    };
    let word = |value: serde_json::Result<serde_json::Value>| match value {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    };
    let formats: Vec<&str> = effective.formats.iter().map(|format| format.name()).collect();
    vec![
        ("activities", activities(effective)),
        (
            "backend",
            effective.backend.as_ref().map_or("best available", |id| id.as_str()).to_owned(),
        ),
        ("on_unavailable", word(serde_json::to_value(effective.on_unavailable))),
        ("preset", word(serde_json::to_value(session.preset))),
        ("spans", effective.spans.to_string()),
        ("samples", session.samples.to_string()),
        ("sample_hz", session.sample_hz.to_string()),
        ("counters", session.counters.to_string()),
        ("counter_hz", session.counter_hz.to_string()),
        ("operators", session.operators.to_string()),
        ("record_shapes", session.record_shapes.to_string()),
        ("with_stack", session.with_stack.to_string()),
        ("memory", session.memory.to_string()),
        ("max_buffer_bytes", session.max_buffer_bytes.to_string()),
        ("drain_ms", session.drain_ms.to_string()),
        ("options", word(serde_json::to_value(&session.options))),
        ("delay_ms", schedule.delay_ms.to_string()),
        ("delay_iterations", schedule.delay_steps.to_string()),
        ("start_step", or(schedule.start_step, "-")),
        ("wait_iterations", schedule.wait_steps.to_string()),
        ("warmup_iterations", schedule.warmup_steps.to_string()),
        ("active_iterations", or(schedule.active_steps, "until the stop")),
        ("repeat", schedule.repeat.to_string()),
        ("max_iterations", or(limits.max_steps, "no limit")),
        ("duration_ms", or(limits.duration_ms, "until the stop")),
        ("max_session_ms", limits.max_session_ms.to_string()),
        ("max_bytes", limits.max_bytes.to_string()),
        ("min_free_percent", limits.min_free_percent.to_string()),
        ("formats", formats.join(",")),
        ("arguments", word(serde_json::to_value(effective.arguments))),
    ]
}

fn activities(effective: &EffectiveConfig) -> String {
    use profiler_core::config::DeviceUse;
    let mut activities = Vec::new();
    if effective.host {
        activities.push("CPU");
    }
    match effective.device {
        DeviceUse::No => {}
        DeviceUse::IfAvailable => activities.push("GPU if available"),
        DeviceUse::Required => activities.push("GPU"),
    }
    if effective.session.memory {
        activities.push("MEM");
    }
    activities.join(", ")
}

fn fields(json: bool, out: &Output) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Line {
        field: &'static str,
        takes: String,
        default: &'static str,
        variable: Option<String>,
        same_as: Option<&'static str>,
        vllm: bool,
        doc: &'static str,
    }
    let lines: Vec<Line> = FIELDS
        .iter()
        .map(|field| Line {
            field: field.name,
            takes: field.kind.to_string(),
            default: field.default,
            variable: field.variable(),
            same_as: field.alias_of,
            vllm: field.origin != FieldOrigin::Own,
            doc: field.doc,
        })
        .collect();
    if json {
        out.json(&lines)?;
        return Ok(Exit::Done);
    }
    let mut text = String::new();
    for line in lines {
        push(&mut text, &format!("{}: {}\n", line.field, line.takes));
        push(&mut text, &format!("    {} Default: {}.\n", line.doc, line.default));
        if let Some(variable) = line.variable {
            push(&mut text, &format!("    Overridden by {variable}.\n"));
        }
    }
    out.text(&text)?;
    Ok(Exit::Done)
}

fn variables(json: bool, out: &Output) -> Result<Exit, CommandError> {
    if json {
        out.json(&OTHER_VARIABLES)?;
        return Ok(Exit::Done);
    }
    for (name, meaning) in OTHER_VARIABLES {
        out.line(&format!("{name}: {meaning}"))?;
    }
    Ok(Exit::Done)
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
}
