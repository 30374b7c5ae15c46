//! Sampled stacks as folded stacks and for speedscope.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use profiler_core::record::*;
use profiler_export::folded::FoldedWriter;
use profiler_export::speedscope::{MAX_TIMED_SAMPLES, SpeedscopeWriter};
use profiler_export::symbolize::SymbolizerOptions;
use proptest::prelude::*;
use serde_json::Value;
use zerocopy::IntoBytes as _;

mod tables_common;

use tables_common::{Builder, T0, capture, origin, pipeline};

fn folded(spools: Vec<Builder>) -> String {
    let mut writer = FoldedWriter::new(Vec::new(), SymbolizerOptions::default());
    capture(spools).read(&mut writer).unwrap();
    String::from_utf8(writer.into_inner()).unwrap()
}

fn speedscope(spools: Vec<Builder>) -> Value {
    let mut writer = SpeedscopeWriter::new(Vec::new(), SymbolizerOptions::default());
    capture(spools).read(&mut writer).unwrap();
    let value: Value = serde_json::from_slice(&writer.into_inner()).unwrap();
    check(&value);
    value
}

/// What the schema of speedscope asks of a file, and what its reader asks beside.
fn check(file: &Value) {
    assert_eq!(file["$schema"], "https://www.speedscope.app/file-format-schema.json");
    let frames = file["shared"]["frames"].as_array().unwrap();
    for frame in frames {
        assert!(frame["name"].is_string());
    }
    for profile in file["profiles"].as_array().unwrap() {
        assert_eq!(profile["type"], "sampled");
        assert!(profile["name"].is_string());
        assert_eq!(profile["unit"], "nanoseconds");
        let samples = profile["samples"].as_array().unwrap();
        let weights = profile["weights"].as_array().unwrap();
        assert_eq!(samples.len(), weights.len());
        let end: u64 = weights.iter().map(|weight| weight.as_u64().unwrap()).sum();
        assert_eq!(
            profile["endValue"].as_u64().unwrap() - profile["startValue"].as_u64().unwrap(),
            end
        );
        for sample in samples {
            for frame in sample.as_array().unwrap() {
                assert!((frame.as_u64().unwrap() as usize) < frames.len());
            }
        }
    }
}

/// A worker with one stack for each list of functions, innermost first.
fn worker(stacks: &[&[&str]]) -> Builder {
    let mut worker = Builder::new(origin(0, "thinker", 0));
    for (index, functions) in stacks.iter().enumerate() {
        let frames: Vec<Frame> = functions
            .iter()
            .map(|function| Frame { function: worker.string(function), ..Frame::default() })
            .collect();
        let mut heap = Vec::new();
        let frames = HeapRef::push(&mut heap, frames.as_bytes());
        let id = StackId(index as u32 + 1);
        worker.spool.push_with_heap(worker.stream, &[StackDef { frames, id, process: 1 }], &heap);
    }
    worker
}

fn sample(time: u64, stack: u32, thread: u32) -> Sample {
    Sample {
        time: T0 + time,
        weight_ns: 10_000,
        stack: StackId(stack),
        thread,
        cpu: u32::MAX,
        state: 0,
    }
}

#[test]
fn folded_stacks_are_sorted_lines_from_the_root() {
    insta::assert_snapshot!("folded", folded(pipeline()));
}

#[test]
fn speedscope_has_a_profile_a_thread() {
    let mut file = speedscope(pipeline());
    assert!(file["exporter"].as_str().unwrap().starts_with("omniprof "));
    file["exporter"] = "omniprof".into();
    insta::assert_json_snapshot!("speedscope", file);
}

#[test]
fn a_name_splits_neither_the_stack_nor_the_line() {
    let mut worker = worker(&[&["a;b\nc", "ro ot"]]);
    worker.push(&[ThreadDef { thread: 7, process: 100, ..ThreadDef::default() }]);
    worker.push(&[sample(1, 1, 7)]);
    let text = folded(vec![worker]);
    assert_eq!(text, "stage 0 thinker, replica 0, rank 0;thread 7;ro ot;a:b\u{fffd}c 10\n");
}

#[test]
fn stacks_of_equal_functions_are_one_line() {
    let mut worker = worker(&[&["f", "main"], &["g", "main"], &["f", "main"]]);
    worker.push(&[sample(1, 1, 7), sample(2, 2, 7), sample(3, 3, 7), sample(4, 99, 7)]);
    let text = folded(vec![worker]);
    let lines: Vec<&str> =
        text.lines().map(|line| line.split_once(";thread 7;").unwrap().1).collect();
    assert_eq!(lines, ["[unknown] 10", "main;f 20", "main;g 10"]);
}

#[test]
fn equal_stacks_in_a_row_are_one_sample_and_samples_are_in_order() {
    let mut worker = worker(&[&["f"], &["g"]]);
    worker.push(&[
        sample(10, 1, 7),
        sample(20, 1, 7),
        sample(30, 2, 7),
        sample(40, 1, 7),
        sample(5, 2, 7),
    ]);
    let file = speedscope(vec![worker]);
    let profile = &file["profiles"][0];
    let names: Vec<&str> = profile["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| {
            file["shared"]["frames"][sample[0].as_u64().unwrap() as usize]["name"].as_str().unwrap()
        })
        .collect();
    assert_eq!(names, ["g", "f", "g", "f"]);
    assert_eq!(profile["weights"], serde_json::json!([10_000, 20_000, 10_000, 10_000]));
}

#[test]
fn what_is_too_much_is_summed_up_and_said() {
    let mut worker = worker(&[&["f"], &["g"]]);
    let count = MAX_TIMED_SAMPLES + 1000;
    let samples: Vec<Sample> =
        (0..count).map(|at| sample(at as u64, 1 + at as u32 % 2, 7)).collect();
    for block in samples.chunks(8192) {
        worker.push(block);
    }
    let file = speedscope(vec![worker]);
    let profile = &file["profiles"][0];
    assert_eq!(profile["endValue"].as_u64().unwrap(), count as u64 * 10_000);
    assert_eq!(profile["samples"].as_array().unwrap().len(), MAX_TIMED_SAMPLES + 2);
    assert!(profile["name"].as_str().unwrap().ends_with("not by time)"));
}

#[test]
fn no_samples_are_an_empty_file() {
    assert_eq!(folded(vec![worker(&[])]), "");
    assert_eq!(speedscope(vec![worker(&[])])["profiles"], serde_json::json!([]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_time_is_lost(samples in prop::collection::vec((0_u64..900_000, 0_u32..6, 0_u32..3), 0..200)) {
        let make = || {
            let mut worker = worker(&[&["f", "main"], &["g", "f", "main"], &["h;"], &[""]]);
            let rows: Vec<Sample> = samples.iter().map(|&(at, stack, thread)| sample(at, stack, thread)).collect();
            worker.push(&rows);
            vec![worker]
        };
        let total = samples.len() as u64 * 10_000;
        let text = folded(make());
        let sum: u64 = text.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
        prop_assert_eq!(sum * 1000, total);
        let file = speedscope(make());
        let ends: u64 = file["profiles"].as_array().unwrap().iter().map(|p| p["endValue"].as_u64().unwrap()).sum();
        prop_assert_eq!(ends, total);
    }
}
