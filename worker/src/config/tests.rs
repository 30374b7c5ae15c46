//! Sources over sources.

use std::ffi::OsString;
use std::path::Path;

use profiler_core::config::{FIELDS, Field, FieldKind, ProfilerConfig};
use serde_json::json;

use super::*;

fn load(args: &ConfigArgs, variables: &[(&str, &str)]) -> Result<Resolved, ConfigLoadError> {
    let pairs = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    args.load_with(pairs)
}

fn error_text(args: &ConfigArgs, variables: &[(&str, &str)]) -> String {
    let error = load(args, variables).unwrap_err();
    profiler_core::error::chain(&error)
}

fn file(dir: &Path, name: &str, text: &str) -> Option<PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    Some(path)
}

/// No file, so that an `omniprof.toml` beside the sources cannot disturb.
fn none(dir: &Path) -> ConfigArgs {
    ConfigArgs { config: file(dir, "empty.toml", ""), ..ConfigArgs::default() }
}

fn origin(stage: &ResolvedStage, field: &str) -> String {
    stage.origins.get(field).map(Origin::to_string).unwrap_or_default()
}

#[test]
fn each_source_stands_above_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = ConfigArgs {
        config: file(
            dir.path(),
            "omniprof.toml",
            "[profiler_config]\nsample_hz = 1\ncounter_hz = 1\ndrain_ms = 1\nrepeat = 1\nmax_iterations = 1\n",
        ),
        deploy_config: file(
            dir.path(),
            "deploy.yaml",
            "profiler_config: {counter_hz: 2, drain_ms: 2, repeat: 2, max_iterations: 2}\n",
        ),
        profiler_config: Some(json!({"repeat": 4, "max_iterations": 4}).to_string()),
        stage_overrides: Some(json!({"1": {"profiler_config": {"max_iterations": 5}}}).to_string()),
    };
    let resolved =
        load(&args, &[("OMNIPROF_DRAIN_MS", "3"), ("OMNIPROF_REPEAT", "3"), ("PATH", "x")])
            .unwrap();
    let effective = &resolved.all.applied.effective;
    assert_eq!(effective.session.sample_hz, 1);
    assert_eq!(effective.session.counter_hz, 2);
    assert_eq!(effective.session.drain_ms, 3);
    assert_eq!(effective.schedule.repeat, 4);
    assert_eq!(effective.limits.max_steps, Some(4));
    assert_eq!(resolved.stage(1).applied.effective.limits.max_steps, Some(5));
    assert_eq!(resolved.stage(7).applied.effective.limits.max_steps, Some(4));
    assert!(origin(&resolved.all, "sample_hz").ends_with("omniprof.toml [profiler_config]"));
    assert!(origin(&resolved.all, "counter_hz").ends_with("deploy.yaml profiler_config"));
    assert_eq!(origin(&resolved.all, "drain_ms"), "OMNIPROF_DRAIN_MS");
    assert_eq!(origin(&resolved.all, "repeat"), "--profiler-config");
    assert_eq!(origin(resolved.stage(1), "max_iterations"), "--stage-overrides");

    args.stage_overrides = Some("{\"x\": {}}".to_owned());
    assert!(error_text(&args, &[]).contains("\"x\" is no number of a stage"));
}

#[test]
fn an_alias_above_takes_the_place_of_the_name_below() {
    let dir = tempfile::tempdir().unwrap();
    let args = ConfigArgs {
        config: file(dir.path(), "a.toml", "[profiler_config]\ntorch_profiler_with_stack = true\n"),
        ..ConfigArgs::default()
    };
    let resolved = load(&args, &[("OMNIPROF_WITH_STACK", "off")]).unwrap();
    assert!(!resolved.all.applied.effective.session.with_stack);
    let origins: Vec<_> = resolved.all.origins.keys().copied().collect();
    assert_eq!(origins, ["with_stack"], "the value below has no origin left");
}

