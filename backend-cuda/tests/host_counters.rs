//! The counters of the host's devices, on a stand-in for libnvidia-ml.
#![expect(unsafe_code, reason = "loads a stand-in and calls it")]

mod support;

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use backend_cuda::HostCounters;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::backend::{ProfileSession, ProfilerBackend, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::Fixture;
use profiler_core::error::BackendError;
use profiler_core::record::{Counter, DeviceDef, RecordKind, Row as _};
use profiler_core::registry::BackendRegistry;
use profiler_core::sink::{Batch, RecordSink, StreamInfo};

use support::watched::{self, Watch, Watched};
use support::{child, compile, is_child, sink, wait_for, wait_until};

static ALONE: Mutex<()> = Mutex::new(());

/// The stand-in, found by its name from now on.
struct Nvml(Library);

fn nvml() -> &'static Nvml {
    static NVML: OnceLock<Nvml> = OnceLock::new();
    NVML.get_or_init(|| {
        let source = include_str!("../../tests/fakes/fake-nvml/nvml.c");
        let path = compile("libnvidia-ml.so.1", source);
        // SAFETY: our own library, which has no initialisers.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        Nvml(library.expect("the stand-in loads"))
    })
}

impl Nvml {
    fn number(&self, name: &str) -> c_int {
        // SAFETY: the stand-in gives these functions this type.
        let function = unsafe { self.0.get::<extern "C" fn() -> c_int>(name.as_bytes()) };
        function.expect("a function of the stand-in")()
    }

    fn set(&self, name: &str, value: c_int) {
        // SAFETY: as above.
        let function = unsafe { self.0.get::<extern "C" fn(c_int)>(name.as_bytes()) };
        function.expect("a function of the stand-in")(value);
    }

    fn driver(&self, version: &CStr) {
        let name = b"fake_nvml_driver";
        // SAFETY: as above.
        let function = unsafe { self.0.get::<extern "C" fn(*const c_char)>(name) };
        function.expect("a function of the stand-in")(version.as_ptr());
    }
}

struct OnStandIn;

