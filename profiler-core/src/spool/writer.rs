//! The writer: one thread that turns queued rows into a file.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::clock::ClockSource;
use crate::record::LossCause;
use crate::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};
use crate::spool::SpoolHeader;
use crate::spool::core::Core;
use crate::spool::error::SpoolWriteError;
use crate::spool::format::{MAX_HEADER_BYTES, preamble};
use crate::spool::output::{LEAST_LIMIT_BYTES, Output};
use crate::spool::progress::{SpoolEnd, SpoolProgress, SpoolTotals};
use crate::spool::sink::{LogFn, Shared, SpoolSink};
use crate::thread::spawn_blocked;

/// The writer looks at its queue and its sources so often while much comes in.
const POLL: Duration = Duration::from_millis(20);
/// The same while little comes in: looking costs more than writing then. What producers can
/// gather in that time still fits into the queue and the chunks.
const IDLE_POLL: Duration = Duration::from_millis(60);
/// So many bytes of rows between two looks are much.
const MUCH_BYTES: u64 = 128 << 10;
/// The longest the writer takes from the queue without looking at anything else.
const DRAIN_SLICE: Duration = Duration::from_millis(50);
/// The lock is taken again so often: closing any other descriptor of the file drops it.
const RELOCK: Duration = Duration::from_secs(1);

/// How a spool is written.
#[derive(Clone)]
pub struct SpoolOptions {
    /// The file's length, at most.
    pub max_bytes: u64,
    /// The share of the file system that stays free, in percent.
    pub min_free_percent: u32,
    /// Bytes that may wait for the writer. A single group that is longer is always refused.
    pub queue_bytes: usize,
    /// Rows of a block.
    pub block_rows: usize,
    /// How long a row waits for its block to fill.
    pub block_age: Duration,
    /// The length of a segment.
    pub segment_bytes: u64,
    /// Memory for what later segments repeat.
    pub kept_bytes: usize,
    /// Takes the lines of [`RecordSink::log`].
    pub log: Option<Arc<LogFn>>,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            min_free_percent: 5,
            queue_bytes: 8 << 20,
            block_rows: 8192,
            block_age: Duration::from_millis(250),
            segment_bytes: 16 << 20,
            kept_bytes: 8 << 20,
            log: None,
        }
    }
}

impl std::fmt::Debug for SpoolOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolOptions")
            .field("max_bytes", &self.max_bytes)
            .field("min_free_percent", &self.min_free_percent)
            .field("queue_bytes", &self.queue_bytes)
            .finish_non_exhaustive()
    }
}

/// Gives rows that were gathered elsewhere.
pub trait RowSource: Send {
    /// Gives everything there is to `sink`. Called on the writer's thread every 20 to 60 ms and a last
    /// time at the end; what is given here never meets a full queue.
    fn drain(&mut self, sink: &dyn RecordSink);
}

/// Writes a spool.
///
/// Owns the thread `omniprof-spool`, which alone touches the file. Dropping it finishes the spool
/// within a second.
pub struct SpoolWriter {
    shared: Arc<Shared>,
    sources: Arc<Mutex<Vec<Box<dyn RowSource>>>>,
    done: Arc<Done>,
    pid: u32,
    finished: bool,
}

impl std::fmt::Debug for SpoolWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolWriter").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Tells that the writer's thread has ended, and by when it has to.
#[derive(Default)]
struct Done {
    state: Mutex<DoneState>,
    changed: Condvar,
    abandoned: AtomicBool,
}

#[derive(Default)]
struct DoneState {
    ended: bool,
    deadline: Option<Instant>,
}

