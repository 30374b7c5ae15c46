//! Each field by itself and in company: what a value does to what holds, and nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::backend::{BackendId, Preset};
use crate::control::OnUnavailable;

/// What comes of a value: it changes this and nothing else, or is refused for this reason.
enum Outcome {
    Holds(Box<dyn Fn(&mut EffectiveConfig)>),
    Refused(&'static str),
}

use Outcome::Refused;

fn holds(change: impl Fn(&mut EffectiveConfig) + 'static) -> Outcome {
    Outcome::Holds(Box::new(change))
}

fn nothing() -> Outcome {
    holds(|_| {})
}

type Case = (Value, Outcome);

/// Both values of a flag.
fn flag(change: fn(&mut EffectiveConfig, bool)) -> Vec<Case> {
    [true, false].map(|flag| (json!(flag), holds(move |e| change(e, flag)))).into()
}

/// A flag of vLLM's that cannot be had.
fn never(reason: &'static str) -> Vec<Case> {
    vec![(json!(true), Refused(reason)), (json!(false), nothing())]
}

fn number(value: u64, change: fn(&mut EffectiveConfig, u64)) -> Vec<Case> {
    vec![(json!(value), holds(move |e| change(e, value)))]
}

/// What comes of each field where it alone is given. One that is not here fails the tests.
fn cases(field: &str) -> Vec<Case> {
    match field {
        "profiler" => vec![
            (
                json!("torch"),
                holds(|e| {
                    (e.session.operators, e.session.with_stack) = (true, true);
                    e.formats.push(TraceFormat::Table);
                }),
            ),
            (
                json!("cuda"),
                holds(|e| {
                    (e.device, e.host) = (DeviceUse::Required, false);
                    e.backend = BackendId::parse("cuda").ok();
                }),
            ),
            (json!("proton"), Refused("Proton instruments Triton kernels")),
        ],
        "torch_profiler_dir" | "dir" => {
            let mut cases = vec![
                (json!("/some/where"), holds(|e| e.dir = Some("/some/where".into()))),
                (json!("s3://bucket/traces"), Refused("written to a local directory")),
            ];
            if field != "dir" {
                cases.push((json!(""), nothing()));
            }
            cases
        }
        "torch_profiler_with_stack" | "with_stack" => {
            flag(|e, flag| (e.session.operators, e.session.with_stack) = (flag, flag))
        }
        "torch_profiler_record_shapes" | "record_shapes" => {
            flag(|e, flag| (e.session.operators, e.session.record_shapes) = (flag, flag))
        }
        "torch_profiler_with_memory" | "memory" => flag(|e, flag| e.session.memory = flag),
        "torch_profiler_use_gzip" => flag(|e, gzip| {
            let kineto = if gzip { TraceFormat::KinetoGz } else { TraceFormat::Kineto };
            e.formats = vec![TraceFormat::PftraceGz, kineto];
        }),
        "torch_profiler_dump_cuda_time_total" => never("only with `profiler: torch`"),
        "torch_profiler_with_flops" => never("operations are not counted"),
        "torch_profiler_execution_trace" => never("need PyTorch's own observer"),
        "capture_torch_profiler" => never("before any session can be started"),
        "detailed_trace_annotation" => never("the engine's to make"),
        "ignore_frontend" => never("start the front end without the agent"),
        "proton_profiler_dir"
        | "proton_context"
        | "proton_data"
        | "proton_backend"
        | "proton_mode"
        | "proton_hook"
        | "proton_output_format" => {
            vec![(json!("anything"), Refused("Proton instruments Triton kernels"))]
        }
        "delay_iterations" => number(3, |e, steps| e.schedule.delay_steps = steps),
        "wait_iterations" => number(3, |e, steps| e.schedule.wait_steps = steps),
        "warmup_iterations" => number(3, |e, steps| e.schedule.warmup_steps = steps),
        "active_iterations" => number(3, |e, steps| e.schedule.active_steps = Some(steps)),
        "max_iterations" => vec![
            (json!(3), holds(|e| e.limits.max_steps = Some(3))),
            (json!(0), holds(|e| e.limits.max_steps = None)),
        ],
        "start_step" => vec![
            (json!(3), holds(|e| e.schedule.start_step = Some(3))),
            (json!(0), holds(|e| e.schedule.start_step = Some(0))),
        ],
        "repeat" => number(3, |e, windows| e.schedule.repeat = windows as u32),
        "delay_ms" => number(1500, |e, ms| e.schedule.delay_ms = ms),
        "duration_ms" => vec![
            (json!(1500), holds(|e| e.limits.duration_ms = Some(1500))),
            // Longer than the default limit of a session.
            (
                json!(900_000),
                holds(|e| {
                    e.limits.duration_ms = Some(900_000);
                    e.limits.max_session_ms = 1_800_000;
                }),
            ),
        ],
        "max_session_ms" => number(1500, |e, ms| e.limits.max_session_ms = ms),
        "max_bytes" => number(2 << 20, |e, bytes| e.limits.max_bytes = bytes),
        "min_free_percent" => number(7, |e, percent| e.limits.min_free_percent = percent as u32),
        "activities" => vec![
            (json!(["CPU"]), holds(|e| e.device = DeviceUse::No)),
            (
                json!(["GPU"]),
                holds(|e| (e.device, e.host, e.spans) = (DeviceUse::Required, false, false)),
            ),
            (
                json!(["MEM"]),
                holds(|e| {
                    (e.host, e.spans, e.session.memory) = (false, false, true);
                }),
            ),
        ],
        "backend" => vec![
            (
                json!("npu"),
                holds(|e| {
                    (e.device, e.backend) = (DeviceUse::Required, BackendId::parse("npu").ok());
                }),
            ),
            (json!("cpu"), holds(|e| e.device = DeviceUse::No)),
        ],
        "on_unavailable" => vec![
            (json!("fail"), holds(|e| e.on_unavailable = OnUnavailable::Fail)),
            (json!("degrade"), holds(|e| e.on_unavailable = OnUnavailable::Degrade)),
        ],
        "preset" => vec![
            (json!("gpu"), holds(|e| e.session.preset = Preset::Gpu)),
            (json!("launch"), holds(|e| e.session.preset = Preset::Launch)),
            (json!("full"), holds(|e| e.session.preset = Preset::Full)),
        ],
        "spans" => flag(|e, flag| e.spans = flag),
        "samples" => flag(|e, flag| e.session.samples = flag),
        "sample_hz" => number(49, |e, hz| e.session.sample_hz = hz as u32),
        "counters" => flag(|e, flag| e.session.counters = flag),
        "counter_hz" => number(7, |e, hz| e.session.counter_hz = hz as u32),
        "operators" => flag(|e, flag| e.session.operators = flag),
        "max_buffer_bytes" => number(16 << 20, |e, bytes| e.session.max_buffer_bytes = bytes),
        "drain_ms" => number(1500, |e, ms| e.session.drain_ms = ms),
        "options" => vec![(
            json!({"cuda": {"buffers": 4}}),
            holds(|e| drop(e.session.options.insert("cuda.buffers".to_owned(), json!(4)))),
        )],
        "formats" => {
            let one = |format: TraceFormat| {
                (json!([format.name()]), holds(move |e| e.formats = vec![format]))
            };
            TraceFormat::ALL.map(one).into()
        }
        "arguments" => vec![
            (json!("minimal"), holds(|e| e.arguments = EventArguments::Minimal)),
            (json!("full"), holds(|e| e.arguments = EventArguments::Full)),
        ],
        other => panic!("`{other}` has no case: say what its values do"),
    }
}

/// Asserts what comes of one field of a configuration, `base` being what holds without it.
fn check(config: &Value, field: &str, base: &EffectiveConfig, outcome: &Outcome) {
    let came = ProfilerConfig::parse(config).unwrap().apply();
    let is_applied = came.applied.iter().any(|applied| applied.field == field);
    let refused: Vec<_> = came.refused.iter().filter(|refused| refused.field == field).collect();
    let mut expected = base.clone();
    match outcome {
        Outcome::Holds(change) => {
            change(&mut expected);
            assert!(is_applied && refused.is_empty(), "{config}: `{field}`: {came:?}");
        }
        Refused(reason) => {
            assert!(!is_applied, "{config}: `{field}`: {came:?}");
            let [refused] = *refused else { panic!("{config}: `{field}`: {came:?}") };
            assert!(refused.reason.contains(reason), "{config}: {}", refused.reason);
        }
    }
    assert_eq!(came.effective, expected, "{config}");
}

#[test]
fn each_value_of_each_field_does_what_its_case_says() {
    for field in FIELDS {
        // With a field that only vLLM has, its trace is among the formats.
        let mut base = EffectiveConfig::default();
        if field.origin == FieldOrigin::Vllm {
            base.formats.push(TraceFormat::KinetoGz);
        }
        let cases = cases(field.name);
        for (value, outcome) in &cases {
            check(&json!({ field.name: value }), field.name, &base, outcome);
        }
        let all: Vec<Value> = match field.kind {
            FieldKind::Flag => vec![json!(true), json!(false)],
            FieldKind::Choice(choices) => choices.iter().map(|choice| json!(choice)).collect(),
            FieldKind::Choices(choices) => choices.iter().map(|choice| json!([choice])).collect(),
            FieldKind::Number { .. } | FieldKind::Text | FieldKind::Table => Vec::new(),
        };
        for value in all {
            let has_case = cases.iter().any(|(with, _)| *with == value);
            assert!(has_case, "`{}` has no case with {value}", field.name);
        }
    }
}

#[test]
fn fields_in_company_do_what_their_cases_say() {
    let torch = |field: &str, value: Value| json!({"profiler": "torch", field: value});
    let no_windows = "windows only with `wait_iterations` or `warmup_iterations`";
    let no_operators = "`operators: false` leaves no operators";
    let windows = |change: fn(&mut EffectiveConfig)| {
        holds(move |e| {
            (e.schedule.active_steps, e.schedule.repeat) = (Some(5), 1);
            change(e);
        })
    };
    let mut cases = vec![
        ("delay_iterations", torch("delay_iterations", json!(2)), {
            holds(|e| e.schedule.delay_steps = 2)
        }),
        ("max_iterations", torch("max_iterations", json!(2)), {
            holds(|e| e.limits.max_steps = Some(2))
        }),
        ("wait_iterations", torch("wait_iterations", json!(2)), {
            windows(|e| e.schedule.wait_steps = 2)
        }),
        ("warmup_iterations", torch("warmup_iterations", json!(2)), {
            windows(|e| e.schedule.warmup_steps = 2)
        }),
        ("wait_iterations", torch("wait_iterations", json!(0)), nothing()),
        ("active_iterations", torch("active_iterations", json!(2)), Refused(no_windows)),
        ("torch_profiler_with_stack", torch("torch_profiler_with_stack", json!(false)), {
            holds(|e| e.session.with_stack = false)
        }),
        ("torch_profiler_use_gzip", torch("torch_profiler_use_gzip", json!(false)), {
            holds(|e| e.formats[1] = TraceFormat::Kineto)
        }),
        (
            "torch_profiler_dump_cuda_time_total",
            torch("torch_profiler_dump_cuda_time_total", json!(true)),
            nothing(),
        ),
        (
            "torch_profiler_dump_cuda_time_total",
            torch("torch_profiler_dump_cuda_time_total", json!(false)),
            holds(|e| e.formats.retain(|format| *format != TraceFormat::Table)),
        ),
        (
            "torch_profiler_dump_cuda_time_total",
            json!({"formats": ["csv"], "torch_profiler_dump_cuda_time_total": true}),
            Refused("name `table` there"),
        ),
        (
            "torch_profiler_use_gzip",
            json!({"formats": ["csv"], "torch_profiler_use_gzip": true}),
            Refused("says itself whether the Kineto JSON is compressed"),
        ),
        ("activities", json!({"profiler": "cuda", "activities": ["CPU", "GPU"]}), {
            holds(|e| e.host = true)
        }),
        ("max_session_ms", json!({"duration_ms": 900_000, "max_session_ms": 900_001}), {
            holds(|e| e.limits.max_session_ms = 900_001)
        }),
    ];
    for before in ["wait_iterations", "warmup_iterations"] {
        let config = json!({"profiler": "torch", before: 1, "active_iterations": 2});
        cases.push(("active_iterations", config, holds(|e| e.schedule.active_steps = Some(2))));
    }
    for name in ["memory", "torch_profiler_with_memory"] {
        // A device's backend records it, though `activities` names no device.
        let config = json!({"activities": ["CPU"], "profiler": "torch", name: true});
        let memory = holds(|e| (e.device, e.session.memory) = (DeviceUse::IfAvailable, true));
        cases.push((name, config, memory));
    }
    for name in
        ["with_stack", "torch_profiler_with_stack", "record_shapes", "torch_profiler_record_shapes"]
    {
        let config = json!({"profiler": "torch", "operators": false, name: true});
        cases.push((name, config, Refused(no_operators)));
    }
    for (field, config, outcome) in cases {
        let mut without = config.clone();
        without.as_object_mut().unwrap().remove(field).unwrap();
        if field == "torch_profiler_dump_cuda_time_total" || field == "torch_profiler_use_gzip" {
            // With `formats` they are all that makes it vLLM's.
            without["torch_profiler_with_flops"] = json!(false);
        }
        let base = ProfilerConfig::parse(&without).unwrap().apply().effective;
        check(&config, field, &base, &outcome);
    }
}

#[test]
fn all_that_holds_can_be_set_by_a_field() {
    let parts = |effective: &EffectiveConfig| {
        let Value::Object(whole) = json!(effective) else { panic!("it is an object") };
        let mut parts: Vec<(String, Value)> = Vec::new();
        for (name, value) in whole {
            match value {
                Value::Object(inner) => {
                    parts.extend(inner.into_iter().map(|(key, v)| (format!("{name}.{key}"), v)));
                }
                other => parts.push((name, other)),
            }
        }
        parts
    };
    let default = parts(&EffectiveConfig::default());
    // The agent's to say, no user's.
    let mut unset: BTreeSet<&str> = default.iter().map(|(name, _)| name.as_str()).collect();
    assert!(unset.remove("session.target_pid"));
    for field in FIELDS {
        for (value, _) in cases(field.name) {
            let config = ProfilerConfig::parse(&json!({ field.name: value })).unwrap();
            for (name, value) in parts(&config.apply().effective) {
                if !default.contains(&(name.clone(), value)) {
                    unset.remove(name.as_str());
                }
            }
        }
    }
    assert_eq!(unset, BTreeSet::new(), "no field sets them");
}
