//! Turns what application threads left in chunks into rows, on the writer's thread.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use profiler_core::chunk::{ChunkCollector, MAX_POOL_BYTES, chunks};
use profiler_core::clock::{ClockDomain, ClockSource};
use profiler_core::record::{
    HeapRef, LossCause, Marker, RecordKind, Row as _, Span, StringDef, StringId, ThreadDef, flag,
};
use profiler_core::sink::{Batch, Emit, Loss, RecordSink, StreamId, StreamInfo};
use profiler_core::spool::{RowSource, SpoolWriter};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::nvtx::{NVTX, NvtxHead, NvtxRanges};
use super::open::{self, OpenSpan};
use super::text::{self, parts};
use crate::nvtx::thread_names;

/// What stands before the texts of a span in a chunk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct SpanHead {
    pub(super) id: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) parent: u64,
}

/// What stands before the texts of a marker in a chunk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct MarkerHead {
    pub(super) time: u64,
    pub(super) payload: u64,
}

pub(super) const SPAN: u16 = Span::KIND.0;
pub(super) const MARKER: u16 = Marker::KIND.0;

/// Texts that keep an id, at most; then ids are given anew, which bounds the memory where every
/// request brings a text of its own.
const MAX_STRINGS: usize = 1 << 16;

/// Rows of a group, at most.
const GROUP_ROWS: usize = 4096;

/// Dead threads are looked for so often.
const RECLAIM_EVERY: Duration = Duration::from_secs(1);

/// The recording of spans during a session.
pub(crate) struct SpanSession {
    recording: u32,
    is_stopping: Arc<AtomicBool>,
}

static MOST_BYTES: AtomicU64 = AtomicU64::new(0);

/// The most memory that the recording of spans took in the last session that recorded any.
pub(crate) fn most_bytes() -> u64 {
    MOST_BYTES.load(Ordering::Relaxed)
}

impl SpanSession {
    /// Spans are recorded from now on.
    pub(crate) fn begin(writer: &SpoolWriter, clock: Arc<dyn ClockSource>) -> Self {
        let (pool, collector) = chunks(MAX_POOL_BYTES);
        open::prepare_for_all_threads();
        MOST_BYTES.store(0, Ordering::Relaxed);
        super::take_missed();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let sink = writer.sink();
        let stream = sink.open_stream(StreamInfo {
            producer: "agent.spans".to_owned(),
            thread: 0,
            clock: ClockDomain::Monotonic,
        });
        let recording = super::switch_on(pool);
        writer.add_source(Box::new(Source {
            collector,
            clock,
            recording,
            is_stopping: Arc::clone(&is_stopping),
            is_done: false,
            rows: Rows::new(stream),
            nvtx: NvtxRanges::default(),
            nvtx_rounds: 0,
            looked_at: 0,
            next_reclaim: Instant::now() + RECLAIM_EVERY,
        }));
        Self { recording, is_stopping }
    }

    /// Spans are recorded no more; those that are open are written as unfinished when the writer
    /// finishes.
    pub(crate) fn stop(&self) {
        super::switch_off_recording(self.recording);
        self.is_stopping.store(true, Ordering::Release);
    }

    /// The writer has finished.
    pub(crate) fn end(self) {
        super::drop_pool(self.recording);
    }
}

struct Source {
    collector: ChunkCollector,
    clock: Arc<dyn ClockSource>,
    recording: u32,
    is_stopping: Arc<AtomicBool>,
    is_done: bool,
    rows: Rows,
    nvtx: NvtxRanges,
    nvtx_rounds: u32,
    looked_at: u64,
    next_reclaim: Instant,
}

