//! From CUPTI's records, and from the calls that its callbacks told, to rows.
//!
//! Bytes in, rows out: no call into CUPTI, so that recorded buffers and hostile bytes can be
//! decoded anywhere. Names are pointers in the records; a [`Names`] turns them into text.

mod calls;
mod correlations;
mod definitions;
mod devices;
mod rows;

use std::collections::BTreeMap;

use profiler_core::record::{Kernel, Memcpy, Memset, Overhead, StringId, Synchronization, flag};
use profiler_core::sink::{Emit, RecordSink, StreamId};

use crate::cupti::calls::CallEntry;
use crate::cupti::layout::{
    Raw, context, kernel, kind, memcpy, memset, overhead, peer, synchronization,
};

use self::calls::CallRows;
use self::correlations::Correlations;
use self::definitions::Definitions;
use self::devices::Devices;
use self::rows::Rows;

pub(crate) use self::calls::{Calls, Made};

/// Turns what records point to into text.
pub(crate) trait Names {
    /// The bytes of the C string at an address, without its end; `None` for a null pointer.
    fn text(&self, address: u64) -> Option<&[u8]>;

    /// The name of an API function.
    fn function(&self, domain: u32, id: u32) -> Option<String>;
}

/// Turns records of one capture into groups of batches.
pub(crate) struct Decoder {
    out: StreamId,
    definitions: Definitions,
    correlations: Correlations,
    calls: Calls,
    call_rows: CallRows,
    rows: Rows,
    devices: Devices,
    use_of_device: Use,
    /// Rows of work that had not ended when the capture stopped.
    unfinished: u64,
    /// Records of kinds that nothing asked for, by kind.
    unknown: BTreeMap<u32, u64>,
}

/// What is known of the device's use.
#[derive(Default)]
struct Use {
    /// Kernels, copies and memsets.
    rows: u64,
    /// A context was there.
    contexts: bool,
}

impl Decoder {
    /// A decoder for the stream `out`, and for calls `calls_out`.
    pub(crate) fn new(out: StreamId, calls: Calls, calls_out: StreamId) -> Self {
        Self {
            out,
            definitions: Definitions::new(),
            correlations: Correlations::default(),
            calls,
            call_rows: CallRows::new(calls_out),
            rows: Rows::default(),
            devices: Devices::default(),
            use_of_device: Use::default(),
            unfinished: 0,
            unknown: BTreeMap::new(),
        }
    }

    /// Reads one record.
    pub(crate) fn record(&mut self, record: Raw<'_>, names: &dyn Names) {
        match record.kind() {
            kind::CONCURRENT_KERNEL => self.kernel(record, names),
            // Another client of the library switched them on; callbacks told the same calls.
            kind::RUNTIME | kind::DRIVER => {}
            kind::MEMCPY => self.copy(record),
            kind::MEMCPY_PEER => self.peer_copy(record),
            kind::MEMSET => self.set(record),
            kind::SYNCHRONIZATION => self.wait(record),
            kind::OVERHEAD => self.overhead(record),
            kind::CONTEXT => {
                self.use_of_device.contexts = true;
                let (context, device) = (record.u32(context::CONTEXT), record.u32(context::DEVICE));
                self.definitions.context(context, device, &mut self.rows);
            }
            kind::STREAM => self.definitions.stream(record, &mut self.rows),
            kind::DEVICE => self.devices.record(record, names, &mut self.rows),
            other => *self.unknown.entry(other).or_default() += 1,
        }
    }

    /// Takes a call that a callback told.
    pub(crate) fn call(&mut self, call: &CallEntry, made: Made, names: &dyn Names) {
        let correlation = self.correlations.widen(call.correlation);
        self.call_rows.push(call, made, correlation, names);
    }

    /// Whether the process used a device, as far as its records tell.
    pub(crate) fn device_used(&self) -> Option<bool> {
        let Use { rows, contexts } = self.use_of_device;
        if rows > 0 {
            return Some(true);
        }
        match self.calls {
            // Without calls nothing tells whether a context was used.
            Calls::None => (!contexts).then_some(false),
            _ if self.call_rows.captures => None,
            _ => Some(self.call_rows.launches > 0),
        }
    }

