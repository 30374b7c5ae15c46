//! What crosses the door, as C lays it out. `omniprof_backend.h` says the same for C.
#![expect(unsafe_code, reason = "the types of a C interface")]

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};

/// The one symbol that a plugin exports: `const omniprof_backend_table *(void)`. The name carries
/// the version of this signature.
pub const ENTRY: &str = "omniprof_backend_entry_v1";

/// The major version: tables of another one are refused.
pub const ABI_MAJOR: u32 = 1;

/// What a [`BackendTable`] begins with: `OPB1`.
pub const BACKEND_MAGIC: u32 = u32::from_le_bytes(*b"OPB1");

/// What a [`HostTable`] begins with: `OPH1`.
pub const HOST_MAGIC: u32 = u32::from_le_bytes(*b"OPH1");

/// The part of a [`BackendTable`] that every plugin of this major version fills.
pub const MIN_BACKEND_TABLE_BYTES: usize = offset_of!(BackendTable, flush);

/// The part of a [`HostTable`] that every host of this major version fills.
pub const MIN_HOST_TABLE_BYTES: usize = size_of::<HostTable>();

/// The part of a [`BatchRef`] that every plugin of this major version fills.
pub const MIN_BATCH_BYTES: usize = size_of::<BatchRef>();

/// The part of a [`LossRef`] that every plugin of this major version fills.
pub const MIN_LOSS_BYTES: usize = size_of::<LossRef>();

/// What a function of a [`BackendTable`] returns: one of [`status`]. A number that the host does
/// not know counts as [`status::FAILED`].
pub type Status = i32;

/// The values of a [`Status`].
pub mod status {
    use super::Status;

    /// Done. What there is to say was answered.
    pub const OK: Status = 0;
    /// Not done. The error was answered.
    pub const FAILED: Status = 1;
    /// The backend panicked. It is not used again.
    pub const PANICKED: Status = 2;
}

/// What [`HostTable::emit`] returns, as [`crate::sink::Emit`]. A number that the plugin does not
/// know counts as [`emit_answer::CLOSED`].
pub mod emit_answer {
    /// The whole group was taken.
    pub const ACCEPTED: u32 = 0;
    /// Nothing of the group was taken; the loss is counted.
    pub const FULL: u32 = 1;
    /// Nothing will be taken any more.
    pub const CLOSED: u32 = 2;
}

/// The values of [`BackendTable::role`], as [`crate::backend::BackendRole`].
pub mod role {
    /// A device.
    pub const DEVICE: u32 = 1;
    /// The host's side.
    pub const HOST: u32 = 2;
}

/// UTF-8 bytes, not terminated; valid for the call that passes them, or for ever in a table.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(clippy::exhaustive_structs, reason = "C layout")]
pub struct Text {
    /// The first byte; may be null where `len` is 0.
    pub ptr: *const c_char,
    /// How many bytes.
    pub len: usize,
}

impl Text {
    /// A text that lives for as long as its borrow.
    #[must_use]
    pub const fn of(text: &str) -> Self {
        Self { ptr: text.as_ptr().cast(), len: text.len() }
    }

    /// The bytes, `None` where the pointer is null and the length is not 0.
    ///
    /// # Safety
    ///
    /// * `ptr` is null, or points to `len` readable bytes that nobody writes while `'a` lasts.
    pub(super) unsafe fn bytes<'a>(self) -> Option<&'a [u8]> {
        if self.len == 0 {
            return Some(&[]);
        }
        if self.ptr.is_null() || self.len > isize::MAX as usize {
            return None;
        }
        // SAFETY: not null, and the caller guarantees the rest.
        Some(unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.len) })
    }
}

/// Takes what a call has to say, while the call runs and on its thread alone.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(clippy::exhaustive_structs, reason = "C layout")]
pub struct Answer {
    /// Passed to `write`.
    pub ctx: *mut c_void,
    /// Takes the next piece of the answer; the pieces are joined. More than 1 MiB is cut off, and
    /// the answer is then unreadable.
    pub write: unsafe extern "C" fn(ctx: *mut c_void, piece: Text),
}

/// A session of a plugin, known to the plugin alone.
pub type SessionHandle = *mut c_void;

/// What both tables begin with, in every major version.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct TableHeader {
    pub(super) magic: u32,
    pub(super) abi_major: u32,
    pub(super) struct_size: usize,
}

