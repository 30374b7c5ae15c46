//! Chunks: nothing lost uncounted, each thread's entries in their order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use profiler_core::chunk::{
    CHUNK_BYTES, ChunkCollector, MAX_PAYLOAD_BYTES, PoolCell, SPARE_BYTES, chunks,
    chunks_with_spare,
};

fn numbers_of(collector: &mut ChunkCollector) -> BTreeMap<u32, Vec<u64>> {
    let mut numbers: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    collector.drain(|entry| {
        assert_eq!(entry.kind, 3);
        let (number, rest) = entry.payload.split_first_chunk::<8>().expect("a number");
        let number = u64::from_le_bytes(*number);
        assert_eq!(rest.len() as u64, number % 61);
        assert!(rest.iter().all(|&byte| byte == number as u8));
        numbers.entry(entry.thread).or_default().push(number);
    });
    numbers
}

#[test]
fn four_threads_keep_their_order_while_the_collector_reads() {
    const ENTRIES: u64 = 200_000;
    let (pool, mut collector) = chunks(64 << 20);
    let running = AtomicBool::new(true);
    let mut seen: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut refused = 0u64;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let mut refused = 0;
                    for number in 0..ENTRIES {
                        let filler = [number as u8; 61];
                        let filler = &filler[..(number % 61) as usize];
                        let taken = pool.append(3, &number.to_le_bytes(), filler);
                        refused += u64::from(!taken);
                    }
                    refused
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            while running.load(Ordering::Acquire) {
                for (thread, numbers) in numbers_of(&mut collector) {
                    seen.entry(thread).or_default().extend(numbers);
                }
            }
        });
        refused = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        running.store(false, Ordering::Release);
        reader.join().unwrap();
    });
    for (thread, numbers) in numbers_of(&mut collector) {
        seen.entry(thread).or_default().extend(numbers);
    }
    let dropped: u64 = collector.take_dropped().iter().map(|&(_, count)| count).sum();
    assert_eq!(dropped, refused, "a refused entry is counted once");
    let taken: usize = seen.values().map(Vec::len).sum();
    assert_eq!(taken as u64 + dropped, 4 * ENTRIES);
    assert!(seen.len() <= 4);
    for numbers in seen.values() {
        assert!(numbers.is_sorted_by(|a, b| a < b), "entries of one thread keep their order");
    }
}

#[test]
fn an_empty_pool_drops_and_counts() {
    let (pool, mut collector) = chunks(2 * CHUNK_BYTES);
    let payload = [0u8; 1000];
    let mut taken = 0u64;
    while pool.append(5, &payload, &[]) {
        taken += 1;
    }
    let header_bytes = 64;
    assert_eq!(taken, 2 * ((CHUNK_BYTES as u64 - header_bytes) / 1008));
    assert!(!pool.append(5, &payload, &[]));
    assert!(!pool.append(900, &payload, &[]), "kinds past the last counter share it");
    assert_eq!(collector.take_dropped(), [(5, 2), (15, 1)]);
    assert_eq!(collector.take_dropped(), []);
    let mut seen = 0;
    collector.drain(|_| seen += 1);
    assert_eq!(seen, taken);
    assert!(pool.append(5, &payload, &[]), "the first chunk is free again");
    assert_eq!(collector.bytes(), 2 * CHUNK_BYTES);
}