#[test]
fn deploy_yaml_is_read_in_its_known_layouts() {
    let dir = tempfile::tempdir().unwrap();
    let layouts = [
        "stages:\n  - stage_id: 2\n    profiler_config: {profiler: torch, torch_profiler_dir: /t, max_iterations: 3}\n",
        "stage_args:\n  - stage_id: 2\n    engine_args:\n      tensor_parallel_size: 2\n      profiler_config:\n        profiler: torch\n        torch_profiler_dir: /t\n        max_iterations: 3\n",
        "stages:\n  - {}\n  - {}\n  - profiler_config: '{\"profiler\": \"torch\", \"torch_profiler_dir\": \"/t\", \"max_iterations\": 3}'\n",
        "async_chunk: true\nstages:\n- stage_id: 2\n  devices: \"0\"\n  engine_extras: {profiler_config: {profiler: torch, torch_profiler_dir: /t, max_iterations: 3}}\n",
    ];
    for (index, text) in layouts.iter().enumerate() {
        let deploy_config = file(dir.path(), &format!("{index}.yaml"), text);
        let resolved = load(&ConfigArgs { deploy_config, ..none(dir.path()) }, &[]).unwrap();
        assert_eq!(resolved.stages.keys().copied().collect::<Vec<_>>(), [2], "{text}");
        let effective = &resolved.stage(2).applied.effective;
        assert_eq!(effective.limits.max_steps, Some(3), "{text}");
        assert_eq!(resolved.root(None), Path::new("/t"));
        assert!(resolved.all.config.is_empty());
    }
}

#[test]
fn a_base_lies_below_the_file_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    file(
        dir.path(),
        "base.yaml",
        "stages:\n- {stage_id: 0, profiler_config: {sample_hz: 1, counter_hz: 1}}\n",
    );
    let deploy_config = file(
        dir.path(),
        "over.yaml",
        "base_config: base.yaml\nstages:\n- {stage_id: 0, profiler_config: {sample_hz: 2}}\n",
    );
    let resolved = load(&ConfigArgs { deploy_config, ..none(dir.path()) }, &[]).unwrap();
    let session = &resolved.stage(0).applied.effective.session;
    assert_eq!((session.sample_hz, session.counter_hz), (2, 1));

    let deploy_config = file(dir.path(), "circle.yaml", "base_config: circle.yaml\n");
    let text = error_text(&ConfigArgs { deploy_config, ..none(dir.path()) }, &[]);
    assert!(text.contains("more than 8 files"), "{text}");
}

/// Values of a field: of a flag both, of a choice each, of the others one or two.
fn values(field: &Field) -> Vec<Value> {
    match field.kind {
        FieldKind::Flag => vec![json!(true), json!(false)],
        FieldKind::Number { min, max } => vec![json!(min), json!(max)],
        FieldKind::Text if field.setting() == "backend" => vec![json!("npu"), json!("cpu")],
        FieldKind::Text => vec![json!("/some/where"), json!("s3://bucket/traces")],
        FieldKind::Choice(choices) => choices.iter().map(|choice| json!(choice)).collect(),
        FieldKind::Choices(choices) => vec![json!(choices)],
        FieldKind::Table => vec![json!({"cuda": {"buffers": 4}})],
        _ => panic!("`{}` has a kind that is new here", field.name),
    }
}

