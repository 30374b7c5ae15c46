//! Sinks that do not simply take everything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Answer, Counted, Fixture, LONG, MemorySink, record_some, start, stop, wait_until};
use crate::clock::SystemClock;
use crate::record::LossCause;

/// How often a backend may offer something to a sink that has said that it is closed.
const ROUNDS_UNTIL_QUIET: u32 = 50;

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

/// A sink that refuses groups counts them itself, once; the backend counts nothing again, sends
/// the definitions of a refused group again and goes on. Where the rows of the work are known,
/// each was taken, refused or counted as lost.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn a_full_sink_is_counted_exactly(fixture: &dyn Fixture) {
    let fixture = &Counted::new(fixture);
    let sink = Arc::new(MemorySink::new(Answer::HalfFull));
    let mut session = start(fixture, &sink, clock());
    wait_until("a refused row", LONG, || {
        fixture.work();
        session.flush().unwrap_or_else(|error| panic!("flush: {}", crate::error::chain(&error)));
        sink.refused() > 0
    });
    record_some(fixture, session.as_mut(), &sink);
    sink.answer(Answer::Accept);
    record_some(fixture, session.as_mut(), &sink);
    fixture.work();
    stop(session.as_mut());
    // Rows whose definitions were refused, or losses that were counted twice, are faults.
    sink.assert_sound();
    assert!(!sink.losses().contains_key(&LossCause::SinkFull));
    let Some(each) = fixture.rows_of_work() else { return };
    let expected = fixture.expected();
    assert_eq!(each.len(), expected.len(), "a number of rows for each expected kind");
    let works = fixture.works.load(Ordering::SeqCst);
    // A driver that found no buffer does not say what the records were that it dropped.
    let (mut missing, unnamed) = (0, sink.lost_of_no_kind());
    for (kind, rows) in expected.into_iter().zip(each) {
        let (taken, refused, lost) = (sink.rows(kind), sink.refused_of(kind), sink.lost_of(kind));
        let (found, offered) = (taken + refused + lost, rows * works);
        assert!(
            found <= offered && offered - found <= unnamed,
            "{kind}: {taken} taken, {refused} refused, {lost} lost of {works} times {rows}; \
             {unnamed} lost of no kind"
        );
        missing += offered - found;
    }
    assert!(missing <= unnamed, "{missing} rows are missing, {unnamed} were lost of no kind");
}

/// Once the sink is closed the backend stops producing, and its stop still works.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn a_closed_sink_ends_production(fixture: &dyn Fixture) {
    let sink = Arc::new(MemorySink::new(Answer::Accept));
    let mut session = start(fixture, &sink, clock());
    record_some(fixture, session.as_mut(), &sink);
    sink.answer(Answer::Closed);
    let total = sink.total();
    // What is on its way is still offered, and each stream learns of the end by itself.
    let quiet = (0..ROUNDS_UNTIL_QUIET).any(|_| {
        let before = sink.groups();
        fixture.work();
        // What the calls answer is the backend's choice; that they come back is not.
        drop(session.flush());
        sink.groups() == before
    });
    assert!(quiet, "the backend goes on producing after its sink was closed");
    drop(session.stop(super::DRAIN));
    assert_eq!(sink.total(), total);
    sink.assert_sound();
}

/// What was done before a flush reaches the sink within a second of it.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn a_flush_is_visible_within_a_second(fixture: &dyn Fixture) {
    let sink = Arc::new(MemorySink::new(Answer::Accept));
    let mut session = start(fixture, &sink, clock());
    fixture.work();
    session.flush().unwrap_or_else(|error| panic!("flush: {}", crate::error::chain(&error)));
    let expected = fixture.expected();
    wait_until("every expected kind", Duration::from_secs(1), || {
        expected.iter().all(|&kind| sink.rows(kind) > 0)
    });
    stop(session.as_mut());
    sink.assert_sound();
}

/// A panic in the sink neither ends the process nor hangs the session, and a later session
/// records. It may come out of `flush` and `stop`, where the door catches it.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn a_panicking_sink_harms_nobody(fixture: &dyn Fixture) {
    let sink = Arc::new(MemorySink::new(Answer::Accept));
    let mut session = start(fixture, &sink, clock());
    record_some(fixture, session.as_mut(), &sink);
    sink.answer(Answer::Panic);
    let total = sink.total();
    fixture.work();
    for _ in 0..3 {
        drop(catch_unwind(AssertUnwindSafe(|| session.flush())));
    }
    drop(catch_unwind(AssertUnwindSafe(|| session.stop(super::DRAIN))));
    drop(catch_unwind(AssertUnwindSafe(|| drop(session))));
    assert_eq!(sink.total(), total);

    let later = Arc::new(MemorySink::new(Answer::Accept));
    let mut session = start(fixture, &later, clock());
    record_some(fixture, session.as_mut(), &later);
    stop(session.as_mut());
    later.assert_sound();
}
