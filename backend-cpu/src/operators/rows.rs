//! Turns what application threads left in chunks into rows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use profiler_core::chunk::{ChunkCollector, Entry};
use profiler_core::clock::ClockSource;
use profiler_core::record::{
    HeapRef, LossCause, Operator, Row as _, StackId, StringDef, StringId, ThreadDef, flag,
};
use profiler_core::sink::{Batch, Emit, Loss, RecordSink, StreamId};
use zerocopy::FromBytes as _;

use super::entry::{NAME, OPERATOR, OperatorHead, THREAD};
use super::shapes;
use super::state::Open;

/// Rows of a group, at most.
const GROUP_ROWS: usize = 4096;
/// Texts that keep an id, at most; then ids are given anew.
const MAX_STRINGS: usize = 1 << 16;
/// Ids of names that are known, at most twice as many.
const MAX_NAMES: usize = 1 << 16;
/// Inputs whose text is kept, at most.
const MAX_SHAPES: usize = 1 << 12;
/// Threads of libtorch that are known, at most.
const MAX_THREADS: usize = 1 << 16;

/// Rows to be, with what their ids mean.
pub(super) struct Rows {
    sink: Arc<dyn RecordSink>,
    stream: StreamId,
    /// Names as threads told them, those of late and those from before.
    names: HashMap<u32, StringId>,
    old_names: HashMap<u32, StringId>,
    /// What is behind the ids, so that a refused definition can be sent again.
    strings: HashMap<Box<[u8]>, StringId>,
    texts: HashMap<StringId, Box<[u8]>>,
    undefined: HashSet<StringId>,
    last_string: u32,
    /// The threads behind libtorch's numbers.
    numbered: HashMap<u32, u32>,
    named_threads: HashSet<u32>,
    /// The texts of inputs, by how they are packed.
    shapes: HashMap<Box<[u8]>, Box<str>>,
    /// Where they stand in the heap of this group.
    placed: HashMap<Box<[u8]>, HeapRef>,
    string_defs: Vec<StringDef>,
    string_heap: Vec<u8>,
    thread_defs: Vec<ThreadDef>,
    thread_heap: Vec<u8>,
    operators: Vec<Operator>,
    heap: Vec<u8>,
    is_closed: bool,
    /// Rows that the sink took.
    pub(super) taken: u64,
}

impl Rows {
    pub(super) fn new(sink: Arc<dyn RecordSink>, stream: StreamId) -> Self {
        Self {
            sink,
            stream,
            names: HashMap::new(),
            old_names: HashMap::new(),
            strings: HashMap::new(),
            texts: HashMap::new(),
            undefined: HashSet::new(),
            last_string: 0,
            numbered: HashMap::new(),
            named_threads: HashSet::new(),
            shapes: HashMap::new(),
            placed: HashMap::new(),
            string_defs: Vec::new(),
            string_heap: Vec::new(),
            thread_defs: Vec::new(),
            thread_heap: Vec::new(),
            operators: Vec::with_capacity(GROUP_ROWS),
            heap: Vec::new(),
            is_closed: false,
            taken: 0,
        }
    }

    /// Whether the sink takes nothing any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes one entry; an operator's thread and start are given back.
    pub(super) fn take(&mut self, entry: Entry<'_>) -> Option<(u32, u64)> {
        match entry.kind {
            OPERATOR => {
                let (head, shapes) = OperatorHead::read_from_prefix(entry.payload).ok()?;
                self.operator(&head, entry.thread, shapes);
                return Some((entry.thread, head.start));
            }
            NAME => {
                let (id, text) = entry.payload.split_first_chunk()?;
                let string = self.intern(text);
                if self.names.len() == MAX_NAMES {
                    self.old_names = std::mem::take(&mut self.names);
                }
                self.names.insert(u32::from_ne_bytes(*id), string);
            }
            THREAD => {
                let number = u64::from_ne_bytes(*entry.payload.first_chunk()?) as u32;
                if self.numbered.len() == MAX_THREADS {
                    self.numbered.clear();
                }
                self.numbered.insert(number, entry.thread);
            }
            _ => {}
        }
        None
    }

    /// An operator that is still open.
    pub(super) fn unfinished(&mut self, open: &Open) {
        let name = self.name(open.name);
        self.push(Operator {
            start: open.start,
            sequence: -1,
            name,
            thread: open.thread,
            scope: u16::from(open.scope) + 1,
            depth: open.depth,
            flags: flag::UNFINISHED,
            stack: StackId::NONE,
            ..Operator::default()
        });
    }