impl RowSource for Source {
    fn drain(&mut self, sink: &dyn RecordSink) {
        if self.is_done {
            return;
        }
        let is_stopping = self.is_stopping.load(Ordering::Acquire);
        self.take_entries(sink, &HashSet::new());
        if is_stopping {
            self.write_unfinished(sink);
            self.is_done = true;
        } else if Instant::now() >= self.next_reclaim {
            self.next_reclaim = Instant::now() + RECLAIM_EVERY;
            for span in open::reclaim(self.recording) {
                self.rows.push_open_span(sink, &span);
            }
        }
        self.rows.flush(sink);
        self.count_dropped(sink);
        open::prepare();
        let bytes =
            self.collector.bytes() as u64 + open::bytes() + self.rows.bytes() + self.nvtx.bytes();
        MOST_BYTES.fetch_max(bytes, Ordering::Relaxed);
    }
}

impl Source {
    fn take_entries(&mut self, sink: &dyn RecordSink, ended: &HashSet<u64>) -> HashSet<u64> {
        let mut ids = HashSet::new();
        let keeps_ids = !ended.is_empty();
        let rows = &mut self.rows;
        let nvtx = &mut self.nvtx;
        self.collector.drain(|entry| match entry.kind {
            SPAN => {
                let Ok((head, text)) = SpanHead::read_from_prefix(entry.payload) else { return };
                if keeps_ids {
                    ids.insert(head.id);
                }
                rows.push_span(sink, &head, entry.thread, text);
            }
            MARKER => {
                let Ok((head, text)) = MarkerHead::read_from_prefix(entry.payload) else { return };
                rows.push_marker(sink, &head, entry.thread, text);
            }
            NVTX => nvtx.take(sink, rows, entry.thread, entry.payload),
            _ => {}
        });
        self.nvtx.end_round(&mut self.nvtx_rounds);
        ids
    }

    /// The spans that are open. One that ends while they are looked for is in a chunk by then,
    /// and is not written twice.
    fn write_unfinished(&mut self, sink: &dyn RecordSink) {
        let open = open::open_spans(self.recording);
        let open_ids: HashSet<u64> = open.iter().map(|span| span.id).collect();
        let ended = self.take_entries(sink, &open_ids);
        for span in open.iter().filter(|span| !ended.contains(&span.id)) {
            self.rows.push_open_span(sink, span);
        }
        self.nvtx.write_unfinished(sink, &mut self.rows);
    }

    fn count_dropped(&mut self, sink: &dyn RecordSink) {
        let from = std::mem::replace(&mut self.looked_at, self.clock.monotonic_ns());
        let missed = (SPAN, super::take_missed() + std::mem::take(&mut self.nvtx.missed));
        for (kind, count) in self.collector.take_dropped().into_iter().chain([missed]) {
            if count == 0 {
                continue;
            }
            sink.loss(Loss {
                stream: Some(self.rows.stream),
                // What NVTX was told is a part of a span.
                kind: Some(RecordKind(if kind == NVTX { SPAN } else { kind })),
                count,
                from,
                to: self.looked_at,
                cause: LossCause::ChunksExhausted,
            });
        }
    }
}

/// Rows of a group to be, with their definitions.
pub(super) struct Rows {
    stream: StreamId,
    strings: HashMap<Box<[u8]>, StringId>,
    known_bytes: usize,
    last_string: u32,
    threads: HashSet<u32>,
    /// Names that the application gave by NVTX.
    thread_names: HashMap<u32, &'static str>,
    seen_thread_names: u32,
    string_defs: Vec<StringDef>,
    string_heap: Vec<u8>,
    thread_defs: Vec<ThreadDef>,
    thread_heap: Vec<u8>,
    spans: Vec<Span>,
    span_heap: Vec<u8>,
    markers: Vec<Marker>,
    marker_heap: Vec<u8>,
}

/// The texts of a row.
#[derive(Default)]
struct Texts {
    name: StringId,
    target: StringId,
    request: StringId,
    stage: StringId,
    fields: HeapRef,
}

