//! What is recorded, on the stand-in.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use backend_cuda::CudaBackend;
use profiler_core::backend::{Preset, ProfilerBackend as _, SessionConfig, SessionSummary};
use profiler_core::clock::SystemClock;
use profiler_core::record::{
    ApiCall, ApiDomain, ContextDef, DeviceDef, Kernel, Memcpy, Memset, Overhead, RecordKind,
    Row as _, StreamDef, Synchronization,
};

use profiler_core::sink::{Batch, RecordSink};
use support::watched::{self, Watch, Watched};
use support::{DRAIN, alone, attached, fake, open, sink};

/// Keeps some fields of calls and kernels.
#[derive(Default)]
struct Kept {
    kernels: Mutex<Vec<u64>>,
    /// Correlations by the domain of the call.
    calls: Mutex<Vec<(u32, u64)>>,
    results: Mutex<Vec<u64>>,
}

impl Watch for Kept {
    fn see(&self, group: &[Batch<'_>]) {
        for batch in group {
            for row in batch.rows.chunks_exact(batch.stride as usize) {
                let field = |name: &str| watched::field(batch, row, name);
                let Some(correlation) = field("correlation") else { continue };
                if batch.kind == Kernel::KIND {
                    self.kernels.lock().expect("kept").push(correlation);
                } else if batch.kind == ApiCall::KIND {
                    let field = |name: &str| field(name).expect("a field of calls");
                    let domain = field("domain") as u32;
                    self.calls.lock().expect("kept").push((domain, correlation));
                    self.results.lock().expect("kept").push(field("result"));
                    let (start, end) = (field("start"), field("end"));
                    assert!(0 < start && start <= end, "a call from {start} to {end}");
                }
            }
        }
    }
}

impl Kept {
    /// Each kernel has one call of that domain, by its correlation.
    fn assert_joined(&self, domain: ApiDomain) {
        let kernels: Vec<u64> = self.kernels.lock().expect("kept").clone();
        let calls = self.calls.lock().expect("kept").clone();
        let of_domain = calls.iter().filter(|(of, _)| *of == domain.number());
        let calls: BTreeSet<u64> = of_domain.map(|(_, correlation)| *correlation).collect();
        let kernels: BTreeSet<u64> = kernels.into_iter().collect();
        assert!(!kernels.is_empty() && !kernels.contains(&0));
        assert_eq!(kernels, calls);
    }
}

fn capture(preset: Preset, work: impl FnOnce()) -> (Arc<Watched<Kept>>, SessionSummary) {
    let sink = Arc::new(Watched::<Kept>::default());
    let config = SessionConfig { preset, ..attached() };
    let taken = Arc::clone(&sink) as Arc<dyn RecordSink>;
    let opened = CudaBackend::new().open(&config, taken, Arc::new(SystemClock::new()));
    let mut session = opened.expect("opens");
    session.start().expect("starts");
    work();
    let summary = session.stop(DRAIN).expect("stops");
    sink.counted.assert_sound();
    let losses = sink.counted.losses();
    assert!(losses.is_empty(), "{losses:?}");
    (sink, summary)
}

#[test]
fn the_stand_in_lays_records_out_as_the_headers_do() {
    let _alone = alone();
    let fake = fake();
    let kinds = BTreeMap::from([
        ("memcpy", 1),
        ("memset", 2),
        ("api", 5),
        ("device", 8),
        ("context", 9),
        ("kernel", 10),
        ("overhead", 17),
        ("peer", 22),
        ("stream", 37),
        ("synchronization", 38),
    ]);
    let table = include_str!("../layouts/layouts.txt");
    let lines = || table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let versions: BTreeMap<&str, u32> = lines()
        .filter(|words| words[2] == "CUPTI_API_VERSION")
        .map(|words| (words[0], words[3].parse().expect("a number")))
        .collect();
    let mut seen = 0;
    for words in lines() {
        let Some(kind) = kinds.get(words[1]) else { continue };
        let size: usize = words[3].parse().expect("a number");
        assert_eq!(fake.size(*kind, versions[words[0]]), size, "{} of {}", words[1], words[0]);
        seen += 1;
    }
    assert_eq!(seen, kinds.len() * versions.len());
}

#[test]
fn each_preset_records_its_kinds() {
    const DEVICE: [RecordKind; 3] = [Kernel::KIND, Memcpy::KIND, Memset::KIND];
    const EXISTING: [RecordKind; 3] = [DeviceDef::KIND, ContextDef::KIND, StreamDef::KIND];
    let _alone = alone();
    let fake = fake();
    let beyond = [
        (Preset::Gpu, vec![]),
        (Preset::Launch, vec![ApiCall::KIND, Overhead::KIND]),
        (Preset::Full, vec![ApiCall::KIND, Overhead::KIND, Synchronization::KIND]),
    ];
    for (preset, more) in beyond {
        let (sink, _) = capture(preset, || {
            fake.launch(c"kernel", 5, 7, 1);
            fake.copy(4096, 7);
            fake.wait(7);
        });
        for kind in DEVICE.iter().chain(&EXISTING).chain(&more) {
            assert!(sink.rows(*kind) > 0, "{preset:?} has no {kind}");
        }
        assert_eq!(sink.rows(Memcpy::KIND), 2, "one to the device, one between devices");
        for kind in [ApiCall::KIND, Overhead::KIND, Synchronization::KIND] {
            assert_eq!(sink.rows(kind) > 0, more.contains(&kind), "{preset:?} and {kind}");
        }
    }
}

#[test]
fn a_launch_is_one_call_where_launches_are_recorded() {
    let _alone = alone();
    let fake = fake();
    for version in [18, 130_001] {
        fake.version(version);
        let (sink, _) = capture(Preset::Launch, || fake.launch(c"kernel", 1000, 7, 1));
        assert_eq!(sink.rows(ApiCall::KIND), 1000, "version {version}");
        sink.watch.assert_joined(ApiDomain::CudaRuntime);

        let (sink, _) = capture(Preset::Launch, || fake.launch_by_driver(c"kernel", 1000, 7));
        assert_eq!(sink.rows(ApiCall::KIND), 1000, "version {version}");
        sink.watch.assert_joined(ApiDomain::CudaDriver);
    }
    fake.version(130_001);
}

#[test]
fn a_launch_shows_its_driver_calls_where_all_is_recorded() {
    let _alone = alone();
    let fake = fake();
    let (sink, _) = capture(Preset::Full, || fake.launch(c"kernel", 100, 7, 1));
    assert_eq!(sink.rows(ApiCall::KIND), 300, "the runtime's, the driver's, and a small one");
    sink.watch.assert_joined(ApiDomain::CudaRuntime);
    sink.watch.assert_joined(ApiDomain::CudaDriver);
}

#[test]
fn what_a_call_returned_is_told() {
    const OUT_OF_MEMORY: i32 = 2;
    let _alone = alone();
    let fake = fake();
    let (sink, summary) = capture(Preset::Launch, || {
        fake.result(OUT_OF_MEMORY);
        fake.silent(true);
        fake.launch(c"kernel", 3, 7, 1);
        fake.silent(false);
        fake.result(0);
    });
    assert_eq!(*sink.watch.results.lock().expect("kept"), [2, 2, 2]);
    assert_eq!(summary.device_used, Some(false), "nothing that was launched ran");
}

/// Another client of the library may record calls: its records come to whoever takes the buffers.
#[test]
fn records_of_calls_that_somebody_else_switched_on_double_nothing() {
    const CALLS: [u32; 2] = [4, 5];
    let _alone = alone();
    let fake = fake();
    for preset in [Preset::Gpu, Preset::Launch] {
        let (sink, summary) = capture(preset, || {
            CALLS.iter().for_each(|kind| fake.switch_kind(*kind, true));
            fake.launch(c"kernel", 100, 7, 1);
            CALLS.iter().for_each(|kind| fake.switch_kind(*kind, false));
        });
        let calls = if preset == Preset::Gpu { 0 } else { 100 };
        assert_eq!((sink.rows(Kernel::KIND), sink.rows(ApiCall::KIND)), (100, calls));
        let notes = summary.notes;
        assert!(!notes.iter().any(|note| note.contains("not understood")), "{notes:?}");
    }
}

/// Calls of threads that flushes meet anywhere: still one each.
#[test]
fn flushes_during_calls_double_nothing() {
    const LAUNCHES: u64 = 20_000;
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|stream| scope.spawn(move || fake.launch(c"k", LAUNCHES, stream, 1)))
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            session.flush().expect("flushes");
        }
    });
    session.stop(DRAIN).expect("stops");
    // Flushes without a pause can take all buffers; what the library then drops is counted.
    let lost: u64 = sink.losses().values().sum();
    let kernels = (2 * LAUNCHES).checked_sub(sink.rows(Kernel::KIND)).expect("none is doubled");
    assert!(kernels <= lost, "{kernels} kernels miss, {lost} counted");
    assert_eq!(sink.rows(ApiCall::KIND), 2 * LAUNCHES, "calls need no buffer of CUPTI's");
}

