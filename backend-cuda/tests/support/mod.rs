//! The stand-in for libcupti, as a test drives it.
#![expect(unsafe_code, reason = "plays an application that calls a C library")]
#![allow(dead_code, reason = "each test crate uses a part")]

pub(crate) mod watched;

use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use profiler_core::backend::{ProfileSession, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::{Answer, MemorySink};
use profiler_core::record::{Kernel, Row as _};
use profiler_core::sink::RecordSink;

use backend_cuda::CudaBackend;

/// The stand-in, loaded once a process.
pub(crate) struct FakeCupti {
    library: Library,
    /// Where the file lies; its name is the vendor's.
    pub(crate) path: PathBuf,
}

/// A session that does not wait for the driver: the stand-in comes without one.
pub(crate) fn attached() -> SessionConfig {
    let mut config = SessionConfig::default();
    config.options.insert("cuda.attach".to_owned(), "at_once".into());
    config
}

/// How long a session may drain at its stop.
pub(crate) const DRAIN: Duration = Duration::from_millis(200);

/// CUPTI, and so its stand-in, is one a process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn sink() -> Arc<MemorySink> {
    Arc::new(MemorySink::new(Answer::Accept))
}

pub(crate) fn open(sink: &Arc<MemorySink>, config: &SessionConfig) -> Box<dyn ProfileSession> {
    let sink = Arc::clone(sink) as Arc<dyn RecordSink>;
    CudaBackend::new().open(config, sink, Arc::new(SystemClock::new())).expect("opens")
}

/// A capture works: what an earlier fault left behind would show here.
pub(crate) fn assert_works(fake: &FakeCupti) {
    let sink = sink();
    let mut session = open(&sink, &attached());
    session.start().expect("starts");
    fake.launch(c"after", 10, 1, 1);
    session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(Kernel::KIND), 10);
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} does not come to be");
        std::thread::sleep(Duration::from_millis(2));
    }
}

const CHILD: &str = "OMNIPROF_TEST_CHILD";

/// Whether this process is the one that the test of this name started.
pub(crate) fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|name| name == test)
}

/// Runs the test of this name once more, in a process of its own.
pub(crate) fn child(test: &str, variables: &[(&str, &str)]) -> Child {
    let program = std::env::current_exe().expect("the test knows its file");
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, test);
    command.envs(variables.iter().copied());
    command.spawn().expect("the test starts again")
}

/// Waits for a process; one that hangs is killed and fails the test.
pub(crate) fn wait_for(child: &mut Child, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status;
        }
        if Instant::now() >= deadline {
            child.kill().expect("killed");
            panic!("the process hangs: not over within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Compiles C into a library of that file name, alone in a folder.
pub(crate) fn compile(file: &str, source: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "compiled-{}-{}",
        std::process::id(),
        file.len()
    ));
    std::fs::create_dir_all(&folder).expect("a folder");
    let code = folder.join("source.c");
    std::fs::write(&code, source).expect("written");
    let library = folder.join(file);
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(compiler)
        .args(["-shared", "-fPIC", &format!("-Wl,-soname,{file}"), "-o"])
        .arg(&library)
        .arg(&code)
        .status()
        .expect("there is a C compiler");
    assert!(status.success());
    library
}

/// Builds and loads the stand-in.
pub(crate) fn fake() -> &'static FakeCupti {
    static FAKE: OnceLock<FakeCupti> = OnceLock::new();
    FAKE.get_or_init(|| {
        let path = build();
        // SAFETY: our own library, which has no initialisers.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        FakeCupti { library: library.expect("the stand-in loads"), path }
    })
}

fn build() -> PathBuf {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fakes/fake-cupti/Cargo.toml");
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fakes");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--manifest-path", manifest, "--target-dir"])
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the stand-in builds");
    let built = target.join("debug/libfake_cupti.so");
    let named = target.join(format!("{}/libcupti.so.13", std::process::id()));
    std::fs::create_dir_all(named.parent().expect("has a folder")).expect("a folder");
    std::fs::copy(built, &named).expect("a copy of the stand-in");
    named
}

