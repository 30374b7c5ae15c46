//! Clocks that step, and what a backend makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{Answer, Fixture, MemorySink, record_some, start, stop};
use crate::clock::{ClockDomain, ClockSource, SystemClock};

/// The machine's clocks, but CLOCK_REALTIME can be set.
#[derive(Debug, Default)]
pub struct SteppedClock {
    step_ns: AtomicI64,
}

impl SteppedClock {
    /// The machine's clocks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets CLOCK_REALTIME forth or back, as NTP or a person would.
    pub fn step_realtime(&self, ns: i64) {
        self.step_ns.fetch_add(ns, Ordering::SeqCst);
    }
}

impl ClockSource for SteppedClock {
    fn monotonic_ns(&self) -> u64 {
        SystemClock::new().monotonic_ns()
    }

    fn realtime_ns(&self) -> u64 {
        SystemClock::new().realtime_ns().saturating_add_signed(self.step_ns.load(Ordering::SeqCst))
    }

    fn boottime_ns(&self) -> u64 {
        SystemClock::new().boottime_ns()
    }

    fn tsc(&self) -> u64 {
        SystemClock::new().tsc()
    }
}

/// Steps of CLOCK_REALTIME by a second either way do not show on monotonic clocks: every row lies
/// between the session's start and its stop, and none ends before it begins.
///
/// # Panics
///
/// Where the backend does not keep that.
pub fn realtime_steps_do_not_show(fixture: &dyn Fixture) {
    const SECOND: i64 = 1_000_000_000;
    let clock = Arc::new(SteppedClock::new());
    let sink = Arc::new(MemorySink::new(Answer::Accept));
    let begin = clock.monotonic_ns();
    let mut session = start(fixture, &sink, Arc::clone(&clock) as Arc<dyn ClockSource>);
    record_some(fixture, session.as_mut(), &sink);
    clock.step_realtime(SECOND);
    record_some(fixture, session.as_mut(), &sink);
    clock.step_realtime(-2 * SECOND);
    record_some(fixture, session.as_mut(), &sink);
    clock.step_realtime(SECOND);
    stop(session.as_mut());
    let end = clock.monotonic_ns();
    sink.assert_sound();

    let expected = fixture.expected();
    for seen in sink.instants().iter().filter(|seen| expected.contains(&seen.kind)) {
        if seen.clock == ClockDomain::Monotonic {
            assert!(
                (begin..=end).contains(&seen.time),
                "{} at {}, recorded from {begin} to {end}",
                seen.kind,
                seen.time
            );
        }
        assert!(seen.end == 0 || seen.end >= seen.time, "{seen:?} ends before it begins");
    }
}
