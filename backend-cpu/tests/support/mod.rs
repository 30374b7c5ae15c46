//! A sink in memory, work that can be found again, and waiting.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backend_cpu::CpuBackend;
use profiler_core::backend::{ProfileSession, ProfilerBackend as _, SessionConfig};
use profiler_core::clock::SystemClock;
use profiler_core::error::BackendError;
use profiler_core::record::{
    Counter, Frame, Module, ProcessDef, Row, Sample, StackDef, StackId, StringDef, ThreadDef,
};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};
use zerocopy::FromBytes as _;

/// What a session wrote.
#[derive(Default)]
pub struct MemorySink {
    inner: Mutex<Written>,
}

#[derive(Clone, Default)]
pub struct Written {
    pub streams: Vec<StreamInfo>,
    pub samples: Vec<Sample>,
    pub stacks: HashMap<StackId, Vec<u64>>,
    pub threads: BTreeMap<u32, String>,
    pub processes: BTreeMap<u32, String>,
    pub modules: Vec<(Module, String, Vec<u8>)>,
    pub strings: HashMap<(StreamId, u32), String>,
    pub counters: Vec<(StreamId, Counter)>,
    pub losses: Vec<Loss>,
    pub facts: BTreeMap<String, String>,
    pub groups: usize,
    /// The next groups are refused.
    pub refuse: usize,
    pub refused_rows: usize,
    pub closed: bool,
    /// The next group makes the sink panic.
    pub panic: bool,
}

impl MemorySink {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn written(&self) -> Written {
        self.lock().clone()
    }

    pub fn sample_count(&self) -> usize {
        self.lock().samples.len()
    }

    pub fn change(&self, change: impl FnOnce(&mut Written)) {
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
    pub fn counter_names(&self) -> BTreeMap<String, (f64, String)> {
        let mut names = BTreeMap::new();
        for (stream, counter) in &self.counters {
            let name = self.strings[&(*stream, counter.name.0)].clone();
            let unit = self.strings[&(*stream, counter.unit.0)].clone();
            names.insert(name, (counter.value, unit));
        }
        names
    }

    /// The samples with their frames.
    pub fn stacks(&self) -> impl Iterator<Item = (&Sample, &[u64])> {
        self.samples.iter().map(|sample| (sample, self.stacks[&sample.stack].as_slice()))
    }

    /// The module around an address.
    pub fn module(&self, address: u64) -> Option<&(Module, String, Vec<u8>)> {
        let around = |m: &Module| (m.start_address..m.end_address).contains(&address);
        self.modules.iter().rfind(|(module, _, _)| around(module))
    }
}

/// Opens and starts a session.
pub fn start(
    sink: &Arc<MemorySink>,
    config: &SessionConfig,
) -> Result<Box<dyn ProfileSession>, BackendError> {
    let mut session = CpuBackend::new().open(config, sink.clone(), Arc::new(SystemClock::new()))?;
    session.start()?;
    Ok(session)
}

/// Waits for a condition.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "timed out waiting for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processor time of the calling thread.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Burns the processor for some time of its own.
#[inline(never)]
pub fn burn(time: Duration) -> u64 {
    let end = thread_cpu() + time;
    let mut value = 1;
    while thread_cpu() < end {
        value = spin(value, 200_000);
    }
    value
}

/// A leaf that takes nearly all the time of [`burn`].
#[inline(never)]
pub fn spin(mut value: u64, rounds: u32) -> u64 {
    for round in 0..rounds {
        value =
            std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005) + u64::from(round));
    }
    value
}

/// The addresses of [`spin`], as wide as it can be; it holds one loop.
pub fn spin_range() -> std::ops::Range<u64> {
    let start = spin as fn(u64, u32) -> u64 as usize as u64;
    start..start + 512
}

/// The addresses of [`burn`].
pub fn burn_range() -> std::ops::Range<u64> {
    let start = burn as fn(Duration) -> u64 as usize as u64;
    start..start + 1024
}

/// Whether this machine lets us sample by perf events, as the backend's probe tells.
pub fn perf_allowed() -> bool {
    use profiler_core::probe::ProbeReport;
    match CpuBackend::new().probe() {
        ProbeReport::Available { notes, .. } => {
            notes.iter().any(|note| note.contains("by perf events"))
        }
        _ => false,
    }
}
