//! A sink in memory, work that can be found again, and waiting.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails, and says what it skips"
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backend_cpu::CpuBackend;
use profiler_core::backend::{ProfileSession, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
pub(crate) use profiler_core::conformance::skipped;
use profiler_core::error::BackendError;
use profiler_core::record::{
    Counter, Frame, Module, ProcessDef, Row, Sample, StackDef, StackId, StringDef, ThreadDef,
};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};
use zerocopy::FromBytes as _;

/// What a session wrote.
#[derive(Default)]
pub(crate) struct MemorySink {
    inner: Mutex<Written>,
}

#[derive(Clone, Default)]
pub(crate) struct Written {
    pub(crate) streams: Vec<StreamInfo>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) stacks: HashMap<StackId, Vec<u64>>,
    pub(crate) threads: BTreeMap<u32, String>,
    pub(crate) processes: BTreeMap<u32, String>,
    pub(crate) modules: Vec<(Module, String, Vec<u8>)>,
    pub(crate) strings: HashMap<(StreamId, u32), String>,
    pub(crate) counters: Vec<(StreamId, Counter)>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) facts: BTreeMap<String, String>,
    pub(crate) groups: usize,
    /// The next groups are refused.
    pub(crate) refuse: usize,
    pub(crate) refused_rows: usize,
    pub(crate) closed: bool,
    /// The next group makes the sink panic.
    pub(crate) panic: bool,
}

impl MemorySink {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn written(&self) -> Written {
        self.lock().clone()
    }

