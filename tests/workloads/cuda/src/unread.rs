//! CUPTI's floor: what recording costs when nobody reads it.
//!
//! Kernels, copies and the calls that launch them as CUPTI's records, which is how other profilers take
//! them; the backend has calls told by callbacks. The size of the buffers, their zeroing on another
//! thread and the period of the flushes are those of the CUDA backend's preset `launch`; nothing is
//! decoded. Instead, what CUPTI wrote can be kept in a file, for the decoder's tests.

#![expect(unsafe_code, reason = "hands memory to a vendor library and takes it back")]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::mem::offset_of;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_queue::ArrayQueue;
use cudarc::cupti::sys;

use crate::cupti::{Cupti, text_at};

const BUFFER_BYTES: usize = 1 << 20;
const BUFFERS: usize = 64;
const MOST_BUFFERS: usize = 4096;
const FLUSH_PERIOD: Duration = Duration::from_millis(200);
const NAP: Duration = Duration::from_millis(10);

// `CUpti_ActivityKind`.
const MEMCPY: u32 = 1;
const MEMSET: u32 = 2;
const DRIVER: u32 = 4;
const RUNTIME: u32 = 5;
const DEVICE: u32 = 8;
const CONTEXT: u32 = 9;
const CONCURRENT_KERNEL: u32 = 10;
const OVERHEAD: u32 = 17;
const MEMCPY_PEER: u32 = 22;
const STREAM: u32 = 37;
const SYNCHRONIZATION: u32 = 38;

// `CUpti_ActivityAttribute`.
const ZEROED_OUT_BUFFER: u32 = 5;
const PER_THREAD_BUFFER: u32 = 9;

/// Driver functions that put work on a device.
const DRIVER_LAUNCHES: &[u32] = &[
    307, 442, 477, 478, 480, 514, 515, 652, 653, 60, 62, 64, 277, 279, 281, 306, 418, 421, 422,
    423, 319, 321, 426, 427, 216, 218, 220, 222, 224, 226, 428, 429, 430, 431, 432, 433,
];
const LAST_DRIVER_FUNCTION: u32 = 1024;
/// Runtime functions that tell little.
const NOISY_RUNTIME_FUNCTIONS: &[u32] = &[
    10, 11, 15, 16, 17, 133, 134, 136, 138, 151, 200, 207, 210, 251, 317, 318, 324, 325, 327, 409,
    410, 461, 462,
];

#[derive(Clone, Copy)]
struct Buffer(NonNull<u8>);

// SAFETY: a buffer is memory of this process that whoever holds the value may use.
unsafe impl Send for Buffer {}

struct Pool {
    free: ArrayQueue<Buffer>,
    completed: ArrayQueue<(Buffer, usize)>,
    lent: AtomicU64,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool {
        free: ArrayQueue::new(MOST_BUFFERS),
        completed: ArrayQueue::new(MOST_BUFFERS),
        lent: AtomicU64::new(0),
    })
}

fn buffer() -> Buffer {
    let memory = vec![0_u8; BUFFER_BYTES].leak();
    for page in memory.chunks_mut(4096) {
        // Touched here, not on the thread that launches.
        // SAFETY: the reference points to one byte.
        unsafe { (&raw mut page[0]).write_volatile(0) };
    }
    Buffer(NonNull::from(memory).cast())
}

extern "C" fn requested(address: *mut *mut u8, size: *mut usize, records: *mut usize) {
    let buffer = pool().free.pop().unwrap_or_else(buffer);
    pool().lent.fetch_add(1, Ordering::Relaxed);
    // SAFETY: CUPTI passes three places to write to.
    unsafe { *address = buffer.0.as_ptr() };
    // SAFETY: as above.
    unsafe { *size = BUFFER_BYTES };
    // SAFETY: as above; 0 means as many records as fit.
    unsafe { *records = 0 };
}

extern "C" fn completed(
    _context: *mut c_void,
    _stream: u32,
    buffer: *mut u8,
    _size: usize,
    valid: usize,
) {
    let Some(buffer) = NonNull::new(buffer) else { return };
    pool().lent.fetch_sub(1, Ordering::Relaxed);
    // A buffer that finds no room is lost; there is room for all that can exist.
    pool().completed.push((Buffer(buffer), valid.min(BUFFER_BYTES))).ok();
}