impl Done {
    fn lock(&self) -> MutexGuard<'_, DoneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_late(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
            || self.lock().deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl SpoolWriter {
    /// Begins a spool in an empty file: writes its beginning, takes the lock that says that its
    /// writer lives, starts the thread.
    ///
    /// The file must be open for writing; its descriptor may have come from another process.
    ///
    /// # Errors
    ///
    /// [`SpoolWriteError`]; what was written stays in the file.
    pub fn create(
        file: File,
        header: &SpoolHeader,
        options: SpoolOptions,
        clock: Arc<dyn ClockSource>,
    ) -> Result<Self, SpoolWriteError> {
        if options.max_bytes < LEAST_LIMIT_BYTES {
            return Err(SpoolWriteError::LimitTooSmall {
                max_bytes: options.max_bytes,
                least: LEAST_LIMIT_BYTES,
            });
        }
        let json =
            serde_json::to_vec(header).map_err(|source| SpoolWriteError::Header { source })?;
        if json.len() > MAX_HEADER_BYTES {
            return Err(SpoolWriteError::HeaderTooLong {
                bytes: json.len(),
                limit: MAX_HEADER_BYTES,
            });
        }
        let lock = WriteLock::take(&file)?;
        let metadata =
            file.metadata().map_err(|source| SpoolWriteError::Io { action: "look at", source })?;
        if metadata.len() != 0 {
            return Err(SpoolWriteError::NotEmpty { bytes: metadata.len() });
        }
        let shared =
            Arc::new(Shared::new(options.queue_bytes.max(64 << 10), clock, options.log.clone()));
        let output = Output::new(file, options.max_bytes, options.min_free_percent);
        let core = Core::begin(Arc::clone(&shared), output, header, &preamble(&json), &options)
            .map_err(|end| SpoolWriteError::NoRoom { end })?;
        core.report();
        let sources = Arc::new(Mutex::new(Vec::new()));
        let done = Arc::new(Done::default());
        let thread = Writer {
            core,
            shared: Arc::clone(&shared),
            sources: Arc::clone(&sources),
            done: Arc::clone(&done),
            lock,
        };
        let handle = spawn_blocked("omniprof-spool", move || thread.run())
            .map_err(|source| SpoolWriteError::Thread { source })?;
        shared.set_thread(handle.thread().clone());
        Ok(Self { shared, sources, done, pid: std::process::id(), finished: false })
    }

    /// Where producers put their rows.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn RecordSink> {
        Arc::new(SpoolSink { shared: Arc::clone(&self.shared) })
    }

    /// Adds a source that the writer's thread drains every 20 to 60 ms.
    pub fn add_source(&self, source: Box<dyn RowSource>) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// How far the file is, at most 60 ms old; losses and the queue as they are now.
    #[must_use]
    pub fn progress(&self) -> SpoolProgress {
        let mut progress = self.shared.progress().clone();
        progress.lost = self.shared.losses();
        progress.queued_bytes = self.shared.queued_bytes() as u64;
        progress
    }

    /// Writes what is there and the footer, releases the lock.
    ///
    /// What is not written by the deadline is counted as lost. Where the disk hangs, the answer
    /// comes at the deadline all the same, without a footer.
    pub fn finish(mut self, deadline: Duration) -> SpoolTotals {
        self.end(deadline);
        self.progress()
    }

    fn end(&mut self, deadline: Duration) {
        // In a forked child there is no thread to wait for, and the file is the parent's.
        if self.finished || self.pid != std::process::id() {
            return;
        }
        self.finished = true;
        let until = Instant::now() + deadline;
        let mut state = self.done.lock();
        // The last blocks need a moment, too.
        state.deadline = Some(until.checked_sub(deadline / 5).unwrap_or(until));
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        while !state.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.done.abandoned.store(true, Ordering::Relaxed);
                return;
            }
            let waited = self.done.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        self.end(Duration::from_secs(1));
    }
}

/// What the writer's thread owns.
struct Writer {
    core: Core,
    shared: Arc<Shared>,
    sources: Arc<Mutex<Vec<Box<dyn RowSource>>>>,
    done: Arc<Done>,
    lock: WriteLock,
}

impl Writer {
    fn run(mut self) {
        let result = catch_unwind(AssertUnwindSafe(|| self.write()));
        if let Err(panic) = result {
            let message = panic_text(panic.as_ref());
            // The rows at hand may be what it panicked over: only the counting is tried again.
            let closing = catch_unwind(AssertUnwindSafe(|| {
                self.core.close(SpoolEnd::Panicked { message: message.clone() });
            }));
            if closing.is_err() {
                self.shared.close(LossCause::SinkPanicked);
                self.shared.progress().end = Some(SpoolEnd::Panicked { message });
            }
        }
        self.core.report();
        let Self { core, done, lock, .. } = self;
        drop(lock);
        drop(core);
        done.lock().ended = true;
        done.changed.notify_all();
    }

    fn write(&mut self) {
        let mut next_lock = Instant::now() + RELOCK;
        let mut taken_bytes = 0;
        loop {
            let stopping = self.shared.stop.load(Ordering::SeqCst);
            self.core.take_news();
            let more = self.take_groups();
            self.drain_sources();
            self.core.look_at_memory();
            if stopping && !more {
                break;
            }
            self.core.flush_due(false);
            self.core.report();
            if let Some(end) = self.core.end().cloned() {
                self.core.close(end);
                return;
            }
            if Instant::now() >= next_lock {
                next_lock = Instant::now() + RELOCK;
                if let Ok(file) = self.core.output().file() {
                    self.lock.renew(file);
                }
            }
            if stopping && self.done.is_late() {
                break;
            }
            if !more && !stopping {
                let before = std::mem::replace(&mut taken_bytes, self.core.taken_bytes());
                let is_much = taken_bytes - before >= MUCH_BYTES;
                std::thread::park_timeout(if is_much { POLL } else { IDLE_POLL });
            }
        }
        // Producers that come now are refused; those inside are waited for by `close`.
        self.finish();
    }

