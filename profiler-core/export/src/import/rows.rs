//! Rows on their way into the spool: put in order as far as memory allows, and named.

use std::collections::{BTreeMap, HashMap};

use profiler_core::record::{
    ApiCall, Communication, Counter, HeapRef, Kernel, LaunchConfigDef, LaunchConfigId, Marker,
    Memcpy, Memory, Memset, Operator, Overhead, Row, Span, StringDef, StringId, Synchronization,
};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};

/// Rows that are put in order together.
const RUN_ROWS: usize = 1 << 19;
/// Rows that are handed over together.
const GROUP_ROWS: usize = 4096;
/// Names that are known at once.
const MAX_STRINGS: usize = 1 << 20;

/// A row, and the text that goes into its heap.
pub(super) enum AnyRow {
    Kernel(Kernel),
    Memcpy(Memcpy),
    Memset(Memset),
    Memory(Memory),
    Communication(Communication),
    ApiCall(ApiCall),
    Synchronization(Synchronization),
    Overhead(Overhead),
    Operator(Operator, Box<str>),
    Span(Span),
    Marker(Marker),
    Counter(Counter),
}

impl AnyRow {
    /// What orders it: an enclosing row before what it encloses.
    fn order(&self) -> (u64, std::cmp::Reverse<u64>) {
        let (start, end) = match self {
            Self::Kernel(row) => (row.start, row.end),
            Self::Memcpy(row) => (row.start, row.end),
            Self::Memset(row) => (row.start, row.end),
            Self::Memory(row) => (row.time, row.time),
            Self::Communication(row) => (row.start, row.end),
            Self::ApiCall(row) => (row.start, row.end),
            Self::Synchronization(row) => (row.start, row.end),
            Self::Overhead(row) => (row.start, row.end),
            Self::Operator(row, _) => (row.start, row.end),
            Self::Span(row) => (row.start, row.end),
            Self::Marker(row) => (row.time, row.time),
            Self::Counter(row) => (row.time, row.time),
        };
        (start, std::cmp::Reverse(end))
    }
}

