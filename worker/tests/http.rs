//! The controller over HTTP, as clients of the known servers ask it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use profiler_core::control::WorkerError;
use profiler_worker::Controller;
use profiler_worker::http::{HttpOptions, ServeError, Server};
use profiler_worker::manifest::Manifest;
use profiler_worker::start_request::SessionDefaults;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use support::{Behaviour, Bench, OnArm, OnStop, join, wait_for};

/// A server in threads of its own.
struct Serving {
    address: SocketAddr,
    controller: Arc<Controller>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn options(address: &str, token: Option<&str>) -> HttpOptions {
    HttpOptions {
        address: address.parse().unwrap(),
        token: token.map(str::to_owned),
        hosts: Vec::new(),
    }
}

impl Serving {
    fn new(controller: Controller) -> Self {
        Self::with(controller, options("127.0.0.1:0", None))
    }

    fn with(controller: Controller, options: HttpOptions) -> Self {
        let controller = Arc::new(controller);
        let shared = Arc::clone(&controller);
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(Server::bind(shared, options)).unwrap();
        let address = server.address();
        let (end, ended) = oneshot::channel();
        let until = async {
            let _ended = ended.await;
        };
        let thread = std::thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || runtime.block_on(server.serve(until)).unwrap())
            .unwrap();
        Self { address, controller, end: Some(end), thread: Some(thread) }
    }

    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        self.ask("GET", path, "", &[])
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let (status, bytes) = self.ask("POST", path, body, &[]);
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> (u16, Vec<u8>) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_vec().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serving(workers: Vec<Behaviour>) -> (Bench, Serving, Vec<support::FakeWorker>) {
    let bench = Bench::new();
    let controller = bench.controller();
    let workers = join(&controller, workers);
    (bench, Serving::new(controller), workers)
}

fn two_stages() -> Vec<Behaviour> {
    vec![Behaviour::new(0, "thinker", 0, 0), Behaviour::new(1, "talker", 0, 0)]
}

#[test]
fn a_capture_from_start_to_download() {
    let (_bench, server, _workers) = serving(two_stages());
    assert_eq!(server.get("/healthz"), (200, b"ok\n".to_vec()));
    // vLLM-Omni's client.
    let (status, started) = server.post("/start_profile", r#"{"stages":[0]}"#);
    assert_eq!(status, 200, "{started}");
    assert_eq!(started["workers"].as_array().unwrap().len(), 1);
    assert_eq!(started["workers"][0]["limits"]["max_session_ms"], 600_000);
    let (status, refused) = server.post("/start_profile", "");
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("running")));
    let (_, body) = server.get("/profile/status");
    let running: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(running["session"]["session"], started["session"]);
    assert_eq!(running["workers"].as_array().unwrap().len(), 2);

    let (status, stopped) = server.post("/stop_profile", r#"{"stages":[0]}"#);
    assert_eq!(status, 200, "{stopped}");
    assert_eq!(stopped["schema_version"], 1);
    let manifest: Manifest = serde_json::from_value(stopped.clone()).unwrap();
    let (status, again) = server.post("/stop_profile", "");
    assert_eq!((status, again), (200, stopped));

    let id = &manifest.session;
    let (status, body) = server.get(&format!("/profile/sessions/{id}"));
    assert_eq!(
        (status, serde_json::from_slice::<Manifest>(&body).unwrap()),
        (200, manifest.clone())
    );
    let (_, body) = server.get("/profile/sessions");
    let list: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&list[0]["session"], &list[0]["good"]), (&json!(id), &json!(true)));
    let spool = &manifest.workers[0].files[0];
    let (status, bytes) = server.get(&format!("/profile/sessions/{id}/files/{}", spool.path));
    assert_eq!(status, 200);
    assert_eq!(Some(format!("{:08x}", crc32fast::hash(&bytes))), spool.crc32);
}

