//! Starts, stops, and what lies between and beside them.

use std::sync::Arc;

use super::{Answer, DRAIN, Fixture, MemorySink, open, record_some, start, stop};
use crate::clock::{ClockDomain, ClockSource as _, SystemClock};
use crate::error::BackendError;
use crate::sink::RecordSink;

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

fn sink() -> Arc<MemorySink> {
    Arc::new(MemorySink::new(Answer::Accept))
}

/// Sessions can be started and stopped a hundred times, each records, and none writes into the
/// sink of an earlier one.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn hundred_cycles(fixture: &dyn Fixture) {
    let mut ended: Vec<(Arc<MemorySink>, u64)> = Vec::new();
    for cycle in 0..100 {
        let sink = sink();
        let mut session = start(fixture, &sink, clock());
        // A record takes some backends tens of ms; ten of them show as much as a hundred.
        if cycle % 10 == 0 {
            record_some(fixture, session.as_mut(), &sink);
        }
        stop(session.as_mut());
        sink.assert_sound();
        ended.push((Arc::clone(&sink), sink.total()));
    }
    for (cycle, (sink, total)) in ended.iter().enumerate() {
        assert_eq!(sink.total(), *total, "cycle {cycle} wrote rows after its stop");
    }
}

/// A second start is refused, and the session goes on.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn double_start_is_refused(fixture: &dyn Fixture) {
    let sink = sink();
    let mut session = start(fixture, &sink, clock());
    let second = session.start();
    assert!(matches!(second, Err(BackendError::AlreadyStarted)), "{second:?}");
    record_some(fixture, session.as_mut(), &sink);
    stop(session.as_mut());
    let third = session.start();
    assert!(matches!(third, Err(BackendError::AlreadyStarted)), "after the stop: {third:?}");
}

/// A session may be stopped before anything was recorded; calls out of order are refused.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn stop_before_the_first_record(fixture: &dyn Fixture) {
    let sink = sink();
    let mut session = open(fixture, Arc::clone(&sink) as Arc<dyn RecordSink>, clock())
        .unwrap_or_else(|error| panic!("open: {}", crate::error::chain(&error)));
    let early = session.flush();
    assert!(matches!(early, Err(BackendError::NotStarted)), "flush before start: {early:?}");
    let early = session.stop(DRAIN);
    assert!(matches!(early, Err(BackendError::NotStarted)), "stop before start: {early:?}");
    session.start().unwrap_or_else(|error| panic!("start: {}", crate::error::chain(&error)));
    stop(session.as_mut());
    let late = session.stop(DRAIN);
    assert!(matches!(late, Err(BackendError::NotStarted)), "second stop: {late:?}");
    let late = session.flush();
    assert!(matches!(late, Err(BackendError::NotStarted)), "flush after stop: {late:?}");
    sink.assert_sound();
}

/// A session that is dropped while it records stops, and the next one works.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn drop_without_stop_stops(fixture: &dyn Fixture) {
    let first = sink();
    let mut session = start(fixture, &first, clock());
    record_some(fixture, session.as_mut(), &first);
    drop(session);
    let total = first.total();

    // Dropped before it was started, too.
    drop(open(fixture, Arc::clone(&first) as Arc<dyn RecordSink>, clock()));

    let second = sink();
    let mut session = start(fixture, &second, clock());
    record_some(fixture, session.as_mut(), &second);
    stop(session.as_mut());
    assert_eq!(first.total(), total, "rows after the drop");
    first.assert_sound();
    second.assert_sound();
}

/// When `stop` has returned, no row comes any more, whatever happens in the process.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn no_rows_after_stop(fixture: &dyn Fixture) {
    let first = sink();
    let mut session = start(fixture, &first, clock());
    record_some(fixture, session.as_mut(), &first);
    stop(session.as_mut());
    let (total, groups) = (first.total(), first.groups());
    fixture.work();

    // That a later session sees the same work shows that enough time has passed.
    let second = sink();
    let mut later = start(fixture, &second, clock());
    record_some(fixture, later.as_mut(), &second);
    stop(later.as_mut());
    drop(session);
    assert_eq!(first.total(), total, "rows after the stop");
    assert_eq!(first.groups(), groups, "groups after the stop");
}

/// Work from before `start` leaves no row, and no row is stamped after the stop.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn nothing_from_before_start(fixture: &dyn Fixture) {
    let sink = sink();
    let mut session = open(fixture, Arc::clone(&sink) as Arc<dyn RecordSink>, clock())
        .unwrap_or_else(|error| panic!("open: {}", crate::error::chain(&error)));
    fixture.work();
    let begin = SystemClock::new().now();
    session.start().unwrap_or_else(|error| panic!("start: {}", crate::error::chain(&error)));
    record_some(fixture, session.as_mut(), &sink);
    stop(session.as_mut());
    let end = SystemClock::new().now();

    let expected = fixture.expected();
    for seen in sink.instants().iter().filter(|seen| expected.contains(&seen.kind)) {
        let range = match seen.clock {
            ClockDomain::Monotonic => begin.monotonic_ns..=end.monotonic_ns,
            ClockDomain::Realtime => begin.realtime_ns..=end.realtime_ns,
            _ => continue,
        };
        assert!(range.contains(&seen.time), "{seen:?} lies outside {range:?}");
    }
}

/// A second session at the same time either works beside the first or is refused with the reason;
/// the first goes on in both cases.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn two_sessions_at_once(fixture: &dyn Fixture) {
    let (first, second) = (sink(), sink());
    let mut session = start(fixture, &first, clock());
    let beside = open(fixture, Arc::clone(&second) as Arc<dyn RecordSink>, clock()).and_then(
        |mut beside| {
            beside.start()?;
            Ok(beside)
        },
    );
    match beside {
        Ok(mut beside) => {
            record_some(fixture, beside.as_mut(), &second);
            record_some(fixture, session.as_mut(), &first);
            stop(beside.as_mut());
            drop(beside);
        }
        Err(BackendError::SessionOpen | BackendError::Busy { .. }) => {}
        Err(error) => panic!("refused with {error:?}"),
    }
    record_some(fixture, session.as_mut(), &first);
    stop(session.as_mut());
    first.assert_sound();
    second.assert_sound();

    // Once the first is over, a session is to be had again.
    drop(session);
    let third = sink();
    let mut session = start(fixture, &third, clock());
    stop(session.as_mut());
}
