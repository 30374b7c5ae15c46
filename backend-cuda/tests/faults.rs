//! What goes wrong, on the stand-in.

mod support;

use std::ffi::CStr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use backend_cuda::CudaBackend;
use profiler_core::backend::{Preset, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::error::BackendError;
use profiler_core::record::{ApiCall, Kernel, LossCause, Row as _};
use profiler_core::sink::{Batch, RecordSink};

use support::watched::{Watch, Watched};
use support::{DRAIN, alone, assert_works, attached, fake, open, sink};

const UNKNOWN_ERROR: i32 = 999;

#[test]
fn a_process_without_the_driver_is_left_alone() {
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &SessionConfig::default());
    let before = fake.all_calls();
    session.start().expect("starts");
    session.flush().expect("flushes");
    fake.launch(c"unseen", 10, 1, 1);
    let summary = session.stop(DRAIN).expect("stops");
    assert_eq!(fake.all_calls(), before, "a call into CUPTI");
    assert_eq!(summary.device_used, Some(false));
    assert_works(fake);
}

#[test]
fn looking_at_the_machine_calls_nothing() {
    let _alone = alone();
    let before = fake().all_calls();
    drop(CudaBackend::new().probe());
    assert_eq!(fake().all_calls(), before);
}

#[test]
fn unknown_settings_are_refused_by_name() {
    let _alone = alone();
    for (name, value) in [("cuda.atach", "at_once"), ("cuda.attach", "now")] {
        let mut config = SessionConfig::default();
        config.options.insert(name.to_owned(), value.into());
        let sink = sink() as Arc<dyn RecordSink>;
        let opened = CudaBackend::new().open(&config, sink, Arc::new(SystemClock::new()));
        match opened.map(drop) {
            Err(BackendError::InvalidConfig { field, .. }) => assert_eq!(field, name),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn another_tool_is_busy_and_the_next_start_works() {
    let _alone = alone();
    let fake = fake();
    fake.rival(true);
    let sink = sink();
    let begin = Instant::now();
    let error = open(&sink, &attached()).start().unwrap_err();
    assert_eq!(error.to_string(), "busy: CUPTI for Nsight Systems");
    assert!(matches!(error, BackendError::Busy { .. }));
    assert!(begin.elapsed() < Duration::from_secs(1));
    fake.rival(false);
    assert_works(fake);
}

#[test]
fn every_call_that_fails_at_start_is_a_typed_error_and_leaves_nothing() {
    let _alone = alone();
    let fake = fake();
    let calls: [&CStr; 5] = [
        c"cuptiSubscribe",
        c"cuptiEnableCallback",
        c"cuptiActivityRegisterCallbacks",
        c"cuptiActivityEnable",
        c"cuptiSetThreadIdType",
    ];
    for call in calls {
        fake.fail(call, UNKNOWN_ERROR);
        let error = open(&sink(), &attached()).start().unwrap_err();
        match error {
            BackendError::Vendor { call: failed, code, .. } => {
                assert_eq!(failed, call.to_str().unwrap());
                assert_eq!(code, i64::from(UNKNOWN_ERROR));
            }
            other => panic!("{call:?}: {other}"),
        }
        fake.fail(call, 0);
        assert_works(fake);
    }
}

#[test]
fn calls_that_fail_at_stop_end_the_session_all_the_same() {
    let _alone = alone();
    let fake = fake();
    for call in [c"cuptiActivityDisable", c"cuptiActivityFlushAll"] {
        let sink = sink();
        let mut session = open(&sink, &attached());
        session.start().expect("starts");
        fake.launch(c"k", 5, 1, 1);
        fake.fail(call, UNKNOWN_ERROR);
        let begin = Instant::now();
        assert!(matches!(session.stop(DRAIN), Err(BackendError::Vendor { .. })), "{call:?}");
        assert!(begin.elapsed() < DRAIN + Duration::from_secs(1));
        fake.fail(call, 0);
        assert_works(fake);
    }
}

#[test]
fn each_version_of_the_layouts_is_read() {
    let _alone = alone();
    let fake = fake();
    for version in [18, 22, 26, 28, 130_001, 130_100, 130_300, 130_401, 140_000] {
        fake.version(version);
        let sink = sink();
        let mut session = open(&sink, &attached());
        session.start().expect("starts");
        fake.launch(c"kernel_of_this_version", 1000, 3, 9);
        fake.copy(1 << 20, 3);
        session.stop(DRAIN).expect("stops");
        assert_eq!(sink.rows(Kernel::KIND), 1000, "version {version}");
        assert!(sink.losses().is_empty(), "version {version}: {:?}", sink.losses());
        sink.assert_sound();
    }
    fake.version(130_001);
}

#[test]
fn a_library_older_than_cuda_12_1_is_refused() {
    let _alone = alone();
    let fake = fake();
    fake.version(17);
    let sink = sink() as Arc<dyn RecordSink>;
    let opened = CudaBackend::new().open(&attached(), sink, Arc::new(SystemClock::new()));
    fake.version(130_001);
    match opened.map(drop) {
        Err(BackendError::Unavailable { code, message }) => {
            assert_eq!(code, "library_too_old");
            assert!(message.contains("12.1"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kernel_that_runs_across_stop_is_written_as_unfinished() {
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    fake.launch(c"short", 10, 1, 1);
    fake.hold(true);
    fake.launch(c"long", 1, 1, 1);
    session.flush().expect("flushes");
    let begin = Instant::now();
    let summary = session.stop(DRAIN).expect("stops");
    assert!(begin.elapsed() < DRAIN + Duration::from_secs(1));
    fake.hold(false);
    assert_eq!(sink.rows(Kernel::KIND), 11);
    let told = summary.notes.iter().any(|note| note.starts_with("1 rows of the device had not"));
    assert!(told, "{:?}", summary.notes);
    assert_works(fake);
}

#[test]
fn what_the_driver_drops_is_counted() {
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    fake.launch(c"k", 10, 1, 1);
    fake.drop_records(77);
    session.stop(DRAIN).expect("stops");
    assert_eq!(sink.losses().get(&LossCause::DriverDropped), Some(&77));
}

#[test]
fn kinds_that_nobody_knows_are_told_and_harm_nothing() {
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    for kind in [49, 60, 0x7FFF_FFFF, u32::MAX] {
        fake.unknown(kind);
        fake.launch(c"k", 10, 1, 1);
    }
    let summary = session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(Kernel::KIND), 40);
    assert!(summary.own_memory_bytes >= 8 << 20, "{}", summary.own_memory_bytes);
    assert!(summary.own_cpu_ns_elsewhere > 0, "callbacks ran");
    assert_eq!(summary.notes.iter().filter(|n| n.contains("not understood")).count(), 4);
}

/// A running kernel holds back its thread's buffers; past the limit the rest is discarded, and
/// every record is either a row or counted.
#[test]
fn past_the_memory_limit_records_are_counted_not_kept() {
    const LAUNCHES: u64 = 60_000;
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let config = SessionConfig { max_buffer_bytes: 8 << 20, ..attached() };
    let mut session = open(&sink, &config);
    session.start().expect("starts");
    fake.hold(true);
    fake.launch(c"held", LAUNCHES, 1, 1);
    fake.hold(false);
    session.flush().expect("flushes");
    session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(ApiCall::KIND), LAUNCHES, "calls need no buffer of CUPTI's");
    let losses = sink.losses();
    assert!(losses.contains_key(&LossCause::BufferExhausted), "the limit was reached");
    let told = sink.rows(Kernel::KIND) + losses.values().sum::<u64>();
    assert!((LAUNCHES..LAUNCHES + 100).contains(&told), "{told} kernels or losses");
    assert_works(fake);
}

/// Lets the backend wait, as no sink may.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Watch for Gate {
    fn see(&self, _group: &[Batch<'_>]) {
        let open = self.open.lock().expect("no panic");
        drop(self.opened.wait_while(open, |open| !*open).expect("no panic"));
    }
}

/// The decoder is kept from reading until the chunks of calls are full.
#[test]
fn calls_that_find_no_room_are_counted() {
    const LAUNCHES: u64 = 200_000;
    let _alone = alone();
    let fake = fake();
    let sink = Arc::new(Watched::<Gate>::default());
    let taken = Arc::clone(&sink) as Arc<dyn RecordSink>;
    let config = SessionConfig { preset: Preset::Full, ..attached() };
    let opened = CudaBackend::new().open(&config, taken, Arc::new(SystemClock::new()));
    let mut session = opened.expect("opens");
    session.start().expect("starts");
    fake.silent(true);
    fake.launch(c"k", LAUNCHES, 1, 1);
    fake.silent(false);
    *sink.watch.open.lock().expect("no panic") = true;
    sink.watch.opened.notify_all();
    session.stop(DRAIN).expect("stops");
    let lost = sink.counted.losses();
    let lost = lost.get(&LossCause::ChunksExhausted).copied().unwrap_or(0);
    assert!(lost > 0, "the chunks were not full");
    assert_eq!(sink.counted.rows(ApiCall::KIND) + lost, 3 * LAUNCHES);
    assert_works(fake);
}

#[test]
fn flushes_never_meet() {
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    std::thread::scope(|scope| {
        scope.spawn(|| fake.launch(c"k", 5_000, 1, 1));
        for _ in 0..50 {
            session.flush().expect("flushes");
        }
    });
    session.stop(DRAIN).expect("stops");
    assert_eq!(fake.flushed_at_once(), 1);
    assert_eq!(sink.rows(Kernel::KIND), 5_000);
}

#[test]
fn many_threads_lose_nothing() {
    const THREADS: u64 = 8;
    const LAUNCHES: u64 = 20_000;
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    std::thread::scope(|scope| {
        for stream in 0..THREADS {
            scope.spawn(move || fake.launch(c"k", LAUNCHES, stream as u32, 1));
        }
    });
    session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(Kernel::KIND), THREADS * LAUNCHES);
    assert_eq!(sink.rows(ApiCall::KIND), THREADS * LAUNCHES);
    assert!(sink.losses().is_empty(), "{:?}", sink.losses());
    sink.assert_sound();
}

/// What CUPTI answers on devices that it may not look at, or that it does not serve.
#[test]
fn refusals_of_a_device_are_told_with_what_to_do() {
    let _alone = alone();
    let fake = fake();
    let refusals = [
        (35, "permission", "NVreg_RestrictProfilingToAdminUsers"),
        (40, "permission", "vGPU"),
        (33, "device_not_supported", "33"),
        (43, "device_not_supported", "43"),
        (8, "out_of_device_memory", "free some"),
    ];
    for (code, word, said) in refusals {
        fake.fail(c"cuptiActivityEnable", code);
        let error = open(&sink(), &attached()).start().unwrap_err();
        assert_eq!(error.code(), word);
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!((fake.enabled(), fake.subscribed()), (0, false), "something is left on");
        fake.fail(c"cuptiActivityEnable", 0);
        assert_works(fake);
    }
}

/// A device that is lost takes CUPTI's calls with it; what came before stays.
#[test]
fn a_device_that_is_lost_while_recording_ends_the_session_with_an_error() {
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    fake.launch(c"before", 10, 1, 1);
    session.flush().expect("flushes");
    let calls: [&CStr; 6] = [
        c"cuptiActivityFlushAll",
        c"cuptiActivityDisable",
        c"cuptiActivityGetNumDroppedRecords",
        c"cuptiUnsubscribe",
        c"cuptiSetThreadIdType",
        c"cuptiFinalize",
    ];
    for call in calls {
        fake.fail(call, UNKNOWN_ERROR);
    }
    assert!(session.flush().is_err());
    fake.launch(c"lost", 10, 1, 1);
    let begin = Instant::now();
    assert!(matches!(session.stop(DRAIN), Err(BackendError::Vendor { code: 999, .. })));
    assert!(begin.elapsed() < DRAIN + Duration::from_secs(1));
    assert_eq!(sink.rows(Kernel::KIND), 10);
    // The next start finds the place free, whatever the driver says by then.
    let error = open(&support::sink(), &attached()).start().unwrap_err();
    assert!(matches!(error, BackendError::Busy { .. }), "nobody could unsubscribe: {error}");
    for call in calls {
        fake.fail(call, 0);
    }
    fake.unsubscribe();
    assert_works(fake);
}
