//! Where the fields of CUPTI's records lie, and of what it tells callbacks.
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
    /// Calls, which are never asked for: callbacks tell them.
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

/// `CUpti_ApiCallbackSite`.
pub(crate) mod site {
    pub(crate) const ENTER: u32 = 0;
    pub(crate) const EXIT: u32 = 1;
}

/// `CUpti_ActivityAttribute`.
pub(crate) mod attribute {
    pub(crate) const DEVICE_BUFFER_POOL_LIMIT: u32 = 2;
    pub(crate) const ZEROED_OUT_BUFFER: u32 = 5;
    pub(crate) const PER_THREAD_BUFFER: u32 = 9;
}

/// `CUpti_driver_api_trace_cbid`: functions that put work on a device. Their numbers are stable.
pub(crate) const DRIVER_LAUNCHES: &[u32] = &[
    43, 45, 47, 49, 51, 53, 54, 55, 56, 57, 58, // cuMemcpy…
    60, 62, 64, 66, 67, 68, 69, // cuMemcpy…Async
    71, 73, 75, 77, 79, 81, // cuMemset…
    216, 218, 220, 222, 224, 226, // cuMemset…Async
    248, 249, 250, 251, 252, 253, 254, // cuMemcpy_v2, cuMemset…_v2
    276, 277, 278, 279, 280, 281, 282, 283, 284, 285, 286, 287, 288, 289, 290, 291, 292,
    293, // cuMemcpy…_v2, …Async_v2
    305, 306, // cuMemcpy, …Async
    307, // cuLaunchKernel
    318, 319, 320, 321, // cuMemcpyPeer, …Async
    397, 398, 399, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, // cuMemcpy…_ptds
    411, 412, 413, 414, 415, 416, // cuMemset…_ptds
    418, 419, 420, 421, 422, 423, 424, 425, 426, 427, // cuMemcpy…Async_ptsz
    428, 429, 430, 431, 432, 433, // cuMemset…Async_ptsz
    442, // cuLaunchKernel_ptsz
    477, 478, 480, // cuLaunchCooperativeKernel, _ptsz, …MultiDevice
    514, 515, // cuGraphLaunch, _ptsz
    652, 653, // cuLaunchKernelEx, _ptsz
    776, 777, 778, 779, 796, 797, 798, 799, // cuMemcpyBatchAsync …
    819, // cuGraphLaunchWithArguments
    837, 838, 839, 840, // cuMemcpyWithAttributesAsync …
];