/// A backend. The first three fields never change their place, in no major version.
///
/// `probe` and `open` may be called from any thread, also while sessions run. The functions of one
/// session are called one at a time, from any thread; `close` comes last, once.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(clippy::exhaustive_structs, reason = "C layout")]
pub struct BackendTable {
    /// [`BACKEND_MAGIC`].
    pub magic: u32,
    /// [`ABI_MAJOR`] of the plugin.
    pub abi_major: u32,
    /// The size of the plugin's table in bytes.
    pub struct_size: usize,
    /// The backend's id; the same as in the file's name.
    pub id: Text,
    /// The plugin's version, for people.
    pub version: Text,
    /// One of [`role`].
    pub role: u32,
    /// Of several available device backends the highest records.
    pub priority: u32,
    /// Looks at the machine. Answers a probe report.
    pub probe: unsafe extern "C" fn(answer: *const Answer) -> Status,
    /// Prepares a session. `host` is valid for the call and copied by the plugin; its `ctx` is the
    /// plugin's from here on, whatever this returns, and released once.
    pub open: unsafe extern "C" fn(
        config: Text,
        host: *const HostTable,
        session: *mut SessionHandle,
        answer: *const Answer,
    ) -> Status,
    /// Begins to record.
    pub start: unsafe extern "C" fn(session: SessionHandle, answer: *const Answer) -> Status,
    /// Ends the recording; drains for at most `drain_ns`. Answers a summary.
    pub stop: unsafe extern "C" fn(
        session: SessionHandle,
        drain_ns: u64,
        answer: *const Answer,
    ) -> Status,
    /// Takes the session down, stopped or not. The handle is not used again.
    pub close: unsafe extern "C" fn(session: SessionHandle, answer: *const Answer) -> Status,
    /// Asks the driver for what it holds. Absent where rows come by themselves.
    pub flush:
        Option<unsafe extern "C" fn(session: SessionHandle, answer: *const Answer) -> Status>,
    /// Tries the library at a path, in a process that may die of it. Each piece of the answer is a
    /// line, passed on at once. Absent where nothing needs to be tried.
    pub trial: Option<unsafe extern "C" fn(library: Text, answer: *const Answer) -> Status>,
    /// Says what the driver keeps of earlier captures now; a missing body or `null` means nothing
    /// that is known of. Called like `probe`, and as cheap as reading a number. Absent where
    /// drivers keep nothing.
    pub driver: Option<unsafe extern "C" fn(answer: *const Answer) -> Status>,
    /// Says whether a session of these settings gives allocations and frees as rows: `true` or
    /// `false`. Called like `probe`. Absent where there are none.
    pub records_memory: Option<unsafe extern "C" fn(config: Text, answer: *const Answer) -> Status>,
}

// SAFETY: functions, numbers and texts that live for ever and that nobody writes.
unsafe impl Sync for BackendTable {}
// SAFETY: as above.
unsafe impl Send for BackendTable {}

/// What a host gives a session: its sink and its clocks. The first three fields never change their
/// place, in no major version.
///
/// All functions may be called from any thread, from `open` until `release`; never from a signal
/// handler. None blocks on the disk or on another producer. Rows of one stream come one call at a
/// time.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(clippy::exhaustive_structs, reason = "C layout")]
pub struct HostTable {
    /// [`HOST_MAGIC`].
    pub magic: u32,
    /// [`ABI_MAJOR`] of the host.
    pub abi_major: u32,
    /// The size of the host's table in bytes.
    pub struct_size: usize,
    /// Passed to each function.
    pub ctx: *mut c_void,
    /// Gives `ctx` back; no function is called after it.
    pub release: unsafe extern "C" fn(ctx: *mut c_void),
    /// Opens a stream from a stream info; `u32::MAX` is a stream that takes nothing.
    pub open_stream: unsafe extern "C" fn(ctx: *mut c_void, info: Text) -> u32,
    /// Takes a group of `count` batches of one stream, `batch_size` bytes each, or refuses it
    /// whole. Returns one of [`emit_answer`].
    pub emit: unsafe extern "C" fn(
        ctx: *mut c_void,
        batches: *const BatchRef,
        count: usize,
        batch_size: usize,
    ) -> u32,
    /// Counts rows that the producer or its driver lost.
    pub loss: unsafe extern "C" fn(ctx: *mut c_void, loss: *const LossRef),
    /// Records something known; the last value of a key wins.
    pub fact: unsafe extern "C" fn(ctx: *mut c_void, key: Text, value: Text),
    /// Passes a line to the host's log: 1 debug, 2 info, 3 warn, 4 error.
    pub log: unsafe extern "C" fn(ctx: *mut c_void, level: u32, target: Text, message: Text),
    /// Reads a clock of the host by its number in spool blocks: 1 CLOCK_MONOTONIC,
    /// 2 CLOCK_REALTIME, 3 CLOCK_BOOTTIME, in ns; 4 the time stamp counter. Others read 0.
    pub clock: unsafe extern "C" fn(ctx: *mut c_void, which: u32) -> u64,
}

/// Rows of one kind, of one stream, as [`crate::sink::Batch`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(clippy::exhaustive_structs, reason = "C layout")]
pub struct BatchRef {
    /// The stream.
    pub stream: u32,
    /// The kind of all rows.
    pub kind: u16,
    /// 0.
    pub reserved: u16,
    /// The size of one row in bytes, a multiple of 8.
    pub stride: u32,
    /// 0.
    pub reserved_2: u32,
    /// The rows.
    pub rows: *const u8,
    /// How many bytes.
    pub rows_len: usize,
    /// The heap that the rows point into.
    pub heap: *const u8,
    /// How many bytes.
    pub heap_len: usize,
}

/// Rows that a producer knows to be lost, as [`crate::sink::Loss`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(clippy::exhaustive_structs, reason = "C layout")]
pub struct LossRef {
    /// The size of the plugin's struct in bytes.
    pub struct_size: u32,
    /// The stream, `u32::MAX` = several.
    pub stream: u32,
    /// The kind, 0 = several or unknown.
    pub kind: u16,
    /// Why, as in rows; a number that the host does not know counts as undecodable.
    pub cause: u16,
    /// 0.
    pub reserved: u32,
    /// How many.
    pub count: u64,
    /// The first instant from which rows may miss, 0 = not known.
    pub from: u64,
    /// The instant from which rows are whole again, 0 = not known.
    pub to: u64,
}