    pub(crate) fn sample_count(&self) -> usize {
        self.lock().samples.len()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn rows<R: Row>(batch: &Batch<'_>) -> Vec<R> {
    let size = batch.stride as usize;
    batch.rows.chunks_exact(size).map(|row| R::read_from_prefix(row).unwrap().0).collect()
}

impl RecordSink for MemorySink {
    fn open_stream(&self, info: StreamInfo) -> StreamId {
        let mut inner = self.lock();
        inner.streams.push(info);
        StreamId(inner.streams.len() as u32)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        let mut inner = self.lock();
        if inner.closed {
            return Emit::Closed;
        }
        assert!(!inner.panic, "this sink was told to panic");
        if inner.refuse > 0 {
            inner.refuse -= 1;
            inner.refused_rows += group.iter().map(Batch::count).sum::<usize>();
            return Emit::Full;
        }
        inner.groups += 1;
        for batch in group {
            let text = |place: profiler_core::record::HeapRef| {
                place.text(batch.heap).unwrap().into_owned()
            };
            if batch.kind == Sample::KIND {
                for sample in rows::<Sample>(batch) {
                    assert!(inner.stacks.contains_key(&sample.stack), "definitions come first");
                    inner.samples.push(sample);
                }
            } else if batch.kind == StackDef::KIND {
                for stack in rows::<StackDef>(batch) {
                    let bytes = stack.frames.of(batch.heap).unwrap();
                    let frames = bytes.chunks_exact(size_of::<Frame>());
                    let frames = frames.map(|f| Frame::read_from_bytes(f).unwrap().address);
                    inner.stacks.insert(stack.id, frames.collect());
                }
            } else if batch.kind == ThreadDef::KIND {
                for thread in rows::<ThreadDef>(batch) {
                    inner.threads.insert(thread.thread, text(thread.name));
                }
            } else if batch.kind == ProcessDef::KIND {
                for process in rows::<ProcessDef>(batch) {
                    inner.processes.insert(process.process, text(process.name));
                }
            } else if batch.kind == Module::KIND {
                for module in rows::<Module>(batch) {
                    let build_id = module.build_id.of(batch.heap).unwrap().to_vec();
                    inner.modules.push((module, text(module.path), build_id));
                }
            } else if batch.kind == StringDef::KIND {
                for string in rows::<StringDef>(batch) {
                    inner.strings.insert((batch.stream, string.id.0), text(string.text));
                }
            } else if batch.kind == Counter::KIND {
                for counter in rows::<Counter>(batch) {
                    inner.counters.push((batch.stream, counter));
                }
            } else {
                panic!("rows of kind {} are not expected", batch.kind);
            }
        }
        Emit::Accepted
    }

    fn loss(&self, loss: Loss) {
        self.lock().losses.push(loss);
    }

    fn fact(&self, key: &str, value: &str) {
        self.lock().facts.insert(key.to_owned(), value.to_owned());
    }

    fn log(&self, level: LogLevel, target: &str, message: &str) {
        println!("{level:?} {target}: {message}");
    }
}

impl Written {
    /// The last values of the counters, by name.
    pub(crate) fn counter_names(&self) -> BTreeMap<String, (f64, String)> {
        let mut names = BTreeMap::new();
        for (stream, counter) in &self.counters {
            let name = self.strings[&(*stream, counter.name.0)].clone();
            let unit = self.strings[&(*stream, counter.unit.0)].clone();
            names.insert(name, (counter.value, unit));
        }
        names
    }

    /// The samples with their frames.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = (&Sample, &[u64])> {
        self.samples.iter().map(|sample| (sample, self.stacks[&sample.stack].as_slice()))
    }

    /// The module around an address.
    pub(crate) fn module(&self, address: u64) -> Option<&(Module, String, Vec<u8>)> {
        let around = |m: &Module| (m.start_address..m.end_address).contains(&address);
        self.modules.iter().rfind(|(module, _, _)| around(module))
    }
}

/// Opens and starts a session.
pub(crate) fn start(
    sink: &Arc<MemorySink>,
    config: &SessionConfig,
) -> Result<Box<dyn ProfileSession>, BackendError> {
    let mut session = CpuBackend::new().open(config, sink.clone(), Arc::new(SystemClock::new()))?;
    session.start()?;
    Ok(session)
}

/// Waits for a condition.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "timed out waiting for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processor time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Burns the processor for some time of its own.
#[inline(never)]
pub(crate) fn burn(time: Duration) -> u64 {
    let end = thread_cpu() + time;
    let mut value = 1;
    while thread_cpu() < end {
        value = spin(value, 200_000);
    }
    value
}

/// A leaf that takes nearly all the time of [`burn`]: it calls nothing, optimised or not.
#[inline(never)]
pub(crate) fn spin(mut value: u64, rounds: u32) -> u64 {
    let mut round = 0;
    while round < rounds {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        round += 1;
    }
    value
}

/// The addresses of [`spin`], as wide as it can be; it holds one loop.
pub(crate) fn spin_range() -> std::ops::Range<u64> {
    let start = spin as fn(u64, u32) -> u64 as usize as u64;
    start..start + 512
}

/// The addresses of [`burn`].
pub(crate) fn burn_range() -> std::ops::Range<u64> {
    let start = burn as fn(Duration) -> u64 as usize as u64;
    start..start + 1024
}

/// Whether this machine lets us sample by perf events, as the backend's probe tells.
pub(crate) fn perf_allowed() -> bool {
    use profiler_core::probe::ProbeReport;
    match CpuBackend::new().probe() {
        ProbeReport::Available { notes, .. } => {
            notes.iter().any(|note| note.contains("by perf events"))
        }
        _ => false,
    }
}

/// The id of the calling thread.
pub(crate) fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// A process of this very test binary that runs one of its ignored tests.
pub(crate) struct Child {
    child: std::process::Child,
    output: std::io::BufReader<std::process::ChildStdout>,
    printed: String,
}

impl Child {
    pub(crate) fn command(test: &str) -> std::process::Command {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        command.stdout(std::process::Stdio::piped()).stdin(std::process::Stdio::piped());
        command
    }

