//! A session from arm to its result, asked over a socket by a controller as small as it gets.

mod common;

use common::{arm, builder, connect, kinds, rows, spool_file, turn};
use profiler_core::control::WorkerState;
use profiler_core::record::{ClockTuple, Fact, Marker, Row as _, Window, WindowEdge};

#[test]
fn arm_commit_and_stop_write_a_spool() {
    let _turn = turn();
    let (agent, mut controller, hello) = connect(builder());
    assert_eq!((hello.worker.stage, hello.worker.rank), (Some(2), Some(3)));
    assert_eq!(hello.backends.len(), 1);
    assert!(hello.session.is_none());

    let spool = spool_file();
    let armed = controller.arm(arm(1), Some(&spool.file)).unwrap();
    assert_eq!(armed.backend.unwrap().as_str(), "null");
    let t0 = controller.commit(1).unwrap();
    let t1 = controller.stop(1).unwrap();
    let (result, states) = controller.finished();
    assert_eq!(result.error, None);
    assert_eq!(result.stopped_by, "request");
    assert_eq!(result.windows, [(t0, Some(t1))]);
    assert_eq!(states, [WorkerState::Delayed, WorkerState::Recording, WorkerState::Draining]);
    assert!(result.spool_closed);
    assert_eq!(result.worker, agent.worker());
    assert!(result.clock_error_ns > 0);
    assert!(result.lost.is_empty(), "{:?}", result.lost);

    let found = kinds(&spool.path);
    for (kind, count) in &result.rows {
        let in_file = found.iter().find(|(found, _)| found.to_string() == *kind);
        assert_eq!(in_file.map(|(_, count)| *count), Some(*count), "{kind}");
    }
    for kind in [Window::KIND, ClockTuple::KIND, Fact::KIND, Marker::KIND] {
        assert!(found.contains_key(&kind), "{kind} in {found:?}");
    }
    assert!(found.keys().all(|kind| kind.schema().is_some()), "{found:?}");
    let edges: Vec<(u32, u64)> =
        rows::<Window>(&spool.path).iter().map(|(_, row, _)| (row.edge, row.monotonic)).collect();
    assert_eq!(
        edges,
        [
            (WindowEdge::Begin.number(), t0.monotonic_ns),
            (WindowEdge::End.number(), t1.monotonic_ns)
        ]
    );
}
