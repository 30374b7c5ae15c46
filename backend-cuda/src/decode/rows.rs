//! Rows that wait for the sink.

use profiler_core::record::{
    ContextDef, DeviceDef, Kernel, LaunchConfigDef, Memcpy, Memset, Overhead, StreamDef, StringDef,
    Synchronization,
};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};

/// Rows that wait to be emitted.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) heap: Vec<u8>,
    pub(super) strings: Vec<StringDef>,
    pub(super) configs: Vec<LaunchConfigDef>,
    pub(super) devices: Vec<DeviceDef>,
    pub(super) contexts: Vec<ContextDef>,
    pub(super) streams: Vec<StreamDef>,
    pub(super) kernels: Vec<Kernel>,
    pub(super) copies: Vec<Memcpy>,
    pub(super) sets: Vec<Memset>,
    pub(super) waits: Vec<Synchronization>,
    pub(super) overheads: Vec<Overhead>,
}

impl Rows {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.kernels.len()
            + self.copies.len()
            + self.sets.len()
            + self.waits.len()
            + self.overheads.len()
            + self.devices.len()
            + self.contexts.len()
            + self.streams.len()
    }

    /// Hands them over as one group, definitions first.
    pub(super) fn emit(&self, out: StreamId, sink: &dyn RecordSink) -> Emit {
        let mut group: Vec<Batch<'_>> = Vec::with_capacity(10);
        macro_rules! put {
            ($rows:expr) => {
                if !$rows.is_empty() {
                    group.push(Batch::with_heap(out, &$rows, &self.heap));
                }
            };
        }
        put!(self.strings);
        put!(self.configs);
        put!(self.devices);
        put!(self.contexts);
        put!(self.streams);
        put!(self.kernels);
        put!(self.copies);
        put!(self.sets);
        put!(self.waits);
        put!(self.overheads);
        if group.is_empty() { Emit::Accepted } else { sink.emit(&group) }
    }

    /// Forgets them.
    pub(super) fn clear(&mut self) {
        self.heap.clear();
        self.strings.clear();
        self.configs.clear();
        self.devices.clear();
        self.contexts.clear();
        self.streams.clear();
        self.kernels.clear();
        self.copies.clear();
        self.sets.clear();
        self.waits.clear();
        self.overheads.clear();
    }
}
