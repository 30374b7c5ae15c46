//! Where the fields of MSPTI's records lie.
//!
//! Records are packed without inner padding and rounded up to 8 bytes, so that 64-bit fields lie at
//! 4 modulo 8. The layouts have been the same since CANN 8.0; a record carries no size, so that a
//! later change shows in the distance between two records alone.

use std::mem::offset_of;

/// `msptiActivityKind`.
pub(crate) mod kind {
    pub(crate) const MARKER: u32 = 1;
    pub(crate) const KERNEL: u32 = 2;
    pub(crate) const API: u32 = 3;
    pub(crate) const HCCL: u32 = 4;
    pub(crate) const MEMORY: u32 = 5;
    pub(crate) const MEMSET: u32 = 6;
    pub(crate) const MEMCPY: u32 = 7;
    pub(crate) const EXTERNAL_CORRELATION: u32 = 8;
    pub(crate) const COMMUNICATION: u32 = 9;
    pub(crate) const ACL_API: u32 = 10;
    pub(crate) const NODE_API: u32 = 11;
    pub(crate) const RUNTIME_API: u32 = 12;
}

/// The bits of a marker's flag, one of which is set.
pub(crate) mod marker_flag {
    pub(crate) const INSTANTANEOUS: u32 = 1;
    pub(crate) const START: u32 = 2;
    pub(crate) const END: u32 = 4;
    pub(crate) const INSTANTANEOUS_WITH_DEVICE: u32 = 8;
    pub(crate) const START_WITH_DEVICE: u32 = 16;
    pub(crate) const END_WITH_DEVICE: u32 = 32;
}

/// `MSPTI_ACTIVITY_SOURCE_KIND_DEVICE`; the host is 0.
pub(crate) const SOURCE_DEVICE: u32 = 1;

/// The name of a kind, for messages.
pub(crate) fn kind_name(kind: u32) -> &'static str {
    match kind {
        kind::MARKER => "marker",
        kind::KERNEL => "kernel",
        kind::API => "api",
        kind::HCCL => "hccl",
        kind::MEMORY => "memory",
        kind::MEMSET => "memset",
        kind::MEMCPY => "memcpy",
        kind::EXTERNAL_CORRELATION => "external correlation",
        kind::COMMUNICATION => "communication",
        kind::ACL_API => "acl api",
        kind::NODE_API => "node api",
        kind::RUNTIME_API => "runtime api",
        _ => "unknown",
    }
}

/// The size of a record of a kind, `None` where the kind is not known.
pub(crate) fn size(kind: u32) -> Option<usize> {
    Some(match kind {
        kind::MARKER => marker::SIZE,
        kind::KERNEL => kernel::SIZE,
        kind::API | kind::ACL_API | kind::NODE_API | kind::RUNTIME_API => api::SIZE,
        kind::HCCL => hccl::SIZE,
        kind::MEMORY => memory::SIZE,
        kind::MEMSET => memset::SIZE,
        kind::MEMCPY => memcpy::SIZE,
        kind::EXTERNAL_CORRELATION => external::SIZE,
        kind::COMMUNICATION => communication::SIZE,
        _ => return None,
    })
}

/// The smallest record: what bytes that cannot be told apart are divided by.
pub(crate) const SMALLEST_RECORD_BYTES: usize = 24;

/// The bytes of one record, read field by field; what lies past the end reads as zero.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl Raw<'_> {
    pub(crate) fn kind(self) -> u32 {
        self.u32(0)
    }

    pub(crate) fn u8(self, offset: usize) -> u8 {
        self.0.get(offset).copied().unwrap_or_default()
    }

    pub(crate) fn u32(self, offset: usize) -> u32 {
        let bytes = self.0.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).unwrap_or_default()
    }

    pub(crate) fn u64(self, offset: usize) -> u64 {
        let bytes = self.0.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_ne_bytes).unwrap_or_default()
    }
}

/// A record: its C declaration, by which the compiler finds offsets, and the offsets that were
/// observed, by which the code reads. The two must agree.
macro_rules! record {
    ($module:ident, $size:literal, { $($field:ident: $type:ty = $constant:ident $offset:literal),* $(,)? }) => {
        pub(crate) mod $module {
            #[repr(C, packed(4))]
            struct Declared { $($field: $type),* }

            pub(crate) const SIZE: usize = $size;
            $(
                #[allow(dead_code, reason = "the table is whole; not every field is read")]
                pub(crate) const $constant: usize = $offset;
                const _: () = assert!(super::offset_of!(Declared, $field) == $offset);
            )*
            const _: () = assert!(size_of::<Declared>().next_multiple_of(8) == $size);
        }
    };
}

