//! Spans of `tracing` as steps.
#![cfg(feature = "tracing-layer")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{arm, builder, connect, spool_file};
use profiler_agent::TracingLayer;
use profiler_core::schedule::StepSource;
use tracing_subscriber::layer::SubscriberExt as _;

#[test]
fn a_span_is_one_step_however_often_it_is_polled() {
    let subscriber = tracing_subscriber::registry().with(TracingLayer::new());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let steps = builder().step_source(StepSource::Marker("decode*".to_owned()));
    let (_agent, mut controller, _) = connect(steps);
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    for _ in 0..3 {
        let step = tracing::info_span!("decode step");
        for _ in 0..50 {
            step.in_scope(|| {});
        }
    }
    tracing::info_span!("prefill").in_scope(|| {});
    controller.stop(1).unwrap();
    let (result, _) = controller.finished();
    assert_eq!((result.error, result.steps, result.rows["span"]), (None, 3, 151));
}
