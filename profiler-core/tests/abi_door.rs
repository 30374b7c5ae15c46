//! Both sides of the plugin door in one process: what crosses, and what panics.
#![expect(unsafe_code, reason = "hands tables over as a library would")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[macro_use]
mod abi_common;

use std::mem::offset_of;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use profiler_core::abi::{BackendTable, Exported, open_table};
use profiler_core::backend::{
    BackendId, BackendRole, DriverState, ProfileSession, ProfilerBackend, SessionConfig,
    SessionSummary,
};
use profiler_core::clock::{ClockDomain, ClockSource, ManualClock};
use profiler_core::conformance::{Answer, Fixture, MemorySink};
use profiler_core::error::BackendError;
use profiler_core::probe::{DeviceInfo, ProbeReport};
use profiler_core::record::{
    HeapRef, LossCause, Marker, RecordKind, Row as _, StringDef, StringId,
};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

use abi_common::{Null, clock, ended_at, id, loaded, play};

struct NullFixture;

impl Fixture for NullFixture {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        Arc::new(loaded::<Null>().backend)
    }

    fn work(&self) {}

    fn expected(&self) -> Vec<RecordKind> {
        vec![Marker::KIND]
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(vec![1])
    }
}

mod null_behind_the_door {
    profiler_core::conformance_tests!(super::NullFixture);
}

/// Does what its one option says.
struct Actor;

#[derive(Clone)]
struct ActorSession {
    sink: Arc<dyn RecordSink>,
    clock: Arc<dyn ClockSource>,
    config: SessionConfig,
}

/// Sessions that were dropped.
static DROPPED: AtomicU32 = AtomicU32::new(0);

impl Actor {
    fn does(config: &SessionConfig, what: &str) -> bool {
        config.options.get("act").and_then(|act| act.as_str()) == Some(what)
    }
}

impl ProfilerBackend for Actor {
    fn id(&self) -> BackendId {
        id("actor")
    }

    fn probe(&self) -> ProbeReport {
        let device = DeviceInfo { index: 3, name: "stage".to_owned(), uuid: "u".to_owned() };
        ProbeReport::Available { devices: vec![device], notes: vec!["hello".to_owned()] }
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: Arc<dyn RecordSink>,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        if Self::does(config, "be busy") {
            return Err(BackendError::Busy { holder: Some("nsys".to_owned()) });
        }
        Ok(Box::new(ActorSession { sink, clock, config: config.clone() }))
    }
}

impl ProfileSession for ActorSession {
    fn start(&mut self) -> Result<(), BackendError> {
        if Actor::does(&self.config, "fail") {
            return Err(BackendError::Vendor {
                call: "vendorStart",
                code: 13,
                name: "VENDOR_BROKEN".to_owned(),
            });
        }
        self.sink.fact("sample_hz", &self.config.sample_hz.to_string());
        self.sink.log(LogLevel::Warn, "actor", "the curtain rises");
        let stream = self.sink.open_stream(StreamInfo {
            producer: "actor".to_owned(),
            thread: 9,
            clock: ClockDomain::Driver,
        });
        let mut heap = Vec::new();
        let string = StringDef {
            id: StringId(1),
            text: HeapRef::push(&mut heap, "näme".as_bytes()),
            ..StringDef::default()
        };
        let marker = Marker { time: self.clock.monotonic_ns(), ..Marker::default() };
        let two = [marker, Marker { time: self.clock.realtime_ns(), ..marker }];
        let emitted =
            self.sink.emit(&[Batch::with_heap(stream, &[string], &heap), Batch::new(stream, &two)]);
        assert_eq!(emitted, Emit::Accepted);
        self.sink.loss(Loss {
            stream: Some(stream),
            kind: Some(Marker::KIND),
            count: 5,
            from: 10,
            to: 20,
            cause: LossCause::DriverDropped,
        });
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        let many: Vec<Marker> = (0..20).map(|_| Marker::default()).collect();
        let stream = StreamId(1);
        let group: Vec<Batch<'_>> =
            many.iter().map(|marker| Batch::new(stream, std::slice::from_ref(marker))).collect();
        match self.sink.emit(&group) {
            Emit::Accepted | Emit::Full => Ok(()),
            _ => Err(BackendError::NotStarted),
        }
    }

    fn stop(&mut self, drain: Duration) -> Result<SessionSummary, BackendError> {
        Ok(SessionSummary {
            device_used: Some(true),
            driver: Some(DriverState::Residue),
            notes: vec![format!("{} ms", drain.as_millis())],
            ..SessionSummary::default()
        })
    }
}

