//! CUPTI is taken out of a process that is profiled no more, on the stand-in.

#![expect(clippy::exit, reason = "plays a process that ends")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backend_cuda::CudaBackend;
use profiler_core::backend::{DriverState, ProfilerBackend as _, SessionConfig};
use profiler_core::conformance::MemorySink;
use profiler_core::record::{Kernel, Row as _};
use serde_json::Value;

use support::{
    DRAIN, FakeCupti, alone, attached, child, fake, is_child, open, sink, wait_for, wait_until,
};

fn detaching_after(value: impl Into<Value>) -> SessionConfig {
    let mut config = attached();
    config.options.insert("cuda.detach_after_ms".to_owned(), value.into());
    config
}

fn capture(fake: &FakeCupti, config: &SessionConfig) -> Vec<String> {
    let sink = sink();
    let mut session = open(&sink, config);
    session.start().expect("starts");
    fake.launch(c"kernel", 10, 1, 1);
    let summary = session.stop(DRAIN).expect("stops");
    assert_eq!(summary.driver, Some(DriverState::Residue), "a stop alone never detaches");
    assert_eq!(sink.rows(Kernel::KIND), 10);
    assert_eq!(sink.losses().len(), 0);
    summary.notes
}

fn driver() -> Option<DriverState> {
    CudaBackend::new().driver()
}

fn finalized(fake: &FakeCupti) -> u64 {
    fake.calls(c"cuptiFinalize")
}

/// Nothing is due any more, whatever the test before left.
fn settle(fake: &FakeCupti) {
    fake.finalize_ms(0);
    fake.version(130_001);
    capture(fake, &detaching_after("off"));
}

#[test]
fn it_is_detached_some_time_after_the_last_session_and_can_be_used_again() {
    let _alone = alone();
    let fake = fake();
    settle(fake);
    let before = finalized(fake);
    for round in 1..=3 {
        let notes = capture(fake, &detaching_after(30));
        assert!(notes.iter().any(|note| note.contains("until 0.03 s")), "{notes:?}");
        wait_until("the detach", || driver() == Some(DriverState::Detached));
        assert_eq!(finalized(fake), before + round);
    }
    assert_eq!(fake.violations(), 0);
}

#[test]
fn it_stays_where_that_is_asked_for() {
    let _alone = alone();
    let fake = fake();
    settle(fake);
    let before = finalized(fake);
    let notes = capture(fake, &detaching_after("off"));
    assert!(notes.iter().any(|note| note.contains("`cuda.detach_after_ms` is off")), "{notes:?}");
    assert_eq!((driver(), finalized(fake)), (Some(DriverState::Residue), before));
}

#[test]
fn it_stays_where_the_library_is_too_old_for_it() {
    let _alone = alone();
    let fake = fake();
    settle(fake);
    let before = finalized(fake);
    for version in [18, 23] {
        fake.version(version);
        let notes = capture(fake, &detaching_after(0));
        assert!(notes.iter().any(|note| note.contains("older than CUDA 12.6")), "{notes:?}");
    }
    fake.version(130_001);
    assert_eq!((driver(), finalized(fake)), (Some(DriverState::Residue), before));
}

/// Waits until the thread that detaches has come to its end.
fn wait_for_verdict(fake: &FakeCupti, subscriptions: u64) {
    wait_until("the attempt", || fake.calls(c"cuptiSubscribe") > subscriptions);
    wait_until("its end", || !fake.subscribed());
}

#[test]
fn another_client_keeps_it() {
    let _alone = alone();
    let fake = fake();
    settle(fake);
    let before = finalized(fake);
    capture(fake, &detaching_after(20));
    let subscriptions = fake.calls(c"cuptiSubscribe");
    fake.rival(true);
    wait_for_verdict(fake, subscriptions);
    fake.rival(false);

    capture(fake, &detaching_after(20));
    let subscriptions = fake.calls(c"cuptiSubscribe");
    fake.stranger(true);
    wait_for_verdict(fake, subscriptions);
    fake.stranger(false);
    assert_eq!((driver(), finalized(fake)), (Some(DriverState::Residue), before));
    assert_eq!(fake.violations(), 0);
}

#[test]
fn an_open_session_keeps_it_even_before_its_start() {
    let _alone = alone();
    let fake = fake();
    settle(fake);
    let before = finalized(fake);
    capture(fake, &detaching_after(1));
    let sink: Arc<MemorySink> = sink();
    let mut session = open(&sink, &detaching_after(1));
    // Either it was detached before the session opened, or it stays until that is over.
    let opened = finalized(fake);
    assert!(opened <= before + 1);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(30) {
        assert_eq!(finalized(fake), opened);
        std::thread::yield_now();
    }
    session.start().expect("starts");
    fake.launch(c"kernel", 10, 1, 1);
    session.stop(DRAIN).expect("stops");
    drop(session);
    assert_eq!(sink.rows(Kernel::KIND), 10);
    wait_until("the detach", || driver() == Some(DriverState::Detached));
    assert_eq!(finalized(fake), opened + 1);
}

/// The most detaches of a process, on the way to which starts meet detaches at every distance
/// while other threads launch.
#[test]
fn starts_that_meet_detaches_lose_nothing_and_detaches_are_bounded() {
    const NAME: &str = "starts_that_meet_detaches_lose_nothing_and_detaches_are_bounded";
    const MOST: u64 = 32;
    if !is_child(NAME) {
        let mut child = child(NAME, &[]);
        assert!(wait_for(&mut child, Duration::from_secs(120)).success());
        return;
    }
    let fake = fake();
    fake.finalize_ms(3);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for stream in 2..4 {
            let done = &done;
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    fake.launch(c"other", 10, stream, 1);
                }
            });
        }
        let mut round = 0;
        while finalized(fake) < MOST {
            round += 1;
            let config = detaching_after(round % 4);
            let sink = sink();
            let mut session = open(&sink, &config);
            session.start().expect("a start waits for a detach that is under way");
            fake.launch(c"kernel", 10, 1, 1);
            session.stop(DRAIN).expect("stops");
            drop(session);
            assert!(sink.rows(Kernel::KIND) >= 10);
            let losses = sink.losses();
            if !losses.is_empty() {
                // The other threads would launch on.
                eprintln!("lost in round {round}: {losses:?}");
                std::process::exit(1);
            }
            // From none to more than a detach takes.
            std::thread::sleep(Duration::from_millis(round % 8));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // The start waits for the last detach, where that is still under way.
    let notes = capture(fake, &detaching_after(0));
    assert!(notes.iter().any(|note| note.contains("32 times")), "{notes:?}");
    assert_eq!((driver(), finalized(fake)), (Some(DriverState::Residue), MOST));
    assert_eq!(fake.violations(), 0);
}

/// The driver's own end must not meet a detach.
#[test]
fn a_process_that_ends_waits_for_a_detach_and_begins_none() {
    const NAME: &str = "a_process_that_ends_waits_for_a_detach_and_begins_none";
    if !is_child(NAME) {
        for when in ["during", "before"] {
            let mut child = child(NAME, &[("WHEN", when)]);
            let status = wait_for(&mut child, Duration::from_secs(20));
            assert_eq!(status.code(), Some(0), "{when}");
        }
        return;
    }
    let fake = fake();
    fake.watch_exit();
    fake.finalize_ms(200);
    if std::env::var("WHEN").is_ok_and(|when| when == "during") {
        capture(fake, &detaching_after(0));
        wait_until("the detach", || finalized(fake) == 1);
    } else {
        capture(fake, &detaching_after(60_000));
    }
    std::process::exit(0);
}
