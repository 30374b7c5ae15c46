//! The offline pair with the real exporter: what it returns can be opened.

mod support;

use std::sync::Arc;

use profiler_agent::Agent;
use profiler_core::schedule::StepSource;
use profiler_worker::links::LocalLink;
use profiler_worker::manifest::{FileState, LineState, SessionState};
use profiler_worker::start_request::StartRequest;

use support::{Bench, DEADLINE};

#[test]
fn all_files_are_whole_and_the_next_controller_knows_it() {
    let bench = Bench::new();
    let builder = || bench.builder().without_socket().exporter(env!("CARGO_BIN_EXE_omniprof"));
    let controller = builder().build().unwrap();
    let local = Agent::builder().stage(0).role("sort").step_source(StepSource::Api).local();
    let local = Arc::new(local.unwrap());
    controller.attach(Arc::new(LocalLink::new(Arc::clone(&local)).unwrap())).unwrap();
    let request =
        br#"{"formats":["pftrace-gz","kineto-gz"],"merge_profiles":true,"max_iterations":3}"#;
    controller.start(&StartRequest::parse(request).unwrap()).unwrap();
    for _ in 0..6 {
        local.agent().step();
        drop(profiler_agent::span("batch").enter());
    }
    let manifest = controller.stop_profile().unwrap();
    assert!(manifest.is_good(), "{manifest:#?}");
    let line = &manifest.workers[0];
    assert_eq!(line.state, LineState::Complete);
    let formats: Vec<_> = line.files.iter().map(|file| file.format.as_str()).collect();
    assert_eq!(formats, ["spool", "pftrace-gz", "kineto-gz"]);
    for file in line.files.iter().chain(&manifest.files) {
        assert_eq!(file.state, FileState::Complete);
        let path = std::path::Path::new(&manifest.directory).join(&file.path);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(file.bytes, Some(bytes.len() as u64), "{}", file.path);
        assert_eq!(file.crc32, Some(format!("{:08x}", crc32fast::hash(&bytes))), "{}", file.path);
        let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
        assert_eq!(is_gzip, file.path.ends_with(".gz"), "{}", file.path);
    }
    assert!(controller.wait_until_idle(DEADLINE));
    drop(controller);

    let next = builder().build().unwrap();
    let known = next.manifest(&manifest.session).unwrap();
    assert_eq!((known.state, &known.workers), (SessionState::Complete, &manifest.workers));
}
