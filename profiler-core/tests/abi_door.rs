//! Both sides of the plugin door in one process: what crosses, what panics, what is older or newer.
#![expect(unsafe_code, reason = "hands tables over as a library would")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::mem::offset_of;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use profiler_core::abi::{
    ABI_MAJOR, BACKEND_MAGIC, BackendTable, Door, Exported, HOST_MAGIC, HostTable, LoadedPlugin,
    MIN_BACKEND_TABLE_BYTES, PluginError, Text, open_table, status, table,
};
use profiler_core::backend::{
    BackendId, BackendRole, DriverState, ProfileSession, ProfilerBackend, SessionConfig,
    SessionSummary,
};
use profiler_core::clock::{ClockDomain, ClockSource, ManualClock, SystemClock};
use profiler_core::conformance::{Answer, Fixture, MemorySink};
use profiler_core::error::BackendError;
use profiler_core::null::NullBackend;
use profiler_core::probe::{DeviceInfo, ProbeReport};
use profiler_core::record::{
    HeapRef, LossCause, Marker, RecordKind, Row as _, StringDef, StringId,
};
use profiler_core::registry::{BackendRegistration, BackendRegistry, PluginOrigin, Trial};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

macro_rules! exported {
    ($name:ident, $id:literal, $role:ident, $make:expr) => {
        struct $name;

        impl Exported for $name {
            const REGISTRATION: BackendRegistration = BackendRegistration {
                id: $id,
                role: BackendRole::$role,
                priority: 7,
                make: || -> Box<dyn ProfilerBackend> { $make },
            };

            fn door() -> &'static Door {
                static DOOR: Door = Door::new();
                &DOOR
            }
        }
    };
}

fn id(text: &str) -> BackendId {
    BackendId::parse(text).unwrap()
}

/// Opens a table as a library would give it.
fn open(table: &'static BackendTable, expected: &str) -> Result<LoadedPlugin, PluginError> {
    // SAFETY: a table for ever.
    unsafe { open_table(table, Path::new("/test.so"), &id(expected)) }
}

fn leaked<E: Exported>() -> &'static mut BackendTable {
    Box::leak(Box::new(table::<E>("1.2.3")))
}

fn loaded<E: Exported>() -> LoadedPlugin {
    open(leaked::<E>(), E::REGISTRATION.id).unwrap()
}

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

exported!(Null, "null", Device, Box::new(NullBackend::new()));

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

/// Goes through a session until something fails.
fn play(backend: &dyn ProfilerBackend) -> Result<(), BackendError> {
    if let ProbeReport::Unavailable { reason } = backend.probe() {
        return Err(BackendError::Plugin { code: reason.code, message: reason.message });
    }
    let sink = Arc::new(MemorySink::default());
    let mut session = backend.open(&SessionConfig::default(), sink, clock())?;
    session.start()?;
    session.flush()?;
    session.stop(Duration::ZERO)?;
    Ok(())
}

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

/// The table, ended after so many bytes, with nothing readable behind it.
fn ended_at<E: Exported>(bytes: usize) -> *const BackendTable {
    let whole = table::<E>("1");
    let words: Vec<usize> = vec![0; bytes.div_ceil(size_of::<usize>())];
    let place = Vec::leak(words).as_mut_ptr().cast::<u8>();
    let known = bytes.min(size_of::<BackendTable>());
    // SAFETY: both have so many bytes.
    unsafe { (&raw const whole).cast::<u8>().copy_to_nonoverlapping(place, known) };
    // SAFETY: the field lies in what was allocated.
    let size = unsafe { place.add(offset_of!(BackendTable, struct_size)) };
    // SAFETY: as above, and aligned as the allocation is.
    unsafe { size.cast::<usize>().write(bytes) };
    place.cast()
}

fn open_raw(table: *const BackendTable) -> Result<LoadedPlugin, PluginError> {
    // SAFETY: a table for ever, as long as it says.
    unsafe { open_table(table, Path::new("/test.so"), &id("null")) }
}

struct WithTrial;

impl Exported for WithTrial {
    const REGISTRATION: BackendRegistration = Null::REGISTRATION;
    const TRIAL: Option<Trial> = Some(|library, write| {
        write(&format!("trying {}", library.display()));
        write("it works");
    });

