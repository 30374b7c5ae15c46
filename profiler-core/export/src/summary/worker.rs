//! What is summed up of one worker while its rows pass by.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use profiler_core::record::{
    ApiCall, Communication, Counter, Kernel, Memcpy, Memory, Memset, Operator, Overhead, Sample,
    Span, Step, StringId, Synchronization, flag,
};
use profiler_core::sink::StreamId;

use super::by_name::{ByName, Sums};
use super::coverage::Coverage;
use super::distribution::Distribution;
use super::nesting::{ByDepth, ById};
use crate::operator_shapes;
use crate::stacks::Weight;

/// The most counters, devices and allocators that are kept apart.
const MAX_KEYS: usize = 1 << 12;
/// The most texts of shapes.
const MAX_SHAPES: usize = 1 << 12;

/// The sums of a worker.
#[derive(Debug, Default)]
pub(super) struct WorkerSums {
    pub(super) spans: ByName<StringId>,
    pub(super) operators: ByName<StringId>,
    pub(super) operators_by_shape: ByName<(StringId, u32)>,
    pub(super) kernels: ByName<StringId>,
    pub(super) kernel_types: ByName<StringId>,
    pub(super) api_calls: ByName<StringId>,
    pub(super) copies: ByName<Transfer>,
    pub(super) communication: ByName<StringId>,
    pub(super) synchronization: ByName<u32>,
    pub(super) overheads: ByName<StringId>,
    pub(super) counters: BTreeMap<CounterKey, CounterSums>,
    pub(super) memory: BTreeMap<(StringId, u32), MemorySums>,
    pub(super) devices: BTreeMap<u32, DeviceSums>,
    pub(super) steps: Distribution,
    pub(super) on_processor: Weight,
    pub(super) span_coverage: Coverage,
    pub(super) operator_coverage: Coverage,
    pub(super) sample_coverage: Coverage,
    pub(super) outermost_spans: u64,
    pub(super) outermost_operators: u64,
    last_step: Option<u64>,
    span_nesting: ById<(StreamId, u64), StringId>,
    operator_nesting: ByDepth<(StreamId, u32), (StringId, Option<u32>)>,
}

/// What a copy or memset is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Transfer {
    /// A copy, by its `CopyKind`.
    Copy(u8),
    /// A memset.
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CounterKey {
    pub(super) name: StringId,
    pub(super) unit: StringId,
    pub(super) device: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CounterSums {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) sum: f64,
    /// The first and the last value in time; of several workers, the change in `change`.
    first: (u64, f64),
    last: (u64, f64),
    earlier: f64,
}

impl CounterSums {
    pub(super) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    pub(super) fn change(&self) -> f64 {
        self.earlier + self.last.1 - self.first.1
    }

    /// Takes the values of another worker.
    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.earlier += other.change();
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemorySums {
    pub(super) allocations: u64,
    pub(super) allocated_bytes: u64,
    pub(super) frees: u64,
    pub(super) freed_bytes: u64,
    pub(super) peak_bytes: u64,
    pub(super) peak_reserved_bytes: u64,
}

impl MemorySums {
    pub(super) fn merge(&mut self, other: &Self) {
        self.allocations += other.allocations;
        self.allocated_bytes = self.allocated_bytes.saturating_add(other.allocated_bytes);
        self.frees += other.frees;
        self.freed_bytes = self.freed_bytes.saturating_add(other.freed_bytes);
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
        self.peak_reserved_bytes = self.peak_reserved_bytes.max(other.peak_reserved_bytes);
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct DeviceSums {
    pub(super) busy: Coverage,
    pub(super) compute: Coverage,
    pub(super) copy: Coverage,
    pub(super) communication: Coverage,
    pub(super) compute_or_communication: Coverage,
    pub(super) kernels: u64,
    pub(super) kernels_ns: u64,
}

/// Texts of shapes, by number.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    /// By the text of the row, to look it up quickly.
    ids: HashMap<Box<str>, u32>,
    shown: HashMap<Box<str>, u32>,
    texts: Vec<Box<str>>,
}

impl Shapes {
    /// The number of all texts beyond the bound.
    const REST: u32 = u32::MAX;

