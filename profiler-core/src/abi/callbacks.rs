//! The host's functions that a plugin calls. Each stops panics of the host at the door.
#![expect(unsafe_code, reason = "implements functions of a C interface")]

use std::borrow::Cow;
use std::ffi::c_void;
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::clock::{ClockDomain, ClockSource};
use crate::record::{LossCause, RecordKind};
use crate::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

use super::message::{self, MAX_MESSAGE_BYTES};
use super::table::{
    ABI_MAJOR, Answer, BatchRef, HOST_MAGIC, HostTable, LossRef, MIN_BATCH_BYTES, MIN_LOSS_BYTES,
    Text, emit_answer,
};

/// Groups of so many batches are passed on from the stack.
const STACK_BATCHES: usize = 8;

/// Batches of a group, at most: no producer comes near, and the bound keeps a broken one from
/// taking the host's memory.
const MAX_BATCHES: usize = 1 << 16;

/// What a plugin's session holds of its host.
pub(super) struct Host {
    sink: Arc<dyn RecordSink>,
    clock: Arc<dyn ClockSource>,
}

impl Host {
    /// The table of a new host. Its `ctx` is the plugin's, which releases it.
    pub(super) fn table(sink: Arc<dyn RecordSink>, clock: Arc<dyn ClockSource>) -> HostTable {
        HostTable {
            magic: HOST_MAGIC,
            abi_major: ABI_MAJOR,
            struct_size: size_of::<HostTable>(),
            ctx: Box::into_raw(Box::new(Self { sink, clock })).cast(),
            release,
            open_stream,
            emit,
            loss,
            fact,
            log,
            clock: read_clock,
        }
    }
}

/// What a call of a plugin answered.
#[derive(Default)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
}

impl Received {
    /// Where the plugin's answer goes, for one call.
    pub(super) fn answer(&mut self) -> Answer {
        Answer { ctx: (&raw mut *self).cast(), write: receive }
    }
}

unsafe extern "C" fn receive(ctx: *mut c_void, piece: Text) {
    // SAFETY: `ctx` is of `Received::answer`, used on the thread and during the call it was made
    // for, which the ABI demands of the plugin.
    let Some(received) = (unsafe { ctx.cast::<Received>().as_mut() }) else { return };
    // SAFETY: the ABI demands a text that lives through the call.
    let piece = unsafe { piece.bytes() }.unwrap_or_default();
    // One byte more than is read, so that the reader sees that it was cut.
    let room = (MAX_MESSAGE_BYTES + 1).saturating_sub(received.bytes.len());
    received.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
}

/// Where the lines of a trial go.
pub(super) struct Lines<'a> {
    pub(super) write: &'a mut dyn FnMut(&str),
}

impl Lines<'_> {
    /// Where the plugin's answer goes, for one call.
    pub(super) fn answer(&mut self) -> Answer {
        Answer { ctx: (&raw mut *self).cast(), write: pass_on }
    }
}