/// More numbers than the newest runtime has; numbers beyond a library's own are refused by it.
pub(crate) const LAST_RUNTIME_FUNCTION: u32 = 1024;
const _: () = {
    use sys::CUpti_runtime_api_trace_cbid as Function;
    assert!(Function::CUPTI_RUNTIME_TRACE_CBID_SIZE as u32 <= LAST_RUNTIME_FUNCTION);
};

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
            /// The fields by the vendor's names.
            #[cfg(test)]
            pub(super) const FIELDS: &[(&str, usize)] = &[$((stringify!($field), $name)),*];
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
    /// What a callback is told of a call.
    callback = sys::CUpti_CallbackData, 72 {
        SITE = callbackSite,
        RESULT = functionReturnValue,
        CORRELATION = correlationId,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What NVIDIA's headers of each version say; see `layouts/generate.py`.
    const TABLE: &str = include_str!("../../layouts/layouts.txt");

    fn lines(what: &str) -> Vec<(&'static str, Vec<&'static str>)> {
        let words = TABLE.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let of_kind = words.filter(|words| words[1] == what);
        of_kind.map(|words| (words[0], words[2..].to_vec())).collect()
    }

    #[test]
    fn records_of_every_version_begin_as_they_are_read() {
        let records = [
            ("kernel", kernel::SIZE, kernel::FIELDS),
            ("memcpy", memcpy::SIZE, memcpy::FIELDS),
            ("peer", peer::SIZE, peer::FIELDS),
            ("memset", memset::SIZE, memset::FIELDS),
            ("callback", callback::SIZE, callback::FIELDS),
            ("synchronization", synchronization::SIZE, synchronization::FIELDS),
            ("overhead", overhead::SIZE, overhead::FIELDS),
            ("context", context::SIZE, context::FIELDS),
            ("stream", stream::SIZE, stream::FIELDS),
            ("device", device::SIZE, device::FIELDS),
        ];
        for (name, size, fields) in records {
            let versions = lines(name);
            assert!(versions.len() >= 13, "{name}: {} versions", versions.len());
            for (version, words) in versions {
                assert!(words[1].parse::<usize>().unwrap() >= size, "{version} {name}");
                let places: BTreeMap<&str, usize> = words[2..]
                    .iter()
                    .map(|word| word.split_once('=').unwrap())
                    .map(|(field, offset)| (field, offset.parse().unwrap()))
                    .collect();
                assert_eq!(places.len(), fields.len(), "{version} {name}");
                for (field, offset) in fields {
                    let field = field.trim_end_matches('_');
                    assert_eq!(places.get(field), Some(offset), "{version} {name}.{field}");
                }
            }
        }
    }

    #[test]
    fn numbers_are_the_same_in_every_version() {
        let known = BTreeMap::from([
            ("CUPTI_ACTIVITY_KIND_MEMCPY", kind::MEMCPY),
            ("CUPTI_ACTIVITY_KIND_MEMSET", kind::MEMSET),
            ("CUPTI_ACTIVITY_KIND_DRIVER", kind::DRIVER),
            ("CUPTI_ACTIVITY_KIND_RUNTIME", kind::RUNTIME),
            ("CUPTI_ACTIVITY_KIND_DEVICE", kind::DEVICE),
            ("CUPTI_ACTIVITY_KIND_CONTEXT", kind::CONTEXT),
            ("CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL", kind::CONCURRENT_KERNEL),
            ("CUPTI_ACTIVITY_KIND_OVERHEAD", kind::OVERHEAD),
            ("CUPTI_ACTIVITY_KIND_MEMCPY2", kind::MEMCPY_PEER),
            ("CUPTI_ACTIVITY_KIND_STREAM", kind::STREAM),
            ("CUPTI_ACTIVITY_KIND_SYNCHRONIZATION", kind::SYNCHRONIZATION),
            ("CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_POOL_LIMIT", attribute::DEVICE_BUFFER_POOL_LIMIT),
            ("CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER", attribute::ZEROED_OUT_BUFFER),
            ("CUPTI_ACTIVITY_ATTR_PER_THREAD_ACTIVITY_BUFFER", attribute::PER_THREAD_BUFFER),
            ("CUPTI_CB_DOMAIN_DRIVER_API", domain::DRIVER),
            ("CUPTI_CB_DOMAIN_RUNTIME_API", domain::RUNTIME),
            ("CUPTI_API_ENTER", site::ENTER),
            ("CUPTI_API_EXIT", site::EXIT),
            ("CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED", 39),
            ("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES", 35),
            ("CUPTI_ERROR_OUT_OF_MEMORY", 8),
        ]);
        let mut seen = 0;
        for (version, words) in lines("number") {
            let number: u32 = words[1].parse().unwrap();
            if words[0] == "CUPTI_API_VERSION" {
                // 18 to 28 for 12.1 to 12.9, then 13.0 is 130001.
                assert_eq!(number >= 24, !version.starts_with("12.") || version >= "12.6");
                continue;
            }
            assert_eq!(known.get(words[0]), Some(&number), "{version} {}", words[0]);
            seen += 1;
        }
        assert!(seen > 200, "{seen} numbers");
    }

    #[test]
    fn the_functions_that_launch_are_all_there_are() {
        let mut numbers: Vec<u32> =
            lines("driver").iter().map(|(_, words)| words[1].parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, DRIVER_LAUNCHES);
        let mut names: BTreeMap<u32, &str> = BTreeMap::new();
        for (version, words) in lines("runtime") {
            let number: u32 = words[1].parse().unwrap();
            let name = words[0].split("_v").next().unwrap().trim_end_matches("_ptsz");
            assert_eq!(*names.entry(number).or_insert(name), name, "{version} {number}");
        }
        let noisy: Vec<u32> = names.into_keys().collect();
        assert_eq!(noisy, NOISY_RUNTIME_FUNCTIONS);
    }
}
