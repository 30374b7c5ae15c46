//! Definitions: what the ids in rows mean.
//!
//! Definitions of strings, stacks and launch configurations are valid in their stream. Those of
//! threads, processes, devices, contexts, streams and graph nodes are keyed by the vendor's or the
//! operating system's numbers; the last one wins.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fields::rows;
use super::{HeapRef, StringId};

rows! {
    const DEFINITION_SCHEMAS;

    /// A string.
    StringDef = 256, "string" {
        /// The text, UTF-8.
        text: HeapRef = Heap,
        /// The id.
        id: StringId = String,
        /// Zero.
        reserved: u32 = Reserved,
    }

    /// A call stack: [`Frame`]s in the heap, innermost first.
    StackDef = 257, "stack" {
        /// The frames, `size_of::<Frame>()` bytes each.
        frames: HeapRef = Heap,
        /// The id.
        id: super::StackId = Stack,
        /// The process whose addresses they are.
        process: u32 = Number,
    }

    /// How kernels were launched.
    LaunchConfigDef = 258, "launch_config" {
        /// The id.
        id: super::LaunchConfigId = LaunchConfig,
        /// Blocks in the grid, x.
        grid_x: u32 = Number,
        /// Blocks in the grid, y.
        grid_y: u32 = Number,
        /// Blocks in the grid, z.
        grid_z: u32 = Number,
        /// Threads in a block, x.
        block_x: u32 = Number,
        /// Threads in a block, y.
        block_y: u32 = Number,
        /// Threads in a block, z.
        block_z: u32 = Number,
        /// Registers a thread.
        registers: u32 = Number,
        /// Static shared memory a block, bytes.
        static_shared_bytes: u32 = Number,
        /// Dynamic shared memory a block, bytes.
        dynamic_shared_bytes: u32 = Number,
        /// Local memory a thread, bytes.
        local_bytes: u32 = Number,
        /// Shared memory that the block really takes, bytes; 0 = not told.
        shared_executed_bytes: u32 = Number,
        /// Blocks in a cluster, x; 0 = no clusters.
        cluster_x: u32 = Number,
        /// Blocks in a cluster, y.
        cluster_y: u32 = Number,
        /// Blocks in a cluster, z.
        cluster_z: u32 = Number,
        /// Zero.
        reserved: u32 = Reserved,
    }

    /// A thread.
    ThreadDef = 259, "thread" {
        /// The name, empty = none.
        name: HeapRef = Heap,
        /// The thread's id.
        thread: u32 = Number,
        /// Its process.
        process: u32 = Number,
    }

    /// A process.
    ProcessDef = 260, "process" {
        /// The name.
        name: HeapRef = Heap,
        /// The command line, secrets masked, parts separated by a zero byte.
        command_line: HeapRef = Heap,
        /// The process's id.
        process: u32 = Number,
        /// Its parent's.
        parent: u32 = Number,
    }

    /// A device.
    DeviceDef = 261, "device" {
        /// What the vendor calls it (`NVIDIA H100 80GB HBM3`).
        name: HeapRef = Heap,
        /// The vendor's unique id, raw bytes; empty = none.
        uuid: HeapRef = Heap,
        /// Memory, bytes.
        memory_bytes: u64 = Number,
        /// The number by which rows name it.
        device: u32 = Number,
        /// The [`DeviceVendor`].
        vendor: u32 = Number,
        /// NVIDIA: compute capability, major.
        capability_major: u32 = Number,
        /// NVIDIA: compute capability, minor.
        capability_minor: u32 = Number,
        /// Streaming multiprocessors or cores.
        multiprocessors: u32 = Number,
        /// Threads in a warp.
        warp_size: u32 = Number,
        /// Threads in a block, at most.
        max_threads_per_block: u32 = Number,
        /// Threads on a multiprocessor, at most.
        max_threads_per_multiprocessor: u32 = Number,
        /// Registers in a block, at most.
        registers_per_block: u32 = Number,
        /// Registers of a multiprocessor.
        registers_per_multiprocessor: u32 = Number,
        /// Shared memory of a block, bytes.
        shared_bytes_per_block: u32 = Number,
        /// Shared memory of a block that asks for more, bytes.
        shared_bytes_per_block_optin: u32 = Number,
        /// Shared memory of a multiprocessor, bytes.
        shared_bytes_per_multiprocessor: u32 = Number,
        /// Zero.
        reserved: u32 = Reserved,
    }

    /// A context on a device.
    ContextDef = 262, "context" {
        /// The context.
        context: u32 = Number,
        /// Its device.
        device: u32 = Number,
    }

    /// A stream of a context.
    StreamDef = 263, "device_stream" {
        /// The name, empty = none.
        name: HeapRef = Heap,
        /// The stream.
        stream: u32 = Number,
        /// Its context.
        context: u32 = Number,
        /// Its device.
        device: u32 = Number,
        /// Its priority as the vendor counts, two's complement.
        priority: u32 = Signed,
    }

    /// A node of a graph.
    GraphNodeDef = 264, "graph_node" {
        /// The node.
        node: u64 = Sequence,
        /// Its name or the scope in which it was captured.
        name: HeapRef = Heap,
        /// The graph.
        graph: u32 = Number,
        /// Zero.
        reserved: u32 = Reserved,
    }
}

/// A frame of a [`StackDef`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Frame {
    /// An instruction's address, 0 where the frame has a name only. Of all frames but the
    /// innermost it is the return address less one, so that it lies inside the call.
    pub address: u64,
    /// The function, for frames that are no machine code (Python); else `StringId::NONE`.
    pub function: StringId,
    /// The file of such a function.
    pub file: StringId,
    /// The line of such a function, 0 = not told.
    pub line: u32,
    /// Zero.
    pub reserved: u32,
}

