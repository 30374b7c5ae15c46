//! Ranges that another layer sees (libtorch's `record_function`) as steps.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{arm, builder, connect, spool_file};
use profiler_core::schedule::StepSource;
use profiler_core::step_names;

#[test]
fn ranges_of_matching_names_are_steps() {
    assert!(!step_names::is_wanted());
    let steps = builder().step_source(StepSource::Marker("decode*".to_owned()));
    let (_agent, mut controller, _) = connect(steps);
    assert!(step_names::is_wanted());
    let spool = spool_file();
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    for name in ["decode 1", "prefill", "decode 2", "the decode"] {
        step_names::range_begins(name);
    }
    controller.stop(1).unwrap();
    let (result, _) = controller.finished();
    assert_eq!((result.error, result.steps), (None, 2));
}