impl FakeCupti {
    fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: each caller below names the type that the stand-in gives the symbol.
        let symbol = unsafe { self.library.get::<T>(name.as_bytes()) };
        *symbol.expect("the stand-in has the symbol")
    }

    pub(crate) fn version(&self, version: u32) {
        self.symbol::<extern "C" fn(u32)>("fake_version")(version);
    }

    pub(crate) fn rival(&self, present: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_rival")(present);
    }

    pub(crate) fn fail(&self, call: &CStr, code: c_int) {
        let function = self.symbol::<unsafe extern "C" fn(*const c_char, c_int)>("fake_fail");
        // SAFETY: a C string.
        unsafe { function(call.as_ptr(), code) };
    }

    pub(crate) fn all_calls(&self) -> u64 {
        self.symbol::<extern "C" fn() -> u64>("fake_all_calls")()
    }

    pub(crate) fn flushed_at_once(&self) -> u32 {
        self.symbol::<extern "C" fn() -> u32>("fake_flushed_at_once")()
    }

    pub(crate) fn hold(&self, holding: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_hold")(holding);
    }

    pub(crate) fn drop_records(&self, count: usize) {
        self.symbol::<extern "C" fn(usize)>("fake_drop")(count);
    }

    pub(crate) fn launch(&self, name: &'static CStr, count: u64, stream: u32, grid: u32) {
        let function = self.symbol::<extern "C" fn(*const c_char, u64, u32, u32)>("fake_launch");
        function(name.as_ptr(), count, stream, grid);
    }

    pub(crate) fn copy(&self, bytes: u64, stream: u32) {
        self.symbol::<extern "C" fn(u64, u32)>("fake_copy")(bytes, stream);
    }

    pub(crate) fn unknown(&self, kind: u32) {
        self.symbol::<extern "C" fn(u32)>("fake_unknown")(kind);
    }

    pub(crate) fn launch_by_driver(&self, name: &'static CStr, count: u64, stream: u32) {
        let function =
            self.symbol::<extern "C" fn(*const c_char, u64, u32)>("fake_launch_by_driver");
        function(name.as_ptr(), count, stream);
    }

    pub(crate) fn wait(&self, stream: u32) {
        self.symbol::<extern "C" fn(u32)>("fake_wait")(stream);
    }

    pub(crate) fn silent(&self, silent: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_silent")(silent);
    }

    pub(crate) fn stranger(&self, recording: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_stranger")(recording);
    }

    /// Calls return this from now on.
    pub(crate) fn result(&self, result: c_int) {
        self.symbol::<extern "C" fn(c_int)>("fake_result")(result);
    }

    pub(crate) fn launches_at_end(&self, launches: bool) {
        self.symbol::<extern "C" fn(bool)>("fake_launches_at_end")(launches);
    }

    /// As another client in the process does that records on its own account.
    pub(crate) fn switch_kind(&self, kind: u32, on: bool) {
        let name = if on { "cuptiActivityEnable" } else { "cuptiActivityDisable" };
        self.symbol::<extern "C" fn(u32) -> c_int>(name)(kind);
    }

    pub(crate) fn finalize_ms(&self, ms: u64) {
        self.symbol::<extern "C" fn(u64)>("fake_finalize_ms")(ms);
    }

    pub(crate) fn violations(&self) -> usize {
        self.symbol::<extern "C" fn() -> usize>("fake_violations")()
    }

    pub(crate) fn enabled(&self) -> usize {
        self.symbol::<extern "C" fn() -> usize>("fake_enabled")()
    }

    pub(crate) fn subscribed(&self) -> bool {
        self.symbol::<extern "C" fn() -> bool>("fake_subscribed")()
    }

    pub(crate) fn size(&self, kind: u32, version: u32) -> usize {
        self.symbol::<extern "C" fn(u32, u32) -> usize>("fake_size")(kind, version)
    }

    pub(crate) fn watch_exit(&self) {
        self.symbol::<extern "C" fn()>("fake_watch_exit")();
    }

    pub(crate) fn calls(&self, call: &CStr) -> u64 {
        let function = self.symbol::<unsafe extern "C" fn(*const c_char) -> u64>("fake_calls");
        // SAFETY: a C string.
        unsafe { function(call.as_ptr()) }
    }

    /// As a driver does that forgets its clients.
    pub(crate) fn unsubscribe(&self) {
        let function =
            self.symbol::<extern "C" fn(*mut std::ffi::c_void) -> c_int>("cuptiUnsubscribe");
        function(std::ptr::null_mut());
    }

    pub(crate) fn release_new(&self) {
        self.symbol::<extern "C" fn()>("fake_release_new")();
    }
}