/// A recording that nobody reads.
pub(crate) struct Unread {
    cupti: Arc<Cupti>,
    kinds: Vec<u32>,
    /// No more flushes.
    ending: Arc<AtomicBool>,
    /// No more buffers.
    over: Arc<AtomicBool>,
    taker: JoinHandle<(u64, Option<Kept>)>,
    flusher: JoinHandle<()>,
    file: Option<std::path::PathBuf>,
}

impl Unread {
    /// Switches on; with a file, keeps what CUPTI writes, of all kinds that the backend knows.
    pub(crate) fn begin(file: Option<&Path>) -> anyhow::Result<Self> {
        let cupti = Arc::new(Cupti::subscribe()?);
        while pool().free.len() < BUFFERS {
            pool().free.push(buffer()).ok();
        }
        cupti.set_attribute(ZEROED_OUT_BUFFER, 1);
        cupti.set_attribute(PER_THREAD_BUFFER, 1);
        cupti.register(requested, completed)?;
        cupti.use_system_thread_ids()?;
        let mut kinds = Vec::new();
        for kind in [DEVICE, CONTEXT, STREAM] {
            cupti.enable(kind, true)?;
            kinds.push(kind);
        }
        let work = [CONCURRENT_KERNEL, MEMCPY, MEMCPY_PEER, MEMSET, OVERHEAD, RUNTIME, DRIVER];
        for kind in work {
            cupti.enable(kind, false)?;
            kinds.push(kind);
        }
        if file.is_some() {
            cupti.enable(SYNCHRONIZATION, false)?;
            kinds.push(SYNCHRONIZATION);
        } else {
            for &function in NOISY_RUNTIME_FUNCTIONS {
                cupti.leave_out_runtime(function);
            }
            for function in (1..=LAST_DRIVER_FUNCTION).filter(|id| !DRIVER_LAUNCHES.contains(id)) {
                cupti.leave_out_driver(function);
            }
        }
        let ending = Arc::new(AtomicBool::new(false));
        let over = Arc::new(AtomicBool::new(false));
        let kept = file.map(|_| Kept::new(Arc::clone(&cupti)));
        let taker = {
            let over = Arc::clone(&over);
            std::thread::Builder::new()
                .name("unread-taker".to_owned())
                .spawn(move || take(&over, kept))?
        };
        let flusher = {
            let (cupti, ending) = (Arc::clone(&cupti), Arc::clone(&ending));
            std::thread::Builder::new().name("unread-flusher".to_owned()).spawn(move || {
                while !ending.load(Ordering::Acquire) {
                    std::thread::park_timeout(FLUSH_PERIOD);
                    // The end's own flush tells what is wrong.
                    drop(cupti.flush(false));
                }
            })?
        };
        let file = file.map(Path::to_owned);
        Ok(Self { cupti, kinds, ending, over, taker, flusher, file })
    }

    /// Switches off and says how many buffers came.
    pub(crate) fn end(self) -> anyhow::Result<u64> {
        let mut outcome = Ok(());
        for kind in self.kinds.iter().rev() {
            outcome = outcome.and(self.cupti.disable(*kind));
        }
        self.ending.store(true, Ordering::Release);
        self.flusher.thread().unpark();
        let flushed = self.flusher.join();
        outcome = outcome.and(self.cupti.flush(true));
        let deadline = Instant::now() + Duration::from_secs(1);
        while pool().lent.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(NAP);
        }
        self.over.store(true, Ordering::Release);
        self.taker.thread().unpark();
        let taken = self.taker.join();
        outcome = outcome.and(self.cupti.unsubscribe());
        outcome?;
        flushed.ok().context("the flushing thread panicked")?;
        let (buffers, kept) = taken.ok().context("the taking thread panicked")?;
        if let (Some(path), Some(kept)) = (self.file, kept) {
            std::fs::write(&path, kept.into_bytes()).with_context(|| path.display().to_string())?;
        }
        Ok(buffers)
    }
}