#[test]
fn a_call_of_the_driver_alone_comes_out_by_flushes_without_a_stop() {
    let _alone = alone();
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    fake.launch_by_driver(c"kernel", 1, 7);
    support::wait_until("the call's row", || {
        session.flush().expect("flushes");
        sink.rows(ApiCall::KIND) == 1
    });
    session.stop(DRAIN).expect("stops");
}

#[test]
fn a_device_is_used_where_something_was_launched() {
    let _alone = alone();
    let fake = fake();
    let used = |preset, silent, launch: bool| {
        fake.silent(silent);
        let work = || {
            if launch {
                fake.launch(c"kernel", 3, 7, 1);
            }
        };
        let (sink, summary) = capture(preset, work);
        fake.silent(false);
        assert_eq!(sink.rows(Kernel::KIND) > 0, launch && !silent);
        summary.device_used
    };
    assert_eq!(used(Preset::Launch, false, true), Some(true));
    assert_eq!(used(Preset::Launch, true, true), Some(true), "the driver gave no record");
    assert_eq!(used(Preset::Launch, false, false), Some(false));
    assert_eq!(used(Preset::Gpu, false, true), Some(true));
    assert_eq!(used(Preset::Gpu, true, true), None, "without calls nobody knows");
    // Launches that are told while kernels are recorded no more.
    fake.launches_at_end(true);
    let (sink, summary) = capture(Preset::Launch, || {});
    fake.launches_at_end(false);
    assert!(sink.rows(Kernel::KIND) == 0 && sink.rows(ApiCall::KIND) > 0);
    assert_eq!(summary.device_used, Some(false));
}

/// Each registration of a clock costs the next session's first kernels their times.
#[test]
fn the_clock_of_cupti_is_left_alone() {
    let _alone = alone();
    let fake = fake();
    capture(Preset::Full, || fake.launch(c"kernel", 3, 7, 1));
    assert_eq!(fake.calls(c"cuptiActivityRegisterTimestampCallback"), 0);
    assert!(fake.calls(c"cuptiActivityRegisterCallbacks") > 0, "the stand-in counts calls");
}

#[test]
fn a_stop_leaves_nothing_on() {
    let _alone = alone();
    let fake = fake();
    for preset in [Preset::Gpu, Preset::Launch, Preset::Full] {
        capture(preset, || {
            fake.launch(c"kernel", 3, 7, 1);
            assert!(fake.enabled() > 0 && fake.subscribed());
        });
        assert_eq!((fake.enabled(), fake.subscribed()), (0, false), "{preset:?}");
        assert_eq!(fake.violations(), 0, "{preset:?}");
    }
}
