//! From CUPTI's records to rows.
//!
//! Bytes in, rows out: no call into CUPTI, so that recorded buffers and hostile bytes can be
//! decoded anywhere. Names are pointers in the records; a [`Names`] turns them into text.

use std::collections::{BTreeMap, HashMap, HashSet};

use profiler_core::record::{
    ApiCall, ApiDomain, ContextDef, DeviceDef, DeviceVendor, HeapRef, Kernel, LaunchConfigDef,
    LaunchConfigId, Memcpy, Memset, Overhead, StreamDef, StringDef, StringId, Synchronization,
    flag,
};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};

use crate::cupti::layout::{
    self, Raw, api, context, device, domain, kernel, kind, memcpy, memset, overhead, peer, stream,
    synchronization,
};

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
    /// Names by address, with their bytes: an address may be used again for another name.
    kernel_names: HashMap<u64, (Box<[u8]>, StringId)>,
    /// Names by text.
    strings: HashMap<Box<[u8]>, StringId>,
    functions: HashMap<(u32, u32), StringId>,
    configs: HashMap<ConfigKey, LaunchConfigId>,
    streams: HashSet<(u32, u32)>,
    next_string: u32,
    next_config: u32,
    correlations: Correlations,
    only_launches: bool,
    rows: Rows,
    /// Records of kinds that nothing asked for, by kind.
    pub(crate) unknown: BTreeMap<u32, u64>,
}

/// Rows that wait to be emitted.
#[derive(Default)]
struct Rows {
    heap: Vec<u8>,
    strings: Vec<StringDef>,
    configs: Vec<LaunchConfigDef>,
    devices: Vec<DeviceDef>,
    contexts: Vec<ContextDef>,
    streams: Vec<StreamDef>,
    kernels: Vec<Kernel>,
    calls: Vec<ApiCall>,
    copies: Vec<Memcpy>,
    sets: Vec<Memset>,
    waits: Vec<Synchronization>,
    overheads: Vec<Overhead>,
}

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct ConfigKey {
    grid_and_block: [u32; 6],
    shared: [u32; 4],
    cluster: [u32; 3],
    registers: u32,
}

/// CUPTI numbers launches with 32 bits; long captures wrap.
#[derive(Default)]
struct Correlations {
    newest: u64,
}

impl Correlations {
    /// The number as it would be with 64 bits: the one nearest to the newest seen.
    fn widen(&mut self, id: u32) -> u64 {
        if id == 0 {
            return 0;
        }
        let behind = (self.newest as u32).wrapping_sub(id);
        let wide = if behind <= u32::MAX / 2 {
            self.newest.wrapping_sub(u64::from(behind))
        } else {
            self.newest + u64::from(behind.wrapping_neg())
        };
        // Before the first wrap nothing can lie behind zero.
        let wide = if wide > self.newest.saturating_add(1 << 32) { u64::from(id) } else { wide };
        self.newest = self.newest.max(wide);
        wide
    }
}