/// What each value does, the tests of `profiler_core::config` say.
#[test]
fn each_field_comes_whole_through_each_source_of_a_stage() {
    let dir = tempfile::tempdir().unwrap();
    for field in FIELDS {
        for value in values(field) {
            let config = json!({ field.name: value });
            let expected = ProfilerConfig::parse(&config).unwrap().apply();
            let stage = json!({"1": {"profiler_config": config}});
            let layouts = [
                format!("stages:\n- {{stage_id: 1, profiler_config: {config}}}\n"),
                format!(
                    "stage_args:\n- {{stage_id: 1, engine_args: {{profiler_config: {config}}}}}\n"
                ),
                format!(
                    "stages:\n- {{stage_id: 1, engine_extras: {{profiler_config: {config}}}}}\n"
                ),
            ];
            let mut sources = vec![
                ConfigArgs { stage_overrides: Some(stage.to_string()), ..none(dir.path()) },
                ConfigArgs {
                    config: file(
                        dir.path(),
                        "stage.toml",
                        &toml::to_string(&json!({ "stages": stage })).unwrap(),
                    ),
                    ..ConfigArgs::default()
                },
            ];
            for (index, layout) in layouts.iter().enumerate() {
                let deploy_config = file(dir.path(), &format!("{index}.yaml"), layout);
                sources.push(ConfigArgs { deploy_config, ..none(dir.path()) });
            }
            for args in &sources {
                let resolved = load(args, &[]).unwrap();
                assert_eq!(resolved.stage(1).applied, expected, "{args:?}");
                assert!(resolved.all.config.is_empty() && resolved.stage(0).config.is_empty());
                let refused: Vec<_> =
                    resolved.refused().into_iter().map(|(n, f)| (n, f.field)).collect();
                let by_name: Vec<_> =
                    expected.refused.iter().map(|_| (Some(1), field.name)).collect();
                assert_eq!(refused, by_name, "{args:?}");
            }
        }
    }
}

#[test]
fn each_field_comes_whole_through_each_source_of_all_stages() {
    let dir = tempfile::tempdir().unwrap();
    let mut by_variable = 0;
    for field in FIELDS {
        for value in values(field) {
            let config = json!({ field.name: value });
            let expected = ProfilerConfig::parse(&config).unwrap().apply();
            let whole = json!({ "profiler_config": config });
            let sources = [
                ConfigArgs { profiler_config: Some(config.to_string()), ..none(dir.path()) },
                ConfigArgs {
                    config: file(dir.path(), "all.toml", &toml::to_string(&whole).unwrap()),
                    ..ConfigArgs::default()
                },
                ConfigArgs {
                    deploy_config: file(dir.path(), "all.yaml", &whole.to_string()),
                    ..none(dir.path())
                },
            ];
            for args in &sources {
                let resolved = load(args, &[]).unwrap();
                assert_eq!(resolved.all.applied, expected, "{args:?}");
                assert_eq!(resolved.stage(1).applied, expected, "{args:?}");
            }
            let Some(variable) = field.variable() else { continue };
            let text = match &value {
                Value::String(text) => text.clone(),
                Value::Array(list) => {
                    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
                }
                other => other.to_string(),
            };
            let resolved = load(&none(dir.path()), &[(&variable, &text)]).unwrap();
            assert_eq!(resolved.all.applied, expected, "{variable}={text}");
            by_variable += 1;
        }
    }
    assert!(by_variable > 40, "{by_variable}");
}

