//! Sessions on the stand-in, one test at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backend_npu::NpuBackend;
use profiler_core::backend::{ProfileSession, ProfilerBackend as _, SessionConfig, SessionSummary};
use profiler_core::clock::SystemClock;
use profiler_core::conformance::{Answer, MemorySink};
use profiler_core::error::BackendError;
use profiler_core::record::{Kernel, Row as _};
use profiler_core::sink::RecordSink;

use super::{FakeMspti, fake};

/// How long a stop waits for what devices still hand over.
pub(crate) const DRAIN: Duration = Duration::from_millis(400);

/// MSPTI, and so its stand-in, is one a process.
pub(crate) struct Alone {
    pub(crate) fake: &'static FakeMspti,
    _one: MutexGuard<'static, ()>,
}

pub(crate) fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fake = fake();
    fake.reset();
    fake.preload(false);
    Alone { fake, _one: one }
}

pub(crate) fn sink() -> Arc<MemorySink> {
    Arc::new(MemorySink::new(Answer::Accept))
}

pub(crate) fn open(
    fake: &FakeMspti,
    sink: &Arc<MemorySink>,
    config: &SessionConfig,
) -> Box<dyn ProfileSession> {
    let sink = Arc::clone(sink) as Arc<dyn RecordSink>;
    fake.backend().open(config, sink, Arc::new(SystemClock::new())).expect("opens")
}

/// Why the backend opens no session.
pub(crate) fn refusal(backend: &NpuBackend) -> BackendError {
    let opened = backend.open(&SessionConfig::default(), sink(), Arc::new(SystemClock::new()));
    opened.err().expect("does not open")
}

pub(crate) fn started(fake: &FakeMspti, sink: &Arc<MemorySink>) -> Box<dyn ProfileSession> {
    let mut session = open(fake, sink, &SessionConfig::default());
    session.start().expect("starts");
    session
}

pub(crate) fn refused(fake: &FakeMspti, config: &SessionConfig) -> BackendError {
    open(fake, &sink(), config).start().expect_err("does not start")
}

/// A capture works: what an earlier fault left behind would show here.
pub(crate) fn assert_works(fake: &FakeMspti) -> SessionSummary {
    let sink = sink();
    let mut session = started(fake, &sink);
    fake.launch(c"after", 10, 1);
    let summary = session.stop(DRAIN).expect("stops");
    assert_eq!(sink.rows(Kernel::KIND), 10);
    assert!(sink.losses().is_empty(), "{:?}", sink.losses());
    summary
}

/// Waits until so many kernels were read.
pub(crate) fn until_read(sink: &MemorySink, kernels: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while sink.rows(Kernel::KIND) < kernels {
        assert!(Instant::now() < deadline, "{} of {kernels} kernels", sink.rows(Kernel::KIND));
        std::thread::sleep(Duration::from_millis(1));
    }
}
