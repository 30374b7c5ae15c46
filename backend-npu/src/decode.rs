//! From MSPTI's records to rows.
//!
//! Bytes in, rows out: no call into MSPTI, so that recorded buffers and hostile bytes can be
//! decoded anywhere. Names are pointers in the records; a [`Names`] turns them into text.

use std::collections::BTreeMap;

use profiler_core::record::{
    ApiCall, ApiDomain, Communication, ContextDef, CopyKind, DeviceDef, DeviceVendor,
    ExternalCorrelation, HeapRef, Kernel, LaunchConfigId, Marker, Memcpy, Memory, MemoryKind,
    Memset, Span, StreamDef, StringDef, StringId, ThreadDef, flag,
};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::address_map::AddressMap;
use crate::machine::VisibleDevices;
use crate::mspti::layout::{
    self, Raw, api, communication, external, hccl, kernel, kind, marker, memcpy, memory, memset,
};
use crate::ranges::{Range, Ranges};
use crate::replays::Replays;

/// Turns what records point to into text.
pub(crate) trait Names {
    /// The bytes of the C string at an address, without its end; `None` for a null pointer.
    fn text(&self, address: u64) -> Option<&[u8]>;
}

/// Names that are known at once; markers may have a new one each.
const MAX_STRINGS: usize = 1 << 16;

/// A number that no thread has: a stream of a device, on which markers of the device are drawn.
const DEVICE_TIMELINE: u32 = 0xF000_0000;

/// What is known of the devices beforehand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Devices {
    /// What the chip is called.
    pub(crate) name: String,
    /// How the process numbers devices.
    pub(crate) visible: VisibleDevices,
}

/// Turns records of one capture into groups of batches.
pub(crate) struct Decoder {
    out: StreamId,
    known: Devices,
    /// Names by address: the library keeps each for the process's life.
    names: AddressMap<StringId>,
    strings: FxHashMap<Box<[u8]>, StringId>,
    streams: FxHashSet<(u32, u32)>,
    devices: FxHashSet<u32>,
    timelines: FxHashSet<u32>,
    data_types: BTreeMap<u32, StringId>,
    next_string: u32,
    next_span: u64,
    kernels_seen: Replays,
    communications_seen: Replays,
    ranges: Ranges,
    rows: Rows,
    /// Records that ended before they began: the library set its clock meanwhile.
    pub(crate) ran_backwards: u64,
    /// Kernels of graphs that ran again.
    pub(crate) replayed: u64,
}

/// Rows that wait to be emitted.
#[derive(Default)]
struct Rows {
    heap: Vec<u8>,
    strings: Vec<StringDef>,
    devices: Vec<DeviceDef>,
    contexts: Vec<ContextDef>,
    streams: Vec<StreamDef>,
    threads: Vec<ThreadDef>,
    kernels: Vec<Kernel>,
    communications: Vec<Communication>,
    calls: Vec<ApiCall>,
    copies: Vec<Memcpy>,
    sets: Vec<Memset>,
    memories: Vec<Memory>,
    spans: Vec<Span>,
    markers: Vec<Marker>,
    externals: Vec<ExternalCorrelation>,
    count: usize,
}

impl Decoder {
    /// A decoder for the stream `out`.
    pub(crate) fn new(out: StreamId, known: Devices) -> Self {
        Self {
            out,
            known,
            names: AddressMap::default(),
            strings: FxHashMap::default(),
            streams: FxHashSet::default(),
            devices: FxHashSet::default(),
            timelines: FxHashSet::default(),
            data_types: BTreeMap::new(),
            next_string: 1,
            next_span: 1,
            kernels_seen: Replays::default(),
            communications_seen: Replays::default(),
            ranges: Ranges::default(),
            rows: Rows::default(),
            ran_backwards: 0,
            replayed: 0,
        }
    }