    /// Emits what there is.
    pub(super) fn flush(&mut self) {
        let mut group = Vec::with_capacity(3);
        if !self.string_defs.is_empty() {
            group.push(Batch::with_heap(self.stream, &self.string_defs, &self.string_heap));
        }
        if !self.thread_defs.is_empty() {
            group.push(Batch::with_heap(self.stream, &self.thread_defs, &self.thread_heap));
        }
        if !self.operators.is_empty() {
            group.push(Batch::with_heap(self.stream, &self.operators, &self.heap));
        }
        if group.is_empty() {
            return;
        }
        match self.sink.emit(&group) {
            Emit::Accepted => self.taken += self.operators.len() as u64,
            Emit::Closed => self.is_closed = true,
            _ => {
                // The sink has counted the rows; the definitions must come again.
                self.undefined.extend(self.texts.keys());
                self.named_threads.clear();
            }
        }
        self.string_defs.clear();
        self.string_heap.clear();
        self.thread_defs.clear();
        self.thread_heap.clear();
        self.operators.clear();
        self.heap.clear();
        self.placed.clear();
    }

    /// Counts operators that found no room, lost between two instants of the stream's clock.
    pub(super) fn lost(&self, count: u64, from: u64, to: u64) {
        if count == 0 {
            return;
        }
        self.sink.loss(Loss {
            stream: Some(self.stream),
            kind: Some(Operator::KIND),
            count,
            from,
            to,
            cause: LossCause::ChunksExhausted,
        });
    }

    fn operator(&mut self, head: &OperatorHead, thread: u32, packed: &[u8]) {
        let name = self.name(head.name);
        let shapes = self.shapes(packed);
        let forward_thread = match head.forward_thread {
            0 => 0,
            number => self.numbered.get(&number).copied().unwrap_or(0),
        };
        self.push(Operator {
            start: head.start,
            // An end of 0 would say that it has none.
            end: head.end.max(1),
            sequence: head.sequence,
            shapes,
            name,
            thread,
            forward_thread,
            stack: StackId::NONE,
            scope: head.scope + 1,
            depth: head.depth,
            flags: 0,
        });
    }

    fn push(&mut self, row: Operator) {
        self.define(row.name);
        self.meet(row.thread);
        self.operators.push(row);
        if self.operators.len() >= GROUP_ROWS {
            self.flush();
        }
    }

    fn name(&self, id: u32) -> StringId {
        let known = self.names.get(&id).or_else(|| self.old_names.get(&id));
        known.copied().unwrap_or(StringId::NONE)
    }

    fn intern(&mut self, text: &[u8]) -> StringId {
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        if self.strings.len() >= MAX_STRINGS {
            // Rows that wait know their names still, later ones by the ids that threads have.
            self.flush();
            self.strings.clear();
            self.texts.clear();
            self.names.clear();
            self.old_names.clear();
        }
        self.last_string += 1;
        let id = StringId(self.last_string);
        self.strings.insert(text.into(), id);
        self.texts.insert(id, text.into());
        self.undefined.insert(id);
        id
    }

    /// Sees to it that the group, or one before it, defines the string.
    fn define(&mut self, id: StringId) {
        if self.undefined.is_empty() || !self.undefined.remove(&id) {
            return;
        }
        if let Some(text) = self.texts.get(&id) {
            let text = String::from_utf8_lossy(text);
            let text = HeapRef::push(&mut self.string_heap, text.as_bytes());
            self.string_defs.push(StringDef { text, id, reserved: 0 });
        }
    }

    fn shapes(&mut self, packed: &[u8]) -> HeapRef {
        if packed.is_empty() {
            return HeapRef::default();
        }
        if let Some(place) = self.placed.get(packed) {
            return *place;
        }
        if !self.shapes.contains_key(packed) {
            if self.shapes.len() >= MAX_SHAPES {
                self.shapes.clear();
            }
            let mut text = String::new();
            shapes::text(packed, &mut text);
            self.shapes.insert(packed.into(), text.into());
        }
        let text = self.shapes.get(packed).map_or("", |text| text);
        let place = HeapRef::push(&mut self.heap, text.as_bytes());
        self.placed.insert(packed.into(), place);
        place
    }

    /// Names a thread when it is first seen.
    fn meet(&mut self, thread: u32) {
        if !self.named_threads.insert(thread) {
            return;
        }
        let path = format!("/proc/self/task/{thread}/comm");
        let name = std::fs::read_to_string(path).unwrap_or_default();
        let name = HeapRef::push(&mut self.thread_heap, name.trim_end().as_bytes());
        self.thread_defs.push(ThreadDef { name, thread, process: std::process::id() });
    }
}

/// Takes what threads have left; what is in `known` (thread and start) is taken out of it.
pub(super) fn drain(
    collector: &mut ChunkCollector,
    rows: &mut Rows,
    known: &mut HashSet<(u32, u64)>,
) -> u64 {
    let mut bytes = 0;
    collector.drain(|entry| {
        bytes += entry.payload.len() as u64;
        if let Some(operator) = rows.take(entry)
            && !known.is_empty()
        {
            known.remove(&operator);
        }
    });
    bytes
}

/// An instant of the stream's clock.
pub(super) fn instant(clock: &dyn ClockSource, ticks: bool) -> u64 {
    if ticks { clock.tsc() } else { clock.monotonic_ns() }
}
