//! What later segments repeat: definitions in use, and the last word on things known.

use std::collections::BTreeMap;

use crate::record::{
    ClockTuple, Fact, Frame, LaunchConfigDef, Module, RecordKind, Row as _, StackDef, StringDef,
    StringId, Window,
};
use crate::spool::encode::{u32_of, u64_of};
use crate::spool::layout::Layout;

/// Ids up to this are repeated; producers number from 1.
const MAX_ID: usize = 1 << 18;
/// What one entry takes beside its bytes, for the account.
const ENTRY_BYTES: usize = 64;
/// The segment number of a definition that is in none.
const NEVER: u32 = u32::MAX;

/// Rows to be written again, in the order of writing.
#[derive(Default)]
pub(super) struct Repeats {
    pub(super) batches: BTreeMap<RecordKind, RepeatedRows>,
}

/// Rows of one kind and their heap.
#[derive(Default)]
pub(super) struct RepeatedRows {
    pub(super) stride: usize,
    pub(super) rows: Vec<u8>,
    pub(super) heap: Vec<u8>,
}

/// Everything kept, within a budget.
pub(super) struct Kept {
    /// By stream and kind of definition.
    defined: BTreeMap<(u32, RecordKind), Table>,
    /// By stream, kind and what identifies the row.
    known: BTreeMap<(u32, RecordKind), KnownRows>,
    bytes: usize,
    budget: usize,
    complete: bool,
}

/// Packed rows by what identifies them.
type KnownRows = BTreeMap<Vec<u8>, Box<[u8]>>;

/// The definitions of one stream and kind, by id.
#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    /// The last segment that has it.
    segment: u32,
    /// The row, then its heap bytes; empty = not kept.
    bytes: Box<[u8]>,
}

impl Kept {
    pub(super) fn new(budget: usize) -> Self {
        Self { defined: BTreeMap::new(), known: BTreeMap::new(), bytes: 0, budget, complete: true }
    }