    /// Reads one record of a known kind and size.
    pub(crate) fn record(&mut self, record: Raw<'_>, names: &dyn Names) {
        self.rows.count += 1;
        match record.kind() {
            kind::KERNEL => self.kernel(record, names),
            kind::COMMUNICATION => self.communication(record, names),
            kind::HCCL => self.hccl(record, names),
            kind::MARKER => self.marker(record, names),
            kind::API => self.call(record, ApiDomain::Other, names),
            kind::ACL_API | kind::NODE_API | kind::RUNTIME_API => {
                self.call(record, ApiDomain::AscendRuntime, names);
            }
            kind::MEMORY => self.memory(record),
            kind::MEMSET => self.set(record),
            kind::MEMCPY => self.copy(record),
            kind::EXTERNAL_CORRELATION => self.rows.externals.push(ExternalCorrelation {
                correlation: record.u64(external::CORRELATION),
                external: record.u64(external::ID),
                external_kind: record.u32(external::EXTERNAL_KIND),
                reserved: 0,
            }),
            _ => self.rows.count -= 1,
        }
    }

    fn kernel(&mut self, record: Raw<'_>, names: &dyn Names) {
        let (start, end, flags) = self.interval(record.u64(kernel::START), record.u64(kernel::END));
        let launch = record.u64(kernel::CORRELATION);
        // A captured graph's kernels come again at each replay, with the number of the launch that
        // captured them. That launch did not cause this run, and may lie outside the window.
        let is_replay = self.kernels_seen.is_repeated(launch);
        self.replayed += u64::from(is_replay);
        let device = record.u32(kernel::DEVICE);
        let row = Kernel {
            start,
            end,
            correlation: if is_replay { 0 } else { launch },
            graph_node: if is_replay { launch } else { 0 },
            name: self.name(record.u64(kernel::NAME), names),
            config: LaunchConfigId::NONE,
            device,
            context: device,
            stream: record.u32(kernel::STREAM),
            graph: 0,
            flags: flags | if is_replay { flag::GRAPH } else { 0 },
            category: self.name(record.u64(kernel::TYPE), names),
        };
        self.define_stream(device, row.stream);
        self.rows.kernels.push(row);
    }

    fn communication(&mut self, record: Raw<'_>, names: &dyn Names) {
        let (start, end, flags) =
            self.interval(record.u64(communication::START), record.u64(communication::END));
        let launch = record.u64(communication::CORRELATION);
        let is_replay = self.communications_seen.is_repeated(launch);
        let row = Communication {
            start,
            end,
            correlation: if is_replay { 0 } else { launch },
            count: record.u64(communication::COUNT),
            name: self.name(record.u64(communication::NAME), names),
            algorithm: self.name(record.u64(communication::ALGORITHM), names),
            data_type: self.data_type(record.u32(communication::DATA_TYPE)),
            communicator: self.name(record.u64(communication::COMMUNICATOR), names),
            device: record.u32(communication::DEVICE),
            stream: record.u32(communication::STREAM),
            ranks: 0,
            flags: flags | if is_replay { flag::GRAPH } else { 0 },
        };
        self.define_stream(row.device, row.stream);
        self.rows.communications.push(row);
    }

    fn hccl(&mut self, record: Raw<'_>, names: &dyn Names) {
        let (start, end, flags) = self.interval(record.u64(hccl::START), record.u64(hccl::END));
        let row = Communication {
            start,
            end,
            correlation: 0,
            count: 0,
            name: self.name(record.u64(hccl::NAME), names),
            algorithm: StringId::NONE,
            data_type: StringId::NONE,
            communicator: self.name(record.u64(hccl::COMMUNICATOR), names),
            device: record.u32(hccl::DEVICE),
            stream: record.u32(hccl::STREAM),
            ranks: 0,
            flags,
        };
        self.define_stream(row.device, row.stream);
        self.rows.communications.push(row);
    }

