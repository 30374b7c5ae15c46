//! Spans and markers of the application, from the thread that makes them to the spool.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{
    FakeController, arm, builder, connect, eventually, next_fence, rows, spool_file, turn,
};
use profiler_core::control::WorkerResult;
use profiler_core::record::{Marker, Span, Step, StringDef, StringId, ThreadDef, flag};
use profiler_core::schedule::{Limits, StepSource};

/// A span as a reader sees it.
#[derive(Debug)]
struct Seen {
    row: Span,
    name: String,
    request: String,
    stage: String,
    fields: String,
}

fn strings(path: &Path) -> BTreeMap<u32, String> {
    rows::<StringDef>(path)
        .into_iter()
        .map(|(_, row, heap)| (row.id.0, row.text.text(&heap).unwrap().into_owned()))
        .collect()
}

fn spans(path: &Path) -> Vec<Seen> {
    let strings = strings(path);
    let text = |id: StringId| strings.get(&id.0).cloned().unwrap_or_default();
    rows::<Span>(path)
        .into_iter()
        .map(|(_, row, heap)| Seen {
            row,
            name: text(row.name),
            request: text(row.request),
            stage: text(row.stage),
            fields: row.fields.text(&heap).unwrap().into_owned(),
        })
        .collect()
}

fn by_name<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let mut found = spans.iter().filter(|span| span.name == name);
    let first = found.next().unwrap_or_else(|| panic!("no span {name} in {spans:#?}"));
    assert!(found.next().is_none(), "{name} comes twice");
    first
}

/// Runs `work` while a session records.
fn recorded(
    controller: &mut FakeController,
    path_of: &common::SpoolFile,
    work: impl FnOnce(&mut FakeController),
) -> WorkerResult {
    let fence = next_fence();
    controller.arm(arm(fence), Some(&path_of.file)).unwrap();
    controller.commit(fence).unwrap();
    work(controller);
    controller.stop(fence).unwrap();
    controller.finished().0
}

#[test]
fn spans_nest_and_carry_what_they_were_given() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    let spool = spool_file();
    let result = recorded(&mut controller, &spool, |_| {
        let outer = profiler_agent::span("outer").request("r-1").stage("thinker").enter();
        {
            let _inner = profiler_agent::span("inner")
                .field("tokens", profiler_agent::span("argument").enter().tokens())
                .field("text", "a\"b")
                .enter();
            profiler_agent::marker("mark").request("r-1").payload(7).field("x", 1.5).emit();
        }
        drop(outer);
        drop(profiler_agent::span("never entered").field("x", 1));
    });
    assert_eq!(result.error, None);
    assert!(result.lost.is_empty(), "{:?}", result.lost);
    let spans = spans(&spool.path);
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let outer = by_name(&spans, "outer");
    assert_eq!((outer.request.as_str(), outer.stage.as_str()), ("r-1", "thinker"));
    assert_eq!((outer.row.parent, outer.row.flags), (0, 0));
    let inner = by_name(&spans, "inner");
    assert_eq!(inner.row.parent, outer.row.id);
    assert_eq!(inner.fields, r#"{"tokens":3,"text":"a\"b"}"#);
    assert!(outer.row.start <= inner.row.start && inner.row.end <= outer.row.end);
    assert_eq!(by_name(&spans, "argument").row.parent, outer.row.id);

    let markers = rows::<Marker>(&spool.path);
    let strings = strings(&spool.path);
    let marks: Vec<_> = markers
        .iter()
        .filter(|(_, row, _)| strings.get(&row.name.0).is_some_and(|name| name == "mark"))
        .collect();
    assert_eq!(marks.len(), 1);
    assert_eq!(marks[0].1.payload, 7);
    assert_eq!(marks[0].1.fields.text(&marks[0].2).unwrap(), r#"{"x":1.5}"#);
    let own = rustix::thread::gettid().as_raw_pid() as u32;
    assert_eq!(outer.row.thread, own);
    assert!(rows::<ThreadDef>(&spool.path).iter().any(|(_, row, _)| row.thread == own));
}

trait Tokens {
    fn tokens(self) -> u32;
}

impl Tokens for profiler_agent::SpanGuard {
    fn tokens(self) -> u32 {
        3
    }
}

#[test]
fn spans_of_many_threads_dead_and_alive_all_arrive() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    let spool = spool_file();
    const THREADS: u64 = 40;
    const SPANS: u64 = 200;
    let result = recorded(&mut controller, &spool, |_| {
        // More threads than stacks stand ready, in two generations.
        for _ in 0..2 {
            std::thread::scope(|scope| {
                for _ in 0..THREADS / 2 {
                    scope.spawn(|| {
                        for number in 0..SPANS {
                            let _span = profiler_agent::span("work").field("n", number).enter();
                        }
                    });
                }
            });
        }
    });
    let lost: u64 = result.lost.values().sum();
    assert_eq!(result.rows["span"] + lost, THREADS * SPANS, "{:?}", result.lost);
    let spans = spans(&spool.path);
    let ids: std::collections::BTreeSet<u64> = spans.iter().map(|span| span.row.id).collect();
    assert_eq!(ids.len(), spans.len(), "ids are unique in their stream");
}