macro_rules! vendor_number {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$item_doc:meta])* $item:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$item_doc])* $item = $number,)*
        }

        impl $name {
            /// All that this build knows, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$item),*];

            /// The number as it stands in rows.
            #[must_use]
            pub fn number(self) -> $repr {
                self as $repr
            }

            /// The meaning of a number from a row, `None` where this build does not know it.
            #[must_use]
            pub fn from_number(number: $repr) -> Option<Self> {
                match number {
                    $($number => Some(Self::$item),)*
                    _ => None,
                }
            }

            /// The text for tables and manifests.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$item => $text,)*
                }
            }
        }
    };
}

vendor_number! {
    /// Why rows were not kept.
    LossCause: u16 {
        /// The sink or its spool had no room.
        SinkFull = 1, "sink_full";
        /// The driver had no buffer.
        BufferExhausted = 2, "buffer_exhausted";
        /// The driver said that it dropped records.
        DriverDropped = 3, "driver_dropped";
        /// No chunk was left for an application thread.
        ChunksExhausted = 4, "chunks_exhausted";
        /// The disk was full or failed.
        Disk = 5, "disk";
        /// The session reached its byte limit.
        ByteLimit = 6, "byte_limit";
        /// A record could not be understood.
        Undecodable = 7, "undecodable";
        /// The kernel's sampler dropped samples.
        SamplerLost = 8, "sampler_lost";
        /// The session's drain reached its deadline.
        DrainDeadline = 9, "drain_deadline";
        /// The sink panicked.
        SinkPanicked = 10, "sink_panicked";
    }
}

vendor_number! {
    /// Which API a call belongs to.
    ApiDomain: u32 {
        /// CUDA runtime (`cudaLaunchKernel`).
        CudaRuntime = 1, "cuda_runtime";
        /// CUDA driver (`cuLaunchKernel`).
        CudaDriver = 2, "cuda_driver";
        /// Ascend runtime (`aclrt…`).
        AscendRuntime = 3, "acl_runtime";
        /// Any other.
        Other = 4, "api";
    }
}

vendor_number! {
    /// The direction of a copy.
    CopyKind: u8 {
        /// Host to device.
        HostToDevice = 1, "HtoD";
        /// Device to host.
        DeviceToHost = 2, "DtoH";
        /// Host to array.
        HostToArray = 3, "HtoA";
        /// Array to host.
        ArrayToHost = 4, "AtoH";
        /// Array to array.
        ArrayToArray = 5, "AtoA";
        /// Array to device.
        ArrayToDevice = 6, "AtoD";
        /// Device to array.
        DeviceToArray = 7, "DtoA";
        /// Within a device.
        DeviceToDevice = 8, "DtoD";
        /// Within the host.
        HostToHost = 9, "HtoH";
        /// Between devices.
        PeerToPeer = 10, "PtoP";
    }
}

vendor_number! {
    /// The kind of memory.
    MemoryKind: u8 {
        /// Pageable host memory.
        Pageable = 1, "Pageable";
        /// Page-locked host memory.
        Pinned = 2, "Pinned";
        /// Device memory.
        Device = 3, "Device";
        /// An array.
        Array = 4, "Array";
        /// Managed memory.
        Managed = 5, "Managed";
        /// Static device memory.
        DeviceStatic = 6, "Device Static";
        /// Static managed memory.
        ManagedStatic = 7, "Managed Static";
    }
}

vendor_number! {
    /// What was waited for.
    SynchronizationKind: u32 {
        /// A thread waited for an event.
        Event = 1, "Event Sync";
        /// A stream waited for an event.
        StreamWaitEvent = 2, "Stream Wait Event";
        /// A thread waited for a stream.
        Stream = 3, "Stream Sync";
        /// A thread waited for a context.
        Context = 4, "Context Sync";
    }
}

vendor_number! {
    /// What kind of scope an operator is (libtorch's `RecordScope` plus one).
    OperatorScope: u16 {
        /// A plain function (`aten::…`).
        Function = 1, "function";
        /// A node of the backward graph.
        BackwardFunction = 2, "backward_function";
        /// A function of TorchScript.
        TorchScriptFunction = 3, "torchscript_function";
        /// A kernel-function dtype dispatch.
        KernelFunctionDtype = 4, "kernel_function_dtype";
        /// A class of custom code.
        CustomClass = 5, "custom_class";
        /// A feature of the build.
        BuildFeature = 6, "build_feature";
        /// The lite interpreter.
        LiteInterpreter = 7, "lite_interpreter";
        /// A scope that the user marked (`record_function`).
        UserScope = 8, "user_scope";
        /// A scope of the static runtime.
        StaticRuntime = 9, "static_runtime";
        /// A model of the static runtime.
        StaticRuntimeModel = 10, "static_runtime_model";
    }
}

vendor_number! {
    /// Who made a device.
    DeviceVendor: u32 {
        /// A processor of the host.
        Cpu = 1, "cpu";
        /// NVIDIA.
        Nvidia = 2, "nvidia";
        /// Huawei Ascend.
        Ascend = 3, "ascend";
    }
}

vendor_number! {
    /// What a [`super::Window`] row says.
    WindowEdge: u32 {
        /// T0: rows count from here on.
        Begin = 1, "begin";
        /// T1: rows count up to here.
        End = 2, "end";
        /// Warm-up begins: rows from here to the window's begin are counted and discarded.
        Warmup = 3, "warmup";
        /// No end lies before this instant: a reader that follows may go so far.
        Open = 4, "open";
        /// The session ended without ever having had a window (disarmed, rolled back).
        Abandoned = 5, "abandoned";
    }
}
