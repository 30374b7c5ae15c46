//! NVTX's ranges, put together on the writer's thread.
//!
//! The application's thread only says that a range begins or ends; which end belongs to which
//! begin is found out here. A range's level tells where one of the two was lost.

use std::collections::HashMap;

use profiler_core::record::flag;
use profiler_core::sink::RecordSink;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::collector::Rows;
use crate::nvtx::{NO_STRING, categories, domain_name, string};

/// The kind of entries in a chunk: no row's, and the last that a pool counts.
pub(super) const NVTX: u16 = profiler_core::chunk::COUNTED_KINDS as u16 - 1;

/// Ranges that are open on a thread, at most.
const MAX_OPEN: usize = 1024;

/// Ranges that any thread may end, open at a time, at most.
const MAX_STARTED: usize = 1 << 16;

/// Ends that came before their begin, at most. A begin on another thread is read in the same round
/// or the next.
const MAX_EARLY_ENDS: usize = 1 << 12;

/// Rows of ranges have ids of their own, apart from those of spans.
const FIRST_ID: u64 = 1 << 60;

/// What an application's thread says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum NvtxOperation {
    Push = 1,
    Pop = 2,
    Start = 3,
    End = 4,
    Mark = 5,
}

impl NvtxOperation {
    /// Whether something begins or happens, rather than ends.
    pub(crate) fn begins(self) -> bool {
        matches!(self, Self::Push | Self::Start | Self::Mark)
    }
}

/// What stands before the name in a chunk.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct NvtxHead {
    pub(crate) time: u64,
    pub(crate) payload: u64,
    pub(crate) id: u64,
    pub(crate) level: u32,
    pub(crate) domain: u32,
    pub(crate) category: u32,
    pub(crate) string: u32,
    pub(crate) operation: u16,
    pub(crate) payload_type: u16,
    pub(crate) reserved: u32,
}

struct Open {
    head: NvtxHead,
    name: Box<str>,
    id: u64,
    parent: u64,
    thread: u32,
}

/// The ranges that are open.
#[derive(Default)]
pub(super) struct NvtxRanges {
    stacks: HashMap<u32, Vec<Open>>,
    started: HashMap<u64, Open>,
    early_ends: HashMap<u64, u64>,
    categories: HashMap<(u32, u32), &'static str>,
    seen_categories: u32,
    given: u64,
    /// Ranges for which there was no place.
    pub(super) missed: u64,
}

impl NvtxRanges {
    /// Takes an entry of a chunk.
    pub(super) fn take(
        &mut self,
        sink: &dyn RecordSink,
        rows: &mut Rows,
        thread: u32,
        payload: &[u8],
    ) {
        let Ok((head, text)) = NvtxHead::read_from_prefix(payload) else { return };
        let name = || match string(head.string).filter(|_| head.string != NO_STRING) {
            Some(text) => text.into(),
            None => String::from_utf8_lossy(text).into_owned().into_boxed_str(),
        };
        match head.operation {
            operation if operation == NvtxOperation::Push as u16 => {
                let stack = self.stacks.entry(thread).or_default();
                if stack.len() >= MAX_OPEN {
                    self.missed += 1;
                    return;
                }
                self.given += 1;
                let parent = stack.last().map_or(0, |below| below.id);
                let id = FIRST_ID + self.given;
                stack.push(Open { head, name: name(), id, parent, thread });
            }
            operation if operation == NvtxOperation::Pop as u16 => {
                self.pop(sink, rows, thread, &head);
            }
            operation if operation == NvtxOperation::Start as u16 => {
                self.given += 1;
                let id = FIRST_ID + self.given;
                let open = Open { head, name: name(), id, parent: 0, thread };
                if let Some(end) = self.early_ends.remove(&head.id) {
                    self.write(sink, rows, &open, end);
                } else if self.started.len() >= MAX_STARTED {
                    self.missed += 1;
                } else {
                    self.started.insert(head.id, open);
                }
            }
            operation if operation == NvtxOperation::End as u16 => {
                match self.started.remove(&head.id) {
                    Some(open) => self.write(sink, rows, &open, head.time),
                    // It began before the recording, or its begin is still to be read.
                    None if self.early_ends.len() < MAX_EARLY_ENDS => {
                        self.early_ends.insert(head.id, head.time);
                    }
                    None => {}
                }
            }
            operation if operation == NvtxOperation::Mark as u16 => {
                let fields = self.fields(&head);
                rows.push_named_marker(
                    sink,
                    &head,
                    thread,
                    &name(),
                    domain_name(head.domain),
                    &fields,
                );
            }
            _ => {}
        }
    }

