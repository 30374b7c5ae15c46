//! The second reading: events become rows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use profiler_core::clock::ClockDomain;
use profiler_core::record::{
    ApiCall, ApiDomain, ClockTuple, Communication, ContextDef, CopyKind, Counter, DeviceDef,
    DeviceVendor, HeapRef, Kernel, Marker, Memcpy, Memory, MemoryKind, Memset, Operator,
    OperatorScope, Overhead, ProcessDef, Span, StackId, StringId, Synchronization,
    SynchronizationKind, ThreadDef, Window, WindowEdge,
};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId, StreamInfo};
use serde_json::value::RawValue;

use super::ImportError;
use super::args::{Args, compact, number, small, three};
use super::event::{Event, plain};
use super::l2_cache::Tasks;
use super::rows::{AnyRow, Rows};
use super::scan::{Part, Scanner};
use super::source::Source;
use super::survey::{Layout, Survey, npu};
use super::{database, l2_cache, metrics};
use crate::capture::DEVICE_FACT;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Translation {
    pub(super) rows: BTreeMap<String, u64>,
    pub(super) left_out: BTreeMap<String, u64>,
    pub(super) notes: Vec<String>,
}

/// Numbers from here on are given to threads that have no number of the operating system's.
const FIRST_OWN_THREAD: u32 = 0xE000_0000;
/// Threads that are told apart.
const MAX_THREADS: usize = 1 << 16;
/// What collectives consist of is left out.
pub(super) const STEPS_OF_COLLECTIVES: &str = "steps of collectives, which are there as a whole";
/// Kinds of events that are counted by their own name.
const MAX_LEFT_OUT: usize = 256;

pub(super) fn translate(
    source: &Source,
    survey: &Survey,
    windows: Option<&[(u64, Option<u64>)]>,
    sink: &dyn RecordSink,
) -> Result<Translation, ImportError> {
    let stream = sink.open_stream(StreamInfo {
        producer: format!("import.{}", survey.layout.name()),
        thread: 0,
        clock: ClockDomain::Realtime,
    });
    let whole = [(survey.begin, Some(survey.end))];
    let is_of_a_worker = windows.is_some();
    let windows = windows.filter(|windows| !windows.is_empty()).unwrap_or(&whole);
    for (number, (begin, _)) in (0..).zip(windows) {
        edge(sink, number, *begin, WindowEdge::Begin);
    }
    if is_of_a_worker {
        sink.fact(DEVICE_FACT, survey.layout.name());
    }
    sink.fact("import.source", &source.path.display().to_string());
    sink.fact("import.layout", survey.layout.name());
    let mut translator = Translator {
        survey,
        sink,
        stream,
        rows: Rows::new(sink, stream),
        threads: HashMap::new(),
        next_span: 1,
        left_out: BTreeMap::new(),
        notes: survey.notes.clone(),
    };
    translator.define();
    match survey.layout {
        Layout::Msprof => database::read(&mut translator, source)?,
        Layout::Kineto | Layout::TorchNpu => translator.read(source)?,
    }
    let caches = source.cache_tables();
    let mut tasks = Tasks::default();
    for table in source.kernel_tables() {
        let tasks = (!caches.is_empty()).then_some(&mut tasks);
        metrics::read(&mut translator, &table, tasks);
    }
    for table in &caches {
        l2_cache::read(&mut translator, table, &tasks);
    }
    translator.rows.hand_over();
    let Translator { rows, left_out, notes, .. } = translator;
    let counts = rows.counts;
    for (number, (begin, end)) in (0..).zip(windows) {
        // A worker that died told no end.
        let end = end.unwrap_or(survey.end).max(*begin);
        edge(sink, number, end, WindowEdge::End);
    }
    Ok(Translation { rows: counts, left_out, notes })
}

/// An end of a window, and how the clocks stood there.
fn edge(sink: &dyn RecordSink, window: u32, at: u64, edge: WindowEdge) {
    let tuple = ClockTuple { monotonic: at, realtime: at, boottime: at, ..ClockTuple::default() };
    let window =
        Window { monotonic: at, realtime: at, step: u64::MAX, window, edge: edge.number() };
    emit(sink, &[Batch::new(StreamId(0), &[tuple])]);
    emit(sink, &[Batch::new(StreamId(0), &[window])]);
}