    fn call(&mut self, record: Raw<'_>, domain: ApiDomain, names: &dyn Names) {
        let (start, end, flags) = self.interval(record.u64(api::START), record.u64(api::END));
        let row = ApiCall {
            start,
            end,
            correlation: record.u64(api::CORRELATION),
            name: self.name(record.u64(api::NAME), names),
            thread: record.u32(api::THREAD),
            result: 0,
            function: 0,
            domain: domain.number(),
            flags,
        };
        self.rows.calls.push(row);
    }

    /// The times of copies, memsets and allocations are those of the call on the host.
    fn copy(&mut self, record: Raw<'_>) {
        let (start, end, flags) = self.interval(record.u64(memcpy::START), record.u64(memcpy::END));
        let device = self.known.visible.driver_number(record.u32(memcpy::DEVICE));
        let (copy_kind, source_kind, target_kind) = copy_kinds(record.u32(memcpy::COPY_KIND));
        let row = Memcpy {
            start,
            end,
            correlation: record.u64(memcpy::CORRELATION),
            size_bytes: record.u64(memcpy::BYTES),
            graph_node: 0,
            device,
            context: device,
            stream: record.u32(memcpy::STREAM),
            source_device: device,
            target_device: device,
            graph: 0,
            flags: flags | asynchronous(record.u8(memcpy::IS_ASYNC)),
            copy_kind,
            source_kind,
            target_kind,
            reserved: 0,
        };
        self.define_stream(device, row.stream);
        self.rows.copies.push(row);
    }

    fn set(&mut self, record: Raw<'_>) {
        let (start, end, flags) = self.interval(record.u64(memset::START), record.u64(memset::END));
        let device = self.known.visible.driver_number(record.u32(memset::DEVICE));
        let row = Memset {
            start,
            end,
            correlation: record.u64(memset::CORRELATION),
            size_bytes: record.u64(memset::BYTES),
            graph_node: 0,
            value: record.u32(memset::VALUE),
            device,
            context: device,
            stream: record.u32(memset::STREAM),
            graph: 0,
            flags: flags | asynchronous(record.u8(memset::IS_ASYNC)),
            memory_kind: u32::from(MemoryKind::Device.number()),
            reserved: 0,
        };
        self.define_stream(device, row.stream);
        self.rows.sets.push(row);
    }

    fn memory(&mut self, record: Raw<'_>) {
        const RELEASE: u32 = 1;
        const DEVICE_MEMORY: u32 = 1;
        let device = self.known.visible.driver_number(record.u32(memory::DEVICE));
        let is_device = record.u32(memory::MEMORY_KIND) == DEVICE_MEMORY;
        self.rows.memories.push(Memory {
            time: record.u64(memory::START),
            address: record.u64(memory::ADDRESS),
            size_bytes: record.u64(memory::BYTES),
            correlation: record.u64(memory::CORRELATION),
            total_allocated_bytes: 0,
            total_reserved_bytes: 0,
            allocator: StringId::NONE,
            thread: 0,
            device,
            context: device,
            stream: record.u32(memory::STREAM),
            operation: if record.u32(memory::OPERATION) == RELEASE { 2 } else { 1 },
            memory_kind: if is_device { u16::from(MemoryKind::Device.number()) } else { 0 },
        });
    }

