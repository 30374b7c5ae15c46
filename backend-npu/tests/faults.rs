//! What goes wrong, on the stand-in.

mod support;

use std::ffi::CStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::backend::{Preset, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::error::BackendError;
use profiler_core::record::{
    ApiCall, ExternalCorrelation, Kernel, LossCause, Memcpy, Memory, Row as _, Span,
};
use profiler_core::sink::RecordSink;

use support::Activity;
use support::session::{DRAIN, alone, assert_works, open, refused, sink, started, until_read};

const INNER: i32 = 999;

#[test]
fn unknown_settings_are_refused_by_name() {
    let alone = alone();
    for (name, value) in [("npu.pth", "mspti"), ("npu.path", "cann"), ("npu.level", "Level1")] {
        let mut config = SessionConfig::default();
        config.options.insert(name.to_owned(), value.into());
        let sink = sink() as Arc<dyn RecordSink>;
        let opened = alone.fake.backend().open(&config, sink, Arc::new(SystemClock::new()));
        match opened.map(drop) {
            Err(BackendError::InvalidConfig { field, .. }) => assert_eq!(field, name),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_rival_subscriber_is_busy_by_name_and_the_next_start_works() {
    let alone = alone();
    alone.fake.rival(true);
    let begin = Instant::now();
    let error = refused(alone.fake, &SessionConfig::default());
    assert!(matches!(error, BackendError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("torch_npu"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(1));
    alone.fake.rival(false);
    assert_works(alone.fake);
}

#[test]
fn every_call_that_fails_at_start_is_a_typed_error_and_leaves_nothing() {
    let alone = alone();
    let calls: [&CStr; 4] = [
        c"msptiSubscribe",
        c"msptiActivityRegisterCallbacks",
        c"msptiActivityFlushAll",
        c"msptiActivityEnable",
    ];
    for call in calls {
        alone.fake.fail(call, INNER);
        match refused(alone.fake, &SessionConfig::default()) {
            BackendError::Vendor { call: failed, code, name } => {
                assert_eq!(failed, call.to_str().expect("ASCII"));
                assert_eq!((code, name.as_str()), (i64::from(INNER), "MSPTI_ERROR_INNER"));
            }
            other => panic!("{call:?}: {other}"),
        }
        alone.fake.fail(call, 0);
        assert_eq!(alone.fake.enabled(), 0, "{call:?}: kinds stay on");
        assert_works(alone.fake);
    }
}

#[test]
fn calls_that_fail_at_stop_end_the_session_all_the_same() {
    let alone = alone();
    for call in [c"msptiActivityDisable", c"msptiActivityFlushAll", c"msptiUnsubscribe"] {
        let sink = sink();
        let mut session = started(alone.fake, &sink);
        alone.fake.launch(c"k", 5, 1);
        alone.fake.fail(call, INNER);
        let begin = Instant::now();
        assert!(matches!(session.stop(DRAIN), Err(BackendError::Vendor { .. })), "{call:?}");
        assert!(begin.elapsed() < DRAIN + Duration::from_secs(1));
        alone.fake.fail(call, 0);
        // A subscription that could not be given back is, before the next.
        assert_works(alone.fake);
    }
}

#[test]
fn before_cann_9_a_start_without_preload_is_refused_with_the_line_to_write() {
    let alone = alone();
    for cann in [80, 81, 82] {
        alone.fake.cann(cann);
        let error = refused(alone.fake, &SessionConfig::default());
        assert_eq!(error.code(), "needs_ld_preload");
        let text = error.to_string();
        let line = format!("LD_PRELOAD={}", alone.fake.cann.library().display());
        assert!(text.contains("older than 9.0") && text.contains(&line), "{text}");
        assert_eq!(alone.fake.enabled(), 0);
    }
}

#[test]
fn memory_that_needs_preload_is_refused_by_field_or_recorded() {
    let alone = alone();
    let config = SessionConfig { memory: true, ..SessionConfig::default() };
    match refused(alone.fake, &config) {
        BackendError::InvalidConfig { field, reason } => {
            assert_eq!(field, "memory");
            assert!(reason.contains("LD_PRELOAD="), "{reason}");
        }
        other => panic!("{other}"),
    }
    alone.fake.preload(true);
    let sink = sink();
    let mut session = open(alone.fake, &sink, &config);
    session.start().expect("starts");
    for kind in [5, 7] {
        alone.fake.emit(kind, &Activity { bytes: 64, ..Activity::now() });
    }
    session.stop(DRAIN).expect("stops");
    assert_eq!((sink.rows(Memory::KIND), sink.rows(Memcpy::KIND)), (1, 1));
}

#[test]
fn kinds_that_are_not_allowed_are_told_and_the_rest_is_recorded() {
    let alone = alone();
    let sink = sink();
    let config = SessionConfig { preset: Preset::Full, ..SessionConfig::default() };
    let mut session = open(alone.fake, &sink, &config);
    session.start().expect("starts");
    alone.fake.launch(c"k", 10, 1);
    let summary = session.stop(DRAIN).expect("stops");
    let told: Vec<&String> =
        summary.notes.iter().filter(|note| note.contains("LD_PRELOAD=")).collect();
    assert_eq!(told.len(), 2, "memset and memcpy: {:?}", summary.notes);
    assert_eq!(sink.rows(Kernel::KIND), 10);
}

/// The end of a walk alone resets the library's cursor: buffers after one that was refused must be
/// read from their beginning.
#[test]
fn a_kind_that_the_library_does_not_know_costs_one_buffer_and_is_told() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    for (round, kind) in (1..).zip([13, 60, 0x7FFF_FFFF, u32::MAX]) {
        alone.fake.launch(c"k", 10, 1);
        alone.fake.unknown(kind);
        alone.fake.launch(c"unreachable", 10, 1);
        session.flush().expect("flushes");
        alone.fake.launch(c"k", 10, 1);
        session.flush().expect("flushes");
        until_read(&sink, round * 20);
    }
    let summary = session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(Kernel::KIND), 4 * 20, "{:?} {:?}", summary.notes, sink.losses());
    assert!(sink.losses().get(&LossCause::Undecodable).is_some_and(|lost| *lost >= 4));
    let told = summary.notes.iter().any(|note| {
        note.contains("refused to read on in 4 buffers") && note.contains("MSPTI_ERROR_INNER")
    });
    assert!(told, "{:?}", summary.notes);
    assert_works(alone.fake);
}

#[test]
fn records_that_grew_are_counted_and_named_and_never_believed() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    alone.fake.grow(8);
    let kernel = Activity { name: c"k".as_ptr(), ..Activity::now() };
    for _ in 0..100 {
        alone.fake.emit(2, &kernel);
    }
    let error = session.stop(DRAIN).expect_err("drifted");
    assert_eq!(error.code(), "abi_drift");
    let text = error.to_string();
    assert!(text.contains("kind 2 (kernel) are 64 bytes long"), "{text}");
    assert!(text.contains("56 are known"), "{text}");
    assert_eq!(sink.rows(Kernel::KIND), 0);
    assert_eq!(sink.losses().get(&LossCause::Undecodable), Some(&100));
    alone.fake.grow(0);
    assert_works(alone.fake);
}

#[test]
fn a_clock_that_steps_back_neither_crashes_nor_makes_negative_durations() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    let now = Activity::now();
    for (start, end) in [(now.start, now.end), (now.end, now.start), (now.start - 7_000_000, 0)] {
        alone.fake.emit(2, &Activity { start, end, name: c"k".as_ptr(), ..now });
    }
    let summary = session.stop(DRAIN).expect("stops");
    assert!(sink.instants().iter().all(|seen| seen.end == 0 || seen.end >= seen.time));
    assert_eq!(sink.rows(Kernel::KIND), 3);
    assert!(summary.notes.iter().any(|note| note.contains("ended before they began")));
    sink.assert_sound();
}

#[test]
fn hostile_order_repeats_and_names_are_rows_like_any_other() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    let now = Activity::now();
    let names = [std::ptr::null(), c"".as_ptr(), c"k".as_ptr()];
    for (number, correlation) in [9, 3, 3, 7, 0, u64::MAX, 3].into_iter().enumerate() {
        let start = now.start - number as u64 * 1_000;
        let name = names[number % names.len()];
        alone.fake.emit(2, &Activity { start, correlation, name, device: u32::MAX, ..now });
    }
    let end_without_start = Activity { flag: 4, id: 999, name: c"".as_ptr(), ..now };
    alone.fake.emit(1, &end_without_start);
    let still_open = Activity { flag: 2, id: 1_000, name: c"open".as_ptr(), ..now };
    alone.fake.emit(1, &still_open);
    let summary = session.stop(DRAIN).expect("stops");
    assert_eq!((sink.rows(Kernel::KIND), sink.rows(Span::KIND)), (7, 1));
    assert!(summary.notes.iter().any(|note| note.contains("2 kernels were replays")));
    assert!(summary.notes.iter().any(|note| note.contains("begun before the capture")));
    sink.assert_sound();
}

#[test]
fn external_ids_reach_the_launches_of_every_thread() {
    let alone = alone();
    let sink = sink();
    let mut session = started(alone.fake, &sink);
    // The library's stack belongs to the process, whatever its documentation says.
    alone.fake.push_external(2, 4711);
    let fake = alone.fake;
    std::thread::scope(|scope| {
        scope.spawn(|| fake.launch(c"k", 5, 1));
    });
    assert_eq!(alone.fake.pop_external(2), 0);
    session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(ExternalCorrelation::KIND), 5);
    assert_eq!(sink.rows(ApiCall::KIND), 5);
}

