//! A panic of the agent's own ends the session, and not the worker.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{arm, builder, connect, eventually, spool_file, turn};
use profiler_core::clock::{ClockSource, Instant, SystemClock};
use profiler_core::control::{AgentReply, AgentRequest, WorkerState};
use profiler_core::record::ClockTuple;

/// A clock that panics so many times on the session's thread.
struct Panicking {
    clock: SystemClock,
    times: Arc<AtomicU32>,
}

impl Panicking {
    fn look(&self) {
        if std::thread::current().name() != Some("omniprof-clock") {
            return;
        }
        let left = |times: u32| times.checked_sub(1);
        let taken = self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        assert!(taken.is_err(), "the clock panics");
    }
}

impl ClockSource for Panicking {
    fn monotonic_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }

    fn realtime_ns(&self) -> u64 {
        self.clock.realtime_ns()
    }

    fn boottime_ns(&self) -> u64 {
        self.clock.boottime_ns()
    }

    fn tsc(&self) -> u64 {
        self.clock.tsc()
    }

    fn now(&self) -> Instant {
        self.look();
        self.clock.now()
    }

    fn tuple(&self) -> ClockTuple {
        self.clock.tuple()
    }
}

#[test]
fn a_panic_of_the_sessions_thread_ends_the_session_alone() {
    let _turn = turn();
    let times = Arc::new(AtomicU32::new(0));
    let clock = Panicking { clock: SystemClock::new(), times: Arc::clone(&times) };
    let (agent, mut controller, _) = connect(builder().clock(Arc::new(clock)));
    // Once, and again where the session is stopped for it.
    for (fence, panics) in [(1, 1), (2, 2)] {
        let spool = spool_file();
        controller.arm(arm(fence), Some(&spool.file)).unwrap();
        controller.commit(fence).unwrap();
        times.store(panics, Ordering::SeqCst);
        let (result, states) = controller.finished();
        let error = result.error.unwrap();
        assert_eq!(error.code, "agent_panicked");
        assert!(error.message.contains("the clock panics"), "{error}");
        assert_eq!(states.last(), Some(&WorkerState::Failed));
        assert!(result.spool_closed);
        assert_eq!(times.load(Ordering::SeqCst), 0);
        let is_idle = || match controller.ask(AgentRequest::Status, None).unwrap() {
            AgentReply::Status { session } => session.is_none(),
            other => panic!("unexpected {other:?}"),
        };
        assert!(eventually(is_idle));
    }
    let spool = spool_file();
    controller.arm(arm(3), Some(&spool.file)).unwrap();
    controller.commit(3).unwrap();
    agent.step();
    controller.stop(3).unwrap();
    let (result, _) = controller.finished();
    assert_eq!((result.error, result.steps), (None, 1));
}