/// Where rows go.
pub(super) struct Rows<'a> {
    sink: &'a dyn RecordSink,
    stream: StreamId,
    run: Vec<AnyRow>,
    strings: HashMap<Box<str>, StringId>,
    next_string: u32,
    new_strings: Vec<StringDef>,
    string_heap: Vec<u8>,
    configs: HashMap<[u32; 8], LaunchConfigId>,
    new_configs: Vec<LaunchConfigDef>,
    /// Ends of the operators that are open, by thread.
    open: HashMap<u32, Vec<u64>>,
    pub(super) counts: BTreeMap<String, u64>,
    /// The sink takes nothing any more.
    pub(super) is_closed: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn new(sink: &'a dyn RecordSink, stream: StreamId) -> Self {
        Self {
            sink,
            stream,
            run: Vec::new(),
            strings: HashMap::new(),
            next_string: 1,
            new_strings: Vec::new(),
            string_heap: Vec::new(),
            configs: HashMap::new(),
            new_configs: Vec::new(),
            open: HashMap::new(),
            counts: BTreeMap::new(),
            is_closed: false,
        }
    }

    pub(super) fn string(&mut self, text: &str) -> StringId {
        if text.is_empty() {
            return StringId::NONE;
        }
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        if self.strings.len() >= MAX_STRINGS {
            self.strings.clear();
        }
        let id = StringId(self.next_string);
        self.next_string += 1;
        self.strings.insert(text.into(), id);
        let text = HeapRef::push(&mut self.string_heap, text.as_bytes());
        self.new_strings.push(StringDef { text, id, reserved: 0 });
        id
    }

    /// A launch configuration: grid, block, registers and shared memory.
    pub(super) fn config(&mut self, key: [u32; 8]) -> LaunchConfigId {
        if key == [0; 8] {
            return LaunchConfigId::NONE;
        }
        if let Some(id) = self.configs.get(&key) {
            return *id;
        }
        if self.configs.len() >= MAX_STRINGS {
            return LaunchConfigId::NONE;
        }
        let id = LaunchConfigId(self.configs.len() as u32 + 1);
        self.configs.insert(key, id);
        let [grid_x, grid_y, grid_z, block_x, block_y, block_z, registers, shared] = key;
        self.new_configs.push(LaunchConfigDef {
            id,
            grid_x,
            grid_y,
            grid_z,
            block_x,
            block_y,
            block_z,
            registers,
            static_shared_bytes: shared,
            ..LaunchConfigDef::default()
        });
        id
    }

    pub(super) fn push(&mut self, row: AnyRow) {
        self.run.push(row);
        if self.run.len() >= RUN_ROWS {
            self.hand_over();
        }
    }

    /// Hands over all that is there, in order.
    pub(super) fn hand_over(&mut self) {
        self.define();
        let mut run = std::mem::take(&mut self.run);
        run.sort_by_key(AnyRow::order);
        let mut group = Group::default();
        for row in run.drain(..) {
            match row {
                AnyRow::Operator(mut row, shapes) => {
                    row.depth = self.depth(&row);
                    row.shapes = match shapes.is_empty() {
                        true => HeapRef::default(),
                        false => HeapRef::push(&mut group.heap, shapes.as_bytes()),
                    };
                    group.operators.push(row);
                }
                AnyRow::Kernel(row) => group.kernels.push(row),
                AnyRow::Memcpy(row) => group.copies.push(row),
                AnyRow::Memset(row) => group.sets.push(row),
                AnyRow::Memory(row) => group.memories.push(row),
                AnyRow::Communication(row) => group.communications.push(row),
                AnyRow::ApiCall(row) => group.calls.push(row),
                AnyRow::Synchronization(row) => group.waits.push(row),
                AnyRow::Overhead(row) => group.overheads.push(row),
                AnyRow::Span(row) => group.spans.push(row),
                AnyRow::Marker(row) => group.markers.push(row),
                AnyRow::Counter(row) => group.counters.push(row),
            }
            group.count += 1;
            if group.count >= GROUP_ROWS {
                self.emit(&mut group);
            }
        }
        self.emit(&mut group);
        self.run = run;
    }

    /// How many operators of its thread enclose it.
    fn depth(&mut self, row: &Operator) -> u16 {
        let open = self.open.entry(row.thread).or_default();
        while open.last().is_some_and(|end| *end <= row.start) {
            open.pop();
        }
        let depth = open.len();
        if depth < 4096 {
            open.push(row.end);
        }
        u16::try_from(depth).unwrap_or(u16::MAX)
    }

    fn define(&mut self) {
        let strings = Batch::with_heap(self.stream, &self.new_strings, &self.string_heap);
        self.is_closed |= self.sink.emit(&[strings]) == Emit::Closed;
        let configs = Batch::new(self.stream, &self.new_configs);
        self.is_closed |= self.sink.emit(&[configs]) == Emit::Closed;
        self.new_strings.clear();
        self.string_heap.clear();
        self.new_configs.clear();
    }

    fn emit(&mut self, group: &mut Group) {
        let stream = self.stream;
        let mut batches: Vec<Batch<'_>> = Vec::new();
        let counts = &mut self.counts;
        macro_rules! put {
            ($($rows:expr),*) => {
                $(if !$rows.is_empty() {
                    count(counts, &$rows);
                    batches.push(Batch::with_heap(stream, &$rows, &group.heap));
                })*
            };
        }
        put!(group.calls, group.kernels, group.copies, group.sets, group.communications);
        put!(group.waits, group.overheads, group.operators, group.spans, group.markers);
        put!(group.memories, group.counters);
        if !batches.is_empty() {
            self.is_closed |= self.sink.emit(&batches) == Emit::Closed;
        }
        drop(batches);
        *group = Group::default();
    }
}

fn count<R: Row>(counts: &mut BTreeMap<String, u64>, rows: &[R]) {
    *counts.entry(R::KIND.to_string()).or_default() += rows.len() as u64;
}

#[derive(Default)]
struct Group {
    heap: Vec<u8>,
    count: usize,
    kernels: Vec<Kernel>,
    copies: Vec<Memcpy>,
    sets: Vec<Memset>,
    memories: Vec<Memory>,
    communications: Vec<Communication>,
    calls: Vec<ApiCall>,
    waits: Vec<Synchronization>,
    overheads: Vec<Overhead>,
    operators: Vec<Operator>,
    spans: Vec<Span>,
    markers: Vec<Marker>,
    counters: Vec<Counter>,
}
