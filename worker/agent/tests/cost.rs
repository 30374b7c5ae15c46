//! What a session says of its own cost, held against what the kernel says of the process.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "says what was compared")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{arm, connect, rows, spool_file};
use profiler_agent::Agent;
use profiler_core::record::Fact;

const BUSY_THREADS: usize = 4;
const WORK: Duration = Duration::from_millis(1500);

/// One of the sizes in `/proc/self/status`, in bytes.
fn status_bytes(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Private memory and the mappings of perf's rings, which not every kernel counts among it.
fn held_bytes() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let rings = maps.lines().filter(|line| line.ends_with("anon_inode:[perf_event]"));
    let ring_bytes = rings.map(|line| {
        let (begin, end) = line.split_ascii_whitespace().next().unwrap().split_once('-').unwrap();
        u64::from_str_radix(end, 16).unwrap() - u64::from_str_radix(begin, 16).unwrap()
    });
    status_bytes("RssAnon:") + ring_bytes.sum::<u64>()
}

fn process_cpu_ns() -> u64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec as u64 * 1_000_000_000 + spent.tv_nsec as u64
}

#[test]
fn the_memory_that_is_told_is_what_the_process_grew_by() {
    let (_agent, mut controller, _hello) = connect(Agent::builder());
    let spool = spool_file();
    let mut host = arm(1);
    host.capture.host = true;
    let is_over = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let number = rounds.fetch_add(1, Ordering::Relaxed);
            let _span = profiler_agent::span("work").field("number", number).enter();
            std::hint::black_box((0..2000_u64).fold(1, |sum: u64, n| sum.rotate_left(3) ^ n));
        }
    };
    let (grown, result, cpu_ns) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..BUSY_THREADS).map(|_| scope.spawn(work)).collect();
        // Their stacks and arenas are theirs, not ours.
        std::thread::sleep(Duration::from_millis(100));
        let before = held_bytes();
        let cpu_before = process_cpu_ns();
        controller.arm(host, Some(&spool.file)).unwrap();
        controller.commit(1).unwrap();
        let begin = Instant::now();
        let mut most = before;
        while begin.elapsed() < WORK {
            most = most.max(held_bytes());
            std::thread::sleep(Duration::from_millis(5));
        }
        controller.stop(1).unwrap();
        let (result, _) = controller.finished();
        let cpu_ns = process_cpu_ns() - cpu_before;
        is_over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        (most - before, result, cpu_ns)
    });
    assert_eq!(result.error, None);
    let told = result.own_memory_bytes;
    let sampler = rows::<Fact>(&spool.path).into_iter().find_map(|(_, row, heap)| {
        (row.key.text(&heap)? == "cpu.sampler").then(|| row.value.text(&heap).unwrap().into_owned())
    });
    println!(
        "{} KiB told, grown by {} KiB; {} us of {} us processor time; sampler {sampler:?}, rows {:?}",
        told >> 10,
        grown >> 10,
        result.own_cpu_ns / 1000,
        cpu_ns / 1000,
        result.rows
    );
    // Peaks of parts that are reached at different times add up to more than was held at once, and
    // allocators round; but what is told must not leave out a part.
    assert!(told >= grown / 10 * 6, "{told} bytes are told, {grown} were taken");
    assert!(told <= grown * 3, "{told} bytes are told, {grown} were taken");
    let marks_ns = 100 * result.rows["span"];
    assert!(result.own_cpu_ns > marks_ns, "{} of {marks_ns}", result.own_cpu_ns);
    assert!(result.own_cpu_ns < cpu_ns, "{} of {cpu_ns}", result.own_cpu_ns);
}
