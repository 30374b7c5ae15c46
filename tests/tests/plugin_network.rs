//! No message can name a plugin: what is loaded is the process's own choice.

use profiler_agent::Agent;
use profiler_core::backend::SessionConfig;
use profiler_core::control::{
    AgentReply, AgentRequest, Arm, COMMIT_DEADLINE_MS, CaptureConfig, OnUnavailable, Outcome,
};
use profiler_core::schedule::{Limits, Schedule};
use profiler_tests::plugins::{compile_c_plugin, plugin_dir};
use profiler_worker::start_request::{FIELDS, StartRequest};
use serde_json::{Value, json};

/// Names under which somebody might hope to pass a plugin.
const NAMES: &[&str] = &["plugin", "plugins", "plugin_dir", "plugin_path", "OMNIPROF_PLUGIN_DIR"];

#[test]
fn a_start_request_has_no_field_for_a_plugin() {
    for field in FIELDS {
        assert!(!field.contains("plugin"), "{field}");
    }
    for name in NAMES {
        let body = json!({ *name: "/tmp" }).to_string();
        let error = StartRequest::parse(body.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

fn arm() -> Arm {
    Arm {
        session: "session-1".to_owned(),
        prefix: Some("prefix".to_owned()),
        fence: 1,
        spool_path: Some("/nowhere/worker.spool".to_owned()),
        capture: CaptureConfig {
            device: true,
            device_required: false,
            host: false,
            spans: false,
            backend: None,
            on_unavailable: OnUnavailable::Fail,
            session: SessionConfig::default(),
        },
        schedule: Schedule::default(),
        limits: Limits::default(),
        called: None,
        commit_within_ms: COMMIT_DEADLINE_MS,
    }
}

/// Adds a key to an object and to all objects in it.
fn add_everywhere(value: &mut Value, key: &str, added: &Value) {
    if let Value::Object(fields) = value {
        for field in fields.values_mut() {
            add_everywhere(field, key, added);
        }
        fields.insert(key.to_owned(), added.clone());
    }
}

#[test]
fn an_agent_loads_nothing_that_a_message_names() {
    let dir = plugin_dir().unwrap();
    let library = compile_c_plugin(dir.path(), "c", &[]).unwrap();
    let agent = Agent::builder().local().unwrap();
    let before = agent.hello();
    assert!(before.refused_plugins.is_empty());

    let arm = serde_json::to_value(AgentRequest::Arm(Box::new(arm()))).unwrap();
    assert!(!arm.to_string().contains("plugin"), "no field of a message is for plugins: {arm}");
    for name in NAMES {
        for path in [dir.path(), library.as_path()] {
            let mut message = arm.clone();
            add_everywhere(&mut message, name, &json!(path));
            let request: AgentRequest = serde_json::from_value(message).unwrap();
            // That it cannot arm over a spool that is nowhere does not matter here.
            assert!(matches!(agent.request(request, None), Outcome::Failed(_)));
        }
    }
    let Outcome::Done(reply) = agent.request(AgentRequest::Probe, None) else { panic!() };
    let AgentReply::Probed { backends } = *reply else { panic!() };
    assert_eq!(backends, before.backends);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("libomniprof_backend_c.so"));
}
