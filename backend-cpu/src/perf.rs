//! perf events with a software clock, and the rings in which the kernel leaves their records.

#![expect(
    unsafe_code,
    reason = "perf_event_open, its ioctls and its shared rings have no safe form"
)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use perf_event_open_sys as perf;
use perf_event_open_sys::bindings as sys;
use profiler_core::descriptor::{Kept, raise};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::perf_record::{self, HEADER_LEN, Record};
use crate::registers::PERF_MASK;

/// What is asked of one event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventRequest {
    /// The thread.
    pub(crate) thread: u32,
    /// The processor, `None` = wherever the thread runs.
    pub(crate) cpu: Option<u32>,
    /// Follow the threads that it makes; only with a processor.
    pub(crate) inherit: bool,
    /// Samples a second of processor time.
    pub(crate) hz: u32,
    /// Bytes of the stack that are copied, a multiple of 8.
    pub(crate) stack_bytes: u32,
    /// Bytes in the ring that wake the reader.
    pub(crate) wake_bytes: u32,
}

/// An open event, not counting yet.
#[derive(Debug)]
pub(crate) struct Event {
    fd: Kept<OwnedFd>,
    counts_lost: bool,
}

/// The kernel's number of an event: all events have one inode, together with much else.
fn id(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut id = 0_u64;
    // SAFETY: the kernel writes eight bytes to `id` if the descriptor is an event's; one of another
    // sort does not know the request.
    let result = unsafe { perf::ioctls::ID(fd.as_raw_fd(), &raw mut id) };
    (result >= 0).then_some(id)
}

impl Event {
    /// Opens an event.
    ///
    /// # Errors
    ///
    /// The kernel's answer: `EACCES` and `EPERM` refuse it, `ESRCH` = no such thread.
    pub(crate) fn open(request: &EventRequest) -> io::Result<Self> {
        match Self::try_open(request, true) {
            // Kernels before 6.0 do not count what an event lost.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Self::try_open(request, false)
            }
            opened => opened,
        }
    }

    fn try_open(request: &EventRequest, counts_lost: bool) -> io::Result<Self> {
        let mut attributes = sys::perf_event_attr {
            type_: sys::PERF_TYPE_SOFTWARE,
            size: size_of::<sys::perf_event_attr>() as u32,
            config: u64::from(sys::PERF_COUNT_SW_CPU_CLOCK),
            sample_type: u64::from(
                sys::PERF_SAMPLE_IP
                    | sys::PERF_SAMPLE_TID
                    | sys::PERF_SAMPLE_TIME
                    | sys::PERF_SAMPLE_CPU
                    | sys::PERF_SAMPLE_PERIOD
                    | sys::PERF_SAMPLE_REGS_USER
                    | sys::PERF_SAMPLE_STACK_USER,
            ),
            sample_regs_user: PERF_MASK,
            sample_stack_user: request.stack_bytes,
            clockid: libc::CLOCK_MONOTONIC,
            read_format: if counts_lost { u64::from(sys::PERF_FORMAT_LOST) } else { 0 },
            ..Default::default()
        };
        attributes.__bindgen_anon_1.sample_freq = u64::from(request.hz);
        attributes.__bindgen_anon_2.wakeup_watermark = request.wake_bytes;
        attributes.set_freq(1);
        attributes.set_watermark(1);
        attributes.set_disabled(1);
        attributes.set_exclude_kernel(1);
        attributes.set_exclude_hv(1);
        attributes.set_use_clockid(1);
        attributes.set_sample_id_all(1);
        attributes.set_mmap(1);
        attributes.set_mmap2(1);
        attributes.set_comm(1);
        attributes.set_comm_exec(1);
        attributes.set_task(1);
        attributes.set_inherit(u64::from(request.inherit));
        // Threads only: a child process is recorded by an agent of its own.
        attributes.set_inherit_thread(u64::from(request.inherit));
        let thread = i32::try_from(request.thread).or(Err(errno(libc::ESRCH)))?;
        let cpu = match request.cpu {
            None => -1,
            Some(cpu) => i32::try_from(cpu).or(Err(errno(libc::ENODEV)))?,
        };
        let flags = u64::from(sys::PERF_FLAG_FD_CLOEXEC);
        // SAFETY: `attributes` is an initialised `perf_event_attr` of the size it states, and
        // outlives the call; counting a thread changes nothing in it.
        let fd = unsafe { perf::perf_event_open(&raw mut attributes, thread, cpu, -1, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd: Kept::marked(raise(fd), id), counts_lost })
    }

    /// Begins to count, in the threads that inherited the event too.
    pub(crate) fn enable(&self) -> io::Result<()> {
        let fd = self.fd.get()?.as_raw_fd();
        // SAFETY: the descriptor is this event's; the call reads no memory of ours.
        check(unsafe { perf::ioctls::ENABLE(fd, 0) })
    }

    /// Counts no more.
    pub(crate) fn disable(&self) -> io::Result<()> {
        let fd = self.fd.get()?.as_raw_fd();
        // SAFETY: the descriptor is this event's; the call reads no memory of ours.
        check(unsafe { perf::ioctls::DISABLE(fd, 0) })
    }

    /// Leaves its records in the ring of `owner`, which must be on the same processor.
    pub(crate) fn share_ring(&self, owner: &Ring) -> io::Result<()> {
        let (fd, owner) = (self.fd.get()?.as_raw_fd(), owner.event.fd.get()?.as_raw_fd());
        // SAFETY: both descriptors are the events'; the call reads no memory of ours.
        check(unsafe { perf::ioctls::SET_OUTPUT(fd, owner) })
    }

    /// How many records the kernel had no room for; `None` where it does not count them.
    pub(crate) fn lost(&self) -> Option<u64> {
        if !self.counts_lost {
            return None;
        }
        let mut values = [0; 16];
        let read = rustix::io::read(self.fd.get().ok()?, &mut values).ok()?;
        let lost = values.get(8..16).filter(|_| read == 16)?;
        lost.first_chunk().map(|lost| u64::from_ne_bytes(*lost))
    }

    /// What tells that its ring is half full.
    pub(crate) fn descriptor(&self) -> &Kept<OwnedFd> {
        &self.fd
    }
}