    fn marker(&mut self, record: Raw<'_>, names: &dyn Names) {
        use layout::marker_flag::{
            END, END_WITH_DEVICE, INSTANTANEOUS, INSTANTANEOUS_WITH_DEVICE, START,
            START_WITH_DEVICE,
        };
        let is_device = record.u32(marker::SOURCE) == layout::SOURCE_DEVICE;
        let (first, second) = (record.u32(marker::FIRST), record.u32(marker::SECOND));
        let thread = if is_device { self.timeline(first, second) } else { second };
        let (time, id) = (record.u64(marker::TIME), record.u64(marker::ID));
        let key = (is_device, id);
        match record.u32(marker::FLAG) {
            INSTANTANEOUS | INSTANTANEOUS_WITH_DEVICE => {
                let row = Marker {
                    time,
                    payload: id,
                    fields: HeapRef::default(),
                    name: self.name(record.u64(marker::NAME), names),
                    target: self.name(record.u64(marker::DOMAIN), names),
                    request: StringId::NONE,
                    thread,
                };
                self.rows.markers.push(row);
            }
            START | START_WITH_DEVICE => {
                let text = |address| names.text(address).unwrap_or_default().into();
                self.ranges.open(
                    key,
                    Range {
                        start: time,
                        thread,
                        name: text(record.u64(marker::NAME)),
                        domain: text(record.u64(marker::DOMAIN)),
                    },
                );
                self.rows.count -= 1;
            }
            END | END_WITH_DEVICE => match self.ranges.close(key) {
                Some(range) => {
                    let (start, end, flags) = self.interval(range.start, time);
                    self.span(&range, start, end, flags);
                }
                None => self.rows.count -= 1,
            },
            _ => {
                self.ranges.strange += 1;
                self.rows.count -= 1;
            }
        }
    }

    fn span(&mut self, range: &Range, start: u64, end: u64, flags: u32) {
        let name = self.string(&range.name);
        let target = self.string(&range.domain);
        let id = self.next_span;
        self.next_span += 1;
        self.rows.spans.push(Span {
            start,
            end,
            id,
            parent: 0,
            fields: HeapRef::default(),
            name,
            target,
            request: StringId::NONE,
            stage: StringId::NONE,
            thread: range.thread,
            flags,
        });
    }

    /// Ranges that are open at the end become spans without one.
    pub(crate) fn finish(&mut self) {
        for range in self.ranges.take_open() {
            self.rows.count += 1;
            self.span(&range, range.start, 0, flag::UNFINISHED);
        }
    }

    /// What a person should know of the ranges.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = self.ranges.notes();
        if self.ran_backwards > 0 {
            notes.push(format!(
                "{} NPU records ended before they began (the library sets its clock every 7 s); \
                 they are shown without a duration",
                self.ran_backwards
            ));
        }
        if self.replayed > 0 {
            notes.push(format!("{} kernels were replays of captured graphs", self.replayed));
        }
        notes
    }

    /// Start, end and flags of what ran between two instants.
    fn interval(&mut self, start: u64, end: u64) -> (u64, u64, u32) {
        match end {
            0 => (start, 0, flag::UNFINISHED),
            end if end < start => {
                self.ran_backwards += 1;
                (start, start, 0)
            }
            end => (start, end, 0),
        }
    }

    /// The name at an address; a null pointer and an empty text are no name.
    fn name(&mut self, address: u64, names: &dyn Names) -> StringId {
        if let Some(id) = self.names.find(address) {
            return id;
        }
        let Some(text) = names.text(address) else { return StringId::NONE };
        let id = self.string(text);
        self.names.insert(address, id);
        id
    }

    fn string(&mut self, text: &[u8]) -> StringId {
        if text.is_empty() {
            return StringId::NONE;
        }
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        if self.strings.len() >= MAX_STRINGS {
            self.forget_strings();
        }
        let id = StringId(self.next_string);
        self.next_string += 1;
        self.strings.insert(text.into(), id);
        let text = HeapRef::push(&mut self.rows.heap, text);
        self.rows.strings.push(StringDef { text, id, reserved: 0 });
        id
    }

    fn data_type(&mut self, number: u32) -> StringId {
        if let Some(id) = self.data_types.get(&number) {
            return *id;
        }
        let id = self.string(data_type_name(number).as_bytes());
        // Hostile numbers are all one name, and no entry each.
        if number <= LAST_DATA_TYPE {
            self.data_types.insert(number, id);
        }
        id
    }

    /// The timeline of a device's stream, as a thread that has a name.
    fn timeline(&mut self, device: u32, stream: u32) -> u32 {
        let thread = DEVICE_TIMELINE | (device & 0xFFF) << 16 | stream & 0xFFFF;
        if self.timelines.len() < MAX_STRINGS && self.timelines.insert(thread) {
            let name = format!("NPU {device} stream {stream} markers");
            let name = HeapRef::push(&mut self.rows.heap, name.as_bytes());
            let process = std::process::id();
            self.rows.threads.push(ThreadDef { name, thread, process });
        }
        thread
    }

    fn define_stream(&mut self, device: u32, stream: u32) {
        if self.streams.len() >= MAX_STRINGS || !self.streams.insert((device, stream)) {
            return;
        }
        self.rows.streams.push(StreamDef {
            name: HeapRef::default(),
            stream,
            context: device,
            device,
            priority: 0,
        });
        if !self.devices.insert(device) {
            return;
        }
        self.rows.contexts.push(ContextDef { context: device, device });
        let name = HeapRef::push(&mut self.rows.heap, self.known.name.as_bytes());
        self.rows.devices.push(DeviceDef {
            name,
            device,
            vendor: DeviceVendor::Ascend.number(),
            ..DeviceDef::default()
        });
    }

    /// Rows that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.rows.count
    }

    /// Hands over what waits.
    pub(crate) fn emit(&mut self, sink: &dyn RecordSink) -> Emit {
        let rows = &self.rows;
        let out = self.out;
        let mut group: Vec<Batch<'_>> = Vec::with_capacity(14);
        macro_rules! put {
            ($($rows:expr),*) => {
                $(if !$rows.is_empty() {
                    group.push(Batch::with_heap(out, &$rows, &rows.heap));
                })*
            };
        }
        put!(rows.strings, rows.devices, rows.contexts, rows.streams, rows.threads);
        put!(rows.calls, rows.externals, rows.kernels, rows.communications, rows.copies);
        put!(rows.sets, rows.memories, rows.spans, rows.markers);
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

    /// Definitions of a refused group are sent again at their next use, strings under new ids.
    fn forget_definitions(&mut self) {
        self.forget_strings();
        self.streams.clear();
        self.devices.clear();
        self.timelines.clear();
    }

    fn forget_strings(&mut self) {
        self.names.clear();
        self.strings.clear();
        self.data_types.clear();
    }
}