    /// What a person should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.unfinished > 0 {
            notes.push(format!("{} rows of the device had not ended at the stop", self.unfinished));
        }
        for (kind, count) in &self.unknown {
            notes.push(format!("{count} CUPTI records of kind {kind} were not understood"));
        }
        notes
    }

    /// Counts a row of the device.
    fn ran(&mut self, end: u64) {
        self.use_of_device.rows += 1;
        self.unfinished += u64::from(end == 0);
    }

    fn kernel(&mut self, record: Raw<'_>, names: &dyn Names) {
        let name = self.definitions.kernel_name(record.u64(kernel::NAME), names, &mut self.rows);
        let config = self.definitions.config(record, &mut self.rows);
        let graph = record.u32(kernel::GRAPH);
        let end = record.u64(kernel::END);
        let row = Kernel {
            start: record.u64(kernel::START),
            end,
            correlation: self.correlations.widen(record.u32(kernel::CORRELATION)),
            graph_node: record.u64(kernel::GRAPH_NODE),
            name,
            config,
            device: record.u32(kernel::DEVICE),
            context: record.u32(kernel::CONTEXT),
            stream: record.u32(kernel::STREAM),
            graph,
            flags: flags(end, graph),
            category: StringId::NONE,
        };
        self.ran(end);
        self.definitions.used_stream(row.device, row.context, row.stream, &mut self.rows);
        self.rows.kernels.push(row);
    }

    fn copy(&mut self, record: Raw<'_>) {
        let end = record.u64(memcpy::END);
        let graph = record.u32(memcpy::GRAPH);
        let device = record.u32(memcpy::DEVICE);
        let row = Memcpy {
            start: record.u64(memcpy::START),
            end,
            correlation: self.correlations.widen(record.u32(memcpy::CORRELATION)),
            size_bytes: record.u64(memcpy::BYTES),
            graph_node: record.u64(memcpy::GRAPH_NODE),
            device,
            context: record.u32(memcpy::CONTEXT),
            stream: record.u32(memcpy::STREAM),
            source_device: device,
            target_device: device,
            graph,
            flags: flags(end, graph) | asynchronous(record.u8(memcpy::FLAGS)),
            copy_kind: record.u8(memcpy::COPY_KIND),
            source_kind: record.u8(memcpy::SOURCE_KIND),
            target_kind: record.u8(memcpy::TARGET_KIND),
            reserved: 0,
        };
        self.ran(end);
        self.definitions.used_stream(row.device, row.context, row.stream, &mut self.rows);
        self.rows.copies.push(row);
    }

    fn peer_copy(&mut self, record: Raw<'_>) {
        let end = record.u64(peer::END);
        let graph = record.u32(peer::GRAPH);
        let row = Memcpy {
            start: record.u64(peer::START),
            end,
            correlation: self.correlations.widen(record.u32(peer::CORRELATION)),
            size_bytes: record.u64(peer::BYTES),
            graph_node: record.u64(peer::GRAPH_NODE),
            device: record.u32(peer::DEVICE),
            context: record.u32(peer::CONTEXT),
            stream: record.u32(peer::STREAM),
            source_device: record.u32(peer::SOURCE_DEVICE),
            target_device: record.u32(peer::TARGET_DEVICE),
            graph,
            flags: flags(end, graph) | asynchronous(record.u8(peer::FLAGS)),
            copy_kind: record.u8(peer::COPY_KIND),
            source_kind: record.u8(peer::SOURCE_KIND),
            target_kind: record.u8(peer::TARGET_KIND),
            reserved: 0,
        };
        self.ran(end);
        self.definitions.used_stream(row.device, row.context, row.stream, &mut self.rows);
        self.rows.copies.push(row);
    }

    fn set(&mut self, record: Raw<'_>) {
        let end = record.u64(memset::END);
        let graph = record.u32(memset::GRAPH);
        let row = Memset {
            start: record.u64(memset::START),
            end,
            correlation: self.correlations.widen(record.u32(memset::CORRELATION)),
            size_bytes: record.u64(memset::BYTES),
            graph_node: record.u64(memset::GRAPH_NODE),
            value: record.u32(memset::VALUE),
            device: record.u32(memset::DEVICE),
            context: record.u32(memset::CONTEXT),
            stream: record.u32(memset::STREAM),
            graph,
            flags: flags(end, graph) | asynchronous(record.u16(memset::FLAGS) as u8),
            memory_kind: u32::from(record.u16(memset::MEMORY_KIND)),
            reserved: 0,
        };
        self.ran(end);
        self.definitions.used_stream(row.device, row.context, row.stream, &mut self.rows);
        self.rows.sets.push(row);
    }

    fn wait(&mut self, record: Raw<'_>) {
        let context = record.u32(synchronization::CONTEXT);
        let event = record.u32(synchronization::EVENT);
        self.rows.waits.push(Synchronization {
            start: record.u64(synchronization::START),
            end: record.u64(synchronization::END),
            correlation: self.correlations.widen(record.u32(synchronization::CORRELATION)),
            // CUPTI's mark for "not applicable".
            event: if event == u32::MAX { 0 } else { u64::from(event) },
            event_correlation: 0,
            device: self.definitions.device_of(context).unwrap_or(0),
            context,
            stream: record.u32(synchronization::STREAM),
            synchronization_kind: record.u32(synchronization::KIND),
        });
    }

    fn overhead(&mut self, record: Raw<'_>) {
        let name = overhead_name(record.u32(overhead::KIND)).as_bytes();
        let name = self.definitions.string(name, &mut self.rows);
        let end = record.u64(overhead::END);
        // The object is a process (and thread) or a device (and context, stream), by its kind.
        const PROCESS: u32 = 1;
        const THREAD: u32 = 2;
        let object_kind = record.u32(overhead::OBJECT_KIND);
        let (first, second) = (record.u32(overhead::OBJECT), record.u32(overhead::OBJECT + 4));
        let (thread, device) = match object_kind {
            PROCESS => (0, u32::MAX),
            THREAD => (second, u32::MAX),
            _ => (0, first),
        };
        self.rows.overheads.push(Overhead {
            start: record.u64(overhead::START),
            end,
            correlation: 0,
            name,
            thread,
            device,
            flags: flags(end, 0),
        });
    }

    /// Rows that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.rows.len() + self.call_rows.len()
    }

    /// Hands over what waits.
    pub(crate) fn emit(&mut self, sink: &dyn RecordSink) -> Emit {
        self.devices.resend(&mut self.rows);
        let outcome = self.rows.emit(self.out, sink);
        if outcome != Emit::Accepted {
            self.devices.refused();
            self.definitions.forget();
        }
        self.rows.clear();
        match (outcome, self.call_rows.emit(sink)) {
            (Emit::Accepted, outcome) | (outcome, _) => outcome,
        }
    }
}