    /// A round of reading is over: ends that came before the last one belong to nothing.
    pub(super) fn end_round(&mut self, rounds: &mut u32) {
        const KEPT_ROUNDS: u32 = 4;
        *rounds += 1;
        if *rounds >= KEPT_ROUNDS {
            *rounds = 0;
            self.early_ends.clear();
        }
    }

    /// Writes what is open as unfinished.
    pub(super) fn write_unfinished(&mut self, sink: &dyn RecordSink, rows: &mut Rows) {
        let stacks = std::mem::take(&mut self.stacks);
        let started = std::mem::take(&mut self.started);
        let mut open: Vec<Open> = stacks.into_values().flatten().collect();
        open.extend(started.into_values());
        open.sort_unstable_by_key(|range| range.id);
        for range in &open {
            self.write(sink, rows, range, 0);
        }
    }

    /// The memory that open ranges take, about.
    pub(super) fn bytes(&self) -> u64 {
        let open = self.stacks.values().map(Vec::capacity).sum::<usize>() + self.started.capacity();
        (open * size_of::<Open>() + self.early_ends.capacity() * 16) as u64
    }

    fn pop(&mut self, sink: &dyn RecordSink, rows: &mut Rows, thread: u32, head: &NvtxHead) {
        let Some(stack) = self.stacks.get_mut(&thread) else { return };
        let same =
            |range: &Open| range.head.domain == head.domain && range.head.level == head.level;
        let Some(at) = stack.iter().rposition(same) else { return };
        let ended = stack.remove(at);
        // Ranges of the same domain above it have lost their ends.
        let mut unended = Vec::new();
        let mut index = at;
        while index < stack.len() {
            match stack[index].head.domain == head.domain {
                true => unended.push(stack.remove(index)),
                false => index += 1,
            }
        }
        self.write(sink, rows, &ended, head.time);
        for range in &unended {
            self.write(sink, rows, range, 0);
        }
    }

    fn write(&mut self, sink: &dyn RecordSink, rows: &mut Rows, range: &Open, end: u64) {
        let fields = self.fields(&range.head);
        let flags = if end == 0 { flag::UNFINISHED } else { 0 };
        rows.push_named_span(
            sink,
            super::SpanHead { id: range.id, start: range.head.time, end, parent: range.parent },
            (range.thread, flags),
            &range.name,
            domain_name(range.head.domain),
            &fields,
        );
    }

    /// Category and payload as JSON, empty where there are none.
    fn fields(&mut self, head: &NvtxHead) -> String {
        let mut fields = serde_json::Map::new();
        if head.category != 0 {
            for named in categories(self.seen_categories) {
                self.seen_categories += 1;
                self.categories.insert((named.domain, named.category), &named.name);
            }
            let value = match self.categories.get(&(head.domain, head.category)) {
                Some(name) => (*name).into(),
                None => head.category.into(),
            };
            fields.insert("category".to_owned(), value);
        }
        // In the order of `nvtxPayloadType_t`.
        let payload: serde_json::Value = match head.payload_type {
            1 => head.payload.into(),
            2 => head.payload.cast_signed().into(),
            3 => f64::from_bits(head.payload).into(),
            4 => (head.payload as u32).into(),
            5 => (head.payload as u32).cast_signed().into(),
            6 => f32::from_bits(head.payload as u32).into(),
            _ => serde_json::Value::Null,
        };
        if !payload.is_null() {
            fields.insert("payload".to_owned(), payload);
        }
        match fields.is_empty() {
            true => String::new(),
            false => serde_json::Value::Object(fields).to_string(),
        }
    }
}