impl Drop for ActorSession {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

exported!(ActorDoor, "actor", Host, Box::new(Actor));

fn acting(what: &str) -> SessionConfig {
    let mut config = SessionConfig { sample_hz: 77, ..SessionConfig::default() };
    config.options.insert("act".to_owned(), what.into());
    config
}

#[test]
fn everything_crosses() {
    let plugin = loaded::<ActorDoor>();
    assert_eq!((plugin.role, plugin.priority), (BackendRole::Host, 7));
    assert_eq!(plugin.version, "1.2.3");
    assert_eq!(plugin.backend.id(), id("actor"));
    let ProbeReport::Available { devices, notes } = plugin.backend.probe() else { panic!() };
    assert_eq!((devices[0].index, devices[0].name.as_str()), (3, "stage"));
    assert_eq!(notes, ["hello"]);

    let sink = Arc::new(Spy::default());
    let instant = profiler_core::clock::Instant { monotonic_ns: 41, realtime_ns: 42 };
    let config = acting("nothing");
    let mut session = plugin
        .backend
        .open(
            &config,
            Arc::clone(&sink) as Arc<dyn RecordSink>,
            Arc::new(ManualClock::new(instant)),
        )
        .unwrap();
    session.start().unwrap();
    session.flush().unwrap();
    let summary = session.stop(Duration::from_millis(1500)).unwrap();
    drop(session);
    assert_eq!(summary.device_used, Some(true));
    assert_eq!(summary.driver, Some(DriverState::Residue));
    assert_eq!(summary.notes, ["1500 ms"]);
    insta::assert_snapshot!(sink.told.lock().unwrap().join("\n"));
}

/// Writes down what it is told.
#[derive(Default)]
struct Spy {
    told: std::sync::Mutex<Vec<String>>,
}

impl Spy {
    fn tell(&self, text: String) {
        self.told.lock().unwrap().push(text);
    }
}

impl RecordSink for Spy {
    fn open_stream(&self, info: StreamInfo) -> StreamId {
        self.tell(format!("{info:?}"));
        StreamId(4)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        self.tell(format!("a group of {}", group.len()));
        for batch in group.iter().take(2) {
            self.tell(format!(
                "{} rows of {} on {}, stride {}, {:?}, heap {:?}",
                batch.count(),
                batch.kind,
                batch.stream.0,
                batch.stride,
                &batch.rows[..8],
                String::from_utf8_lossy(batch.heap),
            ));
        }
        Emit::Accepted
    }

    fn loss(&self, loss: Loss) {
        self.tell(format!("{loss:?}"));
    }

    fn fact(&self, key: &str, value: &str) {
        self.tell(format!("{key} = {value}"));
    }

    fn log(&self, level: LogLevel, target: &str, message: &str) {
        self.tell(format!("{level:?} {target}: {message}"));
    }
}

#[test]
fn errors_cross_as_they_are() {
    let plugin = loaded::<ActorDoor>();
    let sink = Arc::new(MemorySink::default());
    let busy = plugin.backend.open(&acting("be busy"), Arc::clone(&sink) as _, clock());
    let Err(BackendError::Busy { holder }) = busy else { panic!("not busy") };
    assert_eq!(holder.as_deref(), Some("nsys"));
    assert_eq!(Arc::strong_count(&sink), 1, "a session that was not opened holds no sink");

    let mut session =
        plugin.backend.open(&acting("fail"), Arc::clone(&sink) as _, clock()).unwrap();
    let error = session.start().unwrap_err();
    assert_eq!(error.code(), "vendor");
    assert_eq!(error.to_string(), "vendorStart failed with 13 (VENDOR_BROKEN)");
    drop(session);
    assert_eq!(Arc::strong_count(&sink), 1, "a closed session holds no sink");
}

#[test]
fn a_sink_that_panics_is_counted_and_the_backend_goes_on() {
    let plugin = loaded::<ActorDoor>();
    let sink = Arc::new(MemorySink::default());
    let config = acting("nothing");
    let mut session = plugin.backend.open(&config, Arc::clone(&sink) as _, clock()).unwrap();
    session.start().unwrap();
    sink.answer(Answer::Panic);
    session.flush().unwrap();
    assert_eq!(sink.losses()[&LossCause::SinkPanicked], 20);
    sink.answer(Answer::Full);
    session.flush().unwrap();
    assert_eq!(sink.refused(), 20);
    sink.answer(Answer::Closed);
    assert!(session.flush().is_err(), "the backend is told that the sink is closed");
    session.stop(Duration::ZERO).unwrap();
}

/// Panics where its number says.
struct Panicking<const AT: u32>;

struct PanickingSession<const AT: u32>;

fn panic_at<const AT: u32>(here: u32) {
    assert_ne!(AT, here, "the floor is gone");
}

impl<const AT: u32> ProfilerBackend for Panicking<AT> {
    fn id(&self) -> BackendId {
        id("panicking")
    }

    fn probe(&self) -> ProbeReport {
        panic_at::<AT>(1);
        ProbeReport::available(Vec::new())
    }

    fn driver(&self) -> Option<DriverState> {
        panic_at::<AT>(7);
        Some(DriverState::Residue)
    }

    fn records_memory(&self, config: &SessionConfig) -> bool {
        panic_at::<AT>(9);
        config.memory
    }

