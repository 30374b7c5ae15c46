//! Sampling the own process by perf events.

mod support;

use std::time::Duration;

use profiler_core::backend::SessionConfig;
use support::*;

fn layouts() -> [&'static str; 2] {
    ["inherited", "per_thread"]
}

fn config(layout: &str) -> SessionConfig {
    let mut config = SessionConfig::default();
    config.options.insert("cpu.sampler.layout".to_owned(), layout.into());
    config
}

#[test]
fn a_busy_function_is_sampled_as_often_as_it_used_the_processor() {
    if !perf_allowed() {
        println!("skipped: perf events are refused here");
        return;
    }
    for layout in layouts() {
        let sink = MemorySink::new();
        let mut session = start(&sink, &config(layout)).unwrap();
        let busy = Duration::from_secs(1);
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        std::hint::black_box(burn(busy));
        let summary = session.stop(Duration::from_millis(500)).unwrap();
        println!("{layout}: {summary:?}");
        let written = sink.written();
        println!("{:#?}", written.facts);
        assert_eq!(written.facts["cpu.sampler"], "perf_event");
        assert_eq!(written.facts["cpu.sampler.layout"], layout);
        let mine: Vec<_> = written.stacks().filter(|(sample, _)| sample.thread == thread).collect();
        let expected = 99.0 * busy.as_secs_f64();
        println!("{} samples, {expected} expected", mine.len());
        assert!((mine.len() as f64) > expected * 0.5 && (mine.len() as f64) < expected * 1.3);
        let inside = mine
            .iter()
            .filter(|(_, frames)| {
                spin_range().contains(&frames[0])
                    && frames.iter().any(|frame| burn_range().contains(frame))
            })
            .count();
        println!("{inside} in spin, called by burn");
        assert!(inside as f64 > mine.len() as f64 * 0.8);
        let (_, path, build_id) = written.module(mine[0].1[0]).unwrap();
        assert_eq!(path, std::env::current_exe().unwrap().to_str().unwrap());
        println!("{path} {build_id:x?}");
        for (sample, frames) in &mine[..3] {
            println!("{sample:?} {frames:x?}");
        }
        let weights: u64 = mine.iter().map(|(sample, _)| sample.weight_ns).sum();
        println!("weights {weights}");
        println!("{:#?}", written.counter_names());
        println!("{:#?}", written.threads);
    }
}