unsafe extern "C" fn pass_on(ctx: *mut c_void, line: Text) {
    // SAFETY: `ctx` is of `Lines::answer`, used on the thread and during the call it was made for,
    // which the ABI demands of the plugin.
    let Some(lines) = (unsafe { ctx.cast::<Lines<'_>>().as_mut() }) else { return };
    // SAFETY: the ABI demands a text that lives through the call.
    let line = unsafe { text(line) };
    quietly((), || (lines.write)(&line));
}

/// The host behind a `ctx`.
///
/// # Safety
///
/// * `ctx` is null or of [`Host::table`] and not released while `'a` lasts.
unsafe fn host<'a>(ctx: *mut c_void) -> Option<&'a Host> {
    // SAFETY: the caller guarantees it.
    unsafe { ctx.cast::<Host>().as_ref() }
}

unsafe extern "C" fn release(ctx: *mut c_void) {
    if ctx.is_null() {
        return;
    }
    // SAFETY: made by `Host::table`, and the ABI demands that it is released once, last.
    let host = unsafe { Box::from_raw(ctx.cast::<Host>()) };
    quietly((), || drop(host));
}

unsafe extern "C" fn open_stream(ctx: *mut c_void, info: Text) -> u32 {
    // SAFETY: the ABI demands a `ctx` that is not released.
    let Some(host) = (unsafe { host(ctx) }) else { return u32::MAX };
    // SAFETY: the ABI demands a text that lives through the call.
    let info = unsafe { info.bytes() }.unwrap_or_default();
    quietly(u32::MAX, || match message::read::<StreamInfo>(info) {
        Ok(info) => host.sink.open_stream(info).0,
        Err(error) => {
            let text = format!(
                "a stream is refused, its description {}",
                crate::error::chain(&error).trim_start_matches("it ")
            );
            host.sink.log(LogLevel::Error, "plugin", &text);
            u32::MAX
        }
    })
}

unsafe extern "C" fn emit(
    ctx: *mut c_void,
    batches: *const BatchRef,
    count: usize,
    batch_size: usize,
) -> u32 {
    // SAFETY: the ABI demands a `ctx` that is not released.
    let Some(host) = (unsafe { host(ctx) }) else { return emit_answer::CLOSED };
    if count == 0 {
        return emit_answer::ACCEPTED;
    }
    if batches.is_null() || count > MAX_BATCHES || batch_size < MIN_BATCH_BYTES {
        // Nothing in such a group can be looked at.
        quietly((), || host.sink.loss(undecodable(None, None, count as u64)));
        return emit_answer::FULL;
    }
    if count > STACK_BATCHES {
        let group: Option<Vec<Batch<'_>>> = (0..count)
            .map(|index| {
                // SAFETY: the ABI demands `count` batches of `batch_size` bytes.
                unsafe { batch_at(batches, index, batch_size) }
            })
            .collect();
        return match group {
            Some(group) => emit_group(host, &group),
            None => broken_group(host, count),
        };
    }
    let mut group =
        [Batch { stream: StreamId(0), kind: RecordKind(0), stride: 8, rows: &[], heap: &[] };
            STACK_BATCHES];
    for (index, place) in group.iter_mut().enumerate().take(count) {
        // SAFETY: the ABI demands `count` batches of `batch_size` bytes.
        match unsafe { batch_at(batches, index, batch_size) } {
            Some(batch) => *place = batch,
            None => return broken_group(host, count),
        }
    }
    emit_group(host, &group[..count])
}

/// The batch at a place of an array whose elements have `batch_size` bytes, `None` where a pointer
/// of it is null but should not be.
///
/// # Safety
///
/// * `batches` points to more than `index` elements, whose bytes live while `'a` lasts.
/// * `batch_size` is at least that of a [`BatchRef`].
unsafe fn batch_at<'a>(
    batches: *const BatchRef,
    index: usize,
    batch_size: usize,
) -> Option<Batch<'a>> {
    // SAFETY: the element lies in the caller's array.
    let element = unsafe { batches.byte_add(index * batch_size) };
    // SAFETY: as above; a plugin of another element size need not align it as we would.
    let batch = unsafe { element.read_unaligned() };
    let rows = Text { ptr: batch.rows.cast(), len: batch.rows_len };
    let heap = Text { ptr: batch.heap.cast(), len: batch.heap_len };
    Some(Batch {
        stream: StreamId(batch.stream),
        kind: RecordKind(batch.kind),
        stride: batch.stride,
        // SAFETY: the caller guarantees bytes that live while `'a` lasts.
        rows: unsafe { rows.bytes() }?,
        // SAFETY: as above.
        heap: unsafe { heap.bytes() }?,
    })
}

