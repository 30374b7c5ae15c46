//! The schedule as a state machine.

use std::collections::VecDeque;
use std::fmt;

use super::{Limits, Schedule};
use crate::clock::Instant;
use crate::control::WorkerState;
use crate::record::{Window, WindowEdge};

/// How far ahead of the end of a delay the kinds are enabled.
const ENABLE_AHEAD_NS: u64 = 1_000_000_000;

/// How many steps ahead of the end of a delay the kinds are enabled.
const ENABLE_AHEAD_STEPS: u64 = 1;

/// How often a window that goes on says so.
const OPEN_EVERY_NS: u64 = 250_000_000;

/// How far such a word lies behind the present: a stop names an instant that is past when it
/// arrives, and a step is stamped before it is handed over.
const OPEN_LAG_NS: u64 = 200_000_000;

/// Steps that are remembered between the arm and the commit, which may name a past instant.
const EARLY_STEPS: usize = 4096;

/// Windows that are listed; later ones are counted, and all are in the spool.
const LISTED_WINDOWS: usize = 1000;

const NS_PER_MS: u64 = 1_000_000;

/// The step of an edge that is not given by steps.
const NO_STEP: u64 = u64::MAX;

/// Why a schedule cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A number that must be at least 1 is 0.
    #[error("`{field}` is 0; the least is 1")]
    Zero {
        /// The field.
        field: &'static str,
    },
}

/// What ended a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopCause {
    /// All windows were recorded.
    Schedule,
    /// `max_steps` steps were recorded.
    MaxSteps,
    /// `duration_ms` passed.
    Duration,
    /// `max_session_ms` passed.
    MaxSession,
    /// Something outside the schedule, in the words of [`super::super::control::Stop::reason`].
    Asked(String),
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Schedule => "schedule",
            Self::MaxSteps => "max_steps",
            Self::Duration => "duration",
            Self::MaxSession => "max_session",
            Self::Asked(reason) => reason,
        })
    }
}

/// What the machine wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// The session is in another state.
    State(WorkerState),
    /// Write this row.
    Window(Window),
    /// Enable the kinds now: a window or a warm-up is near. Given once, and not at all where
    /// [`Machine::is_enabled`] holds from the start.
    Enable,
    /// The session is over. Given once, as the last output.
    Stop(StopCause),
}

/// Follows a [`Schedule`] within its [`Limits`].
///
/// Instants of one input may lie before those of the last one (two threads step, a commit comes
/// late); the edges that come out never run back. An iteration window is [stamp of step k, stamp
/// of step k+n).
#[derive(Clone, Debug)]
pub struct Machine {
    schedule: Schedule,
    limits: Limits,
    phase: Phase,
    state: WorkerState,
    enabled: bool,
    t0: Instant,
    last_edge: u64,
    last_open: u64,
    last_step: Option<u64>,
    steps: u64,
    recorded_steps: u64,
    windows_begun: u32,
    windows: Vec<(Instant, Option<Instant>)>,
    stopped_by: Option<StopCause>,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Before the commit.
    Armed { early: VecDeque<(u64, Instant)> },
    /// `delay_ms` runs, until this instant.
    Delay { until: u64 },
    /// `delay_steps` or `start_step` is waited for.
    StepDelay { left: u64 },
    /// `wait_steps` pass.
    Wait { left: u64 },
    /// `warmup_steps` pass.
    Warmup { left: u64 },
    /// A window is open.
    Active { left: Option<u64> },
    /// Stopped.
    Over,
}

