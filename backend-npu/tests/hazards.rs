//! What the library, its device and other clients of it do that its header does not tell: each is a
//! test with what a person would read.

mod support;

use std::time::Duration;

use profiler_core::error::BackendError;
use profiler_core::record::{Kernel, LossCause, Row as _};

use support::Activity;
use support::session::{DRAIN, alone, assert_works, sink, started, until_read};

/// No test waits so long: a stop that does so never ended of itself.
const LONG_DRAIN: Duration = Duration::from_secs(60);

#[test]
fn kinds_are_off_before_the_subscription_is_given_back() {
    let alone = alone();
    let mut session = started(alone.fake, &sink());
    assert!(alone.fake.enabled() >= 4);
    session.stop(DRAIN).expect("stops");
    // The library itself leaves them on.
    assert_eq!((alone.fake.kinds_at_unsubscribe(), alone.fake.enabled()), (0, 0));
}

#[test]
fn what_a_device_hands_over_late_is_kept() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    for flushes in [2, 3] {
        alone.fake.arrives(100, Activity::now().start, flushes, false);
    }
    session.stop(LONG_DRAIN).expect("stops");
    assert_eq!((alone.fake.arrived(), sink.rows(Kernel::KIND)), (200, 200));
}

#[test]
fn a_device_that_never_ends_holds_a_stop_up_until_its_deadline() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    // It ran before the stop, and so is waited for.
    alone.fake.arrives(1, Activity::now().start, 1, true);
    session.stop(Duration::from_secs(2)).expect("stops");
    assert!(
        alone.fake.arrived() > 5,
        "{} looks, though each found something",
        alone.fake.arrived()
    );
    assert_eq!(sink.rows(Kernel::KIND), alone.fake.arrived());
    assert_works_without_arrivals(alone.fake);
}

#[test]
fn work_that_begins_after_a_stop_does_not_hold_it_up() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    let before = alone.fake.calls(c"msptiActivityFlushAll");
    let hour_ns = 3_600_000_000_000;
    alone.fake.arrives(1, Activity::now().start + hour_ns, 1, true);
    session.stop(LONG_DRAIN).expect("stops");
    let flushes = alone.fake.calls(c"msptiActivityFlushAll") - before;
    assert!(flushes < 200, "{flushes} flushes of work that nobody waits for");
    assert_works_without_arrivals(alone.fake);
}

fn assert_works_without_arrivals(fake: &support::FakeMspti) {
    fake.reset();
    fake.preload(false);
    assert_works(fake);
}

/// A client that takes the slot while no buffer is lent gets all that is recorded from then on.
#[test]
fn a_rival_that_takes_the_callback_slot_costs_what_it_got_and_is_told() {
    let alone = alone();
    let fake = alone.fake;
    let sink = sink();
    let mut session = started(fake, &sink);
    fake.launch(c"ours", 100, 1);
    session.flush().expect("flushes");
    until_read(&sink, 100);
    fake.rival_takes_the_slot();
    fake.launch(c"to the rival", 100, 1);
    session.flush().expect("flushes");
    fake.launch(c"ours again", 100, 1);
    let summary = session.stop(DRAIN).expect("rows came before and after");
    assert_eq!(sink.rows(Kernel::KIND), 200, "{:?}", summary.notes);
    // The rival's buffer held 100 kernels and their launches.
    let lost = sink.losses().get(&LossCause::DriverDropped).copied().unwrap_or(0);
    assert!((200..300).contains(&lost), "{lost}");
    let told = summary.notes.iter().any(|note| {
        note.contains("took MSPTI's callback slot") && note.contains("torch_npu's profiler")
    });
    assert!(told, "{:?}", summary.notes);
    assert_works(fake);
}