record!(marker, 56, {
    kind: u32 = KIND 0, flag: u32 = FLAG 4, source: u32 = SOURCE 8, time: u64 = TIME 12,
    id: u64 = ID 20, first: u32 = FIRST 28, second: u32 = SECOND 32, name: u64 = NAME 36,
    domain: u64 = DOMAIN 44,
});
record!(api, 48, {
    kind: u32 = KIND 0, start: u64 = START 4, end: u64 = END 12, process: u32 = PROCESS 20,
    thread: u32 = THREAD 24, correlation: u64 = CORRELATION 28, name: u64 = NAME 36,
});
record!(kernel, 56, {
    kind: u32 = KIND 0, start: u64 = START 4, end: u64 = END 12, device: u32 = DEVICE 20,
    stream: u32 = STREAM 24, correlation: u64 = CORRELATION 28, kernel_type: u64 = TYPE 36,
    name: u64 = NAME 44,
});
record!(hccl, 56, {
    kind: u32 = KIND 0, start: u64 = START 4, end: u64 = END 12, device: u32 = DEVICE 20,
    stream: u32 = STREAM 24, bandwidth: u64 = BANDWIDTH 28, name: u64 = NAME 36,
    communicator: u64 = COMMUNICATOR 44,
});
record!(memory, 64, {
    kind: u32 = KIND 0, operation: u32 = OPERATION 4, memory_kind: u32 = MEMORY_KIND 8,
    correlation: u64 = CORRELATION 12, start: u64 = START 20, end: u64 = END 28,
    address: u64 = ADDRESS 36, bytes: u64 = BYTES 44, process: u32 = PROCESS 52,
    device: u32 = DEVICE 56, stream: u32 = STREAM 60,
});
record!(memset, 56, {
    kind: u32 = KIND 0, value: u32 = VALUE 4, bytes: u64 = BYTES 8, start: u64 = START 16,
    end: u64 = END 24, device: u32 = DEVICE 32, stream: u32 = STREAM 36,
    correlation: u64 = CORRELATION 40, is_async: u8 = IS_ASYNC 48,
});
record!(memcpy, 56, {
    kind: u32 = KIND 0, copy_kind: u32 = COPY_KIND 4, bytes: u64 = BYTES 8, start: u64 = START 16,
    end: u64 = END 24, device: u32 = DEVICE 32, stream: u32 = STREAM 36,
    correlation: u64 = CORRELATION 40, is_async: u8 = IS_ASYNC 48,
});
record!(external, 24, {
    kind: u32 = KIND 0, external_kind: u32 = EXTERNAL_KIND 4, id: u64 = ID 8,
    correlation: u64 = CORRELATION 16,
});
record!(communication, 72, {
    kind: u32 = KIND 0, data_type: u32 = DATA_TYPE 4, count: u64 = COUNT 8,
    device: u32 = DEVICE 16, stream: u32 = STREAM 20, start: u64 = START 24, end: u64 = END 32,
    algorithm: u64 = ALGORITHM 40, name: u64 = NAME 48, communicator: u64 = COMMUNICATOR 56,
    correlation: u64 = CORRELATION 64,
});

#[cfg(test)]
mod tests {
    use std::process::Command;

    use profiler_core::conformance::skipped;

    use super::*;

