//! What bodies of the three known servers' clients come to.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use profiler_core::backend::{BackendId, BackendRole};
use profiler_core::config::DeviceUse;
use profiler_core::control::BackendProbe;
use profiler_core::probe::ProbeReport;
use profiler_worker::start_request::{FIELDS, SessionDefaults, StartRequest};
use proptest::prelude::*;

fn device(available: bool) -> BackendProbe {
    BackendProbe {
        id: BackendId::parse("cuda").unwrap(),
        role: BackendRole::Device,
        priority: 10,
        report: if available {
            ProbeReport::available(Vec::new())
        } else {
            ProbeReport::unavailable("no_driver", "libcuda.so.1 is not there", "")
        },
        plugin: None,
        driver: None,
    }
}

fn plan(body: &str, available: bool) -> profiler_worker::start_request::Plan {
    let request = StartRequest::parse(body.as_bytes()).unwrap();
    let worker = support::identity(0, "thinker", 0, 0);
    request.plan(&SessionDefaults::default(), &worker, &[device(available)])
}

#[test]
fn what_the_servers_clients_send_comes_to_this() {
    let bodies = [
        ("empty", ""),
        ("vllm_omni", r#"{"stages":[0,2]}"#),
        ("vllm_rust", r#"{"profile_prefix":"run-1","delay_iterations":2,"max_iterations":8}"#),
        (
            "sglang_gateway",
            r#"{"start_step":3,"num_steps":5,"activities":["CPU","GPU"],"with_stack":true,
                "record_shapes":true,"profile_by_stage":false,"profile_stages":[],
                "profile_id":"1764000000.5","merge_profiles":true,"profile_prefix":"sg"}"#,
        ),
        (
            "sglang_client",
            r#"{"num_steps":"5","activities":["CPU","MEM"],"profile_by_stage":false,
                "merge_profiles":false,"profile_prefix":null}"#,
        ),
        (
            "sglang_by_stage",
            r#"{"num_steps":5,"activities":["CPU","GPU"],"profile_by_stage":true,
                "profile_stages":["prefill","decode"]}"#,
        ),
        (
            "own",
            r#"{"replicas":[0],"ranks":[1],"duration_ms":2000,"max_bytes":2000000,
                "formats":["kineto-gz","pftrace-gz","kineto-gz"],"preset":"full","backend":"cuda",
                "on_unavailable":"degrade","allow_partial":true,"wait_join_ms":100}"#,
        ),
    ];
    for (name, body) in bodies {
        let request = StartRequest::parse(body.as_bytes()).unwrap();
        let plan = plan(body, true);
        insta::assert_debug_snapshot!(name, (request.label(), plan));
    }
}

