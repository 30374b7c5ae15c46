//! Reading, laying over and applying, each field of it.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn parse(value: Value) -> ProfilerConfig {
    ProfilerConfig::parse(&value).unwrap()
}

fn error(value: Value) -> String {
    ProfilerConfig::parse(&value).unwrap_err().to_string()
}

/// All values of a field worth trying: of a flag both, of a choice each, of a range both ends.
fn values(field: &Field) -> Vec<Value> {
    match field.kind {
        FieldKind::Flag => vec![json!(true), json!(false)],
        FieldKind::Number { min, max } => vec![json!(min), json!(min + 1), json!(max)],
        FieldKind::Text if field.setting() == "backend" => vec![json!("cuda"), json!("cpu")],
        FieldKind::Text => vec![json!("/some/where"), json!("s3://bucket/traces")],
        FieldKind::Choice(choices) => choices.iter().map(|choice| json!(choice)).collect(),
        FieldKind::Choices(choices) => choices.iter().map(|choice| json!([choice])).collect(),
        FieldKind::Table => vec![json!({"cuda": {"buffers": 4}})],
    }
}

#[test]
fn the_lists_of_fields_and_formats_agree() {
    let formats = Field::find("formats").unwrap();
    let FieldKind::Choices(names) = formats.kind else { panic!("formats is a list") };
    assert_eq!(names, TraceFormat::ALL.map(TraceFormat::name));
    for (index, field) in FIELDS.iter().enumerate() {
        assert!(FIELDS[index + 1..].iter().all(|other| other.name != field.name), "{}", field.name);
        if let Some(name) = field.alias_of {
            let other = Field::find(name).unwrap();
            assert_eq!((other.origin, other.kind), (FieldOrigin::Own, field.kind), "{name}");
        }
    }
    for format in TraceFormat::ALL {
        assert_eq!(TraceFormat::parse(format.name()), Ok(format));
        assert_eq!(json!(format), json!(format.name()));
    }
}

#[test]
fn every_field_is_applied_or_refused_with_a_reason() {
    let mut report = String::new();
    for field in FIELDS {
        for value in values(field) {
            let applied = parse(json!({ field.name: value })).apply();
            assert_eq!(applied.applied.len() + applied.refused.len(), 1, "{} {value}", field.name);
            if let [refused] = applied.refused.as_slice() {
                assert!(!refused.reason.contains("report it"), "{} is not handled", field.name);
                writeln!(report, "{} = {value} is refused: {}", field.name, refused.reason)
                    .unwrap();
            }
            if let [applied] = applied.applied.as_slice() {
                let colon = if applied.effect.is_empty() { "" } else { ": " };
                writeln!(report, "{} = {value}{colon}{}", field.name, applied.effect).unwrap();
            }
        }
    }
    insta::assert_snapshot!(report);
}

#[test]
fn vllms_full_dump_is_taken_as_it_is() {
    // All fields with upstream's defaults, as `vllm serve` logs them, with a directory.
    let config = parse(json!({
        "profiler": "torch", "torch_profiler_dir": "/data/profiles",
        "torch_profiler_with_stack": true, "torch_profiler_with_flops": false,
        "torch_profiler_use_gzip": true, "torch_profiler_dump_cuda_time_total": true,
        "torch_profiler_record_shapes": false, "torch_profiler_with_memory": false,
        "capture_torch_profiler": false, "detailed_trace_annotation": false,
        "ignore_frontend": false, "delay_iterations": 0, "max_iterations": 0,
        "warmup_iterations": 0, "active_iterations": 5, "wait_iterations": 0,
    }));
    let applied = config.apply();
    insta::assert_json_snapshot!(applied);
}

#[test]
fn vllms_windows_need_a_wait_or_a_warm_up() {
    let schedule = |value| parse(value).apply().effective.schedule;
    let both = json!({"profiler": "torch", "wait_iterations": 1, "warmup_iterations": 2});
    let found = schedule(both);
    assert_eq!((found.wait_steps, found.warmup_steps), (1, 2));
    assert_eq!((found.active_steps, found.repeat), (Some(5), 1));
    let found = schedule(json!({"profiler": "torch", "active_iterations": 3}));
    assert_eq!(found.active_steps, None);
    let found = schedule(json!({"active_iterations": 3, "repeat": 2}));
    assert_eq!((found.active_steps, found.repeat), (Some(3), 2), "our own have them always");
}

#[test]
fn what_is_recorded_follows_profiler_activities_and_backend() {
    let effective = |value| parse(value).apply().effective;
    let torch = effective(json!({"profiler": "torch"}));
    assert_eq!((torch.device, torch.host), (DeviceUse::IfAvailable, true));
    assert!(torch.session.operators && torch.session.with_stack);
    assert!(torch.capture(true).device && !torch.capture(false).device);

    let cuda = effective(json!({"profiler": "cuda"}));
    assert_eq!((cuda.device, cuda.host), (DeviceUse::Required, false));
    assert_eq!(cuda.backend.unwrap().as_str(), "cuda");

    let both = effective(json!({"profiler": "cuda", "activities": ["cpu", "gpu"]}));
    assert!(both.host, "activities stand above what profiler implies");

    let host = effective(json!({"backend": "cpu"}));
    assert_eq!((host.device, host.backend), (DeviceUse::No, None));

    let memory = effective(json!({"activities": ["MEM"]}));
    assert_eq!((memory.host, memory.spans, memory.device), (false, false, DeviceUse::IfAvailable));
    assert!(memory.session.memory);
    for flag in ["memory", "torch_profiler_with_memory"] {
        let named = effective(json!({"activities": ["CPU"], flag: true}));
        assert_eq!(named.device, DeviceUse::IfAvailable, "a device's backend records it");
    }
    assert_eq!(effective(json!({"activities": ["CPU"]})).device, DeviceUse::No);
    assert_eq!(effective(json!({"backend": "cpu", "memory": true})).device, DeviceUse::No);
}