/// Hands buffers back until the end.
fn take(over: &AtomicBool, mut kept: Option<Kept>) -> (u64, Option<Kept>) {
    let mut buffers = 0;
    loop {
        // Read first: what was completed before the end was told is not missed.
        let is_over = over.load(Ordering::Acquire);
        let Some((buffer, valid)) = pool().completed.pop() else {
            if is_over {
                return (buffers, kept);
            }
            std::thread::park_timeout(NAP);
            continue;
        };
        buffers += 1;
        // SAFETY: CUPTI gave the buffer back and wrote `valid` bytes, which lie inside of it.
        let written = unsafe { std::slice::from_raw_parts_mut(buffer.0.as_ptr(), valid) };
        if let Some(kept) = &mut kept {
            kept.keep(written);
        }
        written.fill(0);
        pool().free.push(buffer).ok();
    }
}

/// Records as CUPTI wrote them, with the texts that they point to.
///
/// The file is little-endian: the 8 bytes `CUPTIREC`; `cuptiGetVersion`, u32; then three lists,
/// each behind its length, u32: texts {address u64, length u32, bytes}, functions {domain u32,
/// number u32, length u32, bytes}, records {length u32, bytes}.
struct Kept {
    cupti: Arc<Cupti>,
    texts: BTreeMap<u64, Vec<u8>>,
    functions: BTreeMap<(u32, u32), Vec<u8>>,
    records: Vec<Vec<u8>>,
    /// Records by kind and whether they are of a graph.
    counts: BTreeMap<(u32, bool), usize>,
}

impl Kept {
    /// Of each kind no more are kept.
    const MOST: usize = 48;

    fn new(cupti: Arc<Cupti>) -> Self {
        Self {
            cupti,
            texts: BTreeMap::new(),
            functions: BTreeMap::new(),
            records: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    fn keep(&mut self, buffer: &mut [u8]) {
        let offsets = self.cupti.records(buffer);
        for pair in offsets.windows(2) {
            let record = &buffer[pair[0]..pair[1]];
            let number = |offset: usize| {
                let bytes = record.get(offset..offset + 4).and_then(|b| b.try_into().ok());
                bytes.map_or(0, u32::from_ne_bytes)
            };
            let kind = number(0);
            let graph = offset_of!(sys::CUpti_ActivityKernel9, graphId);
            let is_graph = kind == CONCURRENT_KERNEL && number(graph) != 0;
            let count = self.counts.entry((kind, is_graph)).or_default();
            *count += 1;
            if *count > Self::MOST {
                continue;
            }
            let text = match kind {
                CONCURRENT_KERNEL => Some(offset_of!(sys::CUpti_ActivityKernel9, name)),
                DEVICE => Some(offset_of!(sys::CUpti_ActivityDevice4, name)),
                _ => None,
            };
            if let Some(offset) = text {
                let high = u64::from(number(offset + 4)) << 32;
                let address = high | u64::from(number(offset));
                if let Some(text) = text_at(address) {
                    self.texts.insert(address, text);
                }
            }
            let domain = match kind {
                DRIVER => Some(1),
                RUNTIME => Some(2),
                _ => None,
            };
            if let Some(domain) = domain {
                let function = number(offset_of!(sys::CUpti_ActivityAPI, cbid));
                if let Some(name) = self.cupti.function_name(domain, function) {
                    self.functions.insert((domain, function), name);
                }
            }
            self.records.push(record.to_vec());
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut out = b"CUPTIREC".to_vec();
        let number = |out: &mut Vec<u8>, number: usize| {
            out.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        };
        number(&mut out, self.cupti.version as usize);
        number(&mut out, self.texts.len());
        for (address, text) in &self.texts {
            out.extend(address.to_le_bytes());
            number(&mut out, text.len());
            out.extend(text);
        }
        number(&mut out, self.functions.len());
        for ((domain, function), name) in &self.functions {
            number(&mut out, *domain as usize);
            number(&mut out, *function as usize);
            number(&mut out, name.len());
            out.extend(name);
        }
        number(&mut out, self.records.len());
        for record in &self.records {
            number(&mut out, record.len());
            out.extend(record);
        }
        out
    }
}