    /// The number of what a table shows of such inputs; the values of numbers do not count.
    pub(super) fn intern(&mut self, text: &str) -> u32 {
        if let Some(&id) = self.ids.get(text) {
            return id;
        }
        let shown = operator_shapes::table_text(text);
        let id = match self.shown.get(shown.as_str()) {
            Some(&id) => id,
            None if self.texts.len() >= MAX_SHAPES => return Self::REST,
            None => {
                let id = self.texts.len() as u32;
                self.texts.push(shown.as_str().into());
                self.shown.insert(shown.into(), id);
                id
            }
        };
        if self.ids.len() < MAX_SHAPES {
            self.ids.insert(text.into(), id);
        }
        id
    }

    pub(super) fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).map_or(super::model::OTHER, |text| text)
    }
}

impl WorkerSums {
    pub(super) fn span(&mut self, stream: StreamId, row: &Span, buckets: &mut usize) {
        let time = row.end.saturating_sub(row.start);
        let parent = (row.parent != 0).then_some((stream, row.parent));
        let share = self.span_nesting.add((stream, row.id), parent, row.name, time);
        let sums = self.spans.of(row.name, buckets);
        sums.own = sums.own.saturating_add(share.own);
        sums.unfinished += u64::from(row.flags & flag::UNFINISHED != 0);
        *buckets += sums.times.add(time);
        if let Some((name, time)) = share.taken {
            let sums = self.spans.of(name, buckets);
            sums.own = sums.own.saturating_sub(time);
        }
        if parent.is_none() {
            self.outermost_spans += 1;
            self.span_coverage.add(row.start, row.end);
        }
    }

    pub(super) fn operator(
        &mut self,
        stream: StreamId,
        row: &Operator,
        heap: &[u8],
        shapes: &mut Shapes,
        buckets: &mut usize,
    ) {
        let time = row.end.saturating_sub(row.start);
        let shape = match row.shapes.text(heap) {
            Some(text) if !text.is_empty() => Some(shapes.intern(&text)),
            _ => None,
        };
        let (thread, name) = ((stream, row.thread), (row.name, shape));
        let share = self.operator_nesting.add(thread, row.depth, name, row.start, row.end);
        let unfinished = u64::from(row.flags & flag::UNFINISHED != 0);
        let count = |sums: &mut Sums| {
            sums.own = sums.own.saturating_add(share.own);
            sums.unfinished += unfinished;
            sums.times.add(time)
        };
        *buckets += count(self.operators.of(row.name, buckets));
        if let Some(shape) = shape {
            *buckets += count(self.operators_by_shape.of((row.name, shape), buckets));
        }
        if let Some(((name, shape), time)) = share.taken {
            let sums = self.operators.of(name, buckets);
            sums.own = sums.own.saturating_sub(time);
            if let Some(shape) = shape {
                let sums = self.operators_by_shape.of((name, shape), buckets);
                sums.own = sums.own.saturating_sub(time);
            }
        }
        if row.depth == 0 {
            self.outermost_operators += 1;
            self.operator_coverage.add(row.start, row.end);
        }
    }

    pub(super) fn kernel(&mut self, row: &Kernel, buckets: &mut usize) {
        let time = row.end.saturating_sub(row.start);
        add(&mut self.kernels, row.name, time, row.flags, buckets);
        if !row.category.is_none() {
            add(&mut self.kernel_types, row.category, time, row.flags, buckets);
        }
        if let Some(device) = self.device(row.device) {
            device.kernels += 1;
            device.kernels_ns = device.kernels_ns.saturating_add(time);
            device.busy.add(row.start, row.end);
            device.compute.add(row.start, row.end);
            device.compute_or_communication.add(row.start, row.end);
        }
    }

    pub(super) fn memcpy(&mut self, row: &Memcpy, buckets: &mut usize) {
        let time = row.end.saturating_sub(row.start);
        let sums = self.copies.of(Transfer::Copy(row.copy_kind), buckets);
        sums.unfinished += u64::from(row.flags & flag::UNFINISHED != 0);
        *buckets += sums.times.add(time) + sums.bytes.add(row.size_bytes);
        self.copied(row.device, row.start, row.end);
    }

    pub(super) fn memset(&mut self, row: &Memset, buckets: &mut usize) {
        let time = row.end.saturating_sub(row.start);
        let sums = self.copies.of(Transfer::Set, buckets);
        sums.unfinished += u64::from(row.flags & flag::UNFINISHED != 0);
        *buckets += sums.times.add(time) + sums.bytes.add(row.size_bytes);
        self.copied(row.device, row.start, row.end);
    }