impl Rows {
    fn clear(&mut self) {
        self.heap.clear();
        self.strings.clear();
        self.devices.clear();
        self.contexts.clear();
        self.streams.clear();
        self.threads.clear();
        self.kernels.clear();
        self.communications.clear();
        self.calls.clear();
        self.copies.clear();
        self.sets.clear();
        self.memories.clear();
        self.spans.clear();
        self.markers.clear();
        self.externals.clear();
        self.count = 0;
    }
}

fn asynchronous(is_async: u8) -> u32 {
    if is_async != 0 { flag::ASYNC } else { 0 }
}

/// Our numbers of a copy's direction and of its two ends.
fn copy_kinds(number: u32) -> (u8, u8, u8) {
    let (copy, source, target) = match number {
        1 => (CopyKind::HostToHost, MemoryKind::Pageable, MemoryKind::Pageable),
        2 => (CopyKind::HostToDevice, MemoryKind::Pageable, MemoryKind::Device),
        3 => (CopyKind::DeviceToHost, MemoryKind::Device, MemoryKind::Pageable),
        4 => (CopyKind::DeviceToDevice, MemoryKind::Device, MemoryKind::Device),
        _ => return (0, 0, 0),
    };
    (copy.number(), source.number(), target.number())
}

const LAST_DATA_TYPE: u32 = 17;

/// `msptiCommunicationDataType`, as frameworks write types.
fn data_type_name(number: u32) -> &'static str {
    match number {
        0 => "int8",
        1 => "int16",
        2 => "int32",
        3 => "fp16",
        4 => "fp32",
        5 => "int64",
        6 => "uint64",
        7 => "uint8",
        8 => "uint16",
        9 => "uint32",
        10 => "fp64",
        11 => "bf16",
        12 => "int128",
        14 => "hif8",
        15 => "fp8_e4m3",
        16 => "fp8_e5m2",
        17 => "fp8_e8m0",
        _ => "",
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