    fn door() -> &'static Door {
        static DOOR: Door = Door::new();
        &DOOR
    }
}

#[test]
fn a_trial_says_each_line_as_it_knows_it() {
    let mut registry = BackendRegistry::empty();
    let plugin = loaded::<WithTrial>();
    let origin = PluginOrigin { path: "/test.so".into(), version: plugin.version.clone() };
    registry.add_plugin(plugin.registered(), origin, plugin.trial()).unwrap();
    let mut lines = Vec::new();
    let mut write = |line: &str| lines.push(line.to_owned());
    assert!(registry.run_trial(&id("null"), Path::new("/vendor.so"), &mut write));
    assert!(!registry.run_trial(&id("other"), Path::new("/vendor.so"), &mut write));
    assert_eq!(lines, ["trying /vendor.so", "it works"]);

    // One that has nothing to try, and an older one that could not have.
    assert!(loaded::<Null>().trial().is_none());
    assert!(
        open_raw(ended_at::<WithTrial>(offset_of!(BackendTable, trial))).unwrap().trial().is_none()
    );
}

#[test]
fn an_older_plugin_lacks_what_came_later() {
    for bytes in [MIN_BACKEND_TABLE_BYTES, MIN_BACKEND_TABLE_BYTES + 3] {
        let plugin = open_raw(ended_at::<Null>(bytes)).unwrap();
        let sink = Arc::new(MemorySink::default());
        let config = SessionConfig::default();
        let mut session = plugin.backend.open(&config, Arc::clone(&sink) as _, clock()).unwrap();
        session.start().unwrap();
        session.flush().unwrap();
        assert_eq!(sink.rows(Marker::KIND), 0, "a plugin without `flush` is not asked to");
        session.stop(Duration::ZERO).unwrap();
        assert_eq!(sink.rows(Marker::KIND), 1);
    }
}

#[test]
fn a_newer_plugin_has_more_than_is_looked_at() {
    let plugin = open_raw(ended_at::<Null>(size_of::<BackendTable>() + 64)).unwrap();
    play(&plugin.backend).unwrap();
}

#[test]
fn what_is_no_table_is_refused() {
    assert!(matches!(open_raw(std::ptr::null()), Err(PluginError::NoTable { .. })));
    let too_small = open_raw(ended_at::<Null>(MIN_BACKEND_TABLE_BYTES - 1));
    assert!(matches!(too_small, Err(PluginError::TableTooSmall { .. })), "{too_small:?}");

    let table = leaked::<Null>();
    table.magic = BACKEND_MAGIC + 1;
    assert!(matches!(open(table, "null"), Err(PluginError::BadMagic { .. })));
    for found in [0, ABI_MAJOR + 1, u32::MAX] {
        let table = leaked::<Null>();
        table.abi_major = found;
        let refused = open(table, "null").unwrap_err();
        assert!(matches!(refused, PluginError::OtherMajor { .. }), "{refused}");
        assert_eq!(refused.code(), "other_version");
    }
    let table = leaked::<Null>();
    table.role = 9;
    assert!(matches!(open(table, "null"), Err(PluginError::BadField { field: "role", .. })));
    for id in [
        Text { ptr: std::ptr::null(), len: 4 },
        Text { ptr: std::ptr::dangling(), len: usize::MAX },
        Text { ptr: c"\xff\xfe".as_ptr(), len: 2 },
    ] {
        let table = leaked::<Null>();
        table.id = id;
        assert!(matches!(open(table, "null"), Err(PluginError::BadField { field: "id", .. })));
    }
    let other = open(leaked::<Null>(), "cuda");
    assert!(matches!(other, Err(PluginError::OtherId { ref found, .. }) if found == "null"));

    let table = ended_at::<Null>(size_of::<BackendTable>()).cast_mut();
    // SAFETY: the field lies in what was allocated.
    let stop = unsafe { table.byte_add(offset_of!(BackendTable, stop)) };
    // SAFETY: as above; nobody reads it as a function before it was looked at.
    unsafe { stop.cast::<usize>().write(0) };
    let missing = open_raw(table);
    assert!(matches!(missing, Err(PluginError::MissingFunction { function: "stop", .. })));
}