impl Machine {
    /// A machine that waits for its commit.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Zero`] where a number of steps or a time that must be positive is 0.
    pub fn new(schedule: Schedule, limits: Limits) -> Result<Self, ScheduleError> {
        for (field, is_zero) in [
            ("active_steps", schedule.active_steps == Some(0)),
            ("max_steps", limits.max_steps == Some(0)),
            ("duration_ms", limits.duration_ms == Some(0)),
            ("max_session_ms", limits.max_session_ms == 0),
        ] {
            if is_zero {
                return Err(ScheduleError::Zero { field });
            }
        }
        let enabled = schedule.delay_ms.saturating_mul(NS_PER_MS) <= ENABLE_AHEAD_NS
            && schedule.delay_steps <= ENABLE_AHEAD_STEPS
            && schedule.start_step.is_none();
        Ok(Self {
            schedule,
            limits,
            phase: Phase::Armed { early: VecDeque::new() },
            state: WorkerState::Armed,
            enabled,
            t0: Instant::default(),
            last_edge: 0,
            last_open: 0,
            last_step: None,
            steps: 0,
            recorded_steps: 0,
            windows_begun: 0,
            windows: Vec::new(),
            stopped_by: None,
        })
    }

    /// The schedule begins at `t0`, which may be past or still to come. A second commit changes
    /// nothing.
    pub fn commit(&mut self, t0: Instant, now: Instant, out: &mut Vec<Output>) {
        let Phase::Armed { early } = &mut self.phase else { return };
        let early = std::mem::take(early);
        self.t0 = t0;
        self.last_edge = t0.monotonic_ns;
        let delay = self.schedule.delay_ms.saturating_mul(NS_PER_MS);
        self.phase = Phase::Delay { until: t0.monotonic_ns.saturating_add(delay) };
        self.enter(WorkerState::Delayed, out);
        for (number, at) in early {
            if at.monotonic_ns >= t0.monotonic_ns {
                self.step(number, at, out);
            }
        }
        self.advance(now, out);
        self.enable_if_near(now, out);
    }

    /// The application began step `number` at `at`.
    pub fn step(&mut self, number: u64, at: Instant, out: &mut Vec<Output>) {
        self.last_step = Some(number);
        match &mut self.phase {
            Phase::Armed { early } => {
                if early.len() == EARLY_STEPS {
                    early.pop_front();
                }
                early.push_back((number, at));
                return;
            }
            Phase::Over => return,
            _ => {}
        }
        if at.monotonic_ns < self.t0.monotonic_ns {
            return;
        }
        self.steps += 1;
        self.advance(at, out);
        self.boundary(number, at, out);
        self.enable_if_near(at, out);
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Output>) {
        if matches!(self.phase, Phase::Armed { .. } | Phase::Over) {
            return;
        }
        self.advance(now, out);
        self.enable_if_near(now, out);
        if !matches!(self.phase, Phase::Active { .. }) {
            return;
        }
        let open = now.monotonic_ns.saturating_sub(OPEN_LAG_NS);
        if open < self.last_open.max(self.last_edge).saturating_add(OPEN_EVERY_NS) {
            return;
        }
        self.last_open = open;
        self.edge(WindowEdge::Open, at(open, now), NO_STEP, out);
    }

    /// The session ends at `t1`, or at the last edge that was given out if that lies later.
    /// A second stop changes nothing.
    pub fn stop(&mut self, t1: Instant, reason: &str, out: &mut Vec<Output>) {
        if matches!(self.phase, Phase::Over) {
            return;
        }
        if !matches!(self.phase, Phase::Armed { .. }) {
            self.advance(t1, out);
        }
        self.end(t1, NO_STEP, StopCause::Asked(reason.to_owned()), out);
    }

    /// When [`Machine::tick`] has something to do next, CLOCK_MONOTONIC.
    #[must_use]
    pub fn next_tick(&self) -> Option<u64> {
        if matches!(self.phase, Phase::Armed { .. } | Phase::Over) {
            return None;
        }
        let mut next = self.deadline().map_or(u64::MAX, |(at, _)| at);
        match self.phase {
            Phase::Delay { until } => {
                next = next.min(until);
                if !self.enabled && self.first_steps_are_near() {
                    next = next.min(until.saturating_sub(ENABLE_AHEAD_NS));
                }
            }
            Phase::Active { .. } => {
                let last = self.last_open.max(self.last_edge);
                next = next.min(last.saturating_add(OPEN_EVERY_NS + OPEN_LAG_NS));
            }
            _ => {}
        }
        Some(next)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.state
    }