    fn open(
        &self,
        _config: &SessionConfig,
        _sink: Arc<dyn RecordSink>,
        _clock: Arc<dyn ClockSource>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        panic_at::<AT>(2);
        Ok(Box::new(PanickingSession::<AT>))
    }
}

impl<const AT: u32> ProfileSession for PanickingSession<AT> {
    fn start(&mut self) -> Result<(), BackendError> {
        panic_at::<AT>(3);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        panic_at::<AT>(4);
        Ok(())
    }

    fn stop(&mut self, _drain: Duration) -> Result<SessionSummary, BackendError> {
        panic_at::<AT>(5);
        Ok(SessionSummary::default())
    }
}

static CLOSED: AtomicU64 = AtomicU64::new(0);

impl<const AT: u32> Drop for PanickingSession<AT> {
    fn drop(&mut self) {
        CLOSED.fetch_add(1 << (8 * AT), Ordering::SeqCst);
        panic_at::<AT>(6);
    }
}

exported!(PanicsAtMake, "panicking", Device, panic!("the floor is gone"));
exported!(PanicsAt1, "panicking", Device, Box::new(Panicking::<1>));
exported!(PanicsAt2, "panicking", Device, Box::new(Panicking::<2>));
exported!(PanicsAt3, "panicking", Device, Box::new(Panicking::<3>));
exported!(PanicsAt4, "panicking", Device, Box::new(Panicking::<4>));
exported!(PanicsAt5, "panicking", Device, Box::new(Panicking::<5>));
exported!(PanicsAt6, "panicking", Device, Box::new(Panicking::<6>));

fn panics_stop<E: Exported>(fails_at_once: bool) {
    let plugin = loaded::<E>();
    let first = play(&plugin.backend);
    if fails_at_once {
        let error = first.unwrap_err();
        assert_eq!(error.code(), "backend_panicked");
        assert!(error.to_string().contains("the floor is gone"), "{error}");
    } else {
        first.unwrap();
    }
    // It is not used again, by this value or by another over the same library.
    for plugin in [plugin, loaded::<E>()] {
        let ProbeReport::Unavailable { reason } = plugin.backend.probe() else { panic!() };
        assert_eq!(reason.code, "backend_panicked");
        assert!(reason.message.contains("the floor is gone"), "{}", reason.message);
        let opened = plugin.backend.open(
            &SessionConfig::default(),
            Arc::new(MemorySink::default()),
            clock(),
        );
        assert!(matches!(opened, Err(BackendError::Panicked { .. })));
    }
}

#[test]
fn panics_stop_at_the_door_and_end_the_backend() {
    panics_stop::<PanicsAtMake>(true);
    panics_stop::<PanicsAt1>(true);
    panics_stop::<PanicsAt2>(true);
    panics_stop::<PanicsAt3>(true);
    panics_stop::<PanicsAt4>(true);
    panics_stop::<PanicsAt5>(true);
    panics_stop::<PanicsAt6>(false);
    // A session that panicked is left as it is; only the one that panics as it is closed was.
    assert_eq!(CLOSED.load(Ordering::SeqCst), 1 << 48);
}

exported!(PanicsAt7, "panicking", Device, Box::new(Panicking::<7>));
// Of this test alone: a backend that has panicked in another one is asked no more.
exported!(KeepsResidue, "panicking", Device, Box::new(Panicking::<8>));

#[test]
fn what_a_driver_keeps_crosses() {
    assert_eq!(loaded::<KeepsResidue>().backend.driver(), Some(DriverState::Residue));
    assert_eq!(loaded::<Null>().backend.driver(), None);
    let older = ended_at::<KeepsResidue>(offset_of!(BackendTable, driver));
    // SAFETY: a table for ever, as long as it says.
    let older = unsafe { open_table(older, Path::new("/test.so"), &id("panicking")) }.unwrap();
    assert_eq!(older.backend.driver(), None, "a plugin that could not say it is not asked");

    let plugin = loaded::<PanicsAt7>();
    assert_eq!(plugin.backend.driver(), None);
    let ProbeReport::Unavailable { reason } = plugin.backend.probe() else { panic!() };
    assert_eq!(reason.code, "backend_panicked");
}

exported!(PanicsAt9, "panicking", Device, Box::new(Panicking::<9>));

#[test]
fn whether_memory_becomes_rows_crosses() {
    let asked = SessionConfig { memory: true, ..SessionConfig::default() };
    let able = loaded::<KeepsResidue>().backend;
    assert!(able.records_memory(&asked));
    assert!(!able.records_memory(&SessionConfig::default()), "the settings cross");
    assert!(!loaded::<Null>().backend.records_memory(&asked));
    let older = ended_at::<KeepsResidue>(offset_of!(BackendTable, records_memory));
    // SAFETY: a table for ever, as long as it says.
    let older = unsafe { open_table(older, Path::new("/test.so"), &id("panicking")) }.unwrap();
    assert!(!older.backend.records_memory(&asked), "a plugin that could not say it is not asked");

    let plugin = loaded::<PanicsAt9>();
    assert!(!plugin.backend.records_memory(&asked));
    assert!(!plugin.backend.probe().is_available());
}
