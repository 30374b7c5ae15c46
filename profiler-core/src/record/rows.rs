//! The rows.
//!
//! Common to all: instants are in the clock domain of the row's stream; a `thread` is the
//! operating system's thread id and a `process` its process id, both as the process itself sees
//! them; `device`, `context` and `stream` are the vendor's numbers; a `correlation` is the
//! vendor's id that ties an API call to what it caused, 0 = none. `flags` hold the bits of
//! [`flag`].

use super::fields::rows;
use super::{HeapRef, LaunchConfigId, StackId, StringId};

/// Bits of the `flags` fields.
pub mod flag {
    /// The row was still open when the capture stopped; its end is 0.
    pub const UNFINISHED: u32 = 1;
    /// The row ran inside a graph launch: many rows share one correlation id.
    pub const GRAPH: u32 = 1 << 1;
    /// A copy or memset was asynchronous to its caller.
    pub const ASYNC: u32 = 1 << 2;
}

rows! {
    const ROW_SCHEMAS;

    /// A kernel that ran on a device.
    Kernel = 1, "kernel" {
        /// When it began to run.
        start: u64 = Time,
        /// When it ended; 0 = unfinished.
        end: u64 = EndTime,
        /// The launch that caused it.
        correlation: u64 = Sequence,
        /// The graph node that it is, 0 = none.
        graph_node: u64 = Number,
        /// The kernel's name, mangled as the vendor gave it.
        name: StringId = String,
        /// Grid, block, registers, shared memory.
        config: LaunchConfigId = LaunchConfig,
        /// The device.
        device: u32 = Number,
        /// The context.
        context: u32 = Number,
        /// The stream.
        stream: u32 = Number,
        /// The executed graph, 0 = none.
        graph: u32 = Number,
        /// Bits of [`flag`].
        flags: u32 = Number,
        /// The vendor's operator or kernel type, `StringId::NONE` where it has none (Ascend:
        /// `KERNEL_AICORE`, `KERNEL_AIVEC` …).
        category: StringId = String,
    }

    /// A copy of memory.
    Memcpy = 2, "memcpy" {
        /// When it began.
        start: u64 = Time,
        /// When it ended; 0 = unfinished.
        end: u64 = EndTime,
        /// The call that caused it.
        correlation: u64 = Sequence,
        /// The bytes copied.
        size_bytes: u64 = Number,
        /// The graph node that it is, 0 = none.
        graph_node: u64 = Number,
        /// The device on which it ran.
        device: u32 = Number,
        /// The context.
        context: u32 = Number,
        /// The stream.
        stream: u32 = Number,
        /// Peer copies: the source's device; else equal to `device`.
        source_device: u32 = Number,
        /// Peer copies: the destination's device; else equal to `device`.
        target_device: u32 = Number,
        /// The executed graph, 0 = none.
        graph: u32 = Number,
        /// Bits of [`flag`].
        flags: u32 = Number,
        /// A [`super::CopyKind`].
        copy_kind: u8 = Number,
        /// The source's [`super::MemoryKind`].
        source_kind: u8 = Number,
        /// The destination's [`super::MemoryKind`].
        target_kind: u8 = Number,
        /// Zero.
        reserved: u8 = Reserved,
    }

    /// Memory set to a value.
    Memset = 3, "memset" {
        /// When it began.
        start: u64 = Time,
        /// When it ended; 0 = unfinished.
        end: u64 = EndTime,
        /// The call that caused it.
        correlation: u64 = Sequence,
        /// The bytes set.
        size_bytes: u64 = Number,
        /// The graph node that it is, 0 = none.
        graph_node: u64 = Number,
        /// The value.
        value: u32 = Number,
        /// The device.
        device: u32 = Number,
        /// The context.
        context: u32 = Number,
        /// The stream.
        stream: u32 = Number,
        /// The executed graph, 0 = none.
        graph: u32 = Number,
        /// Bits of [`flag`].
        flags: u32 = Number,
        /// The [`super::MemoryKind`].
        memory_kind: u32 = Number,
        /// Zero.
        reserved: u32 = Reserved,
    }

    /// Memory allocated or freed.
    Memory = 4, "memory" {
        /// When.
        time: u64 = Time,
        /// Where.
        address: u64 = Number,
        /// How much, also on free where the source knows it.
        size_bytes: u64 = Number,
        /// The call that caused it, 0 = none.
        correlation: u64 = Sequence,
        /// What the allocator holds in use after it, in bytes; 0 = not told.
        total_allocated_bytes: u64 = Number,
        /// What the allocator has taken from the device after it, in bytes; 0 = not told.
        total_reserved_bytes: u64 = Number,
        /// The allocator or pool, `StringId::NONE` = the driver's.
        allocator: StringId = String,
        /// The thread.
        thread: u32 = Number,
        /// The device.
        device: u32 = Number,
        /// The context.
        context: u32 = Number,
        /// The stream of a stream-ordered allocation.
        stream: u32 = Number,
        /// 1 = allocate, 2 = free.
        operation: u16 = Number,
        /// The [`super::MemoryKind`].
        memory_kind: u16 = Number,
    }

    /// A collective or point-to-point communication.
    Communication = 5, "communication" {
        /// When it began.
        start: u64 = Time,
        /// When it ended; 0 = unfinished.
        end: u64 = EndTime,
        /// The call that caused it.
        correlation: u64 = Sequence,
        /// How many elements of `data_type`.
        count: u64 = Number,
        /// The operation (`AllReduce`).
        name: StringId = String,
        /// The algorithm (`Ring`), as the vendor names it.
        algorithm: StringId = String,
        /// The elements' type (`bf16`), as the vendor names it.
        data_type: StringId = String,
        /// The communicator or process group.
        communicator: StringId = String,
        /// The device.
        device: u32 = Number,
        /// The stream.
        stream: u32 = Number,
        /// Ranks in the communicator, 0 = not told.
        ranks: u32 = Number,
        /// Bits of [`flag`].
        flags: u32 = Number,
    }

    /// A call of a vendor's API by a thread of the process.
    ApiCall = 6, "api_call" {
        /// When it was entered.
        start: u64 = Time,
        /// When it returned; 0 = unfinished.
        end: u64 = EndTime,
        /// What it caused carries the same number.
        correlation: u64 = Sequence,
        /// The function.
        name: StringId = String,
        /// The calling thread.
        thread: u32 = Number,
        /// What it returned, as the vendor numbers it.
        result: u32 = Number,
        /// The vendor's number of the function.
        function: u32 = Number,
        /// The [`super::ApiDomain`].
        domain: u32 = Number,
        /// Bits of [`flag`].
        flags: u32 = Number,
    }

    /// A thread or stream waited for a device.
    Synchronization = 7, "synchronization" {
        /// When it began.
        start: u64 = Time,
        /// When it ended; 0 = unfinished.
        end: u64 = EndTime,
        /// The call that caused it.
        correlation: u64 = Sequence,
        /// The event waited for, 0 = none.
        event: u64 = Number,
        /// The call whose record the event is, 0 = none.
        event_correlation: u64 = Number,
        /// The device.
        device: u32 = Number,
        /// The context.
        context: u32 = Number,
        /// The stream, `u32::MAX` = none.
        stream: u32 = Number,
        /// The [`super::SynchronizationKind`].
        synchronization_kind: u32 = Number,
    }

    /// Time that the driver or the profiler itself took.
    Overhead = 8, "overhead" {
        /// When it began.
        start: u64 = Time,
        /// When it ended; 0 = unfinished.
        end: u64 = EndTime,
        /// The call it belongs to, 0 = none.
        correlation: u64 = Sequence,
        /// What took the time (`Buffer Flush`).
        name: StringId = String,
        /// The thread, 0 = none.
        thread: u32 = Number,
        /// The device, `u32::MAX` = none.
        device: u32 = Number,
        /// Bits of [`flag`].
        flags: u32 = Number,
    }

    /// An operator of a framework.
    Operator = 9, "operator" {
        /// When it began.
        start: u64 = Time,
        /// When it ended; 0 = unfinished.
        end: u64 = EndTime,
        /// The sequence number that ties forward to backward, -1 = none.
        sequence: i64 = Sequence,
        /// Input shapes and types as text (`[[8,16],f32],[]`), empty = not taken.
        shapes: HeapRef = Heap,
        /// The operator (`aten::add_`).
        name: StringId = String,
        /// The thread.
        thread: u32 = Number,
        /// Backward: the thread of the forward operator, 0 = none or not known.
        forward_thread: u32 = Number,
        /// The calling stack, `StackId::NONE` = not taken.
        stack: StackId = Stack,
        /// The [`super::OperatorScope`].
        scope: u16 = Number,
        /// How many operators of the same thread enclose it.
        depth: u16 = Number,
        /// Bits of [`flag`].
        flags: u32 = Number,
    }

    /// A span that the application marked.
    Span = 10, "span" {
        /// When it began.
        start: u64 = Time,
        /// When it ended; 0 = unfinished.
        end: u64 = EndTime,
        /// Its number within the stream, from 1.
        id: u64 = Sequence,
        /// The span that encloses it, 0 = none.
        parent: u64 = Number,
        /// Fields as a JSON object, empty = none.
        fields: HeapRef = Heap,
        /// The span's name.
        name: StringId = String,
        /// The module or domain that made it.
        target: StringId = String,
        /// The request that it serves, `StringId::NONE` = none.
        request: StringId = String,
        /// The pipeline stage that the application named, `StringId::NONE` = none.
        stage: StringId = String,
        /// The thread.
        thread: u32 = Number,
        /// Bits of [`flag`].
        flags: u32 = Number,
    }

    /// An instant that the application marked.
    Marker = 11, "marker" {
        /// When.
        time: u64 = Time,
        /// A number of the application's choice.
        payload: u64 = Number,
        /// Fields as a JSON object, empty = none.
        fields: HeapRef = Heap,
        /// The marker's name.
        name: StringId = String,
        /// The module or domain that made it.
        target: StringId = String,
        /// The request that it serves, `StringId::NONE` = none.
        request: StringId = String,
        /// The thread.
        thread: u32 = Number,
    }

    /// A counter's value.
    Counter = 12, "counter" {
        /// When.
        time: u64 = Time,
        /// The value.
        value: f64 = Float,
        /// The counter (`resident memory`).
        name: StringId = String,
        /// Its unit (`bytes`), as UCUM or plain words.
        unit: StringId = String,
        /// The device, `u32::MAX` = the process.
        device: u32 = Number,
        /// The thread, 0 = all.
        thread: u32 = Number,
    }

    /// A thread's stack, taken at an instant.
    Sample = 13, "sample" {
        /// When.
        time: u64 = Time,
        /// How much time it stands for, in ns.
        weight_ns: u64 = Number,
        /// The stack.
        stack: StackId = Stack,
        /// The thread.
        thread: u32 = Number,
        /// The processor, `u32::MAX` = not told.
        cpu: u32 = Number,
        /// 0 = on a processor, 1 = waiting.
        state: u32 = Number,
    }

    /// Rows that were not kept.
    Loss = 14, "loss" {
        /// The first instant from which rows may miss.
        from: u64 = Time,
        /// The instant from which they are whole again; 0 = not told.
        to: u64 = EndTime,
        /// How many.
        count: u64 = Number,
        /// The stream they would have been in, 0 = several.
        stream: u32 = Number,
        /// Their [`super::RecordKind`], 0 = several.
        kind: u16 = Number,
        /// The [`super::LossCause`].
        cause: u16 = Number,
    }

    /// One instant, read from all clocks.
    ClockTuple = 15, "clock_tuple" {
        /// CLOCK_MONOTONIC, ns.
        monotonic: u64 = Time,
        /// CLOCK_REALTIME, ns since 1970.
        realtime: u64 = Sequence,
        /// The processor's time stamp counter, ticks; 0 = none.
        tsc: u64 = Sequence,
        /// The clock of the driver, as `driver_stream` reads it; 0 = none.
        driver: u64 = Sequence,
        /// CLOCK_BOOTTIME, ns.
        boottime: u64 = Sequence,
        /// The readings lie within so many ns of each other.
        error_ns: u32 = Number,
        /// The stream whose driver clock was read, 0 = none.
        driver_stream: u32 = Number,
    }

    /// Something known about the process, the machine or the capture. The last of a key wins.
    Fact = 16, "fact" {
        /// When it became known.
        time: u64 = Time,
        /// The key: lower case, dotted (`cpu.sampler`).
        key: HeapRef = Heap,
        /// The value as text.
        value: HeapRef = Heap,
    }

    /// A file mapped as code. The last row over an address range wins.
    Module = 17, "module" {
        /// From when on.
        time: u64 = Time,
        /// The first address.
        start_address: u64 = Sequence,
        /// The address past the last.
        end_address: u64 = Sequence,
        /// Where in the file the range begins, in bytes.
        file_offset: u64 = Number,
        /// The file, or a name in brackets (`[vdso]`).
        path: HeapRef = Heap,
        /// The build id, raw bytes; empty = none.
        build_id: HeapRef = Heap,
        /// The process.
        process: u32 = Number,
        /// Zero.
        reserved: u32 = Reserved,
    }

    /// Ties a vendor's correlation id to an id of another layer.
    ExternalCorrelation = 18, "external_correlation" {
        /// The vendor's id.
        correlation: u64 = Sequence,
        /// The other layer's id.
        external: u64 = Sequence,
        /// The other layer, as the vendor numbers it.
        external_kind: u32 = Number,
        /// Zero.
        reserved: u32 = Reserved,
    }

    /// The beginning or end of a window, or a sign that none has ended yet.
    Window = 19, "window" {
        /// The instant, CLOCK_MONOTONIC.
        monotonic: u64 = Time,
        /// The same instant, CLOCK_REALTIME.
        realtime: u64 = Sequence,
        /// The step at which it lies, `u64::MAX` = not by steps.
        step: u64 = Number,
        /// The window, from 0.
        window: u32 = Number,
        /// The [`super::WindowEdge`].
        edge: u32 = Number,
    }

    /// The application began a step (an iteration of its engine).
    Step = 20, "step" {
        /// When.
        time: u64 = Time,
        /// The step's number, from 0 at the process's first.
        step: u64 = Sequence,
        /// The thread.
        thread: u32 = Number,
        /// Zero.
        reserved: u32 = Reserved,
    }
}