#[test]
fn the_chunk_of_a_dead_thread_is_taken_over() {
    let (pool, mut collector) = chunks(CHUNK_BYTES);
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(pool.append(1, b"last words", &[])));
    });
    let mut seen = Vec::new();
    collector.drain(|entry| seen.push(entry.payload.to_vec()));
    assert_eq!(seen, [b"last words"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !pool.append(2, b"mine", &[]) {
        assert!(std::time::Instant::now() < deadline, "the only chunk never became free");
        collector.drain(|_| ());
    }
}

#[test]
fn a_closed_pool_refuses_and_a_later_one_works() {
    let cell = PoolCell::new();
    assert!(cell.is_empty() && cell.get().is_none());
    let (old, mut collector) = chunks(1 << 20);
    cell.set(Some(old));
    assert!(cell.get().unwrap().append(1, b"old", &[]));
    collector.close();
    assert!(!old.append(1, b"late", &[]) && !old.is_open());
    assert!(cell.get().is_none());
    let mut seen = Vec::new();
    collector.drain(|entry| seen.push(entry.payload.to_vec()));
    assert_eq!(seen, [b"old"]);
    assert_eq!(collector.take_dropped(), [], "a closed pool drops nothing that it should have");
    drop(collector);

    for round in 0..20u64 {
        let (pool, mut collector) = chunks(1 << 20);
        cell.set(Some(pool));
        assert!(cell.get().unwrap().append(1, &round.to_le_bytes(), &[]));
        assert!(!old.append(1, b"late", &[]));
        let mut seen = Vec::new();
        collector.drain(|entry| seen.push(entry.payload.to_vec()));
        assert_eq!(seen, [round.to_le_bytes()]);
    }
    cell.set(None);
    assert!(cell.is_empty());
}

/// A pool that ends gives its chunks away while others take them.
#[test]
fn pools_that_come_and_go_share_no_chunk() {
    std::thread::scope(|scope| {
        for kind in 1..5u16 {
            scope.spawn(move || {
                for round in 0..2_000u64 {
                    let (pool, mut collector) = chunks(4 * CHUNK_BYTES);
                    let payload = [kind as u8; 4000];
                    let taken = (0..40).filter(|_| pool.append(kind, &payload, &[])).count();
                    let mut seen = 0;
                    collector.drain(|entry| {
                        assert_eq!(entry.kind, kind, "round {round}");
                        assert_eq!(entry.payload, payload);
                        seen += 1;
                    });
                    assert_eq!(seen, taken, "round {round}");
                }
            });
        }
    });
}

#[test]
fn payloads_of_every_length_up_to_the_longest() {
    let (pool, mut collector) = chunks(8 << 20);
    let bytes: Vec<u8> = (0..MAX_PAYLOAD_BYTES + 1).map(|i| i as u8).collect();
    let lengths = [0, 1, 7, 8, 9, 4096, MAX_PAYLOAD_BYTES - 1, MAX_PAYLOAD_BYTES];
    for len in lengths {
        assert!(pool.append(1, &bytes[..len], &[]));
    }
    assert!(!pool.append(1, &bytes, &[]));
    assert_eq!(collector.take_dropped(), [(1, 1)]);
    let mut seen = Vec::new();
    collector.drain(|entry| {
        assert_eq!(entry.payload, &bytes[..entry.payload.len()]);
        assert_eq!(entry.payload.as_ptr() as usize % 8, 0);
        seen.push(entry.payload.len());
    });
    assert_eq!(seen, lengths);
}

#[test]
fn threads_that_begin_at_once_all_find_a_chunk() {
    const THREADS: usize = 64;
    let (pool, mut collector) = chunks(64 << 20);
    let before = collector.bytes();
    assert!(before < 2 << 20, "{before} bytes are taken before anybody writes");
    for round in 0..3u64 {
        let begin = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    begin.wait();
                    for number in 0..40_u64 {
                        assert!(pool.append(3, &(number + round).to_le_bytes(), &[]));
                    }
                });
            }
        });
        let mut seen = 0;
        collector.drain(|entry| seen += u64::from(entry.kind == 3));
        assert_eq!(seen, THREADS as u64 * 40, "round {round}");
    }
    assert_eq!(collector.take_dropped(), []);
    assert!(collector.bytes() >= THREADS * CHUNK_BYTES);
}

#[test]
fn what_stands_ready_is_taken_without_the_collector() {
    for spare_bytes in [SPARE_BYTES, 3 * SPARE_BYTES] {
        let (pool, mut collector) = match spare_bytes {
            SPARE_BYTES => chunks(64 << 20),
            more => chunks_with_spare(64 << 20, more),
        };
        let payload = [7; 1000];
        let appended = (0..).take_while(|_| pool.append(3, &payload, &[])).count();
        let bytes = appended * payload.len();
        assert!((spare_bytes * 9 / 10..=spare_bytes).contains(&bytes), "{bytes} of {spare_bytes}");
        let mut drained = 0;
        collector.drain(|_| drained += 1);
        assert_eq!(drained, appended);
        assert_eq!(collector.take_dropped(), [(3, 1)]);
        assert!(pool.append(3, &payload, &[]), "more was prepared");
    }
}