/// Past the memory limit the library drops a record each time it is given no buffer, and each is
/// counted.
#[test]
fn past_the_memory_limit_records_are_counted_one_by_one() {
    const RECORDS: u64 = 400_000;
    let alone = alone();
    let sink = sink();
    // Room for two buffers, and a decoder that is kept from reading: its sink waits.
    let config = SessionConfig { max_buffer_bytes: 1, ..SessionConfig::default() };
    let mut session = open(alone.fake, &sink, &config);
    session.start().expect("starts");
    let before = alone.fake.dropped();
    alone.fake.burst(c"k", RECORDS);
    session.stop(DRAIN).expect("stops");
    let dropped = alone.fake.dropped() - before;
    let lost = sink.losses().get(&LossCause::BufferExhausted).copied().unwrap_or(0);
    assert_eq!(lost, dropped);
    assert_eq!(sink.rows(Kernel::KIND) + lost, RECORDS);
    assert_works(alone.fake);
}

/// As fast as they can launch, on a machine that may be busy: what finds no buffer is counted.
#[test]
fn many_threads_lose_nothing_uncounted() {
    const THREADS: u64 = 4;
    const LAUNCHES: u64 = 20_000;
    let alone = alone();
    let fake = alone.fake;
    let sink = sink();
    let mut session = started(fake, &sink);
    let before = fake.dropped();
    std::thread::scope(|scope| {
        for stream in 0..THREADS {
            scope.spawn(move || fake.launch(c"k", LAUNCHES, stream as u32));
        }
        for _ in 0..50 {
            session.flush().expect("flushes");
        }
    });
    session.stop(Duration::from_secs(5)).expect("stops");
    let losses = sink.losses();
    let lost = losses.get(&LossCause::BufferExhausted).copied().unwrap_or(0);
    assert_eq!(losses.values().sum::<u64>(), lost, "{losses:?}");
    // Of a launch, the kernel's record may miss or its call's: both are counted alike.
    assert_eq!(lost, fake.dropped() - before);
    let missing = THREADS * LAUNCHES - sink.rows(Kernel::KIND);
    assert!(missing <= lost, "{missing} kernels miss and {lost} records are counted");
    sink.assert_sound();
}

#[test]
fn flush_period_is_never_used() {
    let alone = alone();
    assert_works(alone.fake);
    assert_eq!(alone.fake.calls(c"msptiActivityFlushPeriod"), 0);
}
