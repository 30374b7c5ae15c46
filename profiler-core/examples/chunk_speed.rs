//! Prints what an append to a chunk costs an application thread.
#![expect(clippy::print_stdout, reason = "a program that prints numbers")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use profiler_core::chunk::{PoolCell, chunks};

static CURRENT: PoolCell = PoolCell::new();

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn main() {
    const ENTRIES: u32 = 20_000_000;
    const BURST: u32 = 20_000;
    const BURSTS: u32 = 200;
    let idle = Instant::now();
    for _ in 0..ENTRIES {
        std::hint::black_box(CURRENT.get().is_some());
    }
    println!("without a pool: {:.2} ns", idle.elapsed().as_nanos() as f64 / f64::from(ENTRIES));
    let (pool, mut collector) = chunks(64 << 20);
    CURRENT.set(Some(pool));
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0u64;
            while running.load(Ordering::Relaxed) {
                collector.drain(|entry| seen += entry.payload.len() as u64 / 48);
                std::thread::sleep(Duration::from_millis(20));
            }
            collector.drain(|entry| seen += entry.payload.len() as u64 / 48);
            (seen, collector.take_dropped().iter().map(|drop| drop.1).sum::<u64>())
        });
        let payload = [7u8; 48];
        // Bursts, with time for the collector to prepare chunks between them.
        let mut cpu = Duration::ZERO;
        for _ in 0..BURSTS {
            let begin = thread_cpu();
            for _ in 0..BURST {
                if let Some(pool) = CURRENT.get() {
                    std::hint::black_box(pool.append(1, std::hint::black_box(&payload), &[]));
                }
            }
            cpu += thread_cpu() - begin;
            std::thread::sleep(Duration::from_millis(10));
        }
        let each = cpu.as_nanos() as f64 / f64::from(BURST * BURSTS);
        running.store(false, Ordering::Relaxed);
        println!("append of 48 bytes: {each:.1} ns, (taken, dropped) {:?}", reader.join().ok());
    });
}