#[test]
fn what_would_be_ignored_in_silence_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let misplaced = [
        (
            "platforms:\n  npu:\n    stages:\n    - {stage_id: 0, profiler_config: {}}\n",
            "platforms.npu.stages[0].profiler_config",
        ),
        (
            "stages:\n- stage_id: 0\n  runtime: {profiler_config: {profiler: torch}}\n",
            "stages[0].runtime.profiler_config",
        ),
        ("stages: {0: {profiler_config: {profiler: torch}}}\n", "stages.0.profiler_config"),
    ];
    for (text, place) in misplaced {
        let deploy_config = file(dir.path(), "deploy.yaml", text);
        let text = error_text(&ConfigArgs { deploy_config, ..none(dir.path()) }, &[]);
        assert!(text.contains(&format!("`{place}` is not read")), "{text}");
    }
    let wrong = [
        (
            "[profiler_config]\nsample_herz = 1\n",
            "no field `sample_herz` (did you mean `sample_hz`?)",
        ),
        ("[profiler]\nsample_hz = 1\n", "unknown field `profiler`"),
        ("[stages.0]\nsample_hz = 1\n", "unknown field `sample_hz`"),
        ("[stages.zero.profiler_config]\n", "\"zero\" is no number of a stage"),
        ("[server]\nport = 1\n", "unknown field `port`"),
        ("profiler_config = 3\n", "an object of fields, this is a number"),
        ("not toml", "cannot be read as TOML"),
    ];
    for (text, expected) in wrong {
        let config = file(dir.path(), "wrong.toml", text);
        let text = error_text(&ConfigArgs { config, ..ConfigArgs::default() }, &[]);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn variables_are_fields_or_known_or_told() {
    let dir = tempfile::tempdir().unwrap();
    let args = none(dir.path());
    let resolved = load(
        &args,
        &[
            ("OMNIPROF_SAMPLE_HZ", "49"),
            ("OMNIPROF_SOCKET", "/run/x"),
            ("OMNIPROF_SAMPEL_HZ", "49"),
            ("OMNIPROF_PRESET", ""),
        ],
    )
    .unwrap();
    assert_eq!(resolved.all.applied.effective.session.sample_hz, 49);
    assert_eq!(resolved.unknown_variables, ["OMNIPROF_SAMPEL_HZ"]);
    let text = error_text(&args, &[("OMNIPROF_SAMPLE_HZ", "fast")]);
    assert!(text.starts_with("OMNIPROF_SAMPLE_HZ: field `sample_hz`"), "{text}");
}

#[test]
fn all_stages_lie_below_one_root() {
    let dir = tempfile::tempdir().unwrap();
    let overrides = json!({
        "0": {"profiler_config": {"profiler": "torch", "torch_profiler_dir": "/one"}},
        "1": {"profiler_config": {"profiler": "torch", "torch_profiler_dir": "/two"}},
        "2": {"profiler_config": {"profiler": "torch", "torch_profiler_dir": "/one"}},
    });
    let args = ConfigArgs { stage_overrides: Some(overrides.to_string()), ..none(dir.path()) };
    let resolved = load(&args, &[]).unwrap();
    assert_eq!(resolved.root(None), Path::new("/one"));
    assert_eq!(resolved.root(Some(Path::new("/flag"))), Path::new("/flag"));
    let refused: Vec<_> = resolved.refused().into_iter().map(|(n, f)| (n, f.field)).collect();
    assert_eq!(refused, [(Some(1), "torch_profiler_dir")]);
}

#[test]
fn flags_that_are_no_json_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let args = ConfigArgs { profiler_config: Some("{oops".to_owned()), ..none(dir.path()) };
    assert!(error_text(&args, &[]).starts_with("--profiler-config cannot be read as JSON"));
    let args = ConfigArgs { stage_overrides: Some("[]".to_owned()), ..none(dir.path()) };
    assert!(error_text(&args, &[]).contains("an object of stages"));
    let args =
        ConfigArgs { config: Some(dir.path().join("missing.toml")), ..ConfigArgs::default() };
    assert!(error_text(&args, &[]).starts_with("reading "));
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_text_makes_the_readers_panic(text in "[ -~\\n\\t]{0,200}|.{0,60}") {
            let dir = tempfile::tempdir().unwrap();
            let path = file(dir.path(), "any", &text);
            let mut read = 0;
            for args in [
                ConfigArgs { config: path.clone(), ..ConfigArgs::default() },
                ConfigArgs { deploy_config: path, ..none(dir.path()) },
                ConfigArgs { profiler_config: Some(text.clone()), ..none(dir.path()) },
                ConfigArgs { stage_overrides: Some(text.clone()), ..none(dir.path()) },
            ] {
                match load(&args, &[]) {
                    Ok(_) => read += 1,
                    Err(error) => prop_assert!(!error.to_string().is_empty()),
                }
            }
            prop_assert!(read <= 4);
        }
    }
}
