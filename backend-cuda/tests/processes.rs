//! What a process of the application may do, each case in a process of its own.
#![expect(clippy::exit, reason = "plays a process that ends")]
#![expect(unsafe_code, reason = "forks, and loads a library as an application does")]

mod support;

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backend_cuda::CudaBackend;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{ApiCall, Kernel, Loss as LossRow, RecordKind, Row as _};
use profiler_core::sink::RecordSink;
use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolReader, SpoolWriter};

use support::{DRAIN, attached, child, compile, fake, is_child, open, sink, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_process_may_end_while_it_is_recorded() {
    const NAME: &str = "a_process_may_end_while_it_is_recorded";
    if !is_child(NAME) {
        let status = wait_for(&mut child(NAME, &[]), LIMIT);
        assert_eq!(status.code(), Some(7), "{status}");
        return;
    }
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    for stream in 0..2 {
        std::thread::Builder::new()
            .name("application".to_owned())
            .spawn(move || {
                loop {
                    fake.launch(c"kernel", 100, stream, 1);
                }
            })
            .expect("a thread");
    }
    wait_until("some records", || {
        session.flush().expect("flushes");
        sink.rows(Kernel::KIND) > 1000
    });
    std::process::exit(7);
}

#[test]
fn a_forked_child_makes_no_call_and_hangs_nowhere() {
    const NAME: &str = "a_forked_child_makes_no_call_and_hangs_nowhere";
    if !is_child(NAME) {
        let status = wait_for(&mut child(NAME, &[]), LIMIT);
        assert_eq!(status.code(), Some(0), "{status}");
        return;
    }
    let fake = fake();
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    fake.launch(c"kernel", 10, 1, 1);
    let before = fake.all_calls();
    // SAFETY: the child calls what is written here, and ends.
    let forked = unsafe { libc::fork() };
    if forked == 0 {
        let refused = session.flush().is_err() && session.stop(DRAIN).is_err();
        drop(session);
        let silent = fake.all_calls() == before;
        // SAFETY: ends the child without the parent's handlers.
        unsafe { libc::_exit(if refused && silent { 9 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    let waited = unsafe { libc::waitpid(forked, &raw mut status, 0) };
    assert_eq!((waited, std::process::ExitStatus::from_raw(status).code()), (forked, Some(9)));
    fake.launch(c"kernel", 10, 1, 1);
    session.stop(DRAIN).expect("the parent records on");
    assert_eq!(sink.rows(Kernel::KIND), 20);
}

/// A session that was started before the application loaded the driver.
#[test]
fn a_session_records_from_the_moment_at_which_the_driver_comes() {
    const NAME: &str = "a_session_records_from_the_moment_at_which_the_driver_comes";
    if !is_child(NAME) {
        let status = wait_for(&mut child(NAME, &[]), LIMIT);
        assert_eq!(status.code(), Some(0), "{status}");
        return;
    }
    let driver = compile("libcuda.so.1", "int cuInit(unsigned flags) { return (int)flags; }");
    let sink = sink();
    let mut session = open(&sink, &SessionConfig::default());
    session.start().expect("starts without a libcupti, which the application may yet bring");
    session.flush().expect("flushes");
    // The application loads its own libcupti, then the driver.
    let fake = fake();
    session.flush().expect("flushes");
    assert_eq!(fake.all_calls(), 0, "a call into CUPTI before the driver is there");
    // SAFETY: our own library, which has no initialisers.
    let loaded = unsafe { Library::open(Some(&driver), RTLD_NOW | RTLD_LOCAL) };
    let _driver = loaded.expect("the driver loads");
    session.flush().expect("flushes");
    fake.launch(c"kernel", 10, 1, 1);
    session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(Kernel::KIND), 10);
    assert_eq!(sink.facts().get("cuda.attach").map(String::as_str), Some("late, with the driver"));
    let found = sink.facts().get("cuda.libcupti").cloned().unwrap_or_default();
    assert!(found.contains(&fake.path.display().to_string()), "{found}");
}

/// A driver of two devices, of which this process has used the second. Contexts are counted.
const DRIVER: &str = "\
#include <stdlib.h>
#include <stddef.h>
static int retained, pushed;
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0; *active = device == 1; return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (device != 1) abort();
    retained++; *context = &retained; return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return 0; }
int cuCtxPushCurrent_v2(void *context) { if (context != &retained) abort(); pushed++; return 0; }
int cuCtxPopCurrent_v2(void **context) { pushed--; *context = &retained; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    if (retained != 1 || pushed != 1) abort();
    *free = strtoul(getenv(\"FREE\"), NULL, 10); *total = 1 << 30; return 0;
}
int fake_held(void) { return retained + pushed; }
";

/// The program's next allocation must not fail because of a capture.
#[test]
fn a_device_without_free_memory_is_not_attached_to() {
    const NAME: &str = "a_device_without_free_memory_is_not_attached_to";
    const MIB: u64 = 1 << 20;
    if !is_child(NAME) {
        for free in [10 * MIB, 64 * MIB] {
            let status = wait_for(&mut child(NAME, &[("FREE", &free.to_string())]), LIMIT);
            assert_eq!(status.code(), Some(0), "{free}: {status}");
        }
        return;
    }
    let path = compile("libcuda.so.1", DRIVER);
    // SAFETY: our own library, which has no initialisers.
    let loaded = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let driver = loaded.expect("the driver loads");
    let fake = fake();
    let is_full = std::env::var("FREE").expect("a number") == (10 * MIB).to_string();
    let mut config = SessionConfig::default();
    if is_full {
        let sink = sink() as Arc<dyn RecordSink>;
        let mut session = CudaBackend::new()
            .open(&config, sink, Arc::new(SystemClock::new()))
            .expect("opens without a look at the memory");
        let error = session.start().expect_err("there is no room");
        assert_eq!(error.code(), "out_of_device_memory", "{error}");
        assert!(error.to_string().contains("10.0 MiB"), "{error}");
        assert_eq!(fake.enabled(), 0, "CUPTI was used");
        config.options.insert("cuda.min_free_bytes".to_owned(), (10 * MIB).into());
    }
    // Afterwards CUPTI has its buffers, and no start takes more.
    for config in [config, SessionConfig::default()] {
        let sink = sink();
        let mut session = open(&sink, &config);
        session.start().expect("there is room");
        fake.launch(c"kernel", 10, 1, 1);
        session.stop(DRAIN).expect("stops");
        assert_eq!(sink.rows(Kernel::KIND), 10);
    }
    // SAFETY: the library above gives the symbol this type.
    let held = unsafe { driver.get::<extern "C" fn() -> c_int>(c"fake_held") };
    assert_eq!(held.expect("the symbol")(), 0, "a context is kept");
}

fn refusal_of(library: &Path) -> (String, String) {
    let mut config = attached();
    config.options.insert("cuda.libcupti".to_owned(), library.display().to_string().into());
    let sink = sink() as Arc<dyn RecordSink>;
    let backend = CudaBackend::new();
    let started = backend
        .open(&config, sink, Arc::new(SystemClock::new()))
        .and_then(|mut session| session.start());
    let error = started.expect_err("it cannot record");
    (error.code().to_owned(), error.to_string())
}

/// A library that lacks what a capture needs; each in a process, for a loaded one stays.
#[test]
fn libraries_that_lack_functions_are_refused_by_name() {
    const NAME: &str = "libraries_that_lack_functions_are_refused_by_name";
    const VERSION: &str = "int cuptiGetVersion(unsigned *v) { *v = 130001; return 0; }";
    const SUBSCRIBE: &str = "int cuptiSubscribe(void **s, void *c, void *d) { return 0; }";
    let sources = BTreeMap::from([
        ("library_missing", "int other(void) { return 0; }".to_owned()),
        ("symbol_missing", VERSION.to_owned()),
        ("symbol_missing_later", format!("{VERSION}\n{SUBSCRIBE}")),
        ("library_too_old", "int cuptiGetVersion(unsigned *v) { *v = 17; return 0; }".to_owned()),
    ]);
    if !is_child(NAME) {
        for case in sources.keys() {
            let status = wait_for(&mut child(NAME, &[("CASE", case)]), LIMIT);
            assert_eq!(status.code(), Some(0), "{case}: {status}");
        }
        return;
    }
    let case = std::env::var("CASE").expect("a case");
    let library = compile("libcupti_lacking.so", &sources[case.as_str()]);
    let (code, message) = refusal_of(&library);
    assert_eq!(code, case.trim_end_matches("_later"), "{message}");
    match case.as_str() {
        "symbol_missing" => assert!(message.contains("cuptiSubscribe"), "{message}"),
        "symbol_missing_later" => assert!(message.contains("cuptiActivity"), "{message}"),
        _ => {}
    }
}

/// The worst moment to be killed: a kernel runs, everything behind it is held back, the pool is
/// full. What was handed over before is in the file.
#[test]
fn a_killed_process_leaves_what_was_handed_over_and_says_what_it_lost() {
    const NAME: &str = "a_killed_process_leaves_what_was_handed_over_and_says_what_it_lost";
    const BEFORE: u64 = 10_000;
    let spool = |process: u32| {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("killed-{process}.spool"))
    };
    if !is_child(NAME) {
        let mut child = child(NAME, &[]);
        let path = spool(child.id());
        wait_until("a loss in the file", || {
            assert!(child.try_wait().expect("a child").is_none(), "it ended by itself");
            read(&path).1 > 0
        });
        child.kill().expect("killed");
        let status = child.wait().expect("a child");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        let (rows, _) = read(&path);
        let of = |kind: RecordKind| rows.get(&kind).copied().unwrap_or(0);
        assert!(of(Kernel::KIND) >= BEFORE && of(ApiCall::KIND) >= BEFORE, "{rows:?}");
        std::fs::remove_file(path).expect("removed");
        return;
    }
    let path = spool(std::process::id());
    let clock = Arc::new(SystemClock::new());
    let header = SpoolHeader {
        session: "killed".to_owned(),
        prefix: None,
        worker: WorkerIdentity::of_this_process(None, None, None, None),
        writer: "test".to_owned(),
        created: clock.now(),
        fence: 1,
    };
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path);
    // How full the disk is, is not what is tested.
    let options = SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() };
    let writer =
        SpoolWriter::create(file.expect("a file"), &header, options, clock).expect("a spool");
    let fake = fake();
    let config = SessionConfig { max_buffer_bytes: 8 << 20, ..attached() };
    let clock = Arc::new(SystemClock::new());
    let mut session = CudaBackend::new().open(&config, writer.sink(), clock).expect("opens");
    session.start().expect("starts");
    fake.launch(c"before", BEFORE, 1, 1);
    session.flush().expect("flushes");
    let written = || writer.progress().rows.get(&Kernel::KIND).copied().unwrap_or(0);
    wait_until("the rows in the file", || written() >= BEFORE);
    fake.hold(true);
    fake.launch(c"held", 60_000, 1, 1);
    fake.release_new();
    // Another thread's records still come out, and go where nothing is kept.
    let other = std::thread::Builder::new().name("application".to_owned());
    other
        .spawn(move || {
            loop {
                fake.launch(c"other", 100, 2, 1);
            }
        })
        .expect("a thread");
    loop {
        session.flush().expect("flushes");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Rows by kind, and how many rows the file says were lost.
fn read(path: &Path) -> (BTreeMap<RecordKind, u64>, u64) {
    let (mut rows, mut lost) = (BTreeMap::new(), 0);
    let Ok(mut reader) = SpoolReader::open(path) else { return (rows, lost) };
    while let Ok(Some(block)) = reader.next_block() {
        *rows.entry(block.kind()).or_default() += block.count() as u64;
        if let Some(losses) = block.rows::<LossRow>() {
            lost += losses.iter().map(|loss| loss.count).sum::<u64>();
        }
    }
    (rows, lost)
}