/// A host as another version of this crate would be, that counts what becomes of it.
mod other_host {
    use std::ffi::c_void;
    use std::sync::atomic::{AtomicU64, Ordering};

    use profiler_core::abi::{BatchRef, HostTable, LossRef, Text, emit_answer};

    #[derive(Default)]
    pub(super) struct Counts {
        pub(super) emitted: AtomicU64,
        pub(super) released: AtomicU64,
    }

    fn counts<'a>(ctx: *mut c_void) -> &'a Counts {
        // SAFETY: the `ctx` of `table`, which lives for ever.
        unsafe { &*ctx.cast::<Counts>() }
    }

    unsafe extern "C" fn release(ctx: *mut c_void) {
        counts(ctx).released.fetch_add(1, Ordering::SeqCst);
    }

    unsafe extern "C" fn open_stream(_ctx: *mut c_void, _info: Text) -> u32 {
        1
    }

    unsafe extern "C" fn emit(
        ctx: *mut c_void,
        _batches: *const BatchRef,
        _count: usize,
        _batch_size: usize,
    ) -> u32 {
        counts(ctx).emitted.fetch_add(1, Ordering::SeqCst);
        // What a later version might say.
        emit_answer::CLOSED + 40
    }

    unsafe extern "C" fn loss(_ctx: *mut c_void, _loss: *const LossRef) {}

    unsafe extern "C" fn fact(_ctx: *mut c_void, _key: Text, _value: Text) {}

    unsafe extern "C" fn log(_ctx: *mut c_void, _level: u32, _target: Text, _message: Text) {}

    unsafe extern "C" fn clock(_ctx: *mut c_void, _which: u32) -> u64 {
        7
    }

    pub(super) fn table(
        counts: &'static Counts,
        magic: u32,
        abi_major: u32,
        size: usize,
    ) -> HostTable {
        HostTable {
            magic,
            abi_major,
            struct_size: size,
            ctx: std::ptr::from_ref(counts).cast_mut().cast(),
            release,
            open_stream,
            emit,
            loss,
            fact,
            log,
            clock,
        }
    }
}

#[test]
fn a_plugin_serves_newer_hosts_and_refuses_others() {
    let table = table::<Null>("1");
    let config = r#"{"version":1,"body":{"of a later version":true}}"#;
    let play = |host: &HostTable| {
        let mut session = std::ptr::null_mut();
        // SAFETY: everything lives through the call; no answer is asked for.
        let opened =
            unsafe { (table.open)(Text::of(config), host, &raw mut session, std::ptr::null()) };
        if opened != status::OK {
            return opened;
        }
        // SAFETY: a session that was opened just now.
        assert_eq!(unsafe { (table.start)(session, std::ptr::null()) }, status::OK);
        let flush = table.flush.unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { flush(session, std::ptr::null()) }, status::OK);
        // SAFETY: as above, for the last time.
        unsafe { (table.close)(session, std::ptr::null()) }
    };
    let counts: &'static other_host::Counts = Box::leak(Box::default());
    let newer = size_of::<HostTable>() + 64;
    let host = other_host::table(counts, HOST_MAGIC, ABI_MAJOR, newer);
    assert_eq!(play(&host), status::OK);
    assert_eq!(counts.emitted.load(Ordering::SeqCst), 1);
    assert_eq!(counts.released.load(Ordering::SeqCst), 1, "given back once, as it is closed");

    for (magic, major, size) in [
        (HOST_MAGIC + 1, ABI_MAJOR, newer),
        (HOST_MAGIC, ABI_MAJOR + 1, newer),
        (HOST_MAGIC, ABI_MAJOR, size_of::<HostTable>() - 8),
    ] {
        let host = other_host::table(counts, magic, major, size);
        assert_eq!(play(&host), status::FAILED);
    }
    let nobody: *const HostTable = std::ptr::null();
    let mut session = std::ptr::null_mut();
    // SAFETY: null is refused.
    let opened =
        unsafe { (table.open)(Text::of(config), nobody, &raw mut session, std::ptr::null()) };
    assert_eq!(opened, status::FAILED);
    assert_eq!(counts.emitted.load(Ordering::SeqCst), 1, "a host of another kind is not called");
}