#[test]
fn what_is_open_at_the_stop_is_written_as_unfinished_and_only_once() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    let spool = spool_file();
    let mut kept = Vec::new();
    recorded(&mut controller, &spool, |_| {
        kept.push(profiler_agent::span("outer").request("r-9").enter());
        kept.push(profiler_agent::span("inner").enter());
    });
    let first = spans(&spool.path);
    assert_eq!(first.len(), 2);
    for span in &first {
        assert_eq!((span.row.end, span.row.flags), (0, flag::UNFINISHED));
    }
    assert_eq!(by_name(&first, "outer").request, "r-9");
    assert_eq!(by_name(&first, "inner").row.parent, by_name(&first, "outer").row.id);

    // The next session knows nothing of them, whether they end there or not.
    let second = spool_file();
    recorded(&mut controller, &second, |_| {
        drop(kept.pop());
        drop(profiler_agent::span("fresh").enter());
    });
    let fresh = spans(&second.path);
    assert_eq!(fresh.len(), 1);
    assert_eq!((fresh[0].name.as_str(), fresh[0].row.parent), ("fresh", 0));
    drop(kept);
}

#[test]
fn spans_ended_out_of_order_and_too_deep_ones_are_no_trouble() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    let spool = spool_file();
    let result = recorded(&mut controller, &spool, |_| {
        let one = profiler_agent::span("one").enter();
        let two = profiler_agent::span("two").enter();
        drop(one);
        drop(two);
        let deep: Vec<_> = (0..50).map(|_| profiler_agent::span("deep").enter()).collect();
        drop(deep);
        drop(profiler_agent::span("after").enter());
    });
    let spans = spans(&spool.path);
    by_name(&spans, "one");
    by_name(&spans, "two");
    by_name(&spans, "after");
    let deep = spans.iter().filter(|span| span.name == "deep").count() as u64;
    assert_eq!(deep + result.lost["chunks_exhausted"], 50);
}

#[test]
fn nothing_is_recorded_between_sessions() {
    let _turn = turn();
    let (_agent, mut controller, _) = connect(builder());
    drop(profiler_agent::span("before").request("r").enter());
    profiler_agent::marker("before").emit();
    let spool = spool_file();
    let result = recorded(&mut controller, &spool, |_| {});
    drop(profiler_agent::span("after").enter());
    assert!(!result.rows.contains_key("span"), "{:?}", result.rows);
}

#[test]
fn steps_come_from_the_api_or_from_names() {
    let _turn = turn();
    for by_name in [false, true] {
        let source = match by_name {
            true => StepSource::Marker("decode *".to_owned()),
            false => StepSource::Api,
        };
        let (agent, mut controller, hello) = connect(builder().step_source(source.clone()));
        assert_eq!(hello.step_source, source);
        let step = |number: u64| match by_name {
            true => drop(profiler_agent::span(&format!("decode {number}")).enter()),
            false if number.is_multiple_of(2) => agent.step(),
            false => profiler_agent::step(),
        };
        // Steps count from the process's first, recorded or not.
        (0..3).for_each(step);
        let fence = next_fence();
        let spool = spool_file();
        let limits = Limits { max_steps: Some(4), ..arm(0).limits };
        controller
            .arm(profiler_core::control::Arm { limits, ..arm(fence) }, Some(&spool.file))
            .unwrap();
        controller.commit(fence).unwrap();
        (3..10).for_each(step);
        let (result, _) = controller.finished();
        assert_eq!(result.stopped_by, "max_steps");
        let window = &result.windows[0];
        let inside: Vec<u64> = rows::<Step>(&spool.path)
            .iter()
            .filter(|(_, row, _)| {
                row.time >= window.0.monotonic_ns && row.time < window.1.unwrap().monotonic_ns
            })
            .map(|(_, row, _)| row.step)
            .collect();
        assert_eq!(inside, [3, 4, 5, 6]);
        assert!(eventually(|| controller.commit(fence).is_err()), "the session is over");
    }
}