fn emit(sink: &dyn RecordSink, group: &[Batch<'_>]) {
    // What a source gives never meets a full queue; a full disk is counted in the totals.
    let _taken: Emit = sink.emit(group);
}

/// Makes rows of what a trace says.
pub(super) struct Translator<'a> {
    pub(super) survey: &'a Survey,
    sink: &'a dyn RecordSink,
    stream: StreamId,
    pub(super) rows: Rows<'a>,
    threads: HashMap<(String, String), u32>,
    next_span: u64,
    left_out: BTreeMap<String, u64>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

impl Translator<'_> {
    fn read(&mut self, source: &Source) -> Result<(), ImportError> {
        let mut scanner = Scanner::new(source.open()?);
        while !self.rows.is_closed {
            let part = match scanner.next() {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(source.unread(error)),
            };
            match part {
                Part::Event(bytes) => match Event::parse(bytes) {
                    Some(event) => self.event(&event),
                    None => self.leave_out("not understood"),
                },
                Part::TooLong => self.leave_out("longer than 16 MiB"),
                Part::Strange => self.leave_out("no event"),
                Part::Field(..) | Part::CutOff => {}
            }
        }
        Ok(())
    }

    fn define(&mut self) {
        let mut heap = Vec::new();
        let process = ProcessDef {
            name: HeapRef::push(&mut heap, b"imported"),
            process: self.survey.process,
            ..ProcessDef::default()
        };
        emit(self.sink, &[Batch::with_heap(self.stream, &[process], &heap)]);
        let mut heap = Vec::new();
        let mut devices = Vec::new();
        for device in &self.survey.devices {
            devices.push(DeviceDef {
                name: HeapRef::push(&mut heap, device.name.as_bytes()),
                memory_bytes: device.total_global_mem,
                device: device.id,
                vendor: DeviceVendor::Nvidia.number(),
                capability_major: device.compute_major,
                capability_minor: device.compute_minor,
                multiprocessors: device.num_sms,
                warp_size: device.warp_size,
                max_threads_per_multiprocessor: device.max_threads_per_multiprocessor,
                registers_per_multiprocessor: device.regs_per_multiprocessor,
                shared_bytes_per_multiprocessor: device.shared_mem_per_multiprocessor,
                ..DeviceDef::default()
            });
        }
        let mut contexts = Vec::new();
        for (device, name) in &self.survey.npus {
            contexts.push(ContextDef { context: *device, device: *device });
            devices.push(DeviceDef {
                name: HeapRef::push(&mut heap, name.as_bytes()),
                device: *device,
                vendor: DeviceVendor::Ascend.number(),
                ..DeviceDef::default()
            });
        }
        emit(self.sink, &[Batch::with_heap(self.stream, &devices, &heap)]);
        emit(self.sink, &[Batch::new(self.stream, &contexts)]);
    }

    /// The device of a table that names none: the only one, where there is one.
    pub(super) fn only_device(&self) -> u32 {
        match self.survey.npus[..] {
            [(device, _)] => device,
            _ => 0,
        }
    }

    pub(super) fn leave_out(&mut self, what: &str) {
        self.leave_out_many(what, 1);
    }

    pub(super) fn leave_out_many(&mut self, what: &str, count: u64) {
        let is_new = !self.left_out.contains_key(what);
        let what = if is_new && self.left_out.len() >= MAX_LEFT_OUT { "others" } else { what };
        if count > 0 {
            *self.left_out.entry(what.to_owned()).or_default() += count;
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        match event.ph.as_ref() {
            "X" => {
                let Some(start) = event.start(self.survey.base) else {
                    return self.leave_out("without an instant");
                };
                let end = start.saturating_add(event.duration());
                match self.survey.layout {
                    Layout::Kineto => self.kineto(event, start, end),
                    // A database has no events.
                    Layout::TorchNpu | Layout::Msprof => self.torch_npu(event, start, end),
                }
            }
            "i" | "I" => self.instant(event),
            "C" => self.counter(event),
            // Names were read before; arrows follow from correlation ids.
            "M" => {}
            "s" | "t" | "f" => self.leave_out("arrows, which follow from correlation ids"),
            other => self.leave_out(&format!("events of phase `{}`", short(other))),
        }
    }

    fn kineto(&mut self, event: &Event<'_>, start: u64, end: u64) {
        let name = event.name.as_ref();
        match event.cat.as_ref() {
            "kernel" => self.kernel(event, start, end),
            "gpu_memcpy" => self.copy(event, start, end),
            "gpu_memset" => self.set(event, start, end),
            "cuda_runtime" => self.call(event, start, end, ApiDomain::CudaRuntime),
            "cuda_driver" => self.call(event, start, end, ApiDomain::CudaDriver),
            "privateuse1_runtime" | "acl_runtime" => {
                self.call(event, start, end, ApiDomain::AscendRuntime)
            }
            "cpu_op" => self.operator(event, start, end),
            "collective_comm" | "communication" => self.communication(event, start, end),
            "overhead" => {
                let row = Overhead {
                    start,
                    end,
                    name: self.rows.string(name),
                    device: u32::MAX,
                    ..Overhead::default()
                };
                self.rows.push(AnyRow::Overhead(row));
            }
            "cuda_sync" => self.wait(event, start, end),
            "Trace" => self.leave_out("the profiler's own mark of its run"),
            "gpu_user_annotation" => {
                let timeline =
                    format!("GPU {} stream {} annotations", event.pid_text(), event.tid_text());
                let thread = self.own_thread("annotations", &timeline, &timeline);
                self.span(name, "gpu_user_annotation", thread, start, end);
            }
            other => {
                let target = short(other).to_owned();
                let thread = self.thread(event);
                self.span(name, &target, thread, start, end);
            }
        }
    }

    fn torch_npu(&mut self, event: &Event<'_>, start: u64, end: u64) {
        let process = self.survey.processes.get(event.pid_text()).map_or("", String::as_str);
        let name = event.name.as_ref();
        match process {
            "Ascend Hardware" => {
                let args: Args<'_> = event.arguments();
                let device = npu(event.pid_text());
                let row = Kernel {
                    start,
                    end,
                    correlation: number(args.connection_id),
                    name: self.rows.string(name),
                    category: self.rows.string(args.task_type.as_deref().unwrap_or_default()),
                    device,
                    context: device,
                    stream: match args.physical_stream {
                        Some(stream) => small(Some(stream)),
                        None => event.tid_text().parse().unwrap_or(0),
                    },
                    ..Kernel::default()
                };
                self.rows.push(AnyRow::Kernel(row));
            }
            // Older versions call it after the library.
            "Communication" | "HCCL" => {
                let key = (event.pid_text().to_owned(), event.tid_text().to_owned());
                let thread = self.survey.threads.get(&key).map_or("", String::as_str);
                if thread.starts_with("Plane") {
                    return self.leave_out(STEPS_OF_COLLECTIVES);
                }
                self.communication(event, start, end);
            }
            "CANN" => self.call(event, start, end, ApiDomain::AscendRuntime),
            "Overlap Analysis" => {
                self.leave_out("the overlap analysis, which is computed from kernels again");
            }
            "Python" if event.cat.as_ref() == "cpu_op" || name.contains("::") => {
                self.operator(event, start, end);
            }
            "Python" if matches!(name, "Enqueue" | "Dequeue") || name.starts_with("Enqueue@") => {
                let thread = self.thread(event);
                self.span(name, "async_task_queue", thread, start, end);
            }
            other => {
                let target = short(other).to_owned();
                let thread = self.thread(event);
                self.span(name, &target, thread, start, end);
            }
        }
    }

    fn kernel(&mut self, event: &Event<'_>, start: u64, end: u64) {
        let args: Args<'_> = event.arguments();
        let [grid_x, grid_y, grid_z] = three(args.grid);
        let [block_x, block_y, block_z] = three(args.block);
        let (registers, shared) = (small(args.registers), small(args.shared));
        let config = self
            .rows
            .config([grid_x, grid_y, grid_z, block_x, block_y, block_z, registers, shared]);
        let row = Kernel {
            start,
            end,
            correlation: number(args.correlation),
            name: self.rows.string(&event.name),
            config,
            device: small(args.device),
            context: small(args.context),
            stream: small(args.stream),
            ..Kernel::default()
        };
        self.rows.push(AnyRow::Kernel(row));
    }

    fn copy(&mut self, event: &Event<'_>, start: u64, end: u64) {
        let args: Args<'_> = event.arguments();
        // `Memcpy HtoD (Pinned -> Device)`
        let name = event.name.as_ref();
        let mut words = name.split([' ', '(', ')']).filter(|word| !word.is_empty());
        let copy = words
            .nth(1)
            .and_then(|word| CopyKind::ALL.iter().find(|kind| kind.text() == word).copied());
        let memory = |word: Option<&str>| {
            let kind = MemoryKind::ALL.iter().find(|kind| Some(kind.text()) == word);
            kind.map_or(0, |kind| kind.number())
        };
        let source_kind = memory(words.next());
        let target_kind = memory(words.nth(1));
        let device = small(args.device);
        let row = Memcpy {
            start,
            end,
            correlation: number(args.correlation),
            size_bytes: number(args.bytes),
            device,
            context: small(args.context),
            stream: small(args.stream),
            source_device: device,
            target_device: device,
            copy_kind: copy.map_or(0, CopyKind::number),
            source_kind,
            target_kind,
            ..Memcpy::default()
        };
        self.rows.push(AnyRow::Memcpy(row));
    }

    fn set(&mut self, event: &Event<'_>, start: u64, end: u64) {
        let args: Args<'_> = event.arguments();
        let row = Memset {
            start,
            end,
            correlation: number(args.correlation),
            size_bytes: number(args.bytes),
            device: small(args.device),
            context: small(args.context),
            stream: small(args.stream),
            memory_kind: u32::from(MemoryKind::Device.number()),
            ..Memset::default()
        };
        self.rows.push(AnyRow::Memset(row));
    }

    fn communication(&mut self, event: &Event<'_>, start: u64, end: u64) {
        let args: Args<'_> = event.arguments();
        let is_npu = self.survey.layout == Layout::TorchNpu;
        let key = (event.pid_text().to_owned(), event.tid_text().to_owned());
        let group = self.survey.threads.get(&key).map_or("", String::as_str);
        let row = Communication {
            start,
            end,
            correlation: number(args.connection_id.or(args.correlation)),
            count: number(args.count),
            name: self.rows.string(&event.name),
            algorithm: self.rows.string(args.algorithm.as_deref().unwrap_or_default()),
            data_type: self.rows.string(args.data_type.as_deref().unwrap_or_default()),
            communicator: self.rows.string(group),
            device: if is_npu { npu(event.pid_text()) } else { small(args.device) },
            stream: if is_npu { event.tid_text().parse().unwrap_or(0) } else { small(args.stream) },
            ..Communication::default()
        };
        self.rows.push(AnyRow::Communication(row));
    }

    fn call(&mut self, event: &Event<'_>, start: u64, end: u64, domain: ApiDomain) {
        let args: Args<'_> = event.arguments();
        let row = ApiCall {
            start,
            end,
            correlation: number(args.correlation.or(args.connection_id)),
            name: self.rows.string(&event.name),
            thread: self.thread(event),
            function: small(args.cbid),
            domain: domain.number(),
            ..ApiCall::default()
        };
        self.rows.push(AnyRow::ApiCall(row));
    }

    fn operator(&mut self, event: &Event<'_>, start: u64, end: u64) {
        let args: Args<'_> = event.arguments();
        let shapes = match (args.dims, args.types) {
            (Some(dims), Some(types)) => {
                format!("{} {}", compact(dims.get()), compact(types.get()))
            }
            (Some(dims), None) => compact(dims.get()),
            _ => String::new(),
        };
        let row = Operator {
            start,
            end,
            sequence: args.sequence.map_or(-1, |raw| plain(raw.get()).parse().unwrap_or(-1)),
            name: self.rows.string(&event.name),
            thread: self.thread(event),
            stack: StackId::NONE,
            scope: OperatorScope::Function.number(),
            ..Operator::default()
        };
        self.rows.push(AnyRow::Operator(row, shapes.into()));
    }

    fn wait(&mut self, event: &Event<'_>, start: u64, end: u64) {
        let args: Args<'_> = event.arguments();
        let kind = SynchronizationKind::ALL.iter().find(|kind| kind.text() == event.name);
        let row = Synchronization {
            start,
            end,
            correlation: number(args.correlation),
            device: small(args.device),
            context: small(args.context),
            stream: small(args.stream),
            synchronization_kind: kind.map_or(0, |kind| kind.number()),
            ..Synchronization::default()
        };
        self.rows.push(AnyRow::Synchronization(row));
    }

    pub(super) fn span(&mut self, name: &str, target: &str, thread: u32, start: u64, end: u64) {
        let row = Span {
            start,
            end,
            id: self.next_span,
            name: self.rows.string(name),
            target: self.rows.string(target),
            thread,
            ..Span::default()
        };
        self.next_span += 1;
        self.rows.push(AnyRow::Span(row));
    }

    fn instant(&mut self, event: &Event<'_>) {
        let Some(time) = event.start(self.survey.base) else {
            return self.leave_out("without an instant");
        };
        let thread = self.thread(event);
        if event.name != "[memory]" {
            let row = Marker {
                time,
                name: self.rows.string(&event.name),
                target: self.rows.string(short(&event.cat)),
                thread,
                ..Marker::default()
            };
            return self.rows.push(AnyRow::Marker(row));
        }
        let args: Args<'_> = event.arguments();
        // What was freed is negative.
        let bytes = number(args.allocated) as i64;
        let device = number(args.device_id);
        let row = Memory {
            time,
            address: number(args.address),
            size_bytes: bytes.unsigned_abs(),
            total_allocated_bytes: number(args.total_allocated),
            total_reserved_bytes: number(args.total_reserved),
            allocator: StringId::NONE,
            thread,
            // The host is -1.
            device: u32::try_from(device).unwrap_or(u32::MAX),
            operation: if bytes < 0 { 2 } else { 1 },
            ..Memory::default()
        };
        self.rows.push(AnyRow::Memory(row));
    }

    fn counter(&mut self, event: &Event<'_>) {
        let Some(time) = event.start(self.survey.base) else {
            return self.leave_out("without an instant");
        };
        let values: BTreeMap<Cow<'_, str>, &RawValue> = event.arguments();
        let device = match self.survey.layout {
            Layout::TorchNpu | Layout::Msprof => npu(event.pid_text()),
            Layout::Kineto => u32::MAX,
        };
        for (unit, value) in values {
            let Ok(value) = plain(value.get()).parse::<f64>() else { continue };
            let row = Counter {
                time,
                value,
                name: self.rows.string(&event.name),
                unit: self.rows.string(&unit),
                device,
                thread: 0,
            };
            self.rows.push(AnyRow::Counter(row));
        }
    }

    /// The event's thread.
    fn thread(&mut self, event: &Event<'_>) -> u32 {
        let (process, thread) = (event.pid_text(), event.tid_text());
        let key = (process.to_owned(), thread.to_owned());
        let name = self.survey.threads.get(&key).map_or("", String::as_str);
        self.own_thread(process, thread, name)
    }

    /// The number of a thread: its own, where no other has it.
    pub(super) fn own_thread(&mut self, process: &str, thread: &str, name: &str) -> u32 {
        let key = (process.to_owned(), thread.to_owned());
        if let Some(known) = self.threads.get(&key) {
            return *known;
        }
        if self.threads.len() >= MAX_THREADS {
            return FIRST_OWN_THREAD - 1;
        }
        // Two timelines may have threads of one number: the first has it.
        let wanted = thread.parse::<u32>().ok().filter(|number| *number < FIRST_OWN_THREAD);
        let is_taken = |number: u32| self.threads.values().any(|taken| *taken == number);
        let number = match wanted {
            Some(number) if !is_taken(number) => number,
            _ => FIRST_OWN_THREAD + self.threads.len() as u32,
        };
        self.threads.insert(key, number);
        let mut heap = Vec::new();
        let text = if name.is_empty() { thread } else { name };
        let row = ThreadDef {
            name: HeapRef::push(&mut heap, text.as_bytes()),
            thread: number,
            process: self.survey.process,
        };
        emit(self.sink, &[Batch::with_heap(self.stream, &[row], &heap)]);
        number
    }
}

/// Hostile categories are not kept whole.
fn short(text: &str) -> &str {
    text.get(..64).unwrap_or(text)
}
