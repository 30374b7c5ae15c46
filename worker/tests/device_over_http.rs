//! A device that is not there, and memory that nothing records, over HTTP with a real agent: asked
//! for or not, it is no surprise.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use profiler_agent::Agent;
use profiler_core::backend::{
    BackendId, BackendRole, ProfileSession, ProfilerBackend, SessionConfig,
};
use profiler_core::clock::ClockSource;
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;
use profiler_core::registry::{BackendRegistry, RegisteredBackend};
use profiler_core::schedule::StepSource;
use profiler_core::sink::RecordSink;
use profiler_worker::http::{HttpOptions, Server};
use profiler_worker::links::LocalLink;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use support::Bench;

/// The backend of a device that this machine lacks.
struct Lacking;

impl ProfilerBackend for Lacking {
    fn id(&self) -> BackendId {
        BackendId::parse("cuda").unwrap()
    }

    fn probe(&self) -> ProbeReport {
        ProbeReport::unavailable("no_driver", "libcuda.so.1 is not there", "install the driver")
    }

    fn open(
        &self,
        _config: &SessionConfig,
        _sink: Arc<dyn RecordSink>,
        _clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        Err(BackendError::Unavailable { code: "no_driver".into(), message: "not there".into() })
    }
}

fn post(address: SocketAddr, path: &str, body: &str) -> (u16, Value) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = ureq::http::Request::post(format!("http://{address}{path}"));
    let mut response = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
    let bytes = response.body_mut().read_to_vec().unwrap();
    (response.status().as_u16(), serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn a_missing_device_fails_what_asked_for_it_and_nothing_else() {
    let mut registry = BackendRegistry::empty();
    let lacking =
        RegisteredBackend { role: BackendRole::Device, priority: 100, backend: Box::new(Lacking) };
    registry.add(lacking).unwrap();
    let bench = Bench::new();
    let controller = Arc::new(bench.patient());
    let local = Agent::builder()
        .stage(0)
        .role("thinker")
        .step_source(StepSource::Api)
        .registry(registry)
        .local()
        .unwrap();
    controller.attach(Arc::new(LocalLink::new(Arc::new(local)).unwrap())).unwrap();
    let runtime = Runtime::new().unwrap();
    let options =
        HttpOptions { address: ([127, 0, 0, 1], 0).into(), token: None, hosts: Vec::new() };
    let server = runtime.block_on(Server::bind(Arc::clone(&controller), options)).unwrap();
    let address = server.address();
    runtime.spawn(server.serve(std::future::pending::<()>()));

    // By name, alone, and as SGLang's clients send it.
    for body in [
        r#"{"backend":"cuda"}"#,
        r#"{"activities":["GPU"]}"#,
        r#"{"activities":["CPU","GPU"],"num_steps":5}"#,
    ] {
        let (status, answer) = post(address, "/start_profile", body);
        assert_eq!(status, 502, "{body}: {answer}");
        let text = answer.to_string();
        assert!(text.contains("no_driver") && text.contains("libcuda.so.1"), "{body}: {text}");

        let mut degrading: Value = serde_json::from_str(body).unwrap();
        degrading["on_unavailable"] = json!("degrade");
        let (status, answer) = post(address, "/start_profile", &degrading.to_string());
        assert_eq!(status, 200, "{degrading}: {answer}");
        assert_eq!(answer["workers"][0]["error"]["code"], "no_driver", "{answer}");
        let (status, manifest) = post(address, "/stop_profile", "");
        assert_eq!(status, 200, "{manifest}");
        let line = &manifest["workers"][0];
        assert_eq!(line["state"], "degraded", "{line}");
        assert_eq!(line["error"]["code"], "no_driver", "{line}");
    }

    // Nothing here records memory: it is no plain success, whatever else was asked for.
    for body in [r#"{"activities":["MEM"]}"#, r#"{"activities":["CPU","MEM"],"num_steps":"5"}"#] {
        let (status, answer) = post(address, "/start_profile", body);
        assert_eq!(status, 502, "{body}: {answer}");
        let text = answer.to_string();
        assert!(text.contains("no_memory_rows") && text.contains("libcuda.so.1"), "{body}: {text}");

        for accepted in [
            json!({"on_unavailable": "degrade"}),
            json!({"on_unavailable": "degrade", "allow_partial": true}),
        ] {
            let mut degrading: Value = serde_json::from_str(body).unwrap();
            degrading.as_object_mut().unwrap().extend(accepted.as_object().unwrap().clone());
            let (status, answer) = post(address, "/start_profile", &degrading.to_string());
            assert_eq!(status, 200, "{degrading}: {answer}");
            let (status, manifest) = post(address, "/stop_profile", "");
            assert_eq!(status, 200, "{manifest}");
            let line = &manifest["workers"][0];
            assert_eq!(line["state"], "degraded", "{line}");
            assert_eq!(line["error"]["code"], "no_memory_rows", "{line}");
        }
    }

    // Nobody asked: the host is recorded, and the manifest says why it was no more.
    let (status, answer) = post(address, "/start_profile", r#"{"formats":[]}"#);
    assert_eq!(status, 200, "{answer}");
    let (status, manifest) = post(address, "/stop_profile", "");
    assert_eq!(status, 200, "{manifest}");
    let line = &manifest["workers"][0];
    assert_eq!((&line["error"], &line["backend"]), (&Value::Null, &Value::Null), "{line}");
    assert!(!["degraded", "failed"].contains(&line["state"].as_str().unwrap()), "{line}");
    assert!(line["why"].as_str().unwrap().contains("libcuda.so.1"), "{line}");
}