#[test]
fn the_default_limits_are_told_before_during_and_by_the_start() {
    let bench = Bench::new();
    let builder = bench.builder().defaults(SessionDefaults::default());
    let controller = builder.build().unwrap();
    let _workers = join(&controller, two_stages());
    let server = Serving::new(controller);
    let defaults = json!({
        "duration_ms": null,
        "max_steps": null,
        "max_session_ms": 10 * 60 * 1000,
        "max_bytes": 4_u64 << 30,
        "min_free_percent": 5,
    });
    let status = || -> Value { serde_json::from_slice(&server.get("/profile/status").1).unwrap() };
    assert_eq!(status()["default_limits"], defaults, "before");
    let (_, started) = server.post("/start_profile", "");
    let workers = started["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for worker in workers {
        assert_eq!(worker["limits"], defaults, "{started}");
    }
    let during = status();
    assert_eq!(during["session"]["session"], started["session"]);
    assert_eq!(during["default_limits"], defaults, "during");
    let (_, stopped) = server.post("/stop_profile", "");
    for worker in stopped["workers"].as_array().unwrap() {
        assert_eq!(worker["limits"], defaults, "{stopped}");
    }
}

#[test]
fn bodies_of_the_three_servers_clients() {
    let (_bench, server, _workers) = serving(two_stages());
    let bodies = [
        "",
        "{}",
        // vLLM-Omni.
        r#"{"stages":[0,1]}"#,
        // vLLM's Rust front end.
        r#"{"profile_prefix":"run-1","delay_iterations":2,"max_iterations":8}"#,
        // SGLang: its gateway, and its own client, whose counts are text.
        r#"{"start_step":3,"num_steps":5,"activities":["CPU"],"profile_by_stage":false,
            "with_stack":true,"record_shapes":true,"profile_id":"1764000000.5",
            "merge_profiles":false,"profile_prefix":null,"profile_stages":[]}"#,
        r#"{"num_steps":"5","activities":["CPU","MEM"],"profile_by_stage":false,
            "merge_profiles":false,"profile_prefix":"None-run","output_dir":null}"#,
        r#"{"num_steps":2,"profile_by_stage":true,"profile_stages":["prefill","decode"]}"#,
    ];
    for body in bodies {
        let (status, answer) = server.post("/start_profile", body);
        assert_eq!(status, 200, "{body}: {answer}");
        let (status, answer) = server.post("/stop_profile", "");
        assert_eq!(status, 200, "{body}: {answer}");
    }
}

