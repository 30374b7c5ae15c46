use proptest::prelude::*;

use super::{Limits, Machine, Output, Schedule, ScheduleError, StopCause};
use crate::clock::Instant;
use crate::control::WorkerState;
use crate::record::{Window, WindowEdge};

const MS: u64 = 1_000_000;
const EPOCH: u64 = 1_700_000_000_000_000_000;

/// `ms` after the commit.
fn ms(ms: u64) -> Instant {
    ns((1_000 + ms) * MS)
}

fn ns(ns: u64) -> Instant {
    Instant { monotonic_ns: ns, realtime_ns: EPOCH + ns }
}

struct Run {
    machine: Machine,
    out: Vec<Output>,
    next_step: u64,
}

impl Run {
    fn new(schedule: Schedule, limits: Limits) -> Self {
        let machine = Machine::new(schedule, limits).unwrap();
        Self { machine, out: Vec::new(), next_step: 0 }
    }

    fn committed(schedule: Schedule, limits: Limits) -> Self {
        let mut run = Self::new(schedule, limits);
        run.machine.commit(ms(0), ms(0), &mut run.out);
        run
    }

    fn step(&mut self, at: Instant) {
        self.machine.step(self.next_step, at, &mut self.out);
        self.next_step += 1;
    }

    fn edges(&self) -> Vec<Window> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Output::Window(window) => Some(*window),
                _ => None,
            })
            .collect()
    }

    /// (edge, ms after the commit, step) of all edges but the open ones.
    fn marks(&self) -> Vec<(&'static str, i64, Option<u64>)> {
        self.edges()
            .into_iter()
            .filter(|edge| edge.edge != WindowEdge::Open.number())
            .map(|edge| {
                let kind = WindowEdge::from_number(edge.edge).unwrap();
                let at = edge.monotonic as i64 / MS as i64 - 1_000;
                (kind.text(), at, (edge.step != u64::MAX).then_some(edge.step))
            })
            .collect()
    }

    fn stopped_by(&self) -> Option<String> {
        self.machine.stopped_by().map(ToString::to_string)
    }
}

fn steps(active: u64) -> Schedule {
    Schedule { active_steps: Some(active), repeat: 1, ..Schedule::default() }
}

#[test]
fn without_a_schedule_the_window_begins_at_the_commit_and_ends_at_the_stop() {
    let mut run = Run::new(Schedule::default(), Limits::default());
    assert!(run.machine.is_enabled());
    // The commit names an instant that is past when it arrives.
    run.machine.commit(ms(0), ms(40), &mut run.out);
    run.machine.stop(ms(90), "request", &mut run.out);
    run.machine.stop(ms(95), "again", &mut run.out);
    assert_eq!(run.marks(), [("begin", 0, None), ("end", 90, None)]);
    assert_eq!(run.machine.windows(), [(ms(0), Some(ms(90)))]);
    assert_eq!(run.stopped_by().as_deref(), Some("request"));
    let states: Vec<_> =
        run.out.iter().filter(|o| matches!(o, Output::State(_))).cloned().collect();
    let expected = [WorkerState::Delayed, WorkerState::Recording, WorkerState::Draining];
    assert_eq!(states, expected.map(Output::State));
}

#[test]
fn a_delay_begins_the_window_exactly_when_it_is_over() {
    let schedule = Schedule { delay_ms: 30, ..Schedule::default() };
    let mut run = Run::committed(schedule, Limits::default());
    run.machine.tick(ms(29), &mut run.out);
    assert!(run.edges().is_empty());
    assert_eq!(run.machine.next_tick(), Some(ms(30).monotonic_ns));
    run.machine.tick(ms(37), &mut run.out);
    assert_eq!(run.marks(), [("begin", 30, None)]);
}

#[test]
fn max_steps_records_exactly_that_many() {
    let limits = Limits { max_steps: Some(3), ..Limits::default() };
    let mut run = Run::committed(Schedule::default(), limits);
    for step in 0..10 {
        run.step(ms(10 + 10 * step));
    }
    assert_eq!(run.marks(), [("begin", 10, Some(0)), ("end", 40, Some(3))]);
    assert_eq!(run.stopped_by().as_deref(), Some("max_steps"));
}