    /// Whether the kinds are to be enabled by now.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Steps since the commit.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Windows that have begun.
    #[must_use]
    pub fn windows_begun(&self) -> u32 {
        self.windows_begun
    }

    /// The windows; of very many the first thousand.
    #[must_use]
    pub fn windows(&self) -> &[(Instant, Option<Instant>)] {
        &self.windows
    }

    /// What ended the session, once something did.
    #[must_use]
    pub fn stopped_by(&self) -> Option<&StopCause> {
        self.stopped_by.as_ref()
    }

    /// Whether windows begin and end with steps.
    #[must_use]
    pub fn by_steps(&self) -> bool {
        let Schedule { delay_steps, start_step, wait_steps, warmup_steps, active_steps, .. } =
            self.schedule;
        delay_steps > 0
            || start_step.is_some()
            || wait_steps > 0
            || warmup_steps > 0
            || active_steps.is_some()
            || self.limits.max_steps.is_some()
    }

    /// The next instant at which a limit ends the session.
    fn deadline(&self) -> Option<(u64, StopCause)> {
        let session = self.limits.max_session_ms.saturating_mul(NS_PER_MS);
        let session = self.t0.monotonic_ns.saturating_add(session);
        if let (Some(duration_ms), Some((begin, _))) =
            (self.limits.duration_ms, self.windows.first())
        {
            let duration = duration_ms.saturating_mul(NS_PER_MS);
            let duration = begin.monotonic_ns.saturating_add(duration);
            if duration <= session {
                return Some((duration, StopCause::Duration));
            }
        }
        Some((session, StopCause::MaxSession))
    }

    /// Does what time alone brings, up to and including `now`, in the order of the instants.
    fn advance(&mut self, now: Instant, out: &mut Vec<Output>) {
        loop {
            let Some((deadline, cause)) = self.deadline() else { return };
            match self.phase {
                Phase::Armed { .. } | Phase::Over => return,
                Phase::Delay { until } if until <= now.monotonic_ns && until < deadline => {
                    if self.by_steps() {
                        self.phase = Phase::StepDelay { left: self.schedule.delay_steps };
                    } else {
                        // T0 is what it was said to be, whatever the clocks did since.
                        let is_t0 = until == self.t0.monotonic_ns;
                        let begin = if is_t0 { self.t0 } else { at(until, now) };
                        self.begin(begin, NO_STEP, out);
                    }
                }
                _ if deadline <= now.monotonic_ns => {
                    self.end(at(deadline, now), NO_STEP, cause, out);
                }
                _ => return,
            }
        }
    }

    /// A step begins, and with it perhaps another phase.
    fn boundary(&mut self, number: u64, at: Instant, out: &mut Vec<Output>) {
        loop {
            match &mut self.phase {
                Phase::Armed { .. } | Phase::Delay { .. } | Phase::Over => return,
                Phase::StepDelay { left } | Phase::Wait { left } | Phase::Warmup { left }
                    if *left > 0 =>
                {
                    *left -= 1;
                    return;
                }
                Phase::StepDelay { .. } => {
                    if self.schedule.start_step.is_some_and(|start| number < start) {
                        return;
                    }
                    self.phase = Phase::Wait { left: self.schedule.wait_steps };
                }
                Phase::Wait { .. } => {
                    if self.schedule.warmup_steps > 0 {
                        self.enter(WorkerState::Warmup, out);
                        self.edge(WindowEdge::Warmup, at, number, out);
                    }
                    self.phase = Phase::Warmup { left: self.schedule.warmup_steps };
                }
                Phase::Warmup { .. } => self.begin(at, number, out),
                Phase::Active { left } => {
                    if self.limits.max_steps == Some(self.recorded_steps) {
                        self.end(at, number, StopCause::MaxSteps, out);
                        return;
                    }
                    match left {
                        Some(0) => self.cycle(at, number, out),
                        Some(left) => {
                            *left -= 1;
                            self.recorded_steps += 1;
                            return;
                        }
                        None => {
                            self.recorded_steps += 1;
                            return;
                        }
                    }
                }
            }
        }
    }