impl Rows {
    fn new(stream: StreamId) -> Self {
        Self {
            stream,
            strings: HashMap::new(),
            known_bytes: 0,
            last_string: 0,
            threads: HashSet::new(),
            thread_names: HashMap::new(),
            seen_thread_names: 0,
            string_defs: Vec::new(),
            string_heap: Vec::new(),
            thread_defs: Vec::new(),
            thread_heap: Vec::new(),
            spans: Vec::new(),
            span_heap: Vec::new(),
            markers: Vec::new(),
            marker_heap: Vec::new(),
        }
    }

    /// The memory of the texts that are known and of the group that gathers.
    fn bytes(&self) -> u64 {
        const STRING_BYTES: usize = size_of::<(Box<[u8]>, StringId)>() + 1;
        let known = self.strings.capacity() * STRING_BYTES + self.known_bytes;
        let rows = self.string_defs.capacity() * size_of::<StringDef>()
            + self.thread_defs.capacity() * size_of::<ThreadDef>()
            + self.spans.capacity() * size_of::<Span>()
            + self.markers.capacity() * size_of::<Marker>();
        let heaps = [&self.string_heap, &self.thread_heap, &self.span_heap, &self.marker_heap];
        (known + rows + heaps.iter().map(|heap| heap.capacity()).sum::<usize>()) as u64
    }

    fn push_span(&mut self, sink: &dyn RecordSink, head: &SpanHead, thread: u32, text: &[u8]) {
        let mut heap = std::mem::take(&mut self.span_heap);
        let texts = self.texts(text, &mut heap);
        self.span_heap = heap;
        self.meet(thread);
        self.spans.push(Span {
            start: head.start,
            end: head.end,
            id: head.id,
            parent: head.parent,
            fields: texts.fields,
            name: texts.name,
            target: texts.target,
            request: texts.request,
            stage: texts.stage,
            thread,
            flags: if head.end == 0 { flag::UNFINISHED } else { 0 },
        });
        if self.spans.len() >= GROUP_ROWS {
            self.flush(sink);
        }
    }

    fn push_open_span(&mut self, sink: &dyn RecordSink, span: &OpenSpan) {
        let head = SpanHead { id: span.id, start: span.start, end: 0, parent: span.parent };
        self.push_span(sink, &head, span.thread, &span.text);
    }

    fn push_marker(&mut self, sink: &dyn RecordSink, head: &MarkerHead, thread: u32, text: &[u8]) {
        let mut heap = std::mem::take(&mut self.marker_heap);
        let texts = self.texts(text, &mut heap);
        self.marker_heap = heap;
        self.meet(thread);
        self.markers.push(Marker {
            time: head.time,
            payload: head.payload,
            fields: texts.fields,
            name: texts.name,
            target: texts.target,
            request: texts.request,
            thread,
        });
        if self.markers.len() >= GROUP_ROWS {
            self.flush(sink);
        }
    }

    /// A span whose texts are known one by one; `fields` is a JSON object or empty.
    pub(super) fn push_named_span(
        &mut self,
        sink: &dyn RecordSink,
        head: SpanHead,
        (thread, flags): (u32, u32),
        name: &str,
        target: &str,
        fields: &str,
    ) {
        let (name, target) = (self.intern(name), self.intern(target));
        let fields = match fields.is_empty() {
            true => HeapRef::default(),
            false => HeapRef::push(&mut self.span_heap, fields.as_bytes()),
        };
        self.meet(thread);
        self.spans.push(Span {
            start: head.start,
            end: head.end,
            id: head.id,
            parent: head.parent,
            fields,
            name,
            target,
            request: StringId::NONE,
            stage: StringId::NONE,
            thread,
            flags,
        });
        if self.spans.len() >= GROUP_ROWS {
            self.flush(sink);
        }
    }

    /// A marker whose texts are known one by one; `fields` is a JSON object or empty.
    pub(super) fn push_named_marker(
        &mut self,
        sink: &dyn RecordSink,
        head: &NvtxHead,
        thread: u32,
        name: &str,
        target: &str,
        fields: &str,
    ) {
        let (name, target) = (self.intern(name), self.intern(target));
        let fields = match fields.is_empty() {
            true => HeapRef::default(),
            false => HeapRef::push(&mut self.marker_heap, fields.as_bytes()),
        };
        self.meet(thread);
        self.markers.push(Marker {
            time: head.time,
            payload: head.payload,
            fields,
            name,
            target,
            request: StringId::NONE,
            thread,
        });
        if self.markers.len() >= GROUP_ROWS {
            self.flush(sink);
        }
    }

