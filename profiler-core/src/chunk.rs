//! Chunks: how application threads hand over rows without a lock, an allocation or a system call.
//!
//! A thread appends entries to a chunk of its own and publishes each by a release store; a
//! collector, which runs on a thread of the profiler, reads up to what is published. A full chunk
//! is replaced by one that the collector has prepared and faulted in. Where none is left the entry
//! is dropped and counted.
//!
//! ```text
//! application thread                       collector
//!   pop from the free list ◄──────────────── prepare, fault in
//!   append, publish (release) ─────────────► read up to what is published (acquire)
//!   full: seal, pop the next ──────────────► read the rest, prepare again
//! ```
//!
//! Thread-local state has no destructor: the collector takes over what a dead thread held. Chunks
//! are never unmapped, so that a thread which still holds one of a session long over writes to
//! memory that nobody else uses. In a forked child every pool of its parent refuses entries.
//!
//! An append makes one system call in a thread's life, to learn the thread's id. It must not be
//! made from a signal handler.
#![expect(unsafe_code, reason = "threads write to memory that another thread reads further back")]

mod cell;
mod recording;

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_queue::{ArrayQueue, SegQueue};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::thread::is_alive;

pub use cell::PoolCell;
pub use recording::{Recording, RecordingFlags};

/// The size of a chunk.
pub const CHUNK_BYTES: usize = 64 << 10;
/// The memory of a pool, at most.
pub const MAX_POOL_BYTES: usize = 64 << 20;
/// The payload of an entry, at most.
pub const MAX_PAYLOAD_BYTES: usize = DATA_BYTES - ENTRY_HEADER_BYTES;
/// Entry kinds whose drops are counted apart; a higher one is counted as the last.
pub const COUNTED_KINDS: usize = 16;

const PAGE_BYTES: usize = 4096;
const CHUNK_HEADER_BYTES: usize = 64;
const DATA_BYTES: usize = CHUNK_BYTES - CHUNK_HEADER_BYTES;
/// What stands before an entry's payload: kind (2 bytes), zero (2), length of the payload (4).
const ENTRY_HEADER_BYTES: usize = 8;
const MAX_CHUNKS: usize = MAX_POOL_BYTES / CHUNK_BYTES;
/// What threads can append, all together, before the collector prepares more chunks, unless a pool
/// is made with more.
pub const SPARE_BYTES: usize = 64 * CHUNK_BYTES;
/// Of the chunks that stand ready, how many are faulted in before any was asked for. Of the others the first page is, so
/// that more threads than these, all at once, wait for pages as they write on, and lose nothing.
const FAULTED_CHUNKS: usize = 16;
/// Pools that a thread can use in turn without giving up its chunk each time.
const SLOTS: usize = 4;
/// Threads are looked for so often, to take over what dead ones held.
const LOOK_FOR_DEAD: Duration = Duration::from_secs(1);

/// The low bits of a chunk's state; above them stands the number of its current use.
const FREE: u64 = 0;
const HELD: u64 = 1;
const SEALED: u64 = 2;
const STATE_MASK: u64 = 3;

#[repr(C, align(4096))]
struct Chunk {
    /// Who may write: nobody ([`FREE`]), one thread ([`HELD`]), nobody any more ([`SEALED`]).
    state: AtomicU64,
    /// The bytes of whole entries.
    published: AtomicU32,
    /// The thread that holds or held it.
    thread: AtomicU32,
    padding: [u64; 6],
    data: UnsafeCell<[MaybeUninit<u8>; DATA_BYTES]>,
}

const _: () = assert!(size_of::<Chunk>() == CHUNK_BYTES);

