//! The plugin's side of a host: its sink and its clocks, called through the table.
#![expect(unsafe_code, reason = "calls functions of another library by pointer")]

use std::mem::{MaybeUninit, size_of};
use std::sync::Arc;

use crate::clock::{ClockDomain, ClockSource};
use crate::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

use super::message;
use super::table::{
    ABI_MAJOR, BatchRef, HOST_MAGIC, HostTable, LossRef, MIN_HOST_TABLE_BYTES, TableHeader, Text,
    emit_answer,
};

/// Groups of so many batches are passed from the stack; longer ones are rare.
const STACK_BATCHES: usize = 8;

/// A host, for as long as a session or a thread of its backend holds it.
pub(super) struct HostHandle {
    host: HostTable,
}

// SAFETY: all functions of a host may be called from any thread, which the ABI demands of it.
unsafe impl Send for HostHandle {}
// SAFETY: as above.
unsafe impl Sync for HostHandle {}

impl HostHandle {
    /// Takes the host over, `None` where it is none of this major version.
    ///
    /// # Safety
    ///
    /// * `host` is null or points to a table whose first 16 bytes are readable, and `struct_size`
    ///   bytes where magic and major version are ours.
    /// * `ctx` of that table becomes this handle's, which releases it.
    pub(super) unsafe fn take(host: *const HostTable) -> Option<Arc<Self>> {
        if host.is_null() {
            return None;
        }
        // SAFETY: the caller guarantees the first 16 bytes.
        let header = unsafe { host.cast::<TableHeader>().read() };
        let is_ours = header.magic == HOST_MAGIC && header.abi_major == ABI_MAJOR;
        if !is_ours || header.struct_size < MIN_HOST_TABLE_BYTES {
            return None;
        }
        // All that this build knows is the part that every host of this major version fills.
        const { assert!(MIN_HOST_TABLE_BYTES == size_of::<HostTable>()) };
        // SAFETY: `struct_size` bytes are readable, which is at least what is read.
        let host = unsafe { host.read() };
        Some(Arc::new(Self { host }))
    }
}

impl Drop for HostHandle {
    fn drop(&mut self) {
        // SAFETY: ours since `take`, given back here alone, and nobody is left to call the host.
        unsafe { (self.host.release)(self.host.ctx) }
    }
}

impl RecordSink for HostHandle {
    fn open_stream(&self, info: StreamInfo) -> StreamId {
        let Ok(text) = message::write(&info) else { return StreamId(u32::MAX) };
        // SAFETY: the host is held, and the text lives through the call.
        StreamId(unsafe { (self.host.open_stream)(self.host.ctx, Text::of(&text)) })
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        let answer = match group.len() {
            0..=STACK_BATCHES => {
                let mut refs = [const { MaybeUninit::<BatchRef>::uninit() }; STACK_BATCHES];
                for (place, batch) in refs.iter_mut().zip(group) {
                    place.write(batch_ref(batch));
                }
                self.emit_refs(refs.as_ptr().cast(), group.len())
            }
            _ => {
                let refs: Vec<BatchRef> = group.iter().map(batch_ref).collect();
                self.emit_refs(refs.as_ptr(), refs.len())
            }
        };
        match answer {
            emit_answer::ACCEPTED => Emit::Accepted,
            emit_answer::FULL => Emit::Full,
            _ => Emit::Closed,
        }
    }

    fn loss(&self, loss: Loss) {
        let loss = LossRef {
            struct_size: size_of::<LossRef>() as u32,
            stream: loss.stream.map_or(u32::MAX, |stream| stream.0),
            kind: loss.kind.map_or(0, |kind| kind.0),
            cause: loss.cause.number(),
            reserved: 0,
            count: loss.count,
            from: loss.from,
            to: loss.to,
        };
        // SAFETY: the host is held, and the struct lives through the call.
        unsafe { (self.host.loss)(self.host.ctx, &raw const loss) }
    }

    fn fact(&self, key: &str, value: &str) {
        // SAFETY: the host is held, and the texts live through the call.
        unsafe { (self.host.fact)(self.host.ctx, Text::of(key), Text::of(value)) }
    }

    fn log(&self, level: LogLevel, target: &str, message: &str) {
        let level = match level {
            LogLevel::Debug => 1,
            LogLevel::Info => 2,
            LogLevel::Warn => 3,
            LogLevel::Error => 4,
        };
        // SAFETY: the host is held, and the texts live through the call.
        unsafe { (self.host.log)(self.host.ctx, level, Text::of(target), Text::of(message)) }
    }
}

impl HostHandle {
    /// `refs` points to `count` batches that are written.
    fn emit_refs(&self, refs: *const BatchRef, count: usize) -> u32 {
        // SAFETY: the host is held, and the batches with their bytes live through the call.
        unsafe { (self.host.emit)(self.host.ctx, refs, count, size_of::<BatchRef>()) }
    }

    fn clock(&self, domain: ClockDomain) -> u64 {
        // SAFETY: the host is held.
        unsafe { (self.host.clock)(self.host.ctx, u32::from(domain.number())) }
    }
}

impl ClockSource for HostHandle {
    fn monotonic_ns(&self) -> u64 {
        self.clock(ClockDomain::Monotonic)
    }

    fn realtime_ns(&self) -> u64 {
        self.clock(ClockDomain::Realtime)
    }

    fn boottime_ns(&self) -> u64 {
        self.clock(ClockDomain::Boottime)
    }

    fn tsc(&self) -> u64 {
        self.clock(ClockDomain::Tsc)
    }
}

fn batch_ref(batch: &Batch<'_>) -> BatchRef {
    BatchRef {
        stream: batch.stream.0,
        kind: batch.kind.0,
        reserved: 0,
        stride: batch.stride,
        reserved_2: 0,
        rows: batch.rows.as_ptr(),
        rows_len: batch.rows.len(),
        heap: batch.heap.as_ptr(),
        heap_len: batch.heap.len(),
    }
}
