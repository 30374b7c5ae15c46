//! A session with `backend-cpu`, as a host's worker has it.
#![cfg(feature = "cpu")]

mod common;

use std::collections::BTreeSet;

use common::{arm, connect, eventually, kinds, rows, spool_file, turn};
use profiler_agent::Agent;
use profiler_core::record::{Counter, Fact, Sample};

#[test]
fn the_host_is_recorded_and_the_cost_is_told() {
    let _turn = turn();
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

#[test]
fn counters_are_read_ten_times_a_second() {
    /// Gaps that are looked at: one late reading is then far from the middle.
    const GAPS: usize = 20;
    const MILLISECOND: u64 = 1_000_000;

    let _turn = turn();
    let (_agent, mut controller, _) = connect(Agent::builder());
    let spool = spool_file();
    let mut host = arm(1);
    host.capture.host = true;
    controller.arm(host, Some(&spool.file)).unwrap();
    controller.commit(1).unwrap();
    // All counters of one reading have its instant.
    let readings = || -> BTreeSet<u64> {
        rows::<Counter>(&spool.path).iter().map(|(_, counter, _)| counter.time).collect()
    };
    assert!(eventually(|| readings().len() > GAPS));
    let times: Vec<u64> = readings().into_iter().take(GAPS + 1).collect();
    controller.stop(1).unwrap();
    controller.finished();
    let mut gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    assert!((80 * MILLISECOND..=125 * MILLISECOND).contains(&median), "{gaps:?} ns");
}
