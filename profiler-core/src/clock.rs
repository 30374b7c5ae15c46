//! Clocks: which domain an instant is in, and where instants come from.
//!
//! Everything that reads time takes a [`ClockSource`], so that tests and fakes can step it; the
//! machine's clock is never set. A [`ClockTuple`] row ties the domains together; readers map
//! piecewise between tuples.

use std::sync::Mutex;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::record::ClockTuple;

/// The clock in which a stream's instants count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClockDomain {
    /// CLOCK_MONOTONIC, ns.
    Monotonic,
    /// CLOCK_REALTIME, ns since 1970; may step.
    Realtime,
    /// CLOCK_BOOTTIME, ns.
    Boottime,
    /// The processor's time stamp counter, ticks.
    Tsc,
    /// A clock of the driver; its tuples carry the stream.
    Driver,
}

impl ClockDomain {
    /// The number as it stands in spool blocks.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Monotonic => 1,
            Self::Realtime => 2,
            Self::Boottime => 3,
            Self::Tsc => 4,
            Self::Driver => 5,
        }
    }

    /// The domain of a number from a spool block.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        [Self::Monotonic, Self::Realtime, Self::Boottime, Self::Tsc, Self::Driver]
            .into_iter()
            .find(|domain| domain.number() == number)
    }
}

/// One instant on the two clocks that every process of a machine shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instant {
    /// CLOCK_MONOTONIC, ns.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME, ns since 1970.
    pub realtime_ns: u64,
}

/// Where instants come from.
///
/// Callable from any thread; never blocks.
pub trait ClockSource: Send + Sync {
    /// CLOCK_MONOTONIC, ns. Never runs back.
    fn monotonic_ns(&self) -> u64;

    /// CLOCK_REALTIME, ns since 1970. May step either way.
    fn realtime_ns(&self) -> u64;

    /// CLOCK_BOOTTIME, ns.
    fn boottime_ns(&self) -> u64;

    /// The processor's time stamp counter, 0 where it has none that is usable as a clock.
    fn tsc(&self) -> u64;

    /// Now, on both clocks, read close together.
    fn now(&self) -> Instant {
        let tuple = self.tuple();
        Instant { monotonic_ns: tuple.monotonic, realtime_ns: tuple.realtime }
    }

    /// All clocks read close together: the closest of a few tries, with its error bound.
    fn tuple(&self) -> ClockTuple {
        let mut best: Option<ClockTuple> = None;
        for _ in 0..TUPLE_TRIES {
            let before = self.monotonic_ns();
            let realtime = self.realtime_ns();
            let boottime = self.boottime_ns();
            let tsc = self.tsc();
            let after = self.monotonic_ns();
            let error_ns = u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX);
            if best.is_some_and(|best| best.error_ns <= error_ns) {
                continue;
            }
            best = Some(ClockTuple {
                monotonic: before + u64::from(error_ns) / 2,
                realtime,
                tsc,
                boottime,
                error_ns,
                ..ClockTuple::default()
            });
        }
        best.unwrap_or_default()
    }
}

/// How often [`ClockSource::tuple`] tries; more than this gains little on a quiet machine.
const TUPLE_TRIES: usize = 8;

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clocks.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl ClockSource for SystemClock {
    fn monotonic_ns(&self) -> u64 {
        read(ClockId::Monotonic)
    }

    fn realtime_ns(&self) -> u64 {
        read(ClockId::Realtime)
    }

    fn boottime_ns(&self) -> u64 {
        read(ClockId::Boottime)
    }

    fn tsc(&self) -> u64 {
        crate::tsc::read()
    }
}

fn read(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A clock that stands still until it is told to move: for tests and fakes.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<Instant>,
}

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { now: Mutex::new(now) }
    }

    /// Time passes on every clock.
    pub fn advance(&self, ns: u64) {
        let mut now = self.lock();
        now.monotonic_ns += ns;
        now.realtime_ns += ns;
    }

    /// CLOCK_REALTIME alone is set forth or back, as NTP or a person would.
    pub fn step_realtime(&self, ns: i64) {
        let mut now = self.lock();
        now.realtime_ns = now.realtime_ns.saturating_add_signed(ns);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl ClockSource for ManualClock {
    fn monotonic_ns(&self) -> u64 {
        self.lock().monotonic_ns
    }

    fn realtime_ns(&self) -> u64 {
        self.lock().realtime_ns
    }

    fn boottime_ns(&self) -> u64 {
        self.lock().monotonic_ns
    }

    fn tsc(&self) -> u64 {
        self.lock().monotonic_ns
    }
}
