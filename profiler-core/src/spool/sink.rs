//! The side of the spool that producers see: a bounded queue that never blocks them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use crossbeam_queue::ArrayQueue;

use crate::clock::{ClockDomain, ClockSource};
use crate::record::{HeapRef, LossCause, RecordKind};
use crate::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};
use crate::spool::encode::{u32_of, u64_of};
use crate::spool::format::{MAX_BLOCK_ROWS, MAX_STRIDE};
use crate::spool::layout::Layout;
use crate::spool::progress::{LossCounts, SpoolProgress};

/// Takes the lines of [`RecordSink::log`].
pub type LogFn = dyn Fn(LogLevel, &str, &str) + Send + Sync;

/// Groups in the queue, at most.
const QUEUE_GROUPS: usize = 8192;
/// The heap of one row, at most.
const MAX_ROW_HEAP_BYTES: usize = 1 << 20;
/// Rows that share bytes of a heap are written with a copy each; so much more may come of it.
const MAX_HEAP_GROWTH_BYTES: usize = 8 << 20;
/// The bytes of a batch whose heap references are unknown, so that it cannot be cut into blocks.
const MAX_OPAQUE_BYTES: usize = 16 << 20;
/// Facts that wait for the writer, at most.
const MAX_WAITING_FACT_BYTES: usize = 1 << 20;
/// Streams, at most.
const MAX_STREAMS: usize = 1 << 16;
/// Distinct losses that wait for the writer, at most; more are counted without their stream.
const MAX_WAITING_LOSSES: usize = 1024;
/// What a batch of a group begins with in the queue's buffers.
pub(super) const BATCH_HEADER_BYTES: usize = 24;
/// The capacities of the buffers that are kept for reuse.
const BUFFER_CLASSES: [usize; 5] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// What the producers and the writer's thread share.
pub(super) struct Shared {
    queue: ArrayQueue<Vec<u8>>,
    free: [ArrayQueue<Vec<u8>>; BUFFER_CLASSES.len()],
    queued_bytes: AtomicUsize,
    /// Bytes of all buffers that exist: waiting, being read, kept for reuse.
    allocated_bytes: AtomicUsize,
    most_allocated_bytes: AtomicUsize,
    queue_bytes: usize,
    /// Producers that are inside `emit`.
    active: AtomicUsize,
    closed: AtomicBool,
    pub(super) stop: AtomicBool,
    streams: AtomicU32,
    control: Mutex<Control>,
    progress: Mutex<SpoolProgress>,
    thread: OnceLock<Thread>,
    pub(super) clock: Arc<dyn ClockSource>,
    log: Option<Arc<LogFn>>,
}

/// What comes in rarely and must not be lost.
pub(super) struct Control {
    pub(super) streams: Vec<StreamInfo>,
    facts: Vec<Fact>,
    fact_bytes: usize,
    losses: BTreeMap<(u32, u16, LossCause), Waiting>,
    counts: LossCounts,
    /// Why rows are refused once the sink is closed.
    closed_by: LossCause,
}

pub(super) struct Fact {
    pub(super) time: u64,
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) count: u64,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What the writer takes from [`Control`] in one go.
pub(super) struct News {
    pub(super) streams: Vec<(u32, StreamInfo)>,
    pub(super) facts: Vec<Fact>,
    pub(super) losses: BTreeMap<(u32, u16, LossCause), Waiting>,
}

/// Why a group is refused before anything of it is taken.
struct MalformedGroup;

