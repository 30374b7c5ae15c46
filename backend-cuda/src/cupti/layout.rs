//! Where the fields of CUPTI's records lie.
//!
//! CUPTI always writes the newest layout that the library knows, and newer layouts only append. So
//! each kind is read by the prefix that CUDA 12.1 had; fields that came later are read only where
//! the library is new enough. Offsets come from cudarc's generated structs; kinds are read as
//! plain numbers, since a newer library may write one that no enum here knows.

use std::mem::offset_of;

use cudarc::cupti::sys;

/// `CUpti_ActivityKind`.
pub(crate) mod kind {
    pub(crate) const MEMCPY: u32 = 1;
    pub(crate) const MEMSET: u32 = 2;
    pub(crate) const DRIVER: u32 = 4;
    pub(crate) const RUNTIME: u32 = 5;
    pub(crate) const DEVICE: u32 = 8;
    pub(crate) const CONTEXT: u32 = 9;
    pub(crate) const CONCURRENT_KERNEL: u32 = 10;
    pub(crate) const OVERHEAD: u32 = 17;
    pub(crate) const MEMCPY_PEER: u32 = 22;
    pub(crate) const STREAM: u32 = 37;
    pub(crate) const SYNCHRONIZATION: u32 = 38;
}

/// `CUpti_CallbackDomain`.
pub(crate) mod domain {
    pub(crate) const DRIVER: u32 = 1;
    pub(crate) const RUNTIME: u32 = 2;
}

/// `CUpti_ActivityAttribute`.
pub(crate) mod attribute {
    pub(crate) const ZEROED_OUT_BUFFER: u32 = 5;
    pub(crate) const PER_THREAD_BUFFER: u32 = 9;
}

/// `CUpti_driver_api_trace_cbid`: functions that put work on a device. Their numbers are stable.
pub(crate) const DRIVER_LAUNCHES: &[u32] = &[
    307, 442, // cuLaunchKernel, _ptsz
    477, 478, 480, // cuLaunchCooperativeKernel, _ptsz, …MultiDevice
    514, 515, // cuGraphLaunch, _ptsz
    652, 653, // cuLaunchKernelEx, _ptsz
    60, 62, 64, 277, 279, 281, 306, 418, 421, 422, 423, // cuMemcpy…Async
    319, 321, 426, 427, // cuMemcpyPeerAsync, cuMemcpy3DPeerAsync
    216, 218, 220, 222, 224, 226, 428, 429, 430, 431, 432, 433, // cuMemset…Async
];

/// More numbers than the newest driver has; numbers beyond a library's own are refused by it.
pub(crate) const LAST_DRIVER_FUNCTION: u32 = 1024;

/// `CUpti_runtime_api_trace_cbid`: functions that are called often and tell little.
pub(crate) const NOISY_RUNTIME_FUNCTIONS: &[u32] = &[
    10, 11, // cudaGetLastError, cudaPeekAtLastError
    15, 16, 17, // cudaFuncGetAttributes, cudaSetDevice, cudaGetDevice
    133, 134, 136, 138, // cudaEventCreate, …WithFlags, cudaEventDestroy, cudaEventQuery
    151, 200, // cudaPointerGetAttributes, cudaDeviceGetAttribute
    207, 210, 251, // cudaOccupancyMaxActiveBlocksPerMultiprocessor…
    317, 318, 324, 325,
    327, // cudaStreamIsCapturing, cudaStreamGetCaptureInfo, …ExchangeStreamCaptureMode
    409, 410, 461, 462, // cudaStreamGetCaptureInfo_v2, _v3
];