// SAFETY: `data` past `published` is touched by the one thread that holds the chunk, before
// `published` is read only; the handover in both directions goes through release and acquire.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn allocate() -> Option<&'static Self> {
        // The allocator would touch all of it to hand it out aligned.
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let mapped = unsafe {
            mmap_anonymous(std::ptr::null_mut(), CHUNK_BYTES, protection, MapFlags::PRIVATE)
        };
        let memory = NonNull::new(mapped.ok()?)?;
        // A huge page would take as much as 32 chunks for the first page of one.
        // SAFETY: the pages are those that were just mapped; their content stays.
        let result = unsafe { madvise(memory.as_ptr(), CHUNK_BYTES, Advice::LinuxNoHugepage) };
        // Kernels without huge pages refuse, and need not be told.
        result.ok();
        // SAFETY: the memory has a chunk's size, begins at a page, all zeros are a free chunk, it
        // is never unmapped and from here on only reached through shared references.
        Some(unsafe { memory.cast::<Self>().as_ref() })
    }

    /// Touches the first page, in which its state lies. Nobody may hold the chunk.
    fn touch(&self) {
        self.published.store(0, Ordering::Relaxed);
    }

    /// Touches every page, so that no thread meets a page fault. Nobody may hold the chunk.
    fn fault_in(&self) {
        let data = self.data.get().cast::<u8>();
        for at in (0..DATA_BYTES).step_by(PAGE_BYTES) {
            // SAFETY: `at` lies within the data.
            let byte = unsafe { data.add(at) };
            // SAFETY: the byte is the chunk's; nobody else reads or writes it while it is free.
            unsafe { byte.write_volatile(0) };
        }
    }

    /// Gives the memory behind the first page back to the system. Nobody may hold the chunk.
    fn give_back_memory(&self) {
        let begin = std::ptr::from_ref(self).cast::<u8>();
        // SAFETY: the second page lies within the chunk.
        let second_page = unsafe { begin.add(PAGE_BYTES) };
        let len = CHUNK_BYTES - PAGE_BYTES;
        let pages = second_page.cast_mut().cast();
        // SAFETY: the pages are the chunk's own, it is aligned to pages, and nobody relies on
        // their content while it is free.
        let result = unsafe { madvise(pages, len, Advice::LinuxDontNeed) };
        // Where the system refuses, the memory stays taken.
        result.ok();
    }

    /// Writes an entry at `at`.
    ///
    /// # Safety
    ///
    /// * The calling thread holds the chunk.
    /// * `at` is not below what is published, and the entry ends within the data.
    #[inline]
    unsafe fn write_entry(&self, at: usize, kind: u16, head: &[u8], tail: &[u8]) {
        let header = (u64::from(kind)) | (((head.len() + tail.len()) as u64) << 32);
        // SAFETY: the caller guarantees that the entry lies within the data.
        let mut target = unsafe { self.data.get().cast::<u8>().add(at) };
        // SAFETY: entries begin at multiples of 8 in data that is aligned to 64.
        unsafe { target.cast::<u64>().write(header) };
        // SAFETY: as above.
        target = unsafe { target.add(ENTRY_HEADER_BYTES) };
        // SAFETY: the caller's thread alone touches these bytes, and both parts together are as
        // long as the entry.
        unsafe { target.copy_from_nonoverlapping(head.as_ptr(), head.len()) };
        if tail.is_empty() {
            return;
        }
        // SAFETY: as above.
        target = unsafe { target.add(head.len()) };
        // SAFETY: as above.
        unsafe { target.copy_from_nonoverlapping(tail.as_ptr(), tail.len()) };
    }

    /// The published bytes from `from` on.
    fn read(&self, from: usize) -> &[u8] {
        let published = self.published.load(Ordering::Acquire) as usize;
        let len = published.min(DATA_BYTES).saturating_sub(from);
        // SAFETY: `from` was an earlier `published`, which never exceeds the data.
        let begin = unsafe { self.data.get().cast::<u8>().add(from) };
        // SAFETY: bytes before `published` were written before the store that this thread has
        // acquired, and nobody writes them again until the collector frees the chunk.
        unsafe { std::slice::from_raw_parts(begin, len) }
    }
}

/// What a pool's users and its collector share. Never freed, used again for later pools.
struct Shared {
    /// The pool that uses this now, 0 = none.
    pool: AtomicU64,
    /// The process that made the pool, as counted by forks.
    fork: AtomicU32,
    free: ArrayQueue<&'static Chunk>,
    /// Taken where none is free that was faulted in: of these only the first page was.
    cold: ArrayQueue<&'static Chunk>,
    dropped: [AtomicU64; COUNTED_KINDS],
}