    fn copied(&mut self, device: u32, start: u64, end: u64) {
        if let Some(device) = self.device(device) {
            device.busy.add(start, end);
            device.copy.add(start, end);
        }
    }

    fn device(&mut self, device: u32) -> Option<&mut DeviceSums> {
        if self.devices.len() >= MAX_KEYS && !self.devices.contains_key(&device) {
            return None;
        }
        Some(self.devices.entry(device).or_default())
    }

    pub(super) fn api_call(&mut self, row: &ApiCall, buckets: &mut usize) {
        add(&mut self.api_calls, row.name, row.end.saturating_sub(row.start), row.flags, buckets);
    }

    pub(super) fn communication(&mut self, row: &Communication, buckets: &mut usize) {
        add(
            &mut self.communication,
            row.name,
            row.end.saturating_sub(row.start),
            row.flags,
            buckets,
        );
        if let Some(device) = self.device(row.device) {
            device.communication.add(row.start, row.end);
            device.compute_or_communication.add(row.start, row.end);
        }
    }

    pub(super) fn synchronization(&mut self, row: &Synchronization, buckets: &mut usize) {
        let time = row.end.saturating_sub(row.start);
        add(&mut self.synchronization, row.synchronization_kind, time, 0, buckets);
    }

    pub(super) fn overhead(&mut self, row: &Overhead, buckets: &mut usize) {
        add(&mut self.overheads, row.name, row.end.saturating_sub(row.start), row.flags, buckets);
    }

    pub(super) fn memory(&mut self, row: &Memory) {
        let key = (row.allocator, row.device);
        if self.memory.len() >= MAX_KEYS && !self.memory.contains_key(&key) {
            return;
        }
        let sums = self.memory.entry(key).or_default();
        match row.operation {
            1 => {
                sums.allocations += 1;
                sums.allocated_bytes = sums.allocated_bytes.saturating_add(row.size_bytes);
            }
            2 => {
                sums.frees += 1;
                sums.freed_bytes = sums.freed_bytes.saturating_add(row.size_bytes);
            }
            _ => {}
        }
        sums.peak_bytes = sums.peak_bytes.max(row.total_allocated_bytes);
        sums.peak_reserved_bytes = sums.peak_reserved_bytes.max(row.total_reserved_bytes);
    }

    pub(super) fn counter(&mut self, row: &Counter) {
        // A counter of one thread of many says nothing by the name it shares with the others.
        if row.thread != 0 || !row.value.is_finite() {
            return;
        }
        let key = CounterKey { name: row.name, unit: row.unit, device: row.device };
        if self.counters.len() >= MAX_KEYS && !self.counters.contains_key(&key) {
            return;
        }
        let at = (row.time, row.value);
        let sums = self.counters.entry(key).or_insert(CounterSums {
            count: 0,
            min: row.value,
            max: row.value,
            sum: 0.0,
            first: at,
            last: at,
            earlier: 0.0,
        });
        sums.count += 1;
        sums.sum += row.value;
        sums.min = sums.min.min(row.value);
        sums.max = sums.max.max(row.value);
        if at.0 < sums.first.0 {
            sums.first = at;
        }
        if at.0 >= sums.last.0 {
            sums.last = at;
        }
    }

    pub(super) fn sample(&mut self, row: &Sample) {
        if row.state != 0 {
            return;
        }
        self.on_processor.add(Weight { samples: 1, ns: row.weight_ns });
        self.sample_coverage.add(row.time.saturating_sub(row.weight_ns), row.time);
    }

    pub(super) fn step(&mut self, row: &Step) {
        if let Some(last) = self.last_step
            && row.time >= last
        {
            self.steps.add(row.time - last);
        }
        self.last_step = Some(row.time);
    }
}

fn add<K: Eq + Hash + Copy + Ord>(
    table: &mut ByName<K>,
    name: K,
    time: u64,
    flags: u32,
    buckets: &mut usize,
) {
    let sums = table.of(name, buckets);
    sums.unfinished += u64::from(flags & flag::UNFINISHED != 0);
    *buckets += sums.times.add(time);
}
