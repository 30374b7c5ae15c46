//! aclprof, on its stand-in: states, results, what is left behind.
#![expect(unsafe_code, reason = "plays an application that calls a C library")]

mod support;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use backend_npu::NpuBackend;
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use profiler_core::backend::{
    Preset, ProfileSession, ProfilerBackend as _, SessionConfig, SessionSummary,
};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::MemorySink;
use profiler_core::error::BackendError;
use profiler_core::probe::ProbeReport;

struct Fake {
    library: Library,
    cann: support::FakeCann,
    folder: tempfile::TempDir,
}

static ALONE: Mutex<()> = Mutex::new(());

/// The stand-in, which is the process's: one test at a time.
fn fake() -> (&'static Fake, MutexGuard<'static, ()>) {
    static FAKE: OnceLock<Fake> = OnceLock::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fake = FAKE.get_or_init(|| {
        let cann = support::install("aclprof");
        // SAFETY: every test of this process begins here, so that no other thread reads variables.
        unsafe { std::env::set_var("ASCEND_HOME_PATH", &cann.home) };
        let path = cann.home.join("lib64/libmsprofiler.so");
        // SAFETY: our own library.
        let library = unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_LOCAL) };
        let folder = tempfile::tempdir().expect("a folder");
        Fake { library: library.expect("the stand-in loads"), cann, folder }
    });
    fake.variant(c"");
    fake.calls(c"");
    (fake, alone)
}

impl Fake {
    fn variant(&self, variant: &CStr) {
        // SAFETY: the type that the stand-in gives it.
        let set =
            unsafe { self.library.get::<unsafe extern "C" fn(*const c_char)>(b"fake_acl_variant") };
        // SAFETY: a C string.
        unsafe { set.expect("a symbol")(variant.as_ptr()) };
    }

    fn launch(&self, count: u64) {
        // SAFETY: the type that the stand-in gives it.
        let launch = unsafe { self.library.get::<extern "C" fn(u64)>(b"fake_acl_launch") };
        launch.expect("a symbol")(count);
    }

    /// Whether aclprof was called so.
    fn calls(&self, expected: &CStr) -> bool {
        // SAFETY: the type that the stand-in gives it.
        let calls = unsafe {
            self.library.get::<unsafe extern "C" fn(*const c_char) -> bool>(b"fake_acl_calls")
        };
        // SAFETY: a C string.
        unsafe { calls.expect("a symbol")(expected.as_ptr()) }
    }

    fn config(&self, name: &str) -> SessionConfig {
        SessionConfig {
            raw_dir: Some(self.folder.path().join(name)),
            options: [("npu.path".to_owned(), "aclprof".into())].into(),
            ..SessionConfig::default()
        }
    }

    fn open(
        &self,
        config: &SessionConfig,
        sink: &Arc<MemorySink>,
    ) -> Result<Box<dyn ProfileSession>, BackendError> {
        let backend = NpuBackend::at(&self.cann.root, None);
        backend.open(config, Arc::clone(sink) as _, Arc::new(SystemClock::new()))
    }

    fn record(&self, config: &SessionConfig) -> Result<SessionSummary, BackendError> {
        let mut session = self.open(config, &Arc::new(MemorySink::default()))?;
        session.start()?;
        self.launch(20);
        session.flush()?;
        session.stop(Duration::from_secs(2))
    }
}