#[test]
fn delay_wait_warm_up_and_repeat_follow_each_other() {
    let schedule = Schedule {
        delay_ms: 15,
        delay_steps: 1,
        wait_steps: 1,
        warmup_steps: 1,
        active_steps: Some(2),
        repeat: 2,
        ..Schedule::default()
    };
    let mut run = Run::committed(schedule, Limits::default());
    for step in 0..20 {
        run.step(ms(10 * step));
    }
    assert_eq!(
        run.marks(),
        [
            // Steps 0 and 1 lie before 15 ms, 2 is the delay, 3 the wait.
            ("warmup", 40, Some(4)),
            ("begin", 50, Some(5)),
            ("end", 70, Some(7)),
            ("warmup", 80, Some(8)),
            ("begin", 90, Some(9)),
            ("end", 110, Some(11)),
        ]
    );
    assert_eq!(run.stopped_by().as_deref(), Some("schedule"));
    let numbers: Vec<u32> = run.edges().iter().map(|edge| edge.window).collect();
    assert_eq!(numbers, [0, 0, 0, 1, 1, 1]);
}

#[test]
fn the_start_step_counts_from_the_process_and_may_be_past() {
    for (start, first) in [(7, 7), (3, 5)] {
        let schedule = Schedule { start_step: Some(start), ..steps(1) };
        let mut run = Run::new(schedule, Limits::default());
        for step in 0..5 {
            run.step(ms(0).monotonic_ns.checked_sub((5 - step) * MS).map(ns).unwrap());
        }
        run.machine.commit(ms(0), ms(0), &mut run.out);
        for step in 0..10 {
            run.step(ms(10 + step));
        }
        assert_eq!(run.marks()[0].2, Some(first), "start_step {start}");
    }
}

#[test]
fn steps_between_t0_and_a_late_commit_count() {
    let mut run = Run::new(steps(2), Limits::default());
    for step in 0..6 {
        run.step(ns((990 + 5 * step) * MS));
    }
    run.machine.commit(ms(0), ms(30), &mut run.out);
    assert_eq!(run.marks(), [("begin", 0, Some(2)), ("end", 10, Some(4))]);
    assert_eq!(run.machine.steps(), 3, "steps after the end do not count");
}

#[test]
fn the_duration_ends_at_its_instant_even_where_nobody_looked_in_time() {
    let limits = Limits { duration_ms: Some(50), ..Limits::default() };
    let schedule = Schedule { delay_ms: 10, ..Schedule::default() };
    let mut run = Run::committed(schedule, limits);
    run.machine.tick(ms(500), &mut run.out);
    assert_eq!(run.marks(), [("begin", 10, None), ("end", 60, None)]);
    assert_eq!(run.stopped_by().as_deref(), Some("duration"));
}

#[test]
fn stalled_steps_end_by_time() {
    let limits = Limits { max_session_ms: 1_000, ..Limits::default() };
    let mut run = Run::committed(steps(100), limits.clone());
    run.step(ms(5));
    run.step(ms(10));
    run.machine.tick(ms(1_001), &mut run.out);
    assert_eq!(run.marks(), [("begin", 5, Some(0)), ("end", 1_000, None)]);
    assert_eq!(run.stopped_by().as_deref(), Some("max_session"));

    let mut none = Run::committed(steps(1), limits);
    none.machine.tick(ms(1_000), &mut none.out);
    assert_eq!(none.marks(), [("abandoned", 1_000, None)]);
}

#[test]
fn a_stop_before_the_commit_abandons() {
    let mut run = Run::new(Schedule::default(), Limits::default());
    run.machine.stop(ms(3), "disarm", &mut run.out);
    assert_eq!(run.marks(), [("abandoned", 3, None)]);
    run.machine.commit(ms(0), ms(4), &mut run.out);
    assert_eq!(run.machine.state(), WorkerState::Draining);
}