    /// Whether everything that later segments may need is kept.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Sees rows that are being written into `segment`.
    pub(super) fn note(
        &mut self,
        stream: u32,
        kind: RecordKind,
        stride: usize,
        rows: &[u8],
        heap: &[u8],
        segment: u32,
    ) {
        let Some(layout) = Layout::of(kind) else { return };
        if stride != layout.stride() {
            // A layout of another version cannot be taken apart; later segments do without.
            self.complete &= !is_kept(kind);
            return;
        }
        if let Some(id_at) = id_offset(kind) {
            for row in rows.chunks_exact(stride) {
                self.define(stream, kind, layout, u32_of(row, id_at), row, heap, segment);
            }
            return;
        }
        if !is_kept(kind) {
            return;
        }
        for row in rows.chunks_exact(stride) {
            let bytes = pack_row(layout, row, heap);
            let key = key_of(kind, row, heap);
            let known = self.known.entry((stream, kind)).or_default();
            let cost = bytes.len() + key.len() + ENTRY_BYTES;
            match known.get_mut(&key) {
                Some(before) => {
                    self.bytes = self.bytes - before.len() + bytes.len();
                    *before = bytes;
                }
                None if self.bytes + cost > self.budget => self.complete = false,
                None => {
                    self.bytes += cost;
                    known.insert(key, bytes);
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one row")]
    fn define(
        &mut self,
        stream: u32,
        kind: RecordKind,
        layout: &Layout,
        id: u32,
        row: &[u8],
        heap: &[u8],
        segment: u32,
    ) {
        let id = id as usize;
        if id > MAX_ID {
            self.complete = false;
            return;
        }
        let table = self.defined.entry((stream, kind)).or_default();
        if table.entries.len() <= id {
            let more = id + 1 - table.entries.len();
            self.bytes += more * size_of::<Entry>();
            table.entries.resize(id + 1, Entry { segment: NEVER, bytes: Box::default() });
        }
        let entry = &mut table.entries[id];
        entry.segment = segment;
        let bytes = pack_row(layout, row, heap);
        if self.bytes + bytes.len() > self.budget + entry.bytes.len() {
            self.complete = false;
            return;
        }
        self.bytes = self.bytes + bytes.len() - entry.bytes.len();
        entry.bytes = bytes;
    }

    /// The definitions that `rows` use and that `segment` does not have yet. They count as
    /// written.
    pub(super) fn missing(
        &mut self,
        stream: u32,
        layout: &Layout,
        stride: usize,
        rows: &[u8],
        segment: u32,
    ) -> Repeats {
        let mut wanted = Vec::new();
        for &(at, kind) in &layout.ids {
            let at = at as usize;
            if at + 4 > stride {
                break;
            }
            let Some(table) = self.defined.get_mut(&(stream, kind)) else { continue };
            let mut last = 0;
            for row in rows.chunks_exact(stride) {
                let id = u32_of(row, at);
                if id == last {
                    continue;
                }
                last = id;
                let Some(entry) = table.entries.get_mut(id as usize) else { continue };
                if entry.segment != segment && !entry.bytes.is_empty() {
                    entry.segment = segment;
                    wanted.push((kind, id));
                }
            }
        }
        let mut repeats = Repeats::default();
        for (kind, id) in wanted {
            self.repeat(stream, kind, id, segment, &mut repeats);
        }
        repeats
    }

    fn repeat(
        &mut self,
        stream: u32,
        kind: RecordKind,
        id: u32,
        segment: u32,
        repeats: &mut Repeats,
    ) {
        let Some(layout) = Layout::of(kind) else { return };
        let Some(table) = self.defined.get(&(stream, kind)) else { return };
        let bytes = &table.entries[id as usize].bytes;
        unpack_row(layout, bytes, repeats.batches.entry(kind).or_default());
        if kind != StackDef::KIND {
            return;
        }
        let frames: Vec<StringId> = bytes[layout.stride()..]
            .chunks_exact(size_of::<Frame>())
            .flat_map(|frame| [StringId(u32_of(frame, 8)), StringId(u32_of(frame, 12))])
            .collect();
        for name in frames {
            let Some(names) = self.defined.get_mut(&(stream, StringDef::KIND)) else { return };
            let Some(entry) = names.entries.get_mut(name.0 as usize) else { continue };
            if entry.segment != segment && !entry.bytes.is_empty() {
                entry.segment = segment;
                self.repeat(stream, StringDef::KIND, name.0, segment, repeats);
            }
        }
    }

    /// The last word on everything known, by stream; for the beginning of a segment.
    pub(super) fn known(&self) -> BTreeMap<u32, Repeats> {
        let mut streams: BTreeMap<u32, Repeats> = BTreeMap::new();
        for (&(stream, kind), rows) in &self.known {
            let Some(layout) = Layout::of(kind) else { continue };
            let repeats = streams.entry(stream).or_default();
            for bytes in rows.values() {
                unpack_row(layout, bytes, repeats.batches.entry(kind).or_default());
            }
        }
        streams
    }
}

/// The offset of the id that a definition for rows of its stream gives.
fn id_offset(kind: RecordKind) -> Option<usize> {
    match kind {
        StringDef::KIND => Some(std::mem::offset_of!(StringDef, id)),
        StackDef::KIND => Some(std::mem::offset_of!(StackDef, id)),
        LaunchConfigDef::KIND => Some(std::mem::offset_of!(LaunchConfigDef, id)),
        _ => None,
    }
}

fn is_kept(kind: RecordKind) -> bool {
    kind.is_definition()
        || matches!(kind, Fact::KIND | ClockTuple::KIND | Module::KIND | Window::KIND)
}

/// What makes a later row of the kind replace an earlier one.
fn key_of(kind: RecordKind, row: &[u8], heap: &[u8]) -> Vec<u8> {
    match kind {
        Fact::KIND => heap_bytes(row, std::mem::offset_of!(Fact, key), heap).to_vec(),
        ClockTuple::KIND => {
            let at = std::mem::offset_of!(ClockTuple, driver_stream);
            row[at..at + 4].to_vec()
        }
        // Each edge of each window; of those that only say "still open" the last.
        Window::KIND => {
            let at = std::mem::offset_of!(Window, window);
            row[at..at + 8].to_vec()
        }
        Module::KIND => {
            let mut key =
                u64_of(row, std::mem::offset_of!(Module, start_address)).to_le_bytes().to_vec();
            let at = std::mem::offset_of!(Module, process);
            key.extend_from_slice(&row[at..at + 4]);
            key
        }
        kind => {
            // Definitions keyed by the vendor's numbers: every field that is no description.
            let mut key = Vec::new();
            for &(name, width) in vendor_key(kind) {
                let offset = kind.schema().and_then(|schema| schema.field(name));
                let at = offset.map_or(0, |field| field.offset as usize);
                key.extend_from_slice(&row[at..at + width]);
            }
            key
        }
    }
}

fn vendor_key(kind: RecordKind) -> &'static [(&'static str, usize)] {
    use crate::record::{ContextDef, DeviceDef, GraphNodeDef, ProcessDef, StreamDef, ThreadDef};
    match kind {
        ThreadDef::KIND => &[("thread", 4), ("process", 4)],
        ProcessDef::KIND => &[("process", 4)],
        DeviceDef::KIND => &[("device", 4), ("vendor", 4)],
        ContextDef::KIND => &[("context", 4), ("device", 4)],
        StreamDef::KIND => &[("stream", 4), ("context", 4), ("device", 4)],
        GraphNodeDef::KIND => &[("node", 8)],
        _ => &[],
    }
}

fn heap_bytes<'a>(row: &[u8], at: usize, heap: &'a [u8]) -> &'a [u8] {
    let place = crate::record::HeapRef { offset: u32_of(row, at), len: u32_of(row, at + 4) };
    place.of(heap).unwrap_or_default()
}

/// The row, then the bytes of its heap references in their order.
fn pack_row(layout: &Layout, row: &[u8], heap: &[u8]) -> Box<[u8]> {
    let mut bytes = row.to_vec();
    for &at in &layout.heap_refs {
        bytes.extend_from_slice(heap_bytes(row, at as usize, heap));
    }
    bytes.into_boxed_slice()
}

fn unpack_row(layout: &Layout, bytes: &[u8], target: &mut RepeatedRows) {
    let stride = layout.stride();
    target.stride = stride;
    let Some((row, heap)) = bytes.split_at_checked(stride) else { return };
    let start = target.rows.len();
    target.rows.extend_from_slice(row);
    let mut next = target.heap.len() as u32;
    for &at in &layout.heap_refs {
        let at = start + at as usize;
        target.rows[at..at + 4].copy_from_slice(&next.to_le_bytes());
        next += u32_of(&target.rows, at + 4);
    }
    target.heap.extend_from_slice(heap);
}