#[test]
fn what_is_refused_says_why() {
    let (_bench, server, workers) = serving(two_stages());
    let cases = [
        (r#"{"stages":[9]}"#, 404, "unknown_stage", "there is 0, 1"),
        (r#"{"formats":["xlsx"]}"#, 422, "invalid_field", "pftrace-gz"),
        (r#"{"activities":["XPU"]}"#, 422, "invalid_field", "`CPU`, `GPU`, `MEM`"),
        (r#"{"stage":[0]}"#, 422, "unknown_field", "stages"),
        (r#"{"output_dir":"/tmp/x"}"#, 422, "refused_field", "`--dir`"),
        (r#"{"trace_path_template":"/x/{stage}"}"#, 422, "refused_field", "profile_prefix"),
        (r#"{"profile_stages":["decode"]}"#, 422, "refused_field", "prefill or decode"),
        (r#"{"profile_stages":["encode"]}"#, 422, "invalid_field", "`prefill` or `decode`"),
        (r#"{"num_steps":-1}"#, 422, "invalid_field", "num_steps"),
        (r#"{"stages":[]}"#, 422, "out_of_bounds", "stages"),
        (r#"{"profile_prefix":"../../etc"}"#, 422, "invalid_prefix", "`/`"),
        (r#"{"profile_prefix":"a\u0000b"}"#, 422, "invalid_prefix", "U+0000"),
        ("[1]", 400, "invalid_json", "JSON object"),
        ("{", 400, "invalid_json", "JSON object"),
    ];
    for (body, status, code, text) in cases {
        let (got, answer) = server.post("/start_profile", body);
        assert_eq!((got, &answer["error"]["code"]), (status, &json!(code)), "{body}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(text), "{body}: {answer}");
    }
    let long = format!(r#"{{"profile_prefix":"{}"}}"#, "x".repeat(300));
    assert_eq!(server.post("/start_profile", &long).0, 422);
    let (status, answer) = server.post("/stop_profile", r#"{"run_id":"x"}"#);
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("invalid_field")));
    assert_eq!(server.post("/stop_profile", "").0, 404, "nothing was ever started");
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(server.get("/start_profile").0, 405);
    for worker in &workers {
        assert!(worker.asked.try_recv().is_err(), "nobody is asked");
    }
}

#[test]
fn phases_of_steps_are_recorded_together_and_the_answers_say_so() {
    let (_bench, server, _workers) = serving(two_stages());
    for (body, counted) in [
        (r#"{"profile_by_stage":true}"#, false),
        (r#"{"profile_by_stage":true,"profile_stages":[],"num_steps":3}"#, true),
        (r#"{"profile_stages":["decode","prefill"],"max_iterations":3}"#, true),
    ] {
        let (status, started) = server.post("/start_profile", body);
        assert_eq!(status, 200, "{body}: {started}");
        let [note] = started["notes"].as_array().unwrap().as_slice() else { panic!("{started}") };
        let text = note.as_str().unwrap();
        assert!(text.contains("prefill and decode are recorded by one window"), "{text}");
        assert_eq!(text.contains("a step of either counts"), counted, "{text}");
        let (status, manifest) = server.post("/stop_profile", "");
        assert_eq!((status, &manifest["notes"]), (200, &started["notes"]), "{body}: {manifest}");
    }
    let (_, started) = server.post("/start_profile", r#"{"profile_by_stage":false}"#);
    assert_eq!(started.get("notes"), None, "nothing is done otherwise");
    server.post("/stop_profile", "");
}

#[test]
fn a_failure_is_no_200() {
    let mut workers = two_stages();
    workers[1].on_stop = OnStop::Silent;
    let (_bench, server, _workers) = serving(workers);
    assert_eq!(server.post("/start_profile", "").0, 200);
    let (status, manifest) = server.post("/stop_profile", r#"{"wait_ms":0}"#);
    assert_eq!(status, 502);
    assert_eq!(manifest["schema_version"], 1, "the same body");
    assert_eq!(manifest["workers"][1]["state"], "missing");
}

#[test]
fn a_degraded_worker_is_a_200_only_where_the_start_accepted_it() {
    let mut workers = two_stages();
    let less = WorkerError::new("outside", "operators do not show: add `--join preload`");
    workers[1].on_arm = OnArm::Degraded(less);
    let (_bench, server, _workers) = serving(workers);
    let cases = [
        ("", 502),
        (r#"{"on_unavailable":"fail","record_shapes":true}"#, 502),
        (r#"{"on_unavailable":"degrade"}"#, 200),
        (r#"{"allow_partial":true}"#, 200),
    ];
    for (body, wanted) in cases {
        let (status, started) = server.post("/start_profile", body);
        assert_eq!(status, wanted, "{body}: {started}");
        // The same answer either way: the session runs.
        assert_eq!(started["workers"][0]["error"], Value::Null, "{body}: {started}");
        assert_eq!(started["workers"][1]["error"]["code"], "outside", "{body}: {started}");
        let (_, running) = server.get("/profile/status");
        let running: Value = serde_json::from_slice(&running).unwrap();
        assert_eq!(running["session"]["session"], started["session"], "{body}");
        let (status, stopped) = server.post("/stop_profile", "");
        assert_eq!(status, wanted, "{body}: {stopped}");
        assert_eq!(stopped["session"], started["session"], "{body}: {stopped}");
        assert_eq!(stopped["workers"][1]["state"], "degraded", "{body}: {stopped}");
    }
}

#[test]
fn downloads_do_not_leave_the_manifest() {
    let (bench, server, _workers) = serving(two_stages());
    std::fs::write(bench.dir.path().join("secret"), "secret").unwrap();
    assert_eq!(server.post("/start_profile", "").0, 200);
    let manifest = server.post("/stop_profile", "").1;
    let id = manifest["session"].as_str().unwrap();
    std::fs::write(bench.root().join(id).join("planted"), "planted").unwrap();
    for path in [
        "../../secret",
        "..%2f..%2fsecret",
        "%2e%2e/%2e%2e/secret",
        "planted",
        "%2fetc%2fpasswd",
        "session.json",
    ] {
        let (status, body) = server.get(&format!("/profile/sessions/{id}/files/{path}"));
        assert_eq!(status, 404, "{path}: {}", String::from_utf8_lossy(&body));
    }
    for id in ["..", "%2e%2e", "nothing", "20261124T110807123Z-aaaaaaah"] {
        assert_eq!(server.get(&format!("/profile/sessions/{id}")).0, 404, "{id}");
    }
}

#[test]
fn foreign_hosts_and_pages_are_refused() {
    let (_bench, server, workers) = serving(two_stages());
    let ask = |headers: &[(&str, &str)]| server.ask("POST", "/start_profile", "", headers).0;
    assert_eq!(ask(&[("host", "evil.example:8790")]), 403);
    assert_eq!(ask(&[("origin", "https://evil.example")]), 403);
    assert!(workers[0].asked.try_recv().is_err());
}

#[test]
fn other_machines_need_a_token() {
    let bench = Bench::new();
    let controller = Arc::new(bench.controller());
    let runtime = Runtime::new().unwrap();
    let bind = |address: &str, token: Option<&str>| {
        runtime.block_on(Server::bind(Arc::clone(&controller), options(address, token)))
    };
    assert!(matches!(bind("0.0.0.0:0", None), Err(ServeError::NoToken { .. })));
    assert!(matches!(bind("0.0.0.0:0", Some("short")), Err(ServeError::ShortToken { len: 5 })));
    drop(controller);

    let bench = Bench::new();
    let mut server =
        Serving::with(bench.controller(), options("0.0.0.0:0", Some("0123456789abcdef0123")));
    server.address = ([127, 0, 0, 1], server.address.port()).into();
    assert_eq!(server.get("/profile/status").0, 401);
    let header = [("authorization", "Bearer 0123456789abcdef0123")];
    assert_eq!(server.ask("GET", "/profile/status", "", &header).0, 200);
}

#[test]
fn a_followed_export_is_whole_soon_after_the_stop() {
    let bench = Bench::new();
    // Stands for the exporter: waits for the footer's mark as a follower would.
    let exporter = bench.exporter(
        "if [ -n \"$follow\" ]; then while ! tail -c 65536 \"$spool\" | grep -q OSB1; do sleep \
         0.01; done; fi\nprintf trace > \"$output\"\necho '{\"bytes\":5,\"crc32\":\"0badcafe\",\
         \"drops\":{\"outside_window\":7}}'",
    );
    let controller = bench.builder().exporter(exporter).build().unwrap();
    let _workers = join(&controller, two_stages());
    let server = Serving::new(controller);
    assert_eq!(server.post("/start_profile", "").0, 200);
    let (status, manifest) = server.post("/stop_profile", "");
    assert_eq!(status, 200, "{manifest}");
    for line in manifest["workers"].as_array().unwrap() {
        assert_eq!(line["state"], "complete", "{line}");
        assert_eq!(line["files"][1]["crc32"], "0badcafe");
        assert_eq!(line["drops"]["outside_window"], 7);
    }
    let id = manifest["session"].as_str().unwrap().to_owned();
    wait_for("the seal", || server.controller.wait_until_idle(support::DEADLINE));
    let path = manifest["workers"][0]["files"][1]["path"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("/profile/sessions/{id}/files/{path}")),
        (200, b"trace".to_vec())
    );
}

#[test]
fn the_description_is_stable() {
    let (_bench, server, _workers) = serving(Vec::new());
    let (status, body) = server.get("/openapi.json");
    assert_eq!(status, 200);
    let description: Value = serde_json::from_slice(&body).unwrap();
    insta::assert_json_snapshot!("openapi", description);
}
