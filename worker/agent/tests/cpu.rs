//! A session with `backend-cpu`, as a host's worker has it.
#![cfg(feature = "cpu")]

mod common;

use common::{arm, connect, kinds, rows, spool_file};
use profiler_agent::Agent;
use profiler_core::record::{Counter, Fact, Sample};

#[test]
fn the_host_is_recorded_and_the_cost_is_told() {
    let (_agent, mut controller, hello) = connect(Agent::builder());
    assert!(hello.backends.iter().any(|backend| backend.id.as_str() == "cpu"));
    let map = format!("/tmp/perf-{}.map", std::process::id());
    std::fs::write(&map, "1000 10 jitted\n").unwrap();
    let spool = spool_file();
    let mut host = arm(1);
    host.capture.host = true;
    let armed = controller.arm(host, Some(&spool.file)).unwrap();
    assert_eq!(armed.backend, None, "{}", armed.why);
    controller.commit(1).unwrap();
    let work = std::time::Instant::now();
    let mut sum = 0_u64;
    while work.elapsed() < std::time::Duration::from_millis(400) {
        let _span = profiler_agent::span("work").enter();
        sum = sum.wrapping_add((0..10_000_u64).fold(sum, |sum, n| sum.rotate_left(3) ^ n));
    }
    assert_ne!(sum, 1);
    controller.stop(1).unwrap();
    let (result, _) = controller.finished();
    std::fs::remove_file(&map).unwrap();
    assert_eq!(result.error, None);
    assert!(result.own_cpu_ns > 0 && result.own_memory_bytes > 0);
    assert!(kinds(&spool.path).contains_key(&<Counter as profiler_core::record::Row>::KIND));
    let fact = |key: &str| {
        rows::<Fact>(&spool.path).into_iter().find_map(|(_, row, heap)| {
            (row.key.text(&heap)? == key).then(|| row.value.text(&heap).unwrap().into_owned())
        })
    };
    assert!(fact("process.command_line").is_some());
    // Where perf is not permitted there are no samples, and a fact says why.
    if rows::<Sample>(&spool.path).is_empty() {
        assert!(fact("cpu.sampler.reason").is_some());
    }
    if fact("cpu.perf_map").is_some() {
        let copy = std::fs::read_to_string(spool.path.with_extension("perf-map")).unwrap();
        assert_eq!(copy, "1000 10 jitted\n", "{:?}", result.notes);
    } else {
        panic!("the map is named: {:?}", result.notes);
    }
}