    fn texts(&mut self, bytes: &[u8], heap: &mut Vec<u8>) -> Texts {
        let mut texts = Texts::default();
        let begin = heap.len();
        for (tag, part) in parts(bytes) {
            match tag {
                text::NAME => texts.name = self.intern(part),
                text::TARGET => texts.target = self.intern(part),
                text::REQUEST => texts.request = self.intern(part),
                text::STAGE => texts.stage = self.intern(part),
                text::FIELD => push_field(heap, begin, part),
                text::CUT => push_field(heap, begin, "\"omniprof.cut\":true"),
                _ => {}
            }
        }
        if heap.len() > begin {
            heap.push(b'}');
            texts.fields = HeapRef { offset: begin as u32, len: (heap.len() - begin) as u32 };
        }
        texts
    }

    fn intern(&mut self, text: &str) -> StringId {
        if text.is_empty() {
            return StringId::NONE;
        }
        if let Some(id) = self.strings.get(text.as_bytes()) {
            return *id;
        }
        if self.strings.len() >= MAX_STRINGS {
            self.forget_strings();
        }
        self.last_string += 1;
        let id = StringId(self.last_string);
        let text_ref = HeapRef::push(&mut self.string_heap, text.as_bytes());
        self.string_defs.push(StringDef { text: text_ref, id, reserved: 0 });
        self.known_bytes += text.len();
        self.strings.insert(text.as_bytes().into(), id);
        id
    }

    fn forget_strings(&mut self) {
        self.strings.clear();
        self.known_bytes = 0;
    }

    /// Names a thread when it is first seen.
    fn meet(&mut self, thread: u32) {
        if !self.threads.insert(thread) {
            return;
        }
        for named in thread_names(self.seen_thread_names) {
            self.seen_thread_names += 1;
            self.thread_names.insert(named.thread, &named.name);
        }
        let path = format!("/proc/self/task/{thread}/comm");
        let name = match self.thread_names.get(&thread) {
            Some(name) => (*name).to_owned(),
            None => std::fs::read_to_string(path).unwrap_or_default(),
        };
        let name = HeapRef::push(&mut self.thread_heap, name.trim_end().as_bytes());
        let process = std::process::id();
        self.thread_defs.push(ThreadDef { name, thread, process });
    }

    fn flush(&mut self, sink: &dyn RecordSink) {
        let mut group = Vec::with_capacity(4);
        if !self.string_defs.is_empty() {
            group.push(Batch::with_heap(self.stream, &self.string_defs, &self.string_heap));
        }
        if !self.thread_defs.is_empty() {
            group.push(Batch::with_heap(self.stream, &self.thread_defs, &self.thread_heap));
        }
        if !self.spans.is_empty() {
            group.push(Batch::with_heap(self.stream, &self.spans, &self.span_heap));
        }
        if !self.markers.is_empty() {
            group.push(Batch::with_heap(self.stream, &self.markers, &self.marker_heap));
        }
        if group.is_empty() {
            return;
        }
        if sink.emit(&group) != Emit::Accepted {
            // The sink has counted the rows; the definitions must come again.
            self.forget_strings();
            self.threads.clear();
        }
        self.string_defs.clear();
        self.string_heap.clear();
        self.thread_defs.clear();
        self.thread_heap.clear();
        self.spans.clear();
        self.span_heap.clear();
        self.markers.clear();
        self.marker_heap.clear();
    }
}

fn push_field(heap: &mut Vec<u8>, begin: usize, field: &str) {
    heap.push(if heap.len() == begin { b'{' } else { b',' });
    heap.extend_from_slice(field.as_bytes());
}
