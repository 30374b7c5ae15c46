//! The numbers of the fields that are written, as in Perfetto's `protos/perfetto/trace`.

pub(super) mod trace {
    pub(crate) const PACKET: u32 = 1;
}

pub(super) mod packet {
    pub(crate) const CLOCK_SNAPSHOT: u32 = 6;
    pub(crate) const TIMESTAMP: u32 = 8;
    pub(crate) const SEQUENCE_ID: u32 = 10;
    pub(crate) const TRACK_EVENT: u32 = 11;
    pub(crate) const INTERNED_DATA: u32 = 12;
    pub(crate) const SEQUENCE_FLAGS: u32 = 13;
    pub(crate) const DEFAULTS: u32 = 59;
    pub(crate) const TRACK_DESCRIPTOR: u32 = 60;
    pub(crate) const PERF_SAMPLE: u32 = 66;
    pub(crate) const FLAG_STATE_CLEARED: u64 = 1;
}

pub(super) mod clock_snapshot {
    pub(crate) const CLOCKS: u32 = 1;
    pub(crate) const PRIMARY: u32 = 2;
    pub(crate) const CLOCK_ID: u32 = 1;
    pub(crate) const CLOCK_TIMESTAMP: u32 = 2;
    pub(crate) const CLOCK_INCREMENTAL: u32 = 3;
    pub(crate) const REALTIME: u64 = 1;
    pub(crate) const MONOTONIC: u64 = 3;
    pub(crate) const BOOTTIME: u64 = 6;
    /// The first number that a sequence may use as it likes.
    pub(crate) const OF_SEQUENCE: u64 = 64;
}

pub(super) mod defaults {
    pub(crate) const TRACK_EVENT: u32 = 11;
    pub(crate) const CLOCK_ID: u32 = 58;
    pub(crate) const TRACK_EVENT_UUID: u32 = 11;
}

pub(super) mod event {
    pub(crate) const CATEGORY_IIDS: u32 = 3;
    pub(crate) const DEBUG_ANNOTATIONS: u32 = 4;
    pub(crate) const TYPE: u32 = 9;
    pub(crate) const NAME_IID: u32 = 10;
    pub(crate) const TRACK_UUID: u32 = 11;
    pub(crate) const CATEGORIES: u32 = 22;
    pub(crate) const NAME: u32 = 23;
    pub(crate) const COUNTER_VALUE: u32 = 30;
    pub(crate) const FLOW_IDS_OLD: u32 = 36;
    pub(crate) const TERMINATING_FLOW_IDS_OLD: u32 = 42;
    pub(crate) const DOUBLE_COUNTER_VALUE: u32 = 44;
    pub(crate) const TYPE_SLICE_BEGIN: u8 = 1;
    pub(crate) const TYPE_SLICE_END: u8 = 2;
    pub(crate) const TYPE_INSTANT: u8 = 3;
    pub(crate) const TYPE_COUNTER: u8 = 4;
}

pub(super) mod annotation {
    pub(crate) const NAME_IID: u32 = 1;
    pub(crate) const BOOL: u32 = 2;
    pub(crate) const UINT: u32 = 3;
    pub(crate) const INT: u32 = 4;
    pub(crate) const TEXT: u32 = 6;
    pub(crate) const JSON: u32 = 9;
    pub(crate) const NAME: u32 = 10;
}

pub(super) mod interned {
    pub(crate) const EVENT_CATEGORIES: u32 = 1;
    pub(crate) const EVENT_NAMES: u32 = 2;
    pub(crate) const ANNOTATION_NAMES: u32 = 3;
    pub(crate) const FUNCTION_NAMES: u32 = 5;
    pub(crate) const FRAMES: u32 = 6;
    pub(crate) const CALLSTACKS: u32 = 7;
    pub(crate) const BUILD_IDS: u32 = 16;
    pub(crate) const MAPPING_PATHS: u32 = 17;
    pub(crate) const MAPPINGS: u32 = 19;
}

pub(super) mod interned_text {
    pub(crate) const IID: u32 = 1;
    pub(crate) const TEXT: u32 = 2;
}

pub(super) mod frame {
    pub(crate) const IID: u32 = 1;
    pub(crate) const FUNCTION_NAME: u32 = 2;
    pub(crate) const MAPPING: u32 = 3;
    pub(crate) const REL_PC: u32 = 4;
}

pub(super) mod callstack {
    pub(crate) const IID: u32 = 1;
    pub(crate) const FRAMES: u32 = 2;
}

pub(super) mod mapping {
    pub(crate) const IID: u32 = 1;
    pub(crate) const BUILD_ID: u32 = 2;
    pub(crate) const PATHS: u32 = 7;
}

pub(super) mod perf_sample {
    pub(crate) const CPU: u32 = 1;
    pub(crate) const PID: u32 = 2;
    pub(crate) const TID: u32 = 3;
    pub(crate) const CALLSTACK: u32 = 4;
    pub(crate) const TIMEBASE_COUNT: u32 = 6;
}

pub(super) mod track {
    pub(crate) const UUID: u32 = 1;
    pub(crate) const NAME: u32 = 2;
    pub(crate) const PROCESS: u32 = 3;
    pub(crate) const THREAD: u32 = 4;
    pub(crate) const PARENT: u32 = 5;
    pub(crate) const COUNTER: u32 = 8;
    pub(crate) const CHILD_ORDERING: u32 = 11;
    pub(crate) const SIBLING_RANK: u32 = 12;
    pub(crate) const ORDERING_EXPLICIT: u64 = 3;
}

pub(super) mod process {
    pub(crate) const PID: u32 = 1;
    pub(crate) const COMMAND_LINE: u32 = 2;
    pub(crate) const SORT_INDEX: u32 = 3;
    pub(crate) const NAME: u32 = 6;
}

pub(super) mod thread {
    pub(crate) const PID: u32 = 1;
    pub(crate) const TID: u32 = 2;
    pub(crate) const NAME: u32 = 5;
}

pub(super) mod counter {
    pub(crate) const UNIT_NAME: u32 = 6;
}
