//! What slices are called, the same in every format.

use std::borrow::Cow;

use profiler_core::record::{
    ApiCall, ApiDomain, CopyKind, Memcpy, Memory, MemoryKind, Memset, Operator, OperatorScope,
    Step, StringId, Synchronization, SynchronizationKind,
};

use crate::capture::Definitions;
use crate::symbolize::demangle;
use crate::timeline::{Drawn, ItemKind};

/// The name of a slice, cheap to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Label {
    /// A string of the capture.
    Name(StringId),
    /// One of few texts that a kind of row has.
    Fixed { kind: FixedKind, code: u32 },
    /// A step.
    Step(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FixedKind {
    Memcpy,
    Memset,
    Synchronization,
    Memory,
    Unnamed,
}

impl Label {
    #[inline]
    pub(crate) fn of(drawn: &Drawn<'_>) -> Self {
        if drawn.item.name != 0 {
            return Self::Name(StringId(drawn.item.name));
        }
        let (kind, code) = match drawn.item.kind {
            ItemKind::Memcpy => {
                let row: &Memcpy = drawn.row();
                // What no name is known for is one and the same: labels are kept for good.
                let copy = CopyKind::from_number(row.copy_kind).map_or(0, CopyKind::number);
                let kind = |n: u8| MemoryKind::from_number(n).map_or(0, MemoryKind::number);
                let (source, target) = (kind(row.source_kind), kind(row.target_kind));
                (FixedKind::Memcpy, u32::from_le_bytes([copy, source, target, 0]))
            }
            ItemKind::Memset => (FixedKind::Memset, drawn.row::<Memset>().memory_kind.min(0xff)),
            ItemKind::Synchronization => {
                let kind = drawn.row::<Synchronization>().synchronization_kind;
                (FixedKind::Synchronization, kind.min(0xff))
            }
            ItemKind::Memory => {
                (FixedKind::Memory, u32::from(drawn.row::<Memory>().operation).min(0xff))
            }
            ItemKind::Step => return Self::Step(drawn.row::<Step>().step),
            _ => (FixedKind::Unnamed, 0),
        };
        Self::Fixed { kind, code }
    }

    /// The text as people read it.
    pub(crate) fn text<'a>(&self, definitions: &'a Definitions) -> Cow<'a, str> {
        match *self {
            Self::Name(id) => demangle(definitions.string(id)),
            Self::Step(step) => Cow::Owned(format!("step {step}")),
            Self::Fixed { kind, code } => fixed_text(kind, code),
        }
    }
}

fn fixed_text(kind: FixedKind, code: u32) -> Cow<'static, str> {
    let memory = |number: u8| MemoryKind::from_number(number).map_or("Unknown", MemoryKind::text);
    match kind {
        FixedKind::Memcpy => {
            let [copy, source, target, _] = code.to_le_bytes();
            let copy = CopyKind::from_number(copy).map_or("Unknown", CopyKind::text);
            Cow::Owned(format!("Memcpy {copy} ({} -> {})", memory(source), memory(target)))
        }
        FixedKind::Memset => Cow::Owned(format!("Memset ({})", memory(code as u8))),
        FixedKind::Synchronization => Cow::Borrowed(
            SynchronizationKind::from_number(code).map_or("Sync", SynchronizationKind::text),
        ),
        FixedKind::Memory => Cow::Borrowed(match code {
            1 => "allocate",
            2 => "free",
            _ => "memory",
        }),
        FixedKind::Unnamed => Cow::Borrowed("[unknown]"),
    }
}

/// The categories that slices have, as PyTorch calls them where it has such slices.
pub(crate) const CATEGORIES: [&str; 15] = [
    "kernel",
    "gpu_memcpy",
    "gpu_memset",
    "communication",
    "cuda_sync",
    "overhead",
    "cpu_op",
    "user_annotation",
    "step",
    "marker",
    "memory",
    "cuda_runtime",
    "cuda_driver",
    "acl_runtime",
    "api",
];

/// The index in [`CATEGORIES`].
#[inline]
pub(crate) fn category(drawn: &Drawn<'_>) -> usize {
    match drawn.item.kind {
        ItemKind::Kernel => 0,
        ItemKind::Memcpy => 1,
        ItemKind::Memset => 2,
        ItemKind::Communication => 3,
        ItemKind::Synchronization => 4,
        ItemKind::Overhead => 5,
        ItemKind::Operator => match OperatorScope::from_number(drawn.row::<Operator>().scope) {
            // What the user marked is no operator of the framework.
            Some(OperatorScope::UserScope) => 7,
            _ => 6,
        },
        ItemKind::Span => 7,
        ItemKind::Step => 8,
        ItemKind::Marker | ItemKind::Sample => 9,
        ItemKind::Memory => 10,
        ItemKind::ApiCall => match ApiDomain::from_number(drawn.row::<ApiCall>().domain) {
            Some(ApiDomain::CudaRuntime) => 11,
            Some(ApiDomain::CudaDriver) => 12,
            Some(ApiDomain::AscendRuntime) => 13,
            _ => 14,
        },
    }
}

/// Whether a call of that name puts work on a device, so that an arrow leaves it.
pub(crate) fn is_launch(name: &str) -> bool {
    const WORDS: [&str; 7] =
        ["Launch", "launch", "Memcpy", "Memset", "memcpy", "memset", "Execute"];
    WORDS.iter().any(|word| name.contains(word))
}

/// The id of the arrow from a forward operator to its backward one: none of those of launches.
pub(crate) fn forward_flow_id(worker: u32, thread: u32, sequence: i64) -> u64 {
    let place = u64::from(worker) << 32 | u64::from(thread);
    let mixed = (sequence as u64 ^ place.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << 62 | mixed >> 2
}

/// The id of the arrow from a launch to what it caused: unique over workers, and small, so that
/// it takes few bytes and JSON keeps it exact.
#[inline]
pub(crate) fn flow_id(worker: u32, correlation: u64) -> u64 {
    if correlation < 1 << 32 {
        return u64::from(worker) << 32 | correlation;
    }
    // Too large to keep both: spread them over what a JSON number holds.
    let mixed = (correlation ^ u64::from(worker) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << 52 | mixed >> 13 & ((1 << 51) - 1)
}
