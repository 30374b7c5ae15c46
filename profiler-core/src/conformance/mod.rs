//! The test bodies that every backend runs.
//!
//! A backend's test crate implements [`Fixture`] and calls [`conformance_tests!`], which makes one
//! test of each body. A body panics where the backend breaks the contract of the two traits in
//! [`crate::backend`].
//!
//! ```ignore
//! profiler_core::conformance_tests!(MyFixture::new());
//! ```
//!
//! [`conformance_tests!`]: crate::conformance_tests

mod clock;
mod lifecycle;
mod plugin;
mod sink;
mod sinks;

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backend::{ProfileSession, ProfilerBackend, SessionConfig};
use crate::clock::ClockSource;
use crate::error::BackendError;
use crate::record::RecordKind;
use crate::sink::RecordSink;

pub use clock::{SteppedClock, realtime_steps_do_not_show};
pub use lifecycle::{
    double_start_is_refused, drop_without_stop_stops, hundred_cycles, no_rows_after_stop,
    nothing_from_before_start, stop_before_the_first_record, two_sessions_at_once,
};
pub use plugin::{build_plugin, build_program};
pub use sink::{Answer, MemorySink};
pub use sinks::{
    a_closed_sink_ends_production, a_flush_is_visible_within_a_second,
    a_full_sink_is_counted_exactly, a_panicking_sink_harms_nobody,
};

/// Ends a test that has already failed; no backend takes this long.
const LONG: Duration = Duration::from_secs(30);
/// How long a session may drain at its stop.
const DRAIN: Duration = Duration::from_secs(2);

/// Says that the running test, or a part of it, could not run here. Past the test harness, which
/// shows nothing of a test that passes; `.ci/run` counts these lines.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped: {test}: {why}\n");
    // Nobody is left to tell where standard error is closed.
    let _told: io::Result<()> = io::stderr().write_all(line.as_bytes());
}

/// A backend and the work that it records.
pub trait Fixture: Sync {
    /// The backend, fresh or the same each time.
    fn backend(&self) -> Arc<dyn ProfilerBackend>;

    /// How its sessions are opened.
    fn config(&self) -> SessionConfig {
        SessionConfig::default()
    }

    /// Does something that the backend records: when it returns and the session was flushed, at
    /// least one row of each of [`Fixture::expected`] is due.
    fn work(&self);

    /// The kinds of rows that the work makes, each stamped while the session records.
    fn expected(&self) -> Vec<RecordKind>;

    /// Rows of each of [`Fixture::expected`], in the same order, that the work makes each time,
    /// seen after a flush or a stop; `None` where that depends on time or chance.
    fn rows_of_work(&self) -> Option<Vec<u64>> {
        None
    }
}

/// A fixture whose work is counted.
struct Counted<'a> {
    inner: &'a dyn Fixture,
    works: AtomicU64,
}

impl<'a> Counted<'a> {
    fn new(inner: &'a dyn Fixture) -> Self {
        Self { inner, works: AtomicU64::new(0) }
    }
}

impl Fixture for Counted<'_> {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        self.inner.backend()
    }

    fn config(&self) -> SessionConfig {
        self.inner.config()
    }

    fn work(&self) {
        self.works.fetch_add(1, Ordering::SeqCst);
        self.inner.work();
    }

    fn expected(&self) -> Vec<RecordKind> {
        self.inner.expected()
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        self.inner.rows_of_work()
    }
}

/// Gives the names of all bodies to a macro of this crate, behind what else it takes.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_bodies {
    ($then:ident, $($before:tt)*) => {
        $crate::$then!($($before)*,
            hundred_cycles, double_start_is_refused, stop_before_the_first_record,
            drop_without_stop_stops, no_rows_after_stop, nothing_from_before_start,
            two_sessions_at_once, a_full_sink_is_counted_exactly, a_closed_sink_ends_production,
            a_flush_is_visible_within_a_second, a_panicking_sink_harms_nobody,
            realtime_steps_do_not_show);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_list {
    ($name:ident, $($body:ident),*) => {
        /// All bodies with their names, for programs that are no tests of cargo's.
        pub const $name: &[(&str, fn(&dyn Fixture))] = &[$((stringify!($body), $body)),*];
    };
}

conformance_bodies!(conformance_list, BODIES);

/// Makes a test of each body, named as the body. The argument makes a [`Fixture`].
///
/// The tests of one process run at the same time unless told otherwise; a backend that serves one
/// session at a time passes a second argument, a `static` [`std::sync::Mutex`] of `()` that each
/// test then holds.
#[macro_export]
macro_rules! conformance_tests {
    ($fixture:expr) => {
        static CONFORMANCE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        $crate::conformance_tests!($fixture, CONFORMANCE);
    };
    ($fixture:expr, $lock:expr) => {
        $crate::conformance_bodies!(conformance_tests, @ $fixture, $lock);
    };
    (@ $fixture:expr, $lock:expr, $($body:ident),*) => {
        $(
            #[test]
            fn $body() {
                let _alone = $lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                $crate::conformance::$body(&$fixture);
            }
        )*
    };
}

fn open(
    fixture: &dyn Fixture,
    sink: Arc<dyn RecordSink>,
    clock: Arc<dyn ClockSource>,
) -> Result<Box<dyn ProfileSession>, BackendError> {
    fixture.backend().open(&fixture.config(), sink, clock)
}

/// Opens and starts; a backend that cannot do that here fails the test with its own reason.
fn start(
    fixture: &dyn Fixture,
    sink: &Arc<MemorySink>,
    clock: Arc<dyn ClockSource>,
) -> Box<dyn ProfileSession> {
    let sink: Arc<dyn RecordSink> = Arc::clone(sink) as Arc<dyn RecordSink>;
    let mut session = open(fixture, sink, clock)
        .unwrap_or_else(|error| panic!("open: {}", crate::error::chain(&error)));
    session.start().unwrap_or_else(|error| panic!("start: {}", crate::error::chain(&error)));
    session
}

fn stop(session: &mut dyn ProfileSession) {
    session.stop(DRAIN).unwrap_or_else(|error| panic!("stop: {}", crate::error::chain(&error)));
}

fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Works and flushes until the sink has rows of each expected kind beyond `before`.
fn record_some(fixture: &dyn Fixture, session: &mut dyn ProfileSession, sink: &MemorySink) {
    let expected = fixture.expected();
    let before: Vec<u64> = expected.iter().map(|&kind| sink.rows(kind)).collect();
    wait_until("rows of every expected kind", LONG, || {
        fixture.work();
        session.flush().unwrap_or_else(|error| panic!("flush: {}", crate::error::chain(&error)));
        expected.iter().zip(&before).all(|(&kind, &before)| sink.rows(kind) > before)
    });
}