#[test]
fn a_rival_that_has_the_slot_from_the_beginning_is_busy_and_no_success() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    alone.fake.rival_takes_the_slot();
    alone.fake.launch(c"to the rival", 100, 1);
    let error = session.stop(DRAIN).expect_err("no success");
    assert!(matches!(error, BackendError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("took MSPTI's callback slot"), "{error}");
    assert_eq!(sink.rows(Kernel::KIND), 0);
    assert!(sink.losses().contains_key(&LossCause::DriverDropped), "{:?}", sink.losses());
    assert_works(alone.fake);
}

#[test]
fn a_rival_that_was_given_no_record_costs_nothing() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    alone.fake.launch(c"in our buffer", 100, 1);
    alone.fake.rival_takes_the_slot();
    // Our buffer is still lent, and comes to whoever has the slot when it is handed over.
    session.flush().expect("flushes");
    alone.fake.launch(c"in our buffer", 100, 1);
    alone.fake.rival_takes_the_slot();
    let summary = session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(Kernel::KIND), 200);
    assert!(sink.losses().is_empty(), "{:?}", sink.losses());
    assert!(summary.notes.is_empty(), "{:?}", summary.notes);
}

/// A rival that flushes itself gets our buffer, and frees it.
#[test]
fn a_rival_that_frees_our_buffer_leaves_a_reason_and_no_crash() {
    let alone = alone();
    for rows_before in [0, 100] {
        let sink = sink();
        let mut session = started(alone.fake, &sink);
        alone.fake.launch(c"read", rows_before, 1);
        session.flush().expect("flushes");
        until_read(&sink, rows_before);
        alone.fake.launch(c"in our buffer", 100, 1);
        alone.fake.rival_takes_the_slot();
        alone.fake.flush_all();
        let outcome = session.stop(DRAIN);
        assert_eq!(sink.rows(Kernel::KIND), rows_before);
        assert_eq!(sink.losses().get(&LossCause::DriverDropped), Some(&1), "a buffer, at least");
        match outcome {
            Err(error) if rows_before == 0 => {
                assert!(matches!(error, BackendError::Busy { .. }), "{error}");
                assert!(error.to_string().contains("callback slot"), "{error}");
            }
            Ok(summary) if rows_before > 0 => {
                let told = summary.notes.iter().any(|note| note.contains("never came back"));
                assert!(told, "{:?}", summary.notes);
            }
            other => panic!("{other:?}"),
        }
        for _ in 0..3 {
            assert_works(alone.fake);
        }
    }
}

#[test]
fn a_buffer_that_a_rival_left_behind_is_left_alone_and_told() {
    let alone = alone();
    // The rival's buffer is lent when our session takes the slot: it holds one of ours before.
    let mut session = started(alone.fake, &sink());
    alone.fake.fail(c"msptiActivityFlushAll", 999);
    alone.fake.rival_takes_the_slot();
    alone.fake.launch(c"in the rival's buffer", 100, 1);
    drop(session.stop(Duration::ZERO));
    alone.fake.fail(c"msptiActivityFlushAll", 0);
    let summary = assert_works(alone.fake);
    let told = summary.notes.iter().any(|note| note.contains("left alone"));
    assert!(told, "{:?}", summary.notes);
    assert!(assert_works(alone.fake).notes.is_empty());
}

/// The agent makes `no_device_records` of it.
#[test]
fn a_channel_that_does_not_start_is_a_device_in_use_without_rows() {
    let alone = alone();
    alone.fake.channel(false);
    let node = alone.fake.cann.root.join("dev/davinci0");
    for is_open in [true, false] {
        let open_device = is_open.then(|| std::fs::File::open(&node).expect("the node opens"));
        let sink = sink();
        let mut session = started(alone.fake, &sink);
        alone.fake.launch(c"unseen", 100, 1);
        let summary = session.stop(DRAIN).expect("stops");
        assert_eq!(sink.rows(Kernel::KIND), 0);
        assert_eq!(summary.device_used, Some(is_open));
        drop(open_device);
    }
}