fn flags(end: u64, graph: u32) -> u32 {
    let unfinished = if end == 0 { flag::UNFINISHED } else { 0 };
    let in_graph = if graph != 0 { flag::GRAPH } else { 0 };
    unfinished | in_graph
}

/// `CUPTI_ACTIVITY_FLAG_MEMCPY_ASYNC` and `…_MEMSET_ASYNC` are both bit 0.
fn asynchronous(flags: u8) -> u32 {
    if flags & 1 != 0 { flag::ASYNC } else { 0 }
}

fn overhead_name(kind: u32) -> &'static str {
    match kind >> 16 {
        0 if kind == 1 => "Driver Compiler",
        1 => "Buffer Flush",
        2 => "Instrumentation",
        3 => "Resource",
        4 => "Runtime Triggered Module Loading",
        5 => "Lazy Function Loading",
        6 => "Command Buffer Full",
        7 => "Activity Buffer Request",
        8 => "UVM Activity Init",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Names by address, as far as a test gives them.
    struct Fixed;

    impl Names for Fixed {
        fn text(&self, address: u64) -> Option<&[u8]> {
            (address != 0).then_some(b"name")
        }

        fn function(&self, _domain: u32, id: u32) -> Option<String> {
            id.is_multiple_of(2).then(|| format!("function_{id}"))
        }
    }

    proptest! {
        /// Whatever bytes come, the decoder neither panics nor makes more than a row of each.
        #[test]
        fn hostile_records(
            kind in prop_oneof![0u32..64, any::<u32>()],
            tail in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = kind.to_ne_bytes().to_vec();
            bytes.extend(tail);
            let mut decoder = Decoder::new(StreamId(1), Calls::Launches, StreamId(2));
            for end in 0..bytes.len() {
                decoder.record(Raw(&bytes[..end]), &Fixed);
            }
            prop_assert!(decoder.waiting() <= 3 * bytes.len());
        }
    }
}
