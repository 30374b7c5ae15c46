//! Stacks of Python code, read out of a process's memory by py-spy's library: of another process, or
//! of this one, as if it were another.
//!
//! The process is never stopped and gets no signal: a stack that changes while it is read may be
//! read wrong now and then, and one that makes no sense is counted as lost.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::record::{
    Frame, HeapRef, LossCause, Row as _, Sample, StackDef, StackId, StringDef, StringId, ThreadDef,
};
use profiler_core::sink::{Batch, Emit, Loss, RecordSink, StreamId, StreamInfo};
use py_spy::config::LockingStrategy;
use py_spy::{PythonSpy, StackTrace};
use zerocopy::IntoBytes as _;

use crate::process::is_profiler_thread;

/// How long finding the interpreter may take.
const FIND_TIMEOUT: Duration = Duration::from_secs(5);

/// Readings a second at most: each reads many small pieces of memory.
const MAX_HZ: u32 = 100;

/// Reading takes at most this part of the time: it pauses so many times as long as it took.
const PAUSE_TIMES: u32 = 4;

/// Readings that fail one after the other before the sampler gives up.
const MAX_FAILURES: u32 = 100;

/// Definitions that are remembered; then all are given anew.
const MAX_DEFINITIONS: usize = 32_768;

/// The most frames of a stack.
const MAX_FRAMES: usize = 256;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct PythonSummary {
    /// Samples taken.
    pub(crate) samples: u64,
    /// Readings that failed.
    pub(crate) failed: u64,
    /// Processor time of the sampler's thread.
    pub(crate) cost_ns: u64,
}

/// Samples the Python threads of a process.
#[derive(Debug)]
pub(crate) struct PythonSampler {
    thread: JoinHandle<PythonSummary>,
    stop: Sender<()>,
}

impl PythonSampler {
    /// Finds the interpreter and begins to sample.
    ///
    /// # Errors
    ///
    /// Why there is none, or why it may not be read, for people.
    pub(crate) fn attach(
        pid: u32,
        hz: u32,
        sink: &Arc<dyn RecordSink>,
        clock: &Arc<dyn ClockSource>,
    ) -> Result<Self, String> {
        let pid = i32::try_from(pid).map_err(|_too_big| format!("there is no process {pid}"))?;
        let (sink, clock) = (Arc::clone(sink), Arc::clone(clock));
        let (found, is_found) = channel();
        let (stop, stopped) = channel();
        let thread = profiler_core::thread::spawn_blocked("omniprof-python", move || {
            let spy = match find(pid) {
                Ok(spy) => spy,
                Err(error) => {
                    // Whoever asked may have stopped waiting.
                    let _told = found.send(Err(error));
                    return PythonSummary::default();
                }
            };
            if found.send(Ok(())).is_err() {
                return PythonSummary::default();
            }
            let period = Duration::from_secs(1) / hz.clamp(1, MAX_HZ);
            Rows::new(pid.unsigned_abs(), sink, clock).sample(spy, period, &stopped)
        })
        .map_err(|error| format!("no thread can be had: {error}"))?;
        match is_found.recv_timeout(FIND_TIMEOUT) {
            Ok(Ok(())) => Ok(Self { thread, stop }),
            Ok(Err(error)) => Err(error),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err("the interpreter was not found in time".to_owned())
            }
        }
    }

    /// Ends sampling.
    pub(crate) fn stop(self) -> PythonSummary {
        // A thread that gave up listens no more.
        let _told = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

/// Whether this process runs Python, by the names of its mapped files: looking for an interpreter
/// reads all symbols of the program.
pub(crate) fn is_in_this_process() -> bool {
    std::fs::read("/proc/self/maps").is_ok_and(|maps| maps_show_python(&maps))
}

fn maps_show_python(maps: &[u8]) -> bool {
    maps.split(|byte| *byte == b'\n').any(|line| {
        let Some(slash) = line.iter().rposition(|byte| *byte == b'/') else { return false };
        let name = &line[slash + 1..];
        let digit_after = |begin: &[u8]| {
            name.strip_prefix(begin).is_some_and(|rest| {
                rest.first().is_none_or(|byte| byte.is_ascii_digit() || *byte == b' ')
            })
        };
        digit_after(b"libpython") || digit_after(b"python")
    })
}

/// The interpreter in the process. The library reads whatever it finds there: it may panic.
fn find(pid: i32) -> Result<PythonSpy, String> {
    let config = py_spy::Config {
        blocking: LockingStrategy::NonBlocking,
        native: false,
        // A thread's name is the kernel's, as everywhere else.
        collect_thread_names: false,
        ..py_spy::Config::default()
    };
    match catch_unwind(AssertUnwindSafe(|| PythonSpy::new(pid, &config))) {
        Ok(Ok(spy)) => Ok(spy),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_panic) => Err("looking for the interpreter panicked".to_owned()),
    }
}