    /// The file's regular end.
    fn finish(&mut self) {
        self.shared.close(LossCause::DrainDeadline);
        while !self.done.is_late() {
            let busy = self.shared.is_busy();
            while self.core.take_group() {}
            if !busy {
                break;
            }
            std::thread::yield_now();
        }
        self.core.take_news();
        if !self.done.is_late() {
            self.core.flush_due(true);
        }
        self.core.close(SpoolEnd::Finished);
    }

    /// Takes groups for a while; whether there may be more.
    fn take_groups(&mut self) -> bool {
        let begin = Instant::now();
        loop {
            for _ in 0..16 {
                if !self.core.take_group() {
                    return false;
                }
            }
            if begin.elapsed() >= DRAIN_SLICE {
                return true;
            }
        }
    }

    fn drain_sources(&mut self) {
        let mut sources = {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            if sources.is_empty() {
                return;
            }
            std::mem::take(&mut *sources)
        };
        let sink = DirectSink { shared: &self.shared, core: Mutex::new(&mut self.core) };
        sources.retain_mut(|source| {
            let result = catch_unwind(AssertUnwindSafe(|| source.drain(&sink)));
            if let Err(panic) = &result {
                let message = panic_text(panic.as_ref());
                sink.fact("spool.source_panicked", &message);
                sink.log(LogLevel::Error, "spool", &format!("a row source panicked: {message}"));
            }
            result.is_ok()
        });
        let mut list = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.append(&mut list);
        *list = sources;
    }
}

/// The sink of the sources, which run on the writer's thread: no queue lies between.
struct DirectSink<'a> {
    shared: &'a Shared,
    core: Mutex<&'a mut Core>,
}

impl RecordSink for DirectSink<'_> {
    fn open_stream(&self, info: StreamInfo) -> StreamId {
        self.shared.open_stream(info)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        if let Err(refused) = self.shared.admit(group) {
            return refused;
        }
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.take_news();
        for batch in group {
            core.append(batch);
        }
        match core.end() {
            None => Emit::Accepted,
            Some(_) => Emit::Closed,
        }
    }

    fn loss(&self, loss: Loss) {
        self.shared.count_loss(loss);
    }

    fn fact(&self, key: &str, value: &str) {
        self.shared.take_fact(key, value);
    }

    fn log(&self, level: LogLevel, target: &str, message: &str) {
        self.shared.write_log(level, target, message);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "no text".to_owned(),
    }
}

/// The files that this process writes: a process does not see its own locks.
static WRITTEN_HERE: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

fn written_here() -> MutexGuard<'static, BTreeSet<(u64, u64)>> {
    WRITTEN_HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a writer of this process holds the file's lock.
pub(super) fn is_written_here(file: &File) -> std::io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(written_here().contains(&(metadata.dev(), metadata.ino())))
}

/// The lock that says that a spool's writer lives. It is the process's: the kernel drops it when
/// the process ends, and other holders of the same descriptor do not keep it.
struct WriteLock {
    file_id: (u64, u64),
}

impl WriteLock {
    fn take(file: &File) -> Result<Self, SpoolWriteError> {
        let metadata =
            file.metadata().map_err(|source| SpoolWriteError::Io { action: "look at", source })?;
        let file_id = (metadata.dev(), metadata.ino());
        if !written_here().insert(file_id) {
            return Err(SpoolWriteError::Locked);
        }
        let lock = Self { file_id };
        match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(lock),
            Err(Errno::AGAIN | Errno::ACCESS) => Err(SpoolWriteError::Locked),
            Err(error) => Err(SpoolWriteError::Io { action: "lock", source: error.into() }),
        }
    }

    fn renew(&self, file: &File) {
        // Where that fails the lock is still held or cannot be had; both change nothing here.
        fcntl_lock(file, FlockOperation::NonBlockingLockExclusive).ok();
    }
}

impl Drop for WriteLock {
    /// The kernel's lock goes with the file, which closes after this.
    fn drop(&mut self) {
        written_here().remove(&self.file_id);
    }
}