impl Fixture for OnStandIn {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        nvml();
        Arc::new(HostCounters::new())
    }

    fn config(&self) -> SessionConfig {
        SessionConfig { counter_hz: 50, ..SessionConfig::default() }
    }

    fn work(&self) {
        // Nobody reads where no session is; else two readings of each device are due.
        let (before, begin) = (nvml().number("fake_nvml_reads"), Instant::now());
        while nvml().number("fake_nvml_reads") <= before + 4
            && begin.elapsed() < Duration::from_millis(100)
        {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn expected(&self) -> Vec<RecordKind> {
        vec![Counter::KIND]
    }
}

mod conformance {
    use super::{ALONE, OnStandIn};

    macro_rules! bodies {
        ($($body:ident),*) => {
            $(
                #[test]
                fn $body() {
                    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    profiler_core::conformance::$body(&OnStandIn);
                }
            )*
        };
    }

    bodies!(
        hundred_cycles,
        double_start_is_refused,
        drop_without_stop_stops,
        no_rows_after_stop,
        nothing_from_before_start,
        a_full_sink_is_counted_exactly,
        a_closed_sink_ends_production,
        a_flush_is_visible_within_a_second,
        a_panicking_sink_harms_nobody,
        realtime_steps_do_not_show
    );
}

/// Keeps names and values.
#[derive(Default)]
struct Kept {
    texts: Mutex<BTreeMap<u32, String>>,
    uuids: Mutex<BTreeMap<u32, Vec<u8>>>,
    /// By device, name and unit.
    values: Mutex<BTreeMap<(u32, String), (f64, String)>>,
}

impl Watch for Kept {
    fn opened(&self, info: &StreamInfo) {
        assert_eq!(info.producer, "nvml");
    }
    fn see(&self, group: &[Batch<'_>]) {
        for batch in group {
            for row in batch.rows.chunks_exact(batch.stride as usize) {
                let field =
                    |name: &str| watched::field(batch, row, name).expect("a field of the kind");
                let heap = |name: &str| {
                    let place = field(name);
                    let (from, len) = ((place & 0xffff_ffff) as usize, (place >> 32) as usize);
                    batch.heap[from..from + len].to_vec()
                };
                if batch.kind == profiler_core::record::StringDef::KIND {
                    let text = String::from_utf8(heap("text")).expect("text");
                    self.texts.lock().expect("kept").insert(field("id") as u32, text);
                } else if batch.kind == DeviceDef::KIND {
                    let device = field("device") as u32;
                    self.uuids.lock().expect("kept").insert(device, heap("uuid"));
                } else if batch.kind == Counter::KIND {
                    let texts = self.texts.lock().expect("kept");
                    let text = |name: &str| texts[&(field(name) as u32)].clone();
                    let value = (f64::from_bits(field("value")), text("unit"));
                    let key = (field("device") as u32, text("name"));
                    self.values.lock().expect("kept").insert(key, value);
                }
            }
        }
    }
}

fn open(sink: &Arc<impl RecordSink + 'static>) -> Result<Box<dyn ProfileSession>, BackendError> {
    let sink = Arc::clone(sink) as Arc<dyn RecordSink>;
    HostCounters::new().open(&OnStandIn.config(), sink, Arc::new(SystemClock::new()))
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn every_counter_that_a_device_has_is_a_row_with_its_unit() {
    let _alone = alone();
    let sink = Arc::new(Watched::<Kept>::default());
    nvml();
    let mut session = open(&sink).expect("opens");
    session.start().expect("starts");
    wait_until("two readings", || sink.counted.groups() > 1);
    session.stop(Duration::from_secs(2)).expect("stops");
    sink.counted.assert_sound();
    let values = sink.watch.values.lock().expect("kept").clone();
    let of = |device: u32, name: &str| {
        let value = values.get(&(device, name.to_owned()));
        value.map(|(value, unit)| (*value, unit.clone()))
    };
    let is = |value: f64, unit: &str| Some((value, unit.to_owned()));
    assert_eq!(of(0, "gpu utilisation"), is(90.0, "%"));
    assert_eq!(of(0, "gpu memory used"), is(1_073_741_824.0, "bytes"));
    assert_eq!(of(0, "sm clock"), is(1980.0, "MHz"));
    assert_eq!(of(0, "memory clock"), is(2619.0, "MHz"));
    assert_eq!(of(0, "power"), is(350.5, "W"));
    assert_eq!(of(0, "temperature"), is(45.0, "Cel"));
    assert_eq!(of(0, "throttle reasons"), is(4.0, "bits"));
    assert_eq!(of(0, "sm active"), is(2.0, "%"));
    assert_eq!(of(0, "dram bandwidth"), is(10.0, "%"));
    assert_eq!(of(0, "pcie sent"), is(20.0 * 1_048_576.0, "bytes/s"));
    assert_eq!(of(0, "nvlink sent"), None, "the driver has no such metric");
    assert_eq!(of(1, "gpu utilisation"), is(10.0, "%"));
    assert_eq!((of(1, "power"), of(1, "sm active")), (None, None), "it cannot do that");
    let uuids = sink.watch.uuids.lock().expect("kept").clone();
    assert_eq!(uuids[&0], (0xA0..=0xAF).collect::<Vec<u8>>());
    assert_eq!(uuids[&1], (0xB0..=0xBF).collect::<Vec<u8>>());
    let facts = sink.counted.facts();
    assert_eq!(
        (facts["nvml.devices"].as_str(), facts["nvml.devices_with_gpm"].as_str()),
        ("2", "1")
    );
    drop(session);
    wait_until("the library to be given back", || nvml().number("fake_nvml_users") == 0);
    assert_eq!(nvml().number("fake_nvml_samples_out"), 0);
}

#[test]
fn older_drivers_are_not_asked_for_performance_monitoring() {
    let _alone = alone();
    nvml().driver(c"535.104.05");
    let sink = sink();
    let session = open(&sink).expect("opens");
    nvml().driver(c"580.159.04");
    assert_eq!(sink.facts()["nvml.devices_with_gpm"], "0");
    drop(session);
}

#[test]
fn a_driver_that_hangs_holds_up_a_stop_for_its_drain_only() {
    let _alone = alone();
    let sink = sink();
    nvml();
    let mut session = open(&sink).expect("opens");
    session.start().expect("starts");
    OnStandIn.work();
    nvml().set("fake_nvml_hang", 2000);
    OnStandIn.work_begins();
    let begin = Instant::now();
    let summary = session.stop(Duration::from_millis(50)).expect("stops");
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    assert!(summary.notes.iter().any(|note| note.contains("did not answer")), "{summary:?}");
    let rows = sink.total();
    nvml().set("fake_nvml_hang", 0);
    wait_until("the thread's end", || nvml().number("fake_nvml_users") == 0);
    assert_eq!(sink.total(), rows, "a row after the stop");
}

impl OnStandIn {
    fn work_begins(&self) {
        let before = nvml().number("fake_nvml_reads");
        wait_until("a reading that hangs", || nvml().number("fake_nvml_reads") > before);
    }
}

#[test]
fn a_driver_that_does_not_answer_is_a_reason() {
    let _alone = alone();
    nvml().set("fake_nvml_broken", 1);
    let error = open(&sink()).err().expect("refused");
    nvml().set("fake_nvml_broken", 0);
    assert_eq!(error.code(), "nvml_failed");
}

#[test]
fn a_machine_without_the_library_says_so() {
    const NAME: &str = "a_machine_without_the_library_says_so";
    if !is_child(NAME) {
        assert!(wait_for(&mut child(NAME, &[]), Duration::from_secs(20)).success());
        return;
    }
    let probe = HostCounters::new().probe();
    if probe.is_available() {
        // This machine has a driver; the case is another machine's.
        return;
    }
    let error = open(&sink()).err().expect("refused");
    assert_eq!(error.code(), "nvml_missing");
    assert!(error.to_string().contains("utility"), "{error}");
}

/// It is no backend of a worker: of ten workers on a host, one spool has the host's counters.
#[test]
fn workers_do_not_have_it() {
    let registry = BackendRegistry::linked();
    assert!(registry.iter().all(|backend| backend.id() != HostCounters::new().id()));
}