#[test]
fn formats_follow_the_configuration() {
    let formats = |value| {
        let formats = parse(value).apply().effective.formats;
        formats.iter().map(|format| format.name()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(formats(json!({})), "pftrace-gz");
    assert_eq!(formats(json!({"max_iterations": 3})), "pftrace-gz");
    assert_eq!(formats(json!({"profiler": "torch"})), "pftrace-gz kineto-gz table");
    assert_eq!(formats(json!({"profiler": "cuda"})), "pftrace-gz kineto-gz");
    assert_eq!(
        formats(json!({"profiler": "torch", "torch_profiler_use_gzip": false,
            "torch_profiler_dump_cuda_time_total": false})),
        "pftrace-gz kineto"
    );
    assert_eq!(formats(json!({"profiler": "torch", "formats": ["parquet"]})), "parquet");
}

#[test]
fn errors_name_the_field_and_what_to_do() {
    let mut report = String::new();
    for value in [
        json!([]),
        json!({"torch_profiler_with_stacks": true}),
        json!({"with_stck": true}),
        json!({"colour": "red"}),
        json!({"sample_hz": 5000}),
        json!({"sample_hz": -1}),
        json!({"sample_hz": 1.5}),
        json!({"sample_hz": "99"}),
        json!({"active_iterations": 0}),
        json!({"profiler": "nsys"}),
        json!({"preset": "lunch"}),
        json!({"activities": ["CPU", "NPU"]}),
        json!({"activities": []}),
        json!({"activities": "CPU"}),
        json!({"formats": ["pftrace.gz"]}),
        json!({"backend": "No Such/Backend"}),
        json!({"options": {"cuda": 3}}),
        json!({"dir": ""}),
        json!({"start_step": 5, "delay_iterations": 2}),
        json!({"with_stack": true, "torch_profiler_with_stack": false}),
        json!({"activities": ["CPU"], "backend": "cuda"}),
        json!({"activities": ["GPU"], "backend": "cpu"}),
        json!({"activities": ["MEM"], "memory": false}),
        json!({"duration_ms": 5000, "max_session_ms": 1000}),
    ] {
        writeln!(report, "{value}: {}", error(value.clone())).unwrap();
    }
    insta::assert_snapshot!(report);
}

#[test]
fn texts_of_variables_are_read_by_the_kind_of_the_field() {
    let read = |name, text| ProfilerConfig::parse_text(name, text);
    assert_eq!(read("samples", "off"), Ok(parse(json!({"samples": false}))));
    assert_eq!(read("sample_hz", " 49 "), Ok(parse(json!({"sample_hz": 49}))));
    let formats = parse(json!({"formats": ["pftrace-gz", "kineto-gz"]}));
    assert_eq!(read("formats", "pftrace-gz, kineto-gz"), Ok(formats));
    assert!(read("sample_hz", "many").is_err());
    assert!(read("samples", "2").is_err());
    assert!(read("sample_herz", "1").is_err());
}

#[test]
fn an_upper_layer_wins_by_any_name_of_a_setting() {
    let mut config = parse(json!({"torch_profiler_with_stack": true, "sample_hz": 10}));
    config.overlay(&parse(json!({"with_stack": false}))).unwrap();
    assert!(!config.apply().effective.session.with_stack);
    assert_eq!(config.fields().count(), 2);
    config.overlay(&parse(json!({"torch_profiler_with_stack": true}))).unwrap();
    assert!(config.apply().effective.session.with_stack);
    assert_eq!(config.apply().effective.session.sample_hz, 10);
}

#[test]
fn null_is_not_given() {
    assert!(parse(json!({"profiler": null, "max_iterations": null})).is_empty());
    assert!(error(json!({"no_such": null})).contains("no field"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn hostile_values_never_panic(field in 0..FIELDS.len(), value in any_json(), text in ".{0,40}") {
        let name = FIELDS[field].name;
        if let Ok(config) = ProfilerConfig::parse(&json!({ name: value })) {
            let applied = config.apply();
            prop_assert_eq!(applied.applied.len() + applied.refused.len(), config.fields().count());
        }
        if let Ok(config) = ProfilerConfig::parse_text(name, &text) {
            prop_assert_eq!(config.fields().count(), 1);
        }
        if let Err(error) = ProfilerConfig::parse(&json!({ text: value })) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn what_is_written_reads_back(picks in proptest::collection::vec((0..FIELDS.len(), 0_usize..8), 0..8)) {
        let mut object = serde_json::Map::new();
        for (field, pick) in picks {
            let values = values(&FIELDS[field]);
            object.insert(FIELDS[field].name.to_owned(), values[pick % values.len()].clone());
        }
        if let Ok(config) = ProfilerConfig::parse(&Value::Object(object)) {
            let written = serde_json::to_value(&config).unwrap();
            prop_assert_eq!(ProfilerConfig::parse(&written), Ok(config.clone()));
            let mut over = ProfilerConfig::default();
            over.overlay(&config).unwrap();
            prop_assert_eq!(over, config);
        }
    }
}

#[test]
fn settings_of_a_backend_reach_it_under_its_name() {
    let options = json!({"cuda": {"detach_after_ms": "off"}, "cpu": {"sampler.layout": "x"}});
    let options = parse(json!({"options": options})).apply().effective.session.options;
    assert_eq!(options.get("cuda.detach_after_ms"), Some(&json!("off")));
    assert_eq!(options.get("cpu.sampler.layout"), Some(&json!("x")));
    assert_eq!(options.len(), 2);
}