#[test]
fn an_open_window_says_so_behind_the_present_and_no_end_contradicts_it() {
    let mut run = Run::committed(Schedule::default(), Limits::default());
    let mut now = 0;
    while now < 2_000 {
        let next = run.machine.next_tick().unwrap() / MS - 1_000;
        assert!(next > now, "time moves: {now} then {next}");
        now = next;
        run.machine.tick(ms(now), &mut run.out);
    }
    let open: Vec<u64> = run
        .edges()
        .iter()
        .filter(|e| e.edge == WindowEdge::Open.number())
        .map(|e| e.monotonic / MS - 1_000)
        .collect();
    assert_eq!(open, [250, 500, 750, 1_000, 1_250, 1_500, 1_750, 2_000][..open.len()]);
    assert!(open.len() >= 7, "{open:?}");
    let last = *open.last().unwrap();
    run.machine.stop(ms(last - 100), "request", &mut run.out);
    assert_eq!(run.marks().last(), Some(&("end", last as i64, None)));
}

#[test]
fn a_long_delay_enables_one_step_ahead() {
    let schedule = Schedule { delay_steps: 5, ..steps(1) };
    let mut run = Run::committed(schedule, Limits::default());
    let mut enabled_at = None;
    for step in 0..8 {
        assert!(!run.machine.is_enabled() || enabled_at.is_some());
        run.step(ms(step));
        if run.out.contains(&Output::Enable) && enabled_at.is_none() {
            enabled_at = Some(step);
        }
    }
    assert_eq!(enabled_at, Some(3), "the window begins at step 5");

    let schedule = Schedule { delay_ms: 60_000, ..Schedule::default() };
    let mut run = Run::committed(schedule, Limits::default());
    assert_eq!(run.machine.next_tick(), Some(ms(59_000).monotonic_ns));
    run.machine.tick(ms(58_999), &mut run.out);
    assert!(!run.machine.is_enabled());
    run.machine.tick(ms(59_000), &mut run.out);
    assert!(run.machine.is_enabled());
    assert_eq!(run.out.iter().filter(|o| **o == Output::Enable).count(), 1);
}

#[test]
fn a_step_of_the_real_time_clock_moves_no_edge() {
    let mut run = Run::committed(Schedule::default(), Limits::default());
    let stepped = Instant { monotonic_ns: ms(100).monotonic_ns, realtime_ns: EPOCH - 7 };
    run.machine.stop(stepped, "request", &mut run.out);
    let end = run.edges().pop().unwrap();
    assert_eq!((end.monotonic, end.realtime), (ms(100).monotonic_ns, EPOCH - 7));
}

#[test]
fn numbers_that_must_be_positive_are_refused() {
    let refused = Machine::new(steps(0), Limits::default()).unwrap_err();
    assert_eq!(refused, ScheduleError::Zero { field: "active_steps" });
    let limits = Limits { max_steps: Some(0), ..Limits::default() };
    assert!(Machine::new(Schedule::default(), limits).is_err());
}

#[test]
fn very_many_windows_are_counted_and_a_thousand_listed() {
    let mut run = Run::committed(Schedule { repeat: 0, ..steps(1) }, Limits::default());
    for step in 0..3_000 {
        run.step(ms(step));
    }
    assert_eq!(run.machine.windows_begun(), 3_000);
    assert_eq!(run.machine.windows().len(), 1_000);
    assert!(run.machine.windows().iter().all(|(_, end)| end.is_some()));
}

#[derive(Clone, Debug)]
enum Input {
    Step(u64),
    Tick(u64),
    Stop(u64),
}

/// Steps lie at least `least` ms after what came before.
fn inputs(least: u64) -> impl Strategy<Value = Vec<Input>> {
    let input = prop_oneof![
        6 => (least..40).prop_map(Input::Step),
        3 => (0u64..400).prop_map(Input::Tick),
        1 => (0u64..40).prop_map(Input::Stop),
    ];
    proptest::collection::vec(input, 0..200)
}

prop_compose! {
    fn schedules()(
        delay_ms in 0u64..3_000,
        delay_steps in 0u64..4,
        start_step in proptest::option::of(0u64..20),
        wait_steps in 0u64..3,
        warmup_steps in 0u64..3,
        active_steps in proptest::option::of(1u64..5),
        repeat in 0u32..4,
    ) -> Schedule {
        Schedule {
            delay_ms: if delay_ms > 500 { 0 } else { delay_ms },
            delay_steps, start_step, wait_steps, warmup_steps, active_steps, repeat,
        }
    }
}

