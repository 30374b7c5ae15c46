//! Samples that are lost are counted. A process of its own: other tests' threads would be sampled
//! with it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

mod support;

use std::time::Duration;

use profiler_core::record::{LossCause, Row as _, Sample};
use support::*;

const DRAIN: Duration = Duration::from_millis(500);

#[test]
fn samples_that_find_no_room_are_counted() {
    each_layout(|layout| {
        let mut config = in_layout(layout);
        config.sample_hz = 1000;
        config.counters = false;
        let sink = MemorySink::new();
        let mut session = start(&sink, &config).unwrap();
        wait_for("the rows of the start", || !sink.written().processes.is_empty());
        session.flush().unwrap();
        let before = thread_cpu();
        let sampled_before = sink.sample_count();
        // The sink takes nothing meanwhile, so that the rings fill.
        sink.change(|_locked| {
            burn(Duration::from_secs(1));
        });
        session.flush().unwrap();
        let used = thread_cpu() - before;
        session.stop(DRAIN).unwrap();
        let written = sink.written();
        let lost: u64 = written.losses.iter().map(|loss| loss.count).sum();
        let kept = written.samples.len() - sampled_before;
        let due = used.as_secs_f64() * 1000.0;
        println!("{layout}: {kept} kept, {lost} lost, {due:.0} due");
        assert!(lost > 100, "{lost} lost");
        let counted = kept as f64 + lost as f64;
        // The kernel's clock of a busy machine is a little late.
        assert!((due * 0.7..due * 1.3).contains(&counted), "{kept} + {lost} of {due}");
        for loss in &written.losses {
            assert_eq!(loss.cause, LossCause::SamplerLost);
            assert_eq!(loss.kind, Some(Sample::KIND));
            assert!(loss.from > 0 && loss.from <= loss.to);
        }
    });
}