fn raw(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn a_capture_leaves_raw_files_and_says_where() {
    let (fake, _alone) = fake();
    let config = fake.config("whole");
    let sink = Arc::new(MemorySink::default());
    let mut session = fake.open(&config, &sink).expect("opens");
    let place = config.raw_dir.clone().expect("a place");
    // Whoever exports asks for it from here on.
    assert!(place.is_dir());
    session.start().expect("starts");
    let again = session.start();
    assert!(matches!(again, Err(BackendError::AlreadyStarted)), "{again:?}");
    fake.launch(20);
    let summary = session.stop(Duration::from_secs(2)).expect("stops");
    assert_eq!((summary.device_used, summary.notes), (None, Vec::new()));
    let again = session.stop(Duration::from_secs(2));
    assert!(matches!(again, Err(BackendError::NotStarted)), "{again:?}");
    assert!(fake.calls(c"init start stop destroy finalize"));
    let [written] = &raw(&place)[..] else { panic!("{:?}", raw(&place)) };
    let name = written.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(name.starts_with("PROF_") && written.join("device_0/data").is_dir(), "{name}");
    assert!(written.join("device_1").is_dir(), "all devices that the process sees");
    let facts = sink.facts();
    assert_eq!(facts["npu.path"], "aclprof");
    assert_eq!(Path::new(&facts["npu.raw"]), written);
    sink.assert_sound();
}

#[test]
fn sessions_follow_one_another_and_a_dropped_one_is_over() {
    let (fake, _alone) = fake();
    for cycle in 0..20 {
        let config = fake.config(&format!("cycle{cycle}"));
        if cycle % 2 == 0 {
            fake.record(&config).expect("records");
            continue;
        }
        let mut session = fake.open(&config, &Arc::default()).expect("opens");
        let second = fake.open(&fake.config("second"), &Arc::default()).map(drop);
        assert!(matches!(second, Err(BackendError::SessionOpen)), "{second:?}");
        session.start().expect("starts");
        drop(session);
        assert_eq!(raw(&config.raw_dir.expect("a place")).len(), 1, "cycle {cycle}");
    }
    let unused = fake.config("unused");
    drop(fake.open(&unused, &Arc::default()).expect("opens"));
    assert!(!unused.raw_dir.expect("a place").exists(), "nothing is left of what never began");
}

#[test]
fn each_way_in_which_it_fails_says_what_to_do_and_leaves_nothing_on() {
    let (fake, _alone) = fake();
    for (variant, code, words, calls) in [
        (c"uninitialised", "device_not_initialised", "once its model is loaded", c""),
        (c"busy", "busy", "torch_npu.profiler", c""),
        (c"dynamic", "not_supported", "PROFILING_MODE", c""),
        (c"subscribed", "busy", "aclprofModelSubscribe", c""),
        (c"repeated", "busy", "aclprofModelSubscribe", c"init start stop destroy finalize"),
        (c"silent", "no_raw_data", "PROF_*", c"init start stop destroy finalize"),
        (c"broken", "vendor", "aclprofStop", c"init start stop destroy finalize"),
    ] {
        fake.variant(variant);
        let config = fake.config(&format!("{variant:?}"));
        let error = fake.record(&config).expect_err("fails");
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(fake.calls(calls), "{variant:?}");
        fake.variant(c"");
        assert!(!config.raw_dir.expect("a place").exists(), "{variant:?}");
        fake.record(&fake.config(&format!("after {variant:?}"))).expect("records afterwards");
        fake.calls(c"");
    }
    // Where documentation and sources differ, both are served.
    fake.variant(c"docs");
    fake.record(&fake.config("docs")).expect("records");
}

/// A device that the process has open and aclprof does not know: it answers without a reason.
#[test]
fn a_configuration_that_is_not_taken_names_what_was_asked_for() {
    let (fake, _alone) = fake();
    let node = fake.folder.path().join("davinci5");
    let open_device = std::fs::File::create(&node).expect("a node");
    let config = fake.config("refused");
    let error = fake.record(&config).expect_err("there is no device 5");
    assert_eq!(error.code(), "aclprof_refused");
    let text = error.to_string();
    assert!(text.contains("no devices [5]") && text.contains("0x23"), "{text}");
    assert!(text.contains("once its model is loaded"), "{text}");
    assert!(fake.calls(c"init finalize"));
    drop(open_device);
    fake.record(&fake.config("after refused")).expect("records afterwards");
}

/// The stand-in itself: where documentation and sources differ, and its states.
#[test]
fn the_stand_in_answers_as_documentation_and_sources_have_it() {
    let (fake, _alone) = fake();
    let init = |path: &CStr, length: usize| {
        type Init = unsafe extern "C" fn(*const c_char, usize) -> c_int;
        // SAFETY: the type that the stand-in gives it.
        let init = unsafe { fake.library.get::<Init>(b"aclprofInit") }.expect("a symbol");
        // SAFETY: a C string; another length than its own is refused.
        unsafe { init(path.as_ptr(), length) }
    };
    let create = |devices: &[u32], bits: u64| {
        type Create =
            unsafe extern "C" fn(*const u32, u32, c_int, *const c_void, u64) -> *mut c_void;
        // SAFETY: the type that the stand-in gives it.
        let create = unsafe { fake.library.get::<Create>(b"aclprofCreateConfig") };
        let count = u32::try_from(devices.len()).expect("few");
        // SAFETY: so many numbers stand there.
        unsafe { create.expect("a symbol")(devices.as_ptr(), count, 0, std::ptr::null(), bits) }
    };
    let of = |name: &str, config: *mut c_void| {
        type OfConfig = unsafe extern "C" fn(*mut c_void) -> c_int;
        // SAFETY: the type that the stand-in gives it; functions without one pass it by.
        let function = unsafe { fake.library.get::<OfConfig>(name.as_bytes()) };
        // SAFETY: it came from `aclprofCreateConfig`.
        unsafe { function.expect("a symbol")(config) }
    };
    let folder = fake.folder.path().join("direct");
    std::fs::create_dir(&folder).expect("a folder");
    let path = std::ffi::CString::new(folder.to_str().expect("UTF-8")).expect("no NUL");
    let length = path.count_bytes();

    assert_eq!([init(&path, 0), init(&path, 4096), init(&path, length - 1)], [100_000; 3]);
    for devices in [&[][..], &[0, 0], &[2], &[0; 65]] {
        assert!(create(devices, 0x2).is_null(), "{devices:?}");
    }
    assert!(!create(&[], 0x80).is_null(), "ranges of the application need no device");
    let config = create(&[0], 0x2);

    fake.variant(c"docs");
    for name in ["aclprofStart", "aclprofStop", "aclprofFinalize"] {
        assert_eq!(of(name, config), 100_043, "{name} without an init");
    }
    fake.variant(c"silent");
    assert_eq!(of("aclprofStart", config), 0, "the sources make one");
    assert_eq!([of("aclprofStop", config), of("aclprofFinalize", config)], [0, 0]);

    assert_eq!([init(&path, length), init(&path, length)], [0, 100_002]);
    assert_eq!(of("aclprofWarmup", config), 0);
    assert_eq!(of("aclprofStart", create(&[0], 0)), 100_000);
    assert_eq!(of("aclprofStart", create(&[0], 1 << 60)), 200_007);
    assert_eq!(of("aclprofStart", config), 0);
    assert_eq!(of("aclprofWarmup", config), 148_047);
    assert_eq!(of("aclprofStart", create(&[0], 0x2)), 0, "a second start only compares");
    assert_eq!(of("aclprofStart", create(&[0], 0x3)), 100_000);
    assert_eq!(of("aclprofStop", create(&[0], 0x2)), 100_043, "it is the first that runs");
    assert_eq!([of("aclprofStop", config), of("aclprofStop", config)], [0, 100_043]);
    assert_eq!([of("aclprofFinalize", config), of("aclprofFinalize", config)], [0, 100_043]);
}

#[test]
fn a_place_that_is_taken_is_not_written_into_and_the_summary_says_where_the_data_lies() {
    let (fake, _alone) = fake();
    let config = fake.config("taken");
    let taken = config.raw_dir.clone().expect("a place");
    std::fs::create_dir(&taken).expect("a folder");
    let summary = fake.record(&config).expect("records");
    assert!(raw(&taken).is_empty());
    let [note] = &summary.notes[..] else { panic!("{:?}", summary.notes) };
    assert!(note.contains("PROF_") && note.contains("not beside the spool"), "{note}");
    let place = note.split_whitespace().find(|word| word.contains("PROF_")).expect("a path");
    let place = Path::new(place.trim_end_matches(','));
    std::fs::remove_dir_all(place.parent().expect("a folder")).expect("removed");
}

#[test]
fn what_is_asked_for_reaches_aclprof() {
    let (fake, _alone) = fake();
    let bits = |name: &str, change: &dyn Fn(&mut SessionConfig)| {
        let mut config = fake.config(name);
        change(&mut config);
        let summary = fake.record(&config).expect("records");
        let place = raw(&config.raw_dir.expect("a place")).remove(0);
        let log = std::fs::read_to_string(place.join("host/host_start.log")).expect("a log");
        (log.trim().trim_start_matches("bits ").to_owned(), summary.notes)
    };
    assert_eq!(bits("gpu", &|config| config.preset = Preset::Gpu).0, "0x801");
    assert_eq!(bits("launch", &|_| {}).0, "0x23");
    assert_eq!(bits("full", &|config| config.preset = Preset::Full).0, "0x12b");
    assert_eq!(bits("memory", &|config| config.memory = true).0, "0x1023");
    assert!(fake.calls(
        c"init start stop destroy finalize init start stop destroy finalize init start stop \
          destroy finalize init set 3 start stop destroy finalize"
    ));
    let (counters, notes) = bits("counters", &|config| {
        config.preset = Preset::Gpu;
        config.options.insert("npu.aic_metrics".to_owned(), "PipeUtilization".into());
        config.options.insert("npu.l2_cache".to_owned(), true.into());
        config.options.insert("npu.msprof_tx".to_owned(), true.into());
    });
    assert_eq!(counters, "0x97");
    // All of them become rows.
    assert!(notes.is_empty(), "{notes:?}");
    let (cache, _) = bits("cache", &|config| {
        config.preset = Preset::Gpu;
        config.options.insert("npu.l2_cache".to_owned(), true.into());
    });
    assert_eq!(cache, "0x13");
}

#[test]
fn a_chip_without_mspti_is_recorded_through_it() {
    let (fake, _alone) = fake();
    let slot = fake.cann.root.join("sys/bus/pci/devices/0000:c1:00.0");
    std::fs::create_dir_all(&slot).expect("a folder");
    std::fs::write(slot.join("vendor"), "0x19e5\n").expect("a file");
    std::fs::write(slot.join("device"), "0xd500\n").expect("a file");
    let report = NpuBackend::at(&fake.cann.root, None).probe();
    let ProbeReport::Available { devices, notes } = report else { panic!("{report:?}") };
    assert_eq!(devices[0].name, "Ascend 310P");
    assert!(notes.iter().any(|note| note.contains("libmsprofiler.so")), "{notes:?}");
    let mut config = fake.config("310P");
    config.options.clear();
    fake.record(&config).expect("records");
    assert!(fake.calls(c"init start stop destroy finalize"));
    std::fs::remove_dir_all(fake.cann.root.join("sys")).expect("removed");
}