prop_compose! {
    fn limits()(
        duration_ms in proptest::option::of(1u64..3_000),
        max_steps in proptest::option::of(1u64..20),
        max_session_ms in 1u64..20_000,
    ) -> Limits {
        Limits { duration_ms, max_steps, max_session_ms, ..Limits::default() }
    }
}

/// Runs the machine and returns it with the stamps of all steps from the commit on.
fn play(schedule: Schedule, limits: Limits, inputs: &[Input], stops: bool) -> (Run, Vec<u64>) {
    let mut run = Run::committed(schedule, limits);
    let mut now = 0;
    let mut stamps = Vec::new();
    for input in inputs {
        match *input {
            Input::Step(after) => {
                now += after;
                stamps.push(ms(now).monotonic_ns);
                run.step(ms(now));
            }
            Input::Tick(after) => {
                now += after;
                run.machine.tick(ms(now), &mut run.out);
            }
            Input::Stop(before) if stops => {
                run.machine.stop(ms(now.saturating_sub(before)), "request", &mut run.out);
            }
            Input::Stop(_) => {}
        }
    }
    (run, stamps)
}

proptest! {
    #[test]
    fn edges_never_run_back_and_windows_never_overlap(
        schedule in schedules(), limits in limits(), inputs in inputs(0),
    ) {
        let max_session = limits.max_session_ms;
        let duration = limits.duration_ms;
        let (mut run, _) = play(schedule, limits, &inputs, true);
        run.machine.tick(ms(30_000), &mut run.out);
        let edges = run.edges();
        prop_assert!(edges.windows(2).all(|pair| pair[0].monotonic <= pair[1].monotonic));
        let mut open = None;
        let mut next = 0;
        for edge in &edges {
            match WindowEdge::from_number(edge.edge).unwrap() {
                WindowEdge::Begin => {
                    prop_assert_eq!(open, None);
                    prop_assert_eq!(edge.window, next);
                    open = Some(edge.window);
                    next += 1;
                }
                WindowEdge::End => {
                    prop_assert_eq!(open, Some(edge.window));
                    open = None;
                }
                WindowEdge::Open => prop_assert_eq!(open, Some(edge.window)),
                WindowEdge::Warmup => prop_assert_eq!(open, None),
                WindowEdge::Abandoned => prop_assert_eq!(next, 0),
            }
        }
        prop_assert_eq!(open, None, "every window has an end");
        prop_assert_eq!(run.machine.windows_begun(), next);

        // The session is over, once, and within its limits.
        let stops = run.out.iter().filter(|o| matches!(o, Output::Stop(_))).count();
        prop_assert_eq!(stops, 1);
        prop_assert!(matches!(run.out.last(), Some(Output::Stop(_))));
        let last = edges.last().unwrap();
        prop_assert!(last.monotonic <= ms(max_session).monotonic_ns);
        if let (Some(duration), Some((begin, _))) = (duration, run.machine.windows().first()) {
            prop_assert!(last.monotonic <= begin.monotonic_ns + duration * MS);
        }
    }

    #[test]
    fn windows_hold_exactly_the_steps_they_were_asked_for(
        schedule in schedules(), limits in limits(), inputs in inputs(1),
    ) {
        let asked = schedule.active_steps;
        let max_steps = limits.max_steps;
        let (run, stamps) = play(schedule, limits, &inputs, false);
        let cause = run.machine.stopped_by();
        let windows = run.machine.windows();
        let mut total = 0;
        for (position, (begin, end)) in windows.iter().enumerate() {
            let Some(end) = *end else { continue };
            let window = begin.monotonic_ns..end.monotonic_ns;
            let count = stamps.iter().filter(|stamp| window.contains(stamp)).count() as u64;
            total += count;
            // A limit may have cut the last window short.
            let is_last = position + 1 == windows.len();
            let cut = is_last && cause.is_some_and(|cause| *cause != StopCause::Schedule);
            if let (Some(asked), false) = (asked, cut) {
                prop_assert_eq!(count, asked);
            }
        }
        if cause == Some(&StopCause::MaxSteps) {
            prop_assert_eq!(Some(total), max_steps);
        }
    }
}