/// A record, from its first byte to the end of its buffer's valid bytes.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl Raw<'_> {
    /// Two bytes, 0 past the end.
    pub(crate) fn u16(self, offset: usize) -> u16 {
        let bytes = self.0.get(offset..offset + 2).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u16::from_ne_bytes)
    }

    /// Four bytes, 0 past the end.
    pub(crate) fn u32(self, offset: usize) -> u32 {
        let bytes = self.0.get(offset..offset + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }

    /// Eight bytes, 0 past the end.
    pub(crate) fn u64(self, offset: usize) -> u64 {
        let bytes = self.0.get(offset..offset + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }

    /// One byte, 0 past the end.
    pub(crate) fn u8(self, offset: usize) -> u8 {
        self.0.get(offset).copied().unwrap_or(0)
    }

    /// The record's kind.
    pub(crate) fn kind(self) -> u32 {
        self.u32(0)
    }
}

macro_rules! offsets {
    ($(#[$doc:meta])* $module:ident = $record:ty, $size:literal { $($name:ident = $field:ident,)* }) => {
        $(#[$doc])*
        pub(crate) mod $module {
            use super::*;

            $(pub(crate) const $name: usize = offset_of!($record, $field);)*
            /// The bytes that every supported version has.
            pub(crate) const SIZE: usize = $size;
            const _: () = assert!(size_of::<$record>() == SIZE);
        }
    };
}

offsets! {
    /// Kernels, CUDA 12.1's layout; later ones append.
    kernel = sys::CUpti_ActivityKernel9, 208 {
        REGISTERS = registersPerThread,
        START = start,
        END = end,
        DEVICE = deviceId,
        CONTEXT = contextId,
        STREAM = streamId,
        GRID = gridX,
        STATIC_SHARED = staticSharedMemory,
        DYNAMIC_SHARED = dynamicSharedMemory,
        LOCAL = localMemoryPerThread,
        CORRELATION = correlationId,
        NAME = name,
        SHARED_EXECUTED = sharedMemoryExecuted,
        GRAPH_NODE = graphNodeId,
        GRAPH = graphId,
        CLUSTER = clusterX,
    }
}

offsets! {
    /// Copies.
    memcpy = sys::CUpti_ActivityMemcpy5, 88 {
        COPY_KIND = copyKind,
        SOURCE_KIND = srcKind,
        TARGET_KIND = dstKind,
        FLAGS = flags,
        BYTES = bytes,
        START = start,
        END = end,
        DEVICE = deviceId,
        CONTEXT = contextId,
        STREAM = streamId,
        CORRELATION = correlationId,
        GRAPH_NODE = graphNodeId,
        GRAPH = graphId,
    }
}

offsets! {
    /// Copies between devices.
    peer = sys::CUpti_ActivityMemcpyPtoP4, 96 {
        COPY_KIND = copyKind,
        SOURCE_KIND = srcKind,
        TARGET_KIND = dstKind,
        FLAGS = flags,
        BYTES = bytes,
        START = start,
        END = end,
        DEVICE = deviceId,
        CONTEXT = contextId,
        STREAM = streamId,
        SOURCE_DEVICE = srcDeviceId,
        TARGET_DEVICE = dstDeviceId,
        CORRELATION = correlationId,
        GRAPH_NODE = graphNodeId,
        GRAPH = graphId,
    }
}

offsets! {
    /// Memsets.
    memset = sys::CUpti_ActivityMemset4, 88 {
        VALUE = value,
        BYTES = bytes,
        START = start,
        END = end,
        DEVICE = deviceId,
        CONTEXT = contextId,
        STREAM = streamId,
        CORRELATION = correlationId,
        FLAGS = flags,
        MEMORY_KIND = memoryKind,
        GRAPH_NODE = graphNodeId,
        GRAPH = graphId,
    }
}

offsets! {
    /// Calls of the runtime and the driver.
    api = sys::CUpti_ActivityAPI, 40 {
        FUNCTION = cbid,
        START = start,
        END = end,
        THREAD = threadId,
        CORRELATION = correlationId,
        RESULT = returnValue,
    }
}

offsets! {
    /// Waits.
    synchronization = sys::CUpti_ActivitySynchronization, 40 {
        KIND = type_,
        START = start,
        END = end,
        CORRELATION = correlationId,
        CONTEXT = contextId,
        STREAM = streamId,
        EVENT = cudaEventId,
    }
}

offsets! {
    /// Time that CUPTI and the driver take.
    overhead = sys::CUpti_ActivityOverhead, 40 {
        KIND = overheadKind,
        OBJECT_KIND = objectKind,
        OBJECT = objectId,
        START = start,
        END = end,
    }
}

offsets! {
    /// Contexts.
    context = sys::CUpti_ActivityContext, 16 {
        CONTEXT = contextId,
        DEVICE = deviceId,
    }
}

offsets! {
    /// Streams.
    stream = sys::CUpti_ActivityStream, 24 {
        CONTEXT = contextId,
        STREAM = streamId,
        PRIORITY = priority,
    }
}

offsets! {
    /// Devices.
    device = sys::CUpti_ActivityDevice4, 176 {
        MEMORY = globalMemorySize,
        WARP = numThreadsPerWarp,
        MULTIPROCESSORS = numMultiprocessors,
        MAX_WARPS = maxWarpsPerMultiprocessor,
        SHARED_MULTIPROCESSOR = maxSharedMemoryPerMultiprocessor,
        REGISTERS_MULTIPROCESSOR = maxRegistersPerMultiprocessor,
        REGISTERS_BLOCK = maxRegistersPerBlock,
        SHARED_BLOCK = maxSharedMemoryPerBlock,
        THREADS_BLOCK = maxThreadsPerBlock,
        CAPABILITY_MAJOR = computeCapabilityMajor,
        CAPABILITY_MINOR = computeCapabilityMinor,
        ID = id,
        UUID = uuid,
        NAME = name,
    }
}