/// Turns stacks into rows of a stream.
struct Rows {
    pid: u32,
    sink: Arc<dyn RecordSink>,
    clock: Arc<dyn ClockSource>,
    stream: StreamId,
    strings: HashMap<String, StringId>,
    stacks: HashMap<Vec<(StringId, StringId, u32)>, StackId>,
    /// Threads whose names were given; `false` = one of the profiler's.
    threads: HashMap<u32, bool>,
    last_id: u32,
    group: Group,
}

/// Rows that are emitted together.
#[derive(Default)]
struct Group {
    strings: Vec<StringDef>,
    string_heap: Vec<u8>,
    threads: Vec<ThreadDef>,
    thread_heap: Vec<u8>,
    stacks: Vec<StackDef>,
    stack_heap: Vec<u8>,
    samples: Vec<Sample>,
}

impl Rows {
    fn new(pid: u32, sink: Arc<dyn RecordSink>, clock: Arc<dyn ClockSource>) -> Self {
        let stream = sink.open_stream(StreamInfo {
            producer: "cpu.python".to_owned(),
            thread: 0,
            clock: ClockDomain::Monotonic,
        });
        Self {
            pid,
            sink,
            clock,
            stream,
            strings: HashMap::new(),
            stacks: HashMap::new(),
            threads: HashMap::new(),
            last_id: 0,
            group: Group::default(),
        }
    }