/// Chunks that no pool uses.
static REUSABLE: SegQueue<&'static Chunk> = SegQueue::new();
/// Chunks of closed pools that threads still held.
static ORPHANS: SegQueue<(&'static Chunk, u64)> = SegQueue::new();
static REUSABLE_SHARED: SegQueue<&'static Shared> = SegQueue::new();
static NEXT_POOL: AtomicU64 = AtomicU64::new(1);
static NEXT_USE: AtomicU64 = AtomicU64::new(1);
/// How many forks lie between this process and the one that loaded the library.
static FORKS: AtomicU32 = AtomicU32::new(0);
static WATCH_FORKS: Once = Once::new();

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// What a thread has of one pool.
#[derive(Clone, Copy)]
struct Slot {
    pool: u64,
    chunk: Option<&'static Chunk>,
    /// The state in which the chunk is held.
    state: u64,
    used: u32,
}

const EMPTY: Slot = Slot { pool: 0, chunk: None, state: 0, used: 0 };

thread_local! {
    // `const` and without a destructor: neither the first use nor the thread's end does anything.
    static THREAD: [Cell<Slot>; SLOTS] = const { [const { Cell::new(EMPTY) }; SLOTS] };
    static THREAD_ID: Cell<u32> = const { Cell::new(0) };
}

/// Where application threads put entries. A handle; any number of copies may exist, also after
/// the pool was closed.
#[derive(Clone, Copy)]
pub struct ChunkPool {
    shared: &'static Shared,
    pool: u64,
}

impl std::fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkPool").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// A pool and its collector. The pool takes at most `limit_bytes`, and never more than
/// [`MAX_POOL_BYTES`].
#[must_use]
pub fn chunks(limit_bytes: usize) -> (ChunkPool, ChunkCollector) {
    chunks_with_spare(limit_bytes, SPARE_BYTES)
}

/// The same with so much that stands ready, of which a sixteenth is taken in memory: for threads
/// that may append a lot while the collector finds no processor.
#[must_use]
pub fn chunks_with_spare(limit_bytes: usize, spare_bytes: usize) -> (ChunkPool, ChunkCollector) {
    WATCH_FORKS.call_once(|| {
        // SAFETY: the handler does nothing but count in an atomic, which is allowed after a fork.
        // It stays valid: the library that holds it is never unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
    });
    let shared: &'static Shared = REUSABLE_SHARED.pop().unwrap_or_else(|| {
        Box::leak(Box::new(Shared {
            pool: AtomicU64::new(0),
            fork: AtomicU32::new(0),
            free: ArrayQueue::new(MAX_CHUNKS),
            cold: ArrayQueue::new(MAX_CHUNKS),
            dropped: [const { AtomicU64::new(0) }; COUNTED_KINDS],
        }))
    });
    let pool = NEXT_POOL.fetch_add(1, Ordering::Relaxed);
    for dropped in &shared.dropped {
        dropped.store(0, Ordering::Relaxed);
    }
    shared.fork.store(FORKS.load(Ordering::Relaxed), Ordering::Relaxed);
    shared.pool.store(pool, Ordering::Release);
    let mut collector = ChunkCollector {
        shared,
        chunks: Vec::new(),
        limit: (limit_bytes / CHUNK_BYTES).clamp(1, MAX_CHUNKS),
        spare: spare_bytes.div_ceil(CHUNK_BYTES).min(MAX_CHUNKS),
        next_look: Instant::now() + LOOK_FOR_DEAD,
    };
    collector.prepare(0);
    (ChunkPool { shared, pool }, collector)
}

impl ChunkPool {
    /// Appends an entry whose payload is `head`, best of a length that the compiler knows, and then
    /// `tail`. `false` = not taken: the pool is closed or belongs to the parent process, or
    /// (counted) no chunk is left or the payload is longer than [`MAX_PAYLOAD_BYTES`].
    #[inline]
    pub fn append(&self, kind: u16, head: &[u8], tail: &[u8]) -> bool {
        let len = head.len() + tail.len();
        if !self.is_open() {
            return false;
        }
        if len > MAX_PAYLOAD_BYTES {
            return self.drop_entry(kind);
        }
        let entry_len = (ENTRY_HEADER_BYTES + len).next_multiple_of(ENTRY_HEADER_BYTES);
        // Not all of it inside `with`: that would be a call of its own, in the middle of others'.
        let slots = THREAD.with(std::ptr::from_ref);
        // SAFETY: without a destructor the slots live as long as the thread, which is this one.
        let slots = unsafe { &*slots };
        let cell = &slots[(self.pool % SLOTS as u64) as usize];
        let mut slot = cell.get();
        if slot.pool != self.pool || slot.used as usize + entry_len > DATA_BYTES {
            slot = self.next_chunk(cell);
        }
        let Some(chunk) = slot.chunk else { return self.drop_entry(kind) };
        // SAFETY: the slot says that this thread holds the chunk and how much of it is used;
        // that the entry fits was looked at above, and a fresh chunk has room for any.
        unsafe { chunk.write_entry(slot.used as usize, kind, head, tail) };
        slot.used += entry_len as u32;
        chunk.published.store(slot.used, Ordering::Release);
        cell.set(slot);
        true
    }