    fn begin(&mut self, begin: Instant, step: u64, out: &mut Vec<Output>) {
        self.phase = Phase::Active { left: self.schedule.active_steps };
        self.enter(WorkerState::Recording, out);
        let begin = self.edge(WindowEdge::Begin, begin, step, out);
        self.windows_begun = self.windows_begun.saturating_add(1);
        if self.windows.len() < LISTED_WINDOWS {
            self.windows.push((begin, None));
        }
    }

    /// A window is full: the next one, or the end.
    fn cycle(&mut self, at: Instant, step: u64, out: &mut Vec<Output>) {
        if self.windows_begun == self.schedule.repeat {
            self.end(at, step, StopCause::Schedule, out);
            return;
        }
        self.close_window(at, step, out);
        self.phase = Phase::Wait { left: self.schedule.wait_steps };
        if self.schedule.wait_steps > 0 {
            self.enter(WorkerState::Delayed, out);
        }
    }

    fn close_window(&mut self, end: Instant, step: u64, out: &mut Vec<Output>) {
        let end = self.edge(WindowEdge::End, end, step, out);
        if self.windows_begun as usize == self.windows.len()
            && let Some(window) = self.windows.last_mut()
        {
            window.1 = Some(end);
        }
    }

    fn end(&mut self, end: Instant, step: u64, cause: StopCause, out: &mut Vec<Output>) {
        if matches!(self.phase, Phase::Active { .. }) {
            self.close_window(end, step, out);
        }
        if self.windows_begun == 0 {
            self.edge(WindowEdge::Abandoned, end, step, out);
        }
        self.phase = Phase::Over;
        self.enter(WorkerState::Draining, out);
        self.stopped_by = Some(cause.clone());
        out.push(Output::Stop(cause));
    }

    fn enter(&mut self, state: WorkerState, out: &mut Vec<Output>) {
        if self.state == state {
            return;
        }
        self.state = state;
        out.push(Output::State(state));
    }

    /// Gives out an edge, no earlier than the last one.
    fn edge(
        &mut self,
        edge: WindowEdge,
        instant: Instant,
        step: u64,
        out: &mut Vec<Output>,
    ) -> Instant {
        let instant = at(instant.monotonic_ns.max(self.last_edge), instant);
        self.last_edge = instant.monotonic_ns;
        let window = match edge {
            WindowEdge::Begin | WindowEdge::Warmup | WindowEdge::Abandoned => self.windows_begun,
            WindowEdge::End | WindowEdge::Open => self.windows_begun.saturating_sub(1),
        };
        out.push(Output::Window(Window {
            monotonic: instant.monotonic_ns,
            realtime: instant.realtime_ns,
            step,
            window,
            edge: edge.number(),
        }));
        instant
    }

    fn enable_if_near(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.enabled {
            return;
        }
        let near = match self.phase {
            Phase::Armed { .. } | Phase::Over => false,
            Phase::Delay { until } => {
                now.monotonic_ns.saturating_add(ENABLE_AHEAD_NS) >= until
                    && self.first_steps_are_near()
            }
            Phase::StepDelay { left } => left <= ENABLE_AHEAD_STEPS && self.start_step_is_near(),
            Phase::Wait { .. } | Phase::Warmup { .. } | Phase::Active { .. } => true,
        };
        if near {
            self.enabled = true;
            out.push(Output::Enable);
        }
    }

    fn first_steps_are_near(&self) -> bool {
        self.schedule.delay_steps <= ENABLE_AHEAD_STEPS && self.start_step_is_near()
    }

    fn start_step_is_near(&self) -> bool {
        let Some(start) = self.schedule.start_step else { return true };
        let next = self.last_step.map_or(0, |last| last.saturating_add(1));
        next.saturating_add(ENABLE_AHEAD_STEPS) >= start
    }
}

/// The instant that `monotonic_ns` is on both clocks, judged by a near reading of both.
fn at(monotonic_ns: u64, near: Instant) -> Instant {
    let offset = monotonic_ns.wrapping_sub(near.monotonic_ns) as i64;
    Instant { monotonic_ns, realtime_ns: near.realtime_ns.saturating_add_signed(offset) }
}