#[test]
fn a_device_is_recorded_where_there_is_one_or_it_was_asked_for() {
    assert!(plan("", true).capture.device);
    let without = plan("", false);
    assert!(!without.capture.device);
    assert!(without.note.unwrap().contains("libcuda.so.1"));
    assert!(!without.capture.device_required && !plan("", true).capture.device_required);
    for asked in [r#"{"activities":["GPU"]}"#, r#"{"activities":["CPU","GPU"]}"#] {
        let capture = plan(asked, false).capture;
        assert!(capture.device && capture.device_required, "the arm then fails");
    }
    assert!(!plan(r#"{"activities":["CPU"]}"#, true).capture.device);
    assert!(!plan(r#"{"backend":"cpu"}"#, true).capture.device);
    assert!(plan(r#"{"backend":"npu"}"#, false).capture.device);
    let mem = plan(r#"{"activities":["MEM"]}"#, true).capture;
    assert!(mem.session.memory && !mem.host && !mem.spans, "nothing else was asked for");
    assert!(mem.device, "a device's backend records it");
    for asked in [r#"{"activities":["MEM"]}"#, r#"{"activities":["CPU","MEM"]}"#] {
        let without = plan(asked, false);
        assert!(without.capture.device && !without.capture.device_required, "{asked}");
        assert!(without.note.unwrap().contains("libcuda.so.1"), "{asked}");
    }
}

#[test]
fn operators_are_recorded_where_the_host_is_named() {
    for (body, wanted) in [
        (r#"{"activities":["CPU"]}"#, true),
        (r#"{"activities":["CPU","GPU"]}"#, true),
        (r#"{"activities":["GPU"]}"#, false),
        (r#"{"activities":["MEM"]}"#, false),
        ("", false),
    ] {
        assert_eq!(plan(body, true).capture.session.operators, wanted, "{body}");
    }
}

#[test]
fn a_stage_has_its_own_configuration() {
    let mut defaults = SessionDefaults::default();
    let mut host_only = defaults.all.clone();
    host_only.device = DeviceUse::No;
    host_only.limits.max_bytes = 7;
    defaults.stages.insert(1, host_only);
    let request = StartRequest::default();
    let of = |stage| {
        let worker = support::identity(stage, "x", 0, 0);
        request.plan(&defaults, &worker, &[device(true)])
    };
    assert!(of(0).capture.device && !of(1).capture.device);
    assert_eq!(of(1).limits.max_bytes, 7);
}

#[test]
fn a_body_overrides_the_configured_steps() {
    let mut defaults = SessionDefaults::default();
    defaults.all.limits.max_steps = Some(2);
    defaults.all.schedule.delay_steps = 4;
    let worker = support::identity(0, "x", 0, 0);
    let plan = |body: &str| {
        StartRequest::parse(body.as_bytes()).unwrap().plan(&defaults, &worker, &[device(true)])
    };
    assert_eq!(plan("").limits.max_steps, Some(2));
    assert_eq!(plan("").counts_steps(), Some("delay_iterations"));
    let ten = plan(r#"{"max_iterations":10}"#);
    assert_eq!((ten.schedule.active_steps, ten.limits.max_steps), (Some(10), None));
    let none = plan(r#"{"num_steps":0,"delay_iterations":0}"#);
    assert_eq!(none.counts_steps(), None);
    assert!(plan(r#"{"with_stack":true}"#).capture.session.operators);
}

#[test]
fn the_list_of_fields_is_that_of_the_type() {
    let mut all = serde_json::Map::new();
    for field in FIELDS {
        all.insert(field.to_owned(), serde_json::Value::Null);
    }
    let request = StartRequest::parse(serde_json::to_string(&all).unwrap().as_bytes()).unwrap();
    assert_eq!(request, StartRequest::default());
    let schema = serde_json::to_value(profiler_worker::http::openapi()).unwrap();
    let properties = &schema["components"]["schemas"]["StartRequest"]["properties"];
    let mut names: Vec<&str> = properties.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut fields = FIELDS.to_vec();
    fields.sort_unstable();
    assert_eq!(names, fields);
}

#[test]
fn steps_contradict_each_other() {
    for body in
        [r#"{"num_steps":1,"max_iterations":1}"#, r#"{"start_step":1,"delay_iterations":1}"#]
    {
        let error = StartRequest::parse(body.as_bytes()).unwrap_err();
        assert_eq!((error.status(), error.code()), (422, "conflicting_fields"));
    }
}

#[test]
fn a_body_asks_for_no_more_than_a_configuration_may() {
    for body in [
        r#"{"duration_ms":0}"#,
        r#"{"duration_ms":86400001}"#,
        r#"{"duration_ms":18446744073709551615}"#,
        r#"{"max_bytes":0}"#,
        r#"{"max_bytes":1048575}"#,
        r#"{"max_bytes":18446744073709551615}"#,
    ] {
        let error = StartRequest::parse(body.as_bytes()).unwrap_err();
        assert_eq!((error.status(), error.code()), (422, "out_of_bounds"), "{body}");
    }
    for body in [r#"{"duration_ms":86400000}"#, r#"{"duration_ms":1,"max_bytes":1048576}"#] {
        assert!(StartRequest::parse(body.as_bytes()).is_ok(), "{body}");
    }
}

#[test]
fn a_body_that_is_too_long_is_not_read() {
    let body = format!(r#"{{"profile_prefix":"{}"}}"#, "x".repeat(1 << 20));
    let error = StartRequest::parse(body.as_bytes()).unwrap_err();
    assert_eq!((error.status(), error.code()), (413, "body_too_long"));
}

proptest! {
    #[test]
    fn hostile_bodies_are_answered(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _answered = StartRequest::parse(&body);
    }

    #[test]
    fn hostile_values_are_answered(
        field in proptest::sample::select(FIELDS.to_vec()),
        value in prop_oneof![
            Just("null".to_owned()), Just("-1".to_owned()), Just("1e400".to_owned()),
            Just("18446744073709551615".to_owned()), Just("\"x\"".to_owned()),
            Just("[[]]".to_owned()), Just("{}".to_owned()), Just("true".to_owned()),
            Just("[4294967296]".to_owned()),
        ],
    ) {
        let body = format!("{{\"{field}\":{value}}}");
        if let Err(error) = StartRequest::parse(body.as_bytes()) {
            let text = profiler_core::error::chain(&error);
            prop_assert!(text.contains(field) || value == "1e400", "{text}");
        }
    }
}