    /// Whether entries are taken.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.pool.load(Ordering::Relaxed) == self.pool
            && self.shared.fork.load(Ordering::Relaxed) == FORKS.load(Ordering::Relaxed)
    }

    #[cold]
    fn next_chunk(&self, cell: &Cell<Slot>) -> Slot {
        release(cell.get());
        let mut slot = Slot { pool: self.pool, ..EMPTY };
        if let Some(chunk) = self.shared.free.pop().or_else(|| self.shared.cold.pop()) {
            let number = NEXT_USE.fetch_add(1, Ordering::Relaxed);
            slot.state = (number << 2) | HELD;
            slot.chunk = Some(chunk);
            chunk.thread.store(thread_id(), Ordering::Relaxed);
            chunk.state.store(slot.state, Ordering::Release);
        } else {
            // A slot without a chunk must ask again next time.
            slot.used = DATA_BYTES as u32;
        }
        cell.set(slot);
        slot
    }

    #[cold]
    fn drop_entry(&self, kind: u16) -> bool {
        let kind = usize::from(kind).min(COUNTED_KINDS - 1);
        self.shared.dropped[kind].fetch_add(1, Ordering::Relaxed);
        false
    }
}

/// Gives up a slot's chunk, unless the collector took it over since.
fn release(slot: Slot) {
    if let Some(chunk) = slot.chunk {
        let sealed = (slot.state & !STATE_MASK) | SEALED;
        let result =
            chunk.state.compare_exchange(slot.state, sealed, Ordering::Release, Ordering::Relaxed);
        // A failure means that the chunk is another's by now, as after a fork.
        result.ok();
    }
}

fn thread_id() -> u32 {
    THREAD_ID.with(|cell| {
        // A forked child's thread has another id than its parent's had.
        let fork = FORKS.load(Ordering::Relaxed);
        if cell.get() == 0 || fork != 0 {
            cell.set(rustix::thread::gettid().as_raw_nonzero().get() as u32);
        }
        cell.get()
    })
}

/// An entry, as the collector gives it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The thread that appended it, by the operating system's number.
    pub thread: u32,
    /// The kind that it was given.
    pub kind: u16,
    /// The payload, aligned to 8.
    pub payload: &'a [u8],
}

/// Reads what threads appended. Dropping it closes the pool.
#[derive(Debug)]
pub struct ChunkCollector {
    shared: &'static Shared,
    chunks: Vec<Owned>,
    limit: usize,
    /// Chunks that shall stand ready for threads that need one.
    spare: usize,
    next_look: Instant,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("pool", &self.pool).finish_non_exhaustive()
    }
}

struct Owned {
    chunk: &'static Chunk,
    read: usize,
    /// All pages of it are there.
    is_faulted: bool,
    /// More than its first page is there, or may be.
    is_touched: bool,
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owned").field("read", &self.read).finish_non_exhaustive()
    }
}

impl ChunkCollector {
    /// Gives every entry that was published since the last time, each thread's in its order, and
    /// prepares chunks for what comes.
    pub fn drain(&mut self, mut take: impl FnMut(Entry<'_>)) {
        // The state is read before what is published: a sealed chunk is then read to its end.
        let mut used: Vec<(u64, usize)> = Vec::new();
        for (index, owned) in self.chunks.iter().enumerate() {
            let state = owned.chunk.state.load(Ordering::Acquire);
            if state & STATE_MASK != FREE {
                used.push((state, index));
            }
        }
        // Uses are numbered in the order in which a thread takes its chunks.
        used.sort_unstable();
        let look_for_dead = Instant::now() >= self.next_look;
        if look_for_dead {
            self.next_look = Instant::now() + LOOK_FOR_DEAD;
        }
        for &(state_seen, index) in &used {
            let owned = &mut self.chunks[index];
            let thread = owned.chunk.thread.load(Ordering::Relaxed);
            let is_dead = look_for_dead && state_seen & STATE_MASK == HELD && !is_alive(thread);
            let state = owned.chunk.state.load(Ordering::Acquire);
            let bytes = owned.chunk.read(owned.read);
            give_entries(thread, bytes, &mut take);
            owned.read += bytes.len();
            owned.is_touched = true;
            if is_dead || state & STATE_MASK == SEALED {
                owned.read = 0;
                free(owned.chunk);
                if !std::mem::replace(&mut owned.is_faulted, true) {
                    owned.chunk.fault_in();
                }
                // The list has room for every chunk of the pool.
                self.shared.free.push(owned.chunk).ok();
            }
        }
        self.prepare(used.len());
    }

    /// Entries dropped since the last time, by kind; only kinds that have any.
    pub fn take_dropped(&mut self) -> Vec<(u16, u64)> {
        let counts = self.shared.dropped.iter().enumerate();
        counts
            .map(|(kind, count)| (kind as u16, count.swap(0, Ordering::Relaxed)))
            .filter(|&(_, count)| count != 0)
            .collect()
    }

    /// Refuses entries from now on. What was appended before can still be drained.
    pub fn close(&mut self) {
        self.shared.pool.store(0, Ordering::Release);
    }

    /// The memory of the pool.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let taken = |owned: &Owned| if owned.is_touched { CHUNK_BYTES } else { PAGE_BYTES };
        self.chunks.iter().map(taken).sum()
    }