/// The ring of an event, and of those that share it.
#[derive(Debug)]
pub(crate) struct Ring {
    event: Event,
    base: NonNull<c_void>,
    /// Bytes of records, a power of two; one page of control data lies before them.
    data_len: usize,
    page: usize,
    /// A record that lies across the ring's end, put together.
    scratch: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone and is valid on any thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps a ring of `data_len` bytes, a power of two of at least a page.
    ///
    /// # Errors
    ///
    /// The kernel's answer, with the event: `EPERM` = more locked memory than this user may have.
    pub(crate) fn map(event: Event, data_len: usize) -> Result<Self, (io::Error, Event)> {
        let page = rustix::param::page_size();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let fd = match event.fd.get() {
            Ok(fd) => fd.as_fd(),
            Err(lost) => return Err((lost.into(), event)),
        };
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours.
        let mapped =
            unsafe { mmap(ptr::null_mut(), page + data_len, protection, MapFlags::SHARED, fd, 0) };
        let base = match mapped {
            Ok(base) => base,
            Err(error) => return Err((error.into(), event)),
        };
        match NonNull::new(base) {
            Some(base) => Ok(Self { event, base, data_len, page, scratch: Vec::new() }),
            None => Err((errno(libc::ENOMEM), event)),
        }
    }

    /// The event that owns the ring.
    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    /// The memory that it takes, most of it the kernel's.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.page + self.data_len + self.scratch.capacity()
    }

    /// Hands over all records that are there, oldest first.
    pub(crate) fn drain(&mut self, mut record: impl FnMut(Record<'_>)) {
        let head = self.head().load(Ordering::Acquire);
        let mut tail = self.tail().load(Ordering::Relaxed);
        while tail < head {
            let mut header = [0; HEADER_LEN];
            self.copy(tail, &mut header);
            let whole = perf_record::record_len(header).filter(|len| *len as u64 <= head - tail);
            let Some(len) = whole else {
                // The ring cannot be followed any more; what comes later can.
                record(Record::Malformed);
                tail = head;
                break;
            };
            let mut bytes = std::mem::take(&mut self.scratch);
            bytes.resize(len, 0);
            self.copy(tail, &mut bytes);
            record(perf_record::decode(&bytes));
            self.scratch = bytes;
            tail += len as u64;
            self.tail().store(tail, Ordering::Release);
        }
        self.tail().store(tail, Ordering::Release);
    }

    /// Copies the bytes from position `from` on, around the ring's end where they lie so.
    fn copy(&self, from: u64, to: &mut [u8]) {
        let start = from as usize & (self.data_len - 1);
        let first = to.len().min(self.data_len - start);
        let data = self.base.as_ptr().cast::<u8>().wrapping_add(self.page);
        let (head, wrapped) = to.split_at_mut(first);
        // SAFETY: `start + first <= data_len`, so the source lies in the mapping; the kernel does
        // not write between tail and head, where the caller reads; `head` is ours.
        unsafe { ptr::copy_nonoverlapping(data.wrapping_add(start), head.as_mut_ptr(), first) };
        let rest = wrapped.len().min(self.data_len);
        // SAFETY: `rest <= data_len`, so the source lies in the mapping; otherwise as above.
        unsafe { ptr::copy_nonoverlapping(data, wrapped.as_mut_ptr(), rest) };
    }

    fn head(&self) -> &AtomicU64 {
        self.word(std::mem::offset_of!(sys::perf_event_mmap_page, data_head))
    }

    fn tail(&self) -> &AtomicU64 {
        self.word(std::mem::offset_of!(sys::perf_event_mmap_page, data_tail))
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        let word = self.base.as_ptr().wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: the word lies in the control page, which is mapped while `self` lives, is
        // aligned there, and is shared with the kernel by atomic accesses only.
        unsafe { AtomicU64::from_ptr(word) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: `base` is the mapping of that length that `map` made; no reference outlives
        // `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr(), self.page + self.data_len) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping cannot fail");
    }
}

fn check(result: i32) -> io::Result<()> {
    match result {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