fn emit_group(host: &Host, group: &[Batch<'_>]) -> u32 {
    let emitted = catch_unwind(AssertUnwindSafe(|| host.sink.emit(group)));
    match emitted {
        Ok(Emit::Accepted) => emit_answer::ACCEPTED,
        Ok(Emit::Full) => emit_answer::FULL,
        Ok(Emit::Closed) => emit_answer::CLOSED,
        Err(payload) => {
            quietly((), || drop(payload));
            for batch in group {
                let loss = Loss {
                    cause: LossCause::SinkPanicked,
                    ..undecodable(Some(batch.stream), Some(batch.kind), batch.count() as u64)
                };
                quietly((), || host.sink.loss(loss));
            }
            emit_answer::FULL
        }
    }
}

fn broken_group(host: &Host, count: usize) -> u32 {
    quietly((), || host.sink.loss(undecodable(None, None, count as u64)));
    emit_answer::FULL
}

unsafe extern "C" fn loss(ctx: *mut c_void, loss: *const LossRef) {
    // SAFETY: the ABI demands a `ctx` that is not released.
    let Some(host) = (unsafe { host(ctx) }) else { return };
    if loss.is_null() {
        return;
    }
    // SAFETY: not null, and the first field is of every version.
    let size = unsafe { loss.cast::<u32>().read() };
    if (size as usize) < MIN_LOSS_BYTES {
        return;
    }
    // SAFETY: as long as what is read.
    let loss = unsafe { loss.read() };
    let loss = Loss {
        stream: (loss.stream != u32::MAX).then_some(StreamId(loss.stream)),
        kind: (loss.kind != 0).then_some(RecordKind(loss.kind)),
        count: loss.count,
        from: loss.from,
        to: loss.to,
        cause: LossCause::from_number(loss.cause).unwrap_or(LossCause::Undecodable),
    };
    quietly((), || host.sink.loss(loss));
}

unsafe extern "C" fn fact(ctx: *mut c_void, key: Text, value: Text) {
    // SAFETY: the ABI demands a `ctx` that is not released.
    let Some(host) = (unsafe { host(ctx) }) else { return };
    // SAFETY: the ABI demands texts that live through the call.
    let key = unsafe { text(key) };
    // SAFETY: as above.
    let value = unsafe { text(value) };
    quietly((), || host.sink.fact(&key, &value));
}

unsafe extern "C" fn log(ctx: *mut c_void, level: u32, target: Text, message: Text) {
    // SAFETY: the ABI demands a `ctx` that is not released.
    let Some(host) = (unsafe { host(ctx) }) else { return };
    let level = match level {
        0 | 1 => LogLevel::Debug,
        2 => LogLevel::Info,
        3 => LogLevel::Warn,
        _ => LogLevel::Error,
    };
    // SAFETY: the ABI demands texts that live through the call.
    let target = unsafe { text(target) };
    // SAFETY: as above.
    let message = unsafe { text(message) };
    quietly((), || host.sink.log(level, &target, &message));
}

unsafe extern "C" fn read_clock(ctx: *mut c_void, which: u32) -> u64 {
    // SAFETY: the ABI demands a `ctx` that is not released.
    let Some(host) = (unsafe { host(ctx) }) else { return 0 };
    quietly(0, || match u16::try_from(which).ok().and_then(ClockDomain::from_number) {
        Some(ClockDomain::Monotonic) => host.clock.monotonic_ns(),
        Some(ClockDomain::Realtime) => host.clock.realtime_ns(),
        Some(ClockDomain::Boottime) => host.clock.boottime_ns(),
        Some(ClockDomain::Tsc) => host.clock.tsc(),
        _ => 0,
    })
}

/// The text; broken UTF-8 is replaced, and what is too long is cut.
///
/// # Safety
///
/// * As [`Text::bytes`].
unsafe fn text<'a>(text: Text) -> Cow<'a, str> {
    // SAFETY: the caller guarantees it.
    let bytes = unsafe { text.bytes() }.unwrap_or_default();
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_MESSAGE_BYTES)])
}

fn undecodable(stream: Option<StreamId>, kind: Option<RecordKind>, count: u64) -> Loss {
    Loss { stream, kind, count, from: 0, to: 0, cause: LossCause::Undecodable }
}

/// Calls the host; where that panics the plugin gets `otherwise`.
fn quietly<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        // A payload whose drop panics is left.
        let _dropped: std::thread::Result<()> = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        otherwise
    })
}