    /// Samples until it is told to stop, the process is gone or nothing can be read.
    fn sample(
        mut self,
        mut spy: PythonSpy,
        period: Duration,
        stopped: &Receiver<()>,
    ) -> PythonSummary {
        let mut summary = PythonSummary::default();
        let mut failures = 0;
        let mut last = self.clock.monotonic_ns();
        loop {
            let begun = Instant::now();
            let read = catch_unwind(AssertUnwindSafe(|| spy.get_stack_traces()));
            let now = self.clock.monotonic_ns();
            match read {
                Ok(Ok(traces)) => {
                    failures = 0;
                    // What a sample stands for: the time since the last look.
                    summary.samples += self.take(&traces, now, now.saturating_sub(last));
                }
                Ok(Err(_)) | Err(_) => {
                    failures += 1;
                    summary.failed += 1;
                    self.lost(last, now);
                }
            }
            last = now;
            if !self.emit() || failures >= MAX_FAILURES {
                break;
            }
            let pause = period.max(begun.elapsed().saturating_mul(PAUSE_TIMES));
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let cost = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        summary.cost_ns = cost.tv_sec as u64 * 1_000_000_000 + cost.tv_nsec as u64;
        summary
    }

    /// Takes the stacks of threads that ran; answers how many there were.
    fn take(&mut self, traces: &[StackTrace], time: u64, weight_ns: u64) -> u64 {
        if self.strings.len() >= MAX_DEFINITIONS || self.stacks.len() >= MAX_DEFINITIONS {
            self.strings.clear();
            self.stacks.clear();
        }
        let mut taken = 0;
        for trace in traces.iter().filter(|trace| trace.active && !trace.frames.is_empty()) {
            let thread = trace.os_thread_id.and_then(|id| u32::try_from(id).ok());
            let Some(thread) = thread.filter(|thread| self.look_at_thread(*thread)) else {
                continue;
            };
            let stack = self.stack(trace);
            let sample = Sample { time, weight_ns, thread, stack, ..Sample::default() };
            self.group.samples.push(sample);
            taken += 1;
        }
        taken
    }

    /// Names a thread; whether it is one of the process's own.
    fn look_at_thread(&mut self, thread: u32) -> bool {
        if let Some(is_own) = self.threads.get(&thread) {
            return *is_own;
        }
        if self.threads.len() >= MAX_DEFINITIONS {
            self.threads.clear();
        }
        let path = format!("/proc/{}/task/{thread}/comm", self.pid);
        let mut name = std::fs::read(path).unwrap_or_default();
        if name.last() == Some(&b'\n') {
            name.pop();
        }
        let is_own = !is_profiler_thread(&name);
        if is_own {
            let name = HeapRef::push(&mut self.group.thread_heap, &name);
            self.group.threads.push(ThreadDef { name, thread, process: self.pid });
        }
        self.threads.insert(thread, is_own);
        is_own
    }

    fn stack(&mut self, trace: &StackTrace) -> StackId {
        let mut frames = Vec::with_capacity(trace.frames.len().min(MAX_FRAMES));
        for frame in trace.frames.iter().take(MAX_FRAMES) {
            let function = self.string(&frame.name);
            let file = self.string(&frame.filename);
            frames.push((function, file, u32::try_from(frame.line).unwrap_or(0)));
        }
        if let Some(id) = self.stacks.get(&frames) {
            return *id;
        }
        self.last_id += 1;
        let id = StackId(self.last_id);
        let start = self.group.stack_heap.len() as u32;
        for (function, file, line) in &frames {
            let frame = Frame { function: *function, file: *file, line: *line, ..Frame::default() };
            self.group.stack_heap.extend_from_slice(frame.as_bytes());
        }
        let len = self.group.stack_heap.len() as u32 - start;
        let frames_ref = HeapRef { offset: start, len };
        self.group.stacks.push(StackDef { frames: frames_ref, id, process: self.pid });
        self.stacks.insert(frames, id);
        id
    }

    fn string(&mut self, text: &str) -> StringId {
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        self.last_id += 1;
        let id = StringId(self.last_id);
        let text_ref = HeapRef::push(&mut self.group.string_heap, text.as_bytes());
        self.group.strings.push(StringDef { text: text_ref, id, reserved: 0 });
        self.strings.insert(text.to_owned(), id);
        id
    }

    /// Hands over what a reading brought; whether the sink takes more.
    fn emit(&mut self) -> bool {
        let group = std::mem::take(&mut self.group);
        let batches = [
            Batch::with_heap(self.stream, &group.strings, &group.string_heap),
            Batch::with_heap(self.stream, &group.threads, &group.thread_heap),
            Batch::with_heap(self.stream, &group.stacks, &group.stack_heap),
            Batch::new(self.stream, &group.samples),
        ];
        let filled: Vec<Batch<'_>> =
            batches.into_iter().filter(|batch| batch.count() > 0).collect();
        if filled.is_empty() {
            return true;
        }
        match self.sink.emit(&filled) {
            Emit::Accepted => true,
            Emit::Closed => false,
            // Refused and counted: the definitions are given anew.
            _ => {
                self.strings.clear();
                self.stacks.clear();
                self.threads.clear();
                true
            }
        }
    }

    fn lost(&self, from: u64, to: u64) {
        let (stream, kind) = (Some(self.stream), Some(Sample::KIND));
        let cause = LossCause::SamplerLost;
        self.sink.loss(Loss { stream, kind, count: 1, from, to, cause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_is_known_by_its_files() {
        let line = |path: &str| format!("7f00-7f01 r-xp 0 08:01 1                    {path}\n");
        for path in ["/usr/bin/python3.11", "/opt/lib/libpython3.12.so.1.0", "/usr/bin/python"] {
            assert!(maps_show_python(line(path).as_bytes()), "{path}");
        }
        for path in ["/a/python3/libone.so", "/a/pythonic", "/a/libpythonic.so", "[heap]"] {
            assert!(!maps_show_python(line(path).as_bytes()), "{path}");
        }
        assert!(!is_in_this_process());
    }
}
