//! Spans and events of `tracing` become rows.
#![cfg(feature = "tracing-layer")]

mod common;

use std::collections::BTreeMap;

use common::{arm, builder, connect, rows, spool_file};
use profiler_agent::TracingLayer;
use profiler_core::record::{Marker, Span, StringDef, StringId};
use tracing_subscriber::layer::SubscriberExt as _;

#[test]
fn spans_and_events_become_rows() {
    let subscriber = tracing_subscriber::registry().with(TracingLayer::new());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let (_agent, mut controller, _) = connect(builder());
    let spool = spool_file();

    let before = tracing::info_span!("made before", request_id = "r-0");
    let named_before = tracing::info_span!("named before", request_id = tracing::field::Empty);
    named_before.record("request_id", "r-1");
    controller.arm(arm(1), Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    {
        let _before = before.enter();
        named_before.in_scope(|| {});
        let outer = tracing::info_span!(
            "outer",
            request_id = 17,
            stage = "talker",
            text = %"shown",
            late = tracing::field::Empty
        );
        outer.record("late", true);
        let _outer = outer.enter();
        let _inner = tracing::debug_span!("inner").entered();
        tracing::warn!(target: "mine", request_id = "r-2", count = 3, "something {}", "happened");
    }
    let twice = tracing::info_span!("twice");
    twice.in_scope(|| {});
    std::thread::scope(|scope| {
        scope.spawn(|| twice.in_scope(|| {}));
    });
    let unfinished = tracing::info_span!("unfinished").entered();
    controller.stop(1).unwrap();
    let (result, _) = controller.finished();
    drop(unfinished);
    assert_eq!(result.error, None);

    let strings: BTreeMap<u32, String> = rows::<StringDef>(&spool.path)
        .into_iter()
        .map(|(_, row, heap)| (row.id.0, row.text.text(&heap).unwrap().into_owned()))
        .collect();
    let text = |id: StringId| strings.get(&id.0).map_or("", String::as_str);
    let spans = rows::<Span>(&spool.path);
    let named = |name: &str| -> Vec<_> {
        spans.iter().filter(|(_, row, _)| text(row.name) == name).collect()
    };
    let outer = named("outer")[0];
    assert_eq!((text(outer.1.request), text(outer.1.stage)), ("17", "talker"));
    assert_eq!(text(outer.1.target), "tracing");
    assert_eq!(outer.1.fields.text(&outer.2).unwrap(), r#"{"text":"shown","late":true}"#);
    let before = named("made before")[0];
    assert_eq!(text(before.1.request), "r-0");
    assert_eq!(outer.1.parent, before.1.id);
    assert_eq!(text(named("named before")[0].1.request), "r-1");
    let inner = named("inner")[0];
    assert_eq!(inner.1.parent, outer.1.id);
    let twice = named("twice");
    assert_eq!(twice.len(), 2, "a row for each time that it was entered");
    assert_ne!(twice[0].1.thread, twice[1].1.thread);
    assert_eq!(named("unfinished")[0].1.end, 0);

    let markers = rows::<Marker>(&spool.path);
    let event = markers.iter().find(|(_, row, _)| text(row.name) == "something happened").unwrap();
    assert_eq!((text(event.1.target), text(event.1.request)), ("mine", "r-2"));
    assert_eq!(event.1.fields.text(&event.2).unwrap(), r#"{"count":3,"level":"WARN"}"#);
}
