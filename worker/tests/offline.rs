//! The offline pair, in one process with the agent.

mod support;

use std::sync::Arc;

use profiler_agent::Agent;
use profiler_core::schedule::StepSource;
use profiler_worker::links::LocalLink;
use profiler_worker::manifest::{FileState, LineState, table};

use support::Bench;

#[test]
fn a_pipeline_profiles_itself() {
    let bench = Bench::new();
    let controller = bench.builder().without_socket().build().unwrap();
    let local =
        Agent::builder().stage(3).role("sort").step_source(StepSource::Api).local().unwrap();
    let agent = local.agent().clone();
    controller.attach(Arc::new(LocalLink::new(Arc::new(local)).unwrap())).unwrap();
    for round in 0..2 {
        controller.start_profile(Some("offline"), Some(&[3])).unwrap();
        for _ in 0..5 {
            agent.step();
            drop(profiler_agent::span("batch").enter());
        }
        let manifest = controller.stop_profile().unwrap();
        assert!(manifest.is_good(), "round {round}: {manifest:#?}");
        let line = &manifest.workers[0];
        assert_eq!((line.stage, line.state), (Some(3), LineState::Pending));
        assert_eq!(line.records["span"], 5);
        assert_eq!(line.steps, 5);
        assert_eq!(line.files[0].state, FileState::Complete);
        assert!(table(&manifest).contains("sort"));
    }
}

#[test]
fn the_old_template_says_what_to_write() {
    #[expect(deprecated, reason = "that is what is tested")]
    let refused = profiler_worker::controller::start_profile("/x/{stage}.json").unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("start_profile(Some(\"label\"), None)"), "{text}");
}