    pub(crate) fn spawn(mut command: std::process::Command) -> Self {
        let mut child = command.spawn().unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        Self { child, output, printed: String::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads on until the child has printed `text`.
    pub(crate) fn wait_for_output(&mut self, text: &str) {
        use std::io::BufRead as _;
        while !self.printed.contains(text) {
            let read = self.output.read_line(&mut self.printed).unwrap();
            assert!(read > 0, "the child ended without {text:?}: {}", self.printed);
        }
    }

    /// Reads on until the child has printed a line with `text`, and answers what stands behind it.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
        self.wait_for_output(text);
        let line = self.printed.lines().find_map(|line| line.split_once(text));
        line.map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    }

    /// Writes to the child's input.
    pub(crate) fn say(&mut self, text: &str) {
        use std::io::Write as _;
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits for a good end and answers what the child printed.
    pub(crate) fn finish(mut self) -> String {
        use std::io::Read as _;
        self.output.read_to_string(&mut self.printed).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.printed);
        assert!(self.printed.contains("1 passed"), "no such test: {}", self.printed);
        std::mem::take(&mut self.printed)
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone: std::io::Result<()> = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// Ends the process when the test that started it has gone: its end of the pipe closes.
pub(crate) fn end_with_parent() {
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        })
        .unwrap();
}

/// A file mapped as code.
pub(crate) struct MappedCode {
    start: *mut std::ffi::c_void,
    len: usize,
}

/// Maps the first page of a file as code.
#[expect(unsafe_code, reason = "mapping memory has no safe form")]
pub(crate) fn map_code(path: &std::path::Path) -> MappedCode {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let file = std::fs::File::open(path).unwrap();
    let protection = ProtFlags::READ | ProtFlags::EXEC;
    let len = 4096;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let start = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE, &file, 0) };
    MappedCode { start: start.unwrap(), len }
}

impl Drop for MappedCode {
    #[expect(unsafe_code, reason = "unmapping memory has no safe form")]
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map_code`, and nobody refers into it.
        unsafe { rustix::mm::munmap(self.start, self.len) }.unwrap();
    }
}

/// Work for the conformance bodies: a busy thread.
pub(crate) struct Work {
    config: SessionConfig,
}

impl Work {
    /// Sampled that way. Where perf events are refused, the bodies run on what is left.
    pub(crate) fn with(sampler: &str, layout: &str) -> Self {
        let mut config = SessionConfig::default();
        if sampler == "perf_event" && !perf_allowed() {
            println!("perf events are refused here: signal timers stand in for them");
        } else {
            config.options.insert("cpu.sampler".to_owned(), sampler.into());
            config.options.insert("cpu.sampler.layout".to_owned(), layout.into());
        }
        Self { config }
    }

    /// Not sampled, only counted.
    pub(crate) fn counters() -> Self {
        Self { config: SessionConfig { samples: false, ..SessionConfig::default() } }
    }
}

impl profiler_core::conformance::Fixture for Work {
    fn backend(&self) -> Arc<dyn profiler_core::backend::ProfilerBackend> {
        Arc::new(CpuBackend::new())
    }

    fn config(&self) -> SessionConfig {
        self.config.clone()
    }

    fn work(&self) {
        // Six periods at 99 Hz.
        burn(Duration::from_millis(60));
    }

    fn expected(&self) -> Vec<profiler_core::record::RecordKind> {
        match self.config.samples {
            true => vec![Sample::KIND, Counter::KIND],
            false => vec![Counter::KIND],
        }
    }
}

/// A default session in that layout of events.
pub(crate) fn in_layout(layout: &str) -> SessionConfig {
    let mut config = SessionConfig::default();
    config.options.insert("cpu.sampler.layout".to_owned(), layout.into());
    config
}

/// Runs `body` for each layout, if this machine lets us sample.
pub(crate) fn each_layout(body: impl Fn(&str)) {
    if !perf_allowed() {
        return skipped("perf events are refused here");
    }
    body("inherited");
    body("per_thread");
}