impl Shared {
    pub(super) fn new(
        queue_bytes: usize,
        clock: Arc<dyn ClockSource>,
        log: Option<Arc<LogFn>>,
    ) -> Self {
        let agent =
            StreamInfo { producer: "agent".to_owned(), thread: 0, clock: ClockDomain::Monotonic };
        let kept = |class: usize| (queue_bytes / class / 4).clamp(1, 1024);
        Self {
            queue: ArrayQueue::new(QUEUE_GROUPS),
            free: BUFFER_CLASSES.map(|class| ArrayQueue::new(kept(class))),
            queued_bytes: AtomicUsize::new(0),
            allocated_bytes: AtomicUsize::new(0),
            most_allocated_bytes: AtomicUsize::new(0),
            queue_bytes,
            active: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            streams: AtomicU32::new(1),
            control: Mutex::new(Control {
                streams: vec![agent],
                facts: Vec::new(),
                fact_bytes: 0,
                losses: BTreeMap::new(),
                counts: LossCounts::default(),
                closed_by: LossCause::SinkFull,
            }),
            progress: Mutex::new(SpoolProgress::default()),
            thread: OnceLock::new(),
            clock,
            log,
        }
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_thread(&self, thread: Thread) {
        // A second writer's thread for the same queue does not exist.
        self.thread.get_or_init(|| thread);
    }

    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Everything that came in beside the queue; streams from number `known` on.
    pub(super) fn news(&self, known: usize) -> News {
        let mut control = self.control();
        let streams = control.streams[known.min(control.streams.len())..]
            .iter()
            .enumerate()
            .map(|(index, info)| ((known + index) as u32, info.clone()))
            .collect();
        control.fact_bytes = 0;
        News {
            streams,
            facts: std::mem::take(&mut control.facts),
            losses: std::mem::take(&mut control.losses),
        }
    }

    pub(super) fn pop(&self) -> Option<Vec<u8>> {
        self.queue.pop()
    }

    /// Gives a group's buffer back.
    pub(super) fn recycle(&self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        self.queued_bytes.fetch_sub(capacity, Ordering::AcqRel);
        buffer.clear();
        let class = BUFFER_CLASSES.iter().position(|&class| class == capacity);
        let is_kept = class.is_some_and(|class| self.free[class].push(buffer).is_ok());
        if !is_kept {
            self.allocated_bytes.fetch_sub(capacity, Ordering::Relaxed);
        }
    }

    /// The most memory that the queue and its buffers took.
    pub(super) fn most_bytes(&self) -> usize {
        let tables = QUEUE_GROUPS * size_of::<Vec<u8>>() * 2;
        self.most_allocated_bytes.load(Ordering::Relaxed) + tables
    }

    fn allocate(&self, capacity: usize) -> Vec<u8> {
        let buffer = Vec::with_capacity(capacity);
        let before = self.allocated_bytes.fetch_add(buffer.capacity(), Ordering::Relaxed);
        self.most_allocated_bytes.fetch_max(before + buffer.capacity(), Ordering::Relaxed);
        buffer
    }

    /// Refuses everything from now on.
    pub(super) fn close(&self, cause: LossCause) {
        self.control().closed_by = cause;
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether a producer that may not have seen the closing is inside `emit`.
    pub(super) fn is_busy(&self) -> bool {
        self.active.load(Ordering::SeqCst) != 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn count_loss(&self, loss: Loss) {
        if loss.count == 0 {
            return;
        }
        let stream = loss.stream.map_or(0, |stream| stream.0);
        let kind = loss.kind.map_or(0, |kind| kind.0);
        let mut control = self.control();
        control.counts.add(RecordKind(kind), loss.cause, loss.count);
        let mut key = (stream, kind, loss.cause);
        if control.losses.len() >= MAX_WAITING_LOSSES && !control.losses.contains_key(&key) {
            key = (0, 0, loss.cause);
        }
        let waiting =
            control.losses.entry(key).or_insert(Waiting { count: 0, from: loss.from, to: loss.to });
        waiting.count = waiting.count.saturating_add(loss.count);
        // 0 = not known, which is all that can be said of the sum, too.
        waiting.from = waiting.from.min(loss.from);
        waiting.to = match (waiting.to, loss.to) {
            (0, _) | (_, 0) => 0,
            (one, other) => one.max(other),
        };
    }

    /// Counts every row of a group as lost.
    fn count_group(&self, group: &[Batch<'_>], cause: LossCause) {
        for batch in group {
            let count = match batch.count() as u64 {
                0 if !batch.rows.is_empty() => 1,
                count => count,
            };
            let (from, to) = time_range(batch);
            self.count_loss(Loss {
                stream: Some(batch.stream),
                kind: Some(batch.kind),
                count,
                from,
                to,
                cause,
            });
        }
    }

    pub(super) fn losses(&self) -> LossCounts {
        self.control().counts.clone()
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, SpoolProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn open_stream(&self, info: StreamInfo) -> StreamId {
        let mut control = self.control();
        if self.is_closed() || control.streams.len() >= MAX_STREAMS {
            return StreamId(u32::MAX);
        }
        let id = control.streams.len() as u32;
        control.streams.push(info);
        self.streams.store(id + 1, Ordering::Release);
        StreamId(id)
    }

    /// Checks a group; the sum of its bytes in the queue.
    fn check(&self, group: &[Batch<'_>]) -> Result<usize, MalformedGroup> {
        let streams = self.streams.load(Ordering::Acquire);
        let mut bytes = 0;
        for batch in group {
            if batch.stream.0 >= streams || batch.stream != group[0].stream {
                return Err(MalformedGroup);
            }
            check_batch(batch)?;
            bytes += BATCH_HEADER_BYTES + batch.rows.len() + batch.heap.len();
        }
        Ok(bytes)
    }

    /// What a producer's group meets before it is taken: closed, malformed, or its size.
    pub(super) fn admit(&self, group: &[Batch<'_>]) -> Result<usize, Emit> {
        if self.is_closed() {
            let cause = self.control().closed_by;
            self.count_group(group, cause);
            return Err(Emit::Closed);
        }
        self.check(group).map_err(|MalformedGroup| {
            self.count_group(group, LossCause::Undecodable);
            Emit::Full
        })
    }

    fn enqueue(&self, group: &[Batch<'_>]) -> Emit {
        let bytes = match self.admit(group) {
            Ok(0) => return Emit::Accepted,
            Ok(bytes) => bytes,
            Err(emit) => return emit,
        };
        let class = BUFFER_CLASSES.iter().position(|&class| bytes <= class);
        let capacity = class.map_or(bytes, |class| BUFFER_CLASSES[class]);
        let before = self.queued_bytes.fetch_add(capacity, Ordering::AcqRel);
        if before + capacity > self.queue_bytes {
            self.queued_bytes.fetch_sub(capacity, Ordering::AcqRel);
            self.count_group(group, LossCause::SinkFull);
            self.wake();
            return Emit::Full;
        }
        let mut buffer = class
            .and_then(|class| self.free[class].pop())
            .unwrap_or_else(|| self.allocate(capacity));
        // The allocator may give more than was asked for; the account goes by what is held.
        let extra = buffer.capacity() - capacity;
        self.queued_bytes.fetch_add(extra, Ordering::AcqRel);
        for batch in group {
            write_batch(batch, &mut buffer);
        }
        if let Err(buffer) = self.queue.push(buffer) {
            self.recycle(buffer);
            self.count_group(group, LossCause::SinkFull);
            self.wake();
            return Emit::Full;
        }
        let half = self.queue_bytes / 2;
        if (before < half && before + capacity >= half) || self.queue.len() == QUEUE_GROUPS / 2 {
            self.wake();
        }
        Emit::Accepted
    }

    pub(super) fn take_fact(&self, key: &str, value: &str) {
        let fact = Fact {
            time: self.clock.monotonic_ns(),
            key: cut(key).to_owned(),
            value: cut(value).to_owned(),
        };
        let mut control = self.control();
        let bytes = fact.key.len() + fact.value.len() + size_of::<Fact>();
        if self.is_closed() || control.fact_bytes + bytes > MAX_WAITING_FACT_BYTES {
            let cause = match self.is_closed() {
                true => control.closed_by,
                false => LossCause::SinkFull,
            };
            drop(control);
            self.count_loss(Loss {
                stream: Some(StreamId(0)),
                kind: Some(<crate::record::Fact as crate::record::Row>::KIND),
                count: 1,
                from: fact.time,
                to: fact.time,
                cause,
            });
            return;
        }
        control.fact_bytes += bytes;
        control.facts.push(fact);
    }

    pub(super) fn write_log(&self, level: LogLevel, target: &str, message: &str) {
        if let Some(log) = &self.log {
            log(level, target, message);
        }
    }
}

/// Keys and values are short; what is longer than this is cut.
fn cut(text: &str) -> &str {
    const MAX: usize = 64 << 10;
    let mut end = text.len().min(MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn check_batch(batch: &Batch<'_>) -> Result<(), MalformedGroup> {
    let stride = batch.stride as usize;
    if stride == 0
        || !stride.is_multiple_of(8)
        || stride > MAX_STRIDE
        || !batch.rows.len().is_multiple_of(stride)
    {
        return Err(MalformedGroup);
    }
    if u32::try_from(batch.rows.len()).is_err() || u32::try_from(batch.heap.len()).is_err() {
        return Err(MalformedGroup);
    }
    let layout = Layout::of(batch.kind);
    if is_opaque(layout, stride, batch.heap) {
        let fits = batch.rows.len() + batch.heap.len() <= MAX_OPAQUE_BYTES
            && batch.rows.len() / stride <= MAX_BLOCK_ROWS;
        if !fits {
            return Err(MalformedGroup);
        }
    }
    let Some(layout) = layout else { return Ok(()) };
    if layout.heap_refs.is_empty() {
        return Ok(());
    }
    let mut sum = 0usize;
    for row in batch.rows.chunks_exact(stride) {
        let mut of_row = 0;
        for &at in &layout.heap_refs {
            let at = at as usize;
            if at + size_of::<HeapRef>() > stride {
                break;
            }
            let end = u64::from(u32_of(row, at)) + u64::from(u32_of(row, at + 4));
            if end > batch.heap.len() as u64 && u32_of(row, at + 4) != 0 {
                return Err(MalformedGroup);
            }
            of_row += u32_of(row, at + 4) as usize;
        }
        if of_row > MAX_ROW_HEAP_BYTES {
            return Err(MalformedGroup);
        }
        sum += of_row;
    }
    match sum <= batch.heap.len() + MAX_HEAP_GROWTH_BYTES {
        true => Ok(()),
        false => Err(MalformedGroup),
    }
}

/// Whether a batch's heap may be referred to from where this build does not know: then its bytes
/// stay as they are, and it fills a block alone.
pub(super) fn is_opaque(layout: Option<&Layout>, stride: usize, heap: &[u8]) -> bool {
    !heap.is_empty() && layout.is_none_or(|layout| layout.stride() < stride)
}

fn time_range(batch: &Batch<'_>) -> (u64, u64) {
    let stride = batch.stride as usize;
    let time = Layout::of(batch.kind).and_then(|layout| layout.time);
    let Some(at) = time.map(|at| at as usize).filter(|at| at + 8 <= stride) else {
        return (0, 0);
    };
    let times = batch.rows.chunks_exact(stride).map(|row| u64_of(row, at));
    times
        .fold(None, |range: Option<(u64, u64)>, time| match range {
            Some((from, to)) => Some((from.min(time), to.max(time))),
            None => Some((time, time)),
        })
        .unwrap_or_default()
}

fn write_batch(batch: &Batch<'_>, buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&batch.stream.0.to_le_bytes());
    buffer.extend_from_slice(&u32::from(batch.kind.0).to_le_bytes());
    buffer.extend_from_slice(&batch.stride.to_le_bytes());
    buffer.extend_from_slice(&(batch.rows.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&(batch.heap.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(batch.rows);
    buffer.extend_from_slice(batch.heap);
}

/// The batches of a group as it came from the queue.
pub(super) fn read_batches(mut buffer: &[u8]) -> impl Iterator<Item = Batch<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = buffer.split_at_checked(BATCH_HEADER_BYTES)?;
        let (rows, rest) = rest.split_at_checked(u32_of(header, 12) as usize)?;
        let (heap, rest) = rest.split_at_checked(u32_of(header, 16) as usize)?;
        buffer = rest;
        Some(Batch {
            stream: StreamId(u32_of(header, 0)),
            kind: RecordKind(u32_of(header, 4) as u16),
            stride: u32_of(header, 8),
            rows,
            heap,
        })
    })
}

/// The sink that producers hold.
pub(super) struct SpoolSink {
    pub(super) shared: Arc<Shared>,
}

impl RecordSink for SpoolSink {
    fn open_stream(&self, info: StreamInfo) -> StreamId {
        self.shared.open_stream(info)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        self.shared.active.fetch_add(1, Ordering::SeqCst);
        let emit = self.shared.enqueue(group);
        self.shared.active.fetch_sub(1, Ordering::SeqCst);
        emit
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