    /// C that holds where the compiler lays the stand-in's records out as the table above says.
    fn assertions() -> String {
        let mut text = "#include \"records.h\"\n".to_owned();
        let mut of = |name: &str, size: usize, fields: &[(&str, usize)]| {
            text.push_str(&format!(
                "_Static_assert(sizeof(struct {name}) == {size}, \"{name}\");\n"
            ));
            for (field, offset) in fields {
                text.push_str(&format!(
                    "_Static_assert(offsetof(struct {name}, {field}) == {offset}, \"{name}.{field}\");\n"
                ));
            }
        };
        of(
            "marker",
            marker::SIZE,
            &[
                ("flag", marker::FLAG),
                ("source", marker::SOURCE),
                ("timestamp", marker::TIME),
                ("id", marker::ID),
                ("object[0]", marker::FIRST),
                ("object[1]", marker::SECOND),
                ("name", marker::NAME),
                ("domain", marker::DOMAIN),
            ],
        );
        of(
            "api",
            api::SIZE,
            &[
                ("start", api::START),
                ("end", api::END),
                ("at.process", api::PROCESS),
                ("at.thread", api::THREAD),
                ("correlation", api::CORRELATION),
                ("name", api::NAME),
            ],
        );
        of(
            "kernel",
            kernel::SIZE,
            &[
                ("start", kernel::START),
                ("end", kernel::END),
                ("at.device", kernel::DEVICE),
                ("at.stream", kernel::STREAM),
                ("correlation", kernel::CORRELATION),
                ("type", kernel::TYPE),
                ("name", kernel::NAME),
            ],
        );
        of(
            "hccl",
            hccl::SIZE,
            &[
                ("start", hccl::START),
                ("end", hccl::END),
                ("at.device", hccl::DEVICE),
                ("at.stream", hccl::STREAM),
                ("bandwidth", hccl::BANDWIDTH),
                ("name", hccl::NAME),
                ("communicator", hccl::COMMUNICATOR),
            ],
        );
        of(
            "memory",
            memory::SIZE,
            &[
                ("operation", memory::OPERATION),
                ("memory_kind", memory::MEMORY_KIND),
                ("correlation", memory::CORRELATION),
                ("start", memory::START),
                ("end", memory::END),
                ("address", memory::ADDRESS),
                ("bytes", memory::BYTES),
                ("process", memory::PROCESS),
                ("device", memory::DEVICE),
                ("stream", memory::STREAM),
            ],
        );
        of(
            "memset_record",
            memset::SIZE,
            &[
                ("value", memset::VALUE),
                ("bytes", memset::BYTES),
                ("start", memset::START),
                ("end", memset::END),
                ("device", memset::DEVICE),
                ("stream", memset::STREAM),
                ("correlation", memset::CORRELATION),
                ("is_async", memset::IS_ASYNC),
            ],
        );
        of(
            "memcpy_record",
            memcpy::SIZE,
            &[
                ("copy_kind", memcpy::COPY_KIND),
                ("bytes", memcpy::BYTES),
                ("start", memcpy::START),
                ("end", memcpy::END),
                ("device", memcpy::DEVICE),
                ("stream", memcpy::STREAM),
                ("correlation", memcpy::CORRELATION),
                ("is_async", memcpy::IS_ASYNC),
            ],
        );
        of(
            "external",
            external::SIZE,
            &[
                ("external_kind", external::EXTERNAL_KIND),
                ("external_id", external::ID),
                ("correlation", external::CORRELATION),
            ],
        );
        of(
            "communication",
            communication::SIZE,
            &[
                ("data_type", communication::DATA_TYPE),
                ("count", communication::COUNT),
                ("at.device", communication::DEVICE),
                ("at.stream", communication::STREAM),
                ("start", communication::START),
                ("end", communication::END),
                ("algorithm", communication::ALGORITHM),
                ("name", communication::NAME),
                ("communicator", communication::COMMUNICATOR),
                ("correlation", communication::CORRELATION),
            ],
        );
        text
    }

    /// Ascend's hosts are mostly aarch64.
    #[test]
    fn c_compilers_of_both_machines_agree_with_the_table() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("layout.c");
        let records = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fakes/fake-mspti/src");
        for compiler in ["cc", "aarch64-linux-gnu-gcc"] {
            for (text, holds) in [
                (assertions(), true),
                // A table that is off by one field must not hold.
                (assertions().replacen("== 4,", "== 8,", 1), false),
            ] {
                std::fs::write(&source, text).unwrap();
                let mut command = Command::new(compiler);
                command.args(["-fsyntax-only", "-w", "-I", records]).arg(&source);
                let Ok(out) = command.output() else {
                    // Stand-ins are built by it: where it is missing, nothing was asserted at all.
                    assert_ne!(compiler, "cc", "there is no C compiler here");
                    skipped(&format!("there is no {compiler} here"));
                    break;
                };
                let said = String::from_utf8_lossy(&out.stderr);
                assert_eq!(out.status.success(), holds, "{compiler}: {said}");
            }
        }
    }
}