    /// Sees to it that chunks stand ready: twice as many as were in use since the last time.
    fn prepare(&mut self, used: usize) {
        while self.shared.free.len() < FAULTED_CHUNKS.max(2 * used) {
            let chunk = match self.shared.cold.pop() {
                Some(chunk) => chunk,
                None => match self.add() {
                    Some(chunk) => chunk,
                    None => return,
                },
            };
            chunk.fault_in();
            let owned = self.chunks.iter_mut().find(|owned| std::ptr::eq(owned.chunk, chunk));
            if let Some(owned) = owned {
                (owned.is_faulted, owned.is_touched) = (true, true);
            }
            // The list has room for every chunk of the pool.
            self.shared.free.push(chunk).ok();
        }
        while self.shared.free.len() + self.shared.cold.len() < self.spare {
            let Some(chunk) = self.add() else { return };
            chunk.touch();
            self.shared.cold.push(chunk).ok();
        }
    }

    /// One more chunk of the pool, in no list yet; `None` at its limit.
    fn add(&mut self) -> Option<&'static Chunk> {
        if self.chunks.len() >= self.limit {
            return None;
        }
        let chunk = reuse().or_else(Chunk::allocate)?;
        self.chunks.push(Owned { chunk, read: 0, is_faulted: false, is_touched: false });
        Some(chunk)
    }
}

impl Drop for ChunkCollector {
    fn drop(&mut self) {
        self.close();
        // Before any is given away: one that another pool uses by then would look held, too.
        for owned in self.chunks.drain(..) {
            let state = owned.chunk.state.load(Ordering::Acquire);
            if state & STATE_MASK != FREE {
                ORPHANS.push((owned.chunk, state));
            }
        }
        while let Some(chunk) = self.shared.free.pop().or_else(|| self.shared.cold.pop()) {
            chunk.give_back_memory();
            REUSABLE.push(chunk);
        }
        REUSABLE_SHARED.push(self.shared);
    }
}

/// A chunk of an earlier pool that nobody holds.
fn reuse() -> Option<&'static Chunk> {
    if let Some(chunk) = REUSABLE.pop() {
        return Some(chunk);
    }
    for _ in 0..ORPHANS.len() {
        let (chunk, held) = ORPHANS.pop()?;
        let state = chunk.state.load(Ordering::Acquire);
        if state == held
            && state & STATE_MASK == HELD
            && is_alive(chunk.thread.load(Ordering::Relaxed))
        {
            ORPHANS.push((chunk, held));
            continue;
        }
        free(chunk);
        return Some(chunk);
    }
    None
}

/// Makes a chunk anybody's that nobody holds.
fn free(chunk: &Chunk) {
    chunk.published.store(0, Ordering::Relaxed);
    chunk.state.store(FREE, Ordering::Release);
}

fn give_entries(thread: u32, mut bytes: &[u8], take: &mut impl FnMut(Entry<'_>)) {
    while let Some((header, rest)) = bytes.split_first_chunk::<ENTRY_HEADER_BYTES>() {
        let header = u64::from_le_bytes(*header);
        let len = (header >> 32) as usize;
        let Some(payload) = rest.get(..len) else { return };
        take(Entry { thread, kind: header as u16, payload });
        let entry_len = len.next_multiple_of(ENTRY_HEADER_BYTES);
        bytes = rest.get(entry_len..).unwrap_or_default();
    }
}