impl Decoder {
    /// A decoder for the stream `out`. With `only_launches` driver calls that launch nothing are
    /// left out: older libraries cannot switch them off one by one.
    pub(crate) fn new(out: StreamId, only_launches: bool) -> Self {
        Self {
            out,
            kernel_names: HashMap::new(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            configs: HashMap::new(),
            streams: HashSet::new(),
            next_string: 1,
            next_config: 1,
            correlations: Correlations::default(),
            only_launches,
            rows: Rows::default(),
            unknown: BTreeMap::new(),
        }
    }

    /// Reads one record.
    pub(crate) fn record(&mut self, record: Raw<'_>, names: &dyn Names) {
        match record.kind() {
            kind::CONCURRENT_KERNEL => self.kernel(record, names),
            kind::RUNTIME => self.call(record, domain::RUNTIME, ApiDomain::CudaRuntime, names),
            kind::DRIVER => self.call(record, domain::DRIVER, ApiDomain::CudaDriver, names),
            kind::MEMCPY => self.copy(record),
            kind::MEMCPY_PEER => self.peer_copy(record),
            kind::MEMSET => self.set(record),
            kind::SYNCHRONIZATION => self.wait(record),
            kind::OVERHEAD => self.overhead(record),
            kind::CONTEXT => self.rows.contexts.push(ContextDef {
                context: record.u32(context::CONTEXT),
                device: record.u32(context::DEVICE),
            }),
            kind::STREAM => self.stream(record),
            kind::DEVICE => self.device(record, names),
            other => *self.unknown.entry(other).or_default() += 1,
        }
    }

    fn kernel(&mut self, record: Raw<'_>, names: &dyn Names) {
        let name = self.kernel_name(record.u64(kernel::NAME), names);
        let config = self.config(record);
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
        self.define_stream(row.device, row.context, row.stream);
        self.rows.kernels.push(row);
    }

    fn kernel_name(&mut self, address: u64, names: &dyn Names) -> StringId {
        let Some(text) = names.text(address) else { return StringId::NONE };
        if let Some((known, id)) = self.kernel_names.get(&address)
            && **known == *text
        {
            return *id;
        }
        let id = self.string(text);
        self.kernel_names.insert(address, (text.into(), id));
        id
    }

    fn string(&mut self, text: &[u8]) -> StringId {
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        let id = StringId(self.next_string);
        self.next_string += 1;
        self.strings.insert(text.into(), id);
        let text = HeapRef::push(&mut self.rows.heap, text);
        self.rows.strings.push(StringDef { text, id, reserved: 0 });
        id
    }

    fn config(&mut self, record: Raw<'_>) -> LaunchConfigId {
        let key = ConfigKey {
            grid_and_block: std::array::from_fn(|i| record.u32(kernel::GRID + 4 * i)),
            shared: [
                record.u32(kernel::STATIC_SHARED),
                record.u32(kernel::DYNAMIC_SHARED),
                record.u32(kernel::LOCAL),
                record.u32(kernel::SHARED_EXECUTED),
            ],
            cluster: std::array::from_fn(|i| record.u32(kernel::CLUSTER + 4 * i)),
            registers: u32::from(record.u16(kernel::REGISTERS)),
        };
        if let Some(id) = self.configs.get(&key) {
            return *id;
        }
        let id = LaunchConfigId(self.next_config);
        self.next_config += 1;
        self.configs.insert(key, id);
        let [grid_x, grid_y, grid_z, block_x, block_y, block_z] = key.grid_and_block;
        let [static_shared_bytes, dynamic_shared_bytes, local_bytes, shared_executed_bytes] =
            key.shared;
        let [cluster_x, cluster_y, cluster_z] = key.cluster;
        self.rows.configs.push(LaunchConfigDef {
            id,
            grid_x,
            grid_y,
            grid_z,
            block_x,
            block_y,
            block_z,
            registers: key.registers,
            static_shared_bytes,
            dynamic_shared_bytes,
            local_bytes,
            shared_executed_bytes,
            cluster_x,
            cluster_y,
            cluster_z,
            reserved: 0,
        });
        id
    }

    fn call(&mut self, record: Raw<'_>, vendor: u32, api: ApiDomain, names: &dyn Names) {
        let function = record.u32(api::FUNCTION);
        let name = match self.functions.get(&(vendor, function)) {
            Some(name) => *name,
            None => {
                let text = names
                    .function(vendor, function)
                    .unwrap_or_else(|| format!("{} function {function}", api.text()));
                let name = self.string(text.as_bytes());
                self.functions.insert((vendor, function), name);
                name
            }
        };
        let correlation = self.correlations.widen(record.u32(api::CORRELATION));
        if self.only_launches && vendor == domain::DRIVER && !is_driver_launch(function) {
            return;
        }
        let end = record.u64(api::END);
        self.rows.calls.push(ApiCall {
            start: record.u64(api::START),
            end,
            correlation,
            name,
            thread: record.u32(api::THREAD),
            result: record.u32(api::RESULT),
            function,
            domain: api.number(),
            flags: flags(end, 0),
        });
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
        self.define_stream(row.device, row.context, row.stream);
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
        self.define_stream(row.device, row.context, row.stream);
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
        self.define_stream(row.device, row.context, row.stream);
        self.rows.sets.push(row);
    }

    fn wait(&mut self, record: Raw<'_>) {
        self.rows.waits.push(Synchronization {
            start: record.u64(synchronization::START),
            end: record.u64(synchronization::END),
            correlation: self.correlations.widen(record.u32(synchronization::CORRELATION)),
            event: u64::from(record.u32(synchronization::EVENT)),
            event_correlation: 0,
            device: 0,
            context: record.u32(synchronization::CONTEXT),
            stream: record.u32(synchronization::STREAM),
            synchronization_kind: record.u32(synchronization::KIND),
        });
    }

    fn overhead(&mut self, record: Raw<'_>) {
        let name = self.string(overhead_name(record.u32(overhead::KIND)).as_bytes());
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

    fn stream(&mut self, record: Raw<'_>) {
        self.rows.streams.push(StreamDef {
            name: HeapRef::default(),
            stream: record.u32(stream::STREAM),
            context: record.u32(stream::CONTEXT),
            device: u32::MAX,
            priority: record.u32(stream::PRIORITY),
        });
    }

    /// A stream that existed before the capture is known from its first row.
    fn define_stream(&mut self, device: u32, context: u32, stream: u32) {
        if !self.streams.insert((context, stream)) {
            return;
        }
        self.rows.streams.push(StreamDef {
            name: HeapRef::default(),
            stream,
            context,
            device,
            priority: 0,
        });
        self.rows.contexts.push(ContextDef { context, device });
    }

    fn device(&mut self, record: Raw<'_>, names: &dyn Names) {
        let text = names.text(record.u64(device::NAME)).unwrap_or_default();
        let name = HeapRef::push(&mut self.rows.heap, text);
        let uuid = record.0.get(device::UUID..device::UUID + 16).unwrap_or_default();
        let uuid = HeapRef::push(&mut self.rows.heap, uuid);
        let warp_size = record.u32(device::WARP);
        self.rows.devices.push(DeviceDef {
            name,
            uuid,
            memory_bytes: record.u64(device::MEMORY),
            device: record.u32(device::ID),
            vendor: DeviceVendor::Nvidia.number(),
            capability_major: record.u32(device::CAPABILITY_MAJOR),
            capability_minor: record.u32(device::CAPABILITY_MINOR),
            multiprocessors: record.u32(device::MULTIPROCESSORS),
            warp_size,
            max_threads_per_block: record.u32(device::THREADS_BLOCK),
            max_threads_per_multiprocessor: record.u32(device::MAX_WARPS).saturating_mul(warp_size),
            registers_per_block: record.u32(device::REGISTERS_BLOCK),
            registers_per_multiprocessor: record.u32(device::REGISTERS_MULTIPROCESSOR),
            shared_bytes_per_block: record.u32(device::SHARED_BLOCK),
            shared_bytes_per_block_optin: 0,
            shared_bytes_per_multiprocessor: record.u32(device::SHARED_MULTIPROCESSOR),
            reserved: 0,
        });
    }

    /// Rows that wait.
    pub(crate) fn waiting(&self) -> usize {
        let rows = &self.rows;
        rows.kernels.len()
            + rows.calls.len()
            + rows.copies.len()
            + rows.sets.len()
            + rows.waits.len()
            + rows.overheads.len()
            + rows.devices.len()
            + rows.contexts.len()
            + rows.streams.len()
    }

    /// Hands over what waits.
    pub(crate) fn emit(&mut self, sink: &dyn RecordSink) -> Emit {
        let rows = &self.rows;
        let out = self.out;
        let mut group: Vec<Batch<'_>> = Vec::with_capacity(11);
        macro_rules! put {
            ($rows:expr) => {
                if !$rows.is_empty() {
                    group.push(Batch::with_heap(out, &$rows, &rows.heap));
                }
            };
        }
        put!(rows.strings);
        put!(rows.configs);
        put!(rows.devices);
        put!(rows.contexts);
        put!(rows.streams);
        put!(rows.calls);
        put!(rows.kernels);
        put!(rows.copies);
        put!(rows.sets);
        put!(rows.waits);
        put!(rows.overheads);
        if group.is_empty() {
            return Emit::Accepted;
        }
        let outcome = sink.emit(&group);
        drop(group);
        if outcome != Emit::Accepted {
            self.forget_definitions();
        }
        self.rows.clear();
        outcome
    }

    /// Definitions of a refused group are sent again at their next use, under new ids.
    fn forget_definitions(&mut self) {
        self.kernel_names.clear();
        self.strings.clear();
        self.functions.clear();
        self.configs.clear();
        self.streams.clear();
    }
}

impl Rows {
    fn clear(&mut self) {
        self.heap.clear();
        self.strings.clear();
        self.configs.clear();
        self.devices.clear();
        self.contexts.clear();
        self.streams.clear();
        self.kernels.clear();
        self.calls.clear();
        self.copies.clear();
        self.sets.clear();
        self.waits.clear();
        self.overheads.clear();
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

/// Driver functions that put work on a device.
pub(crate) fn is_driver_launch(function: u32) -> bool {
    layout::DRIVER_LAUNCHES.contains(&function)
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

    #[test]
    fn correlations_go_on_past_32_bits() {
        let mut correlations = Correlations::default();
        assert_eq!(correlations.widen(5), 5);
        assert_eq!(correlations.widen(0), 0);
        assert_eq!(correlations.widen(3), 3, "late, before the first wrap");
        for id in [1 << 30, 1 << 31, 3 << 30, u32::MAX] {
            assert_eq!(correlations.widen(id), u64::from(id));
        }
        assert_eq!(correlations.widen(2), (1 << 32) + 2);
        assert_eq!(correlations.widen(u32::MAX - 1), u64::from(u32::MAX - 1), "late");
        assert_eq!(correlations.widen(3), (1 << 32) + 3);
    }

    #[test]
    fn a_name_whose_address_is_used_again_is_another_name() {
        struct Two(std::cell::Cell<bool>);
        impl Names for Two {
            fn text(&self, _address: u64) -> Option<&[u8]> {
                Some(if self.0.get() { b"second" } else { b"first" })
            }
            fn function(&self, _domain: u32, _id: u32) -> Option<String> {
                None
            }
        }
        let names = Two(std::cell::Cell::new(false));
        let mut decoder = Decoder::new(StreamId(1), false);
        let first = decoder.kernel_name(64, &names);
        assert_eq!(decoder.kernel_name(64, &names), first);
        names.0.set(true);
        assert_ne!(decoder.kernel_name(64, &names), first);
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
            let mut decoder = Decoder::new(StreamId(1), false);
            for end in 0..bytes.len() {
                decoder.record(Raw(&bytes[..end]), &Fixed);
            }
            prop_assert!(decoder.waiting() <= 3 * bytes.len());
        }
    }
}
