//! gzip files that any reader takes: one member, made of independently deflated segments.
//!
//! Browsers and chrome://tracing read the first member of a gzip file and stop, so compressing
//! in parallel must not make several. Each segment ends with a full flush: it refers to nothing
//! before it and ends on a byte, so segments may be deflated on any thread and simply follow each
//! other. The checksums of the segments are combined.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress};

/// The raw bytes of a segment.
pub const SEGMENT_BYTES: usize = 1 << 20;

const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty final block.
const END: [u8; 2] = [3, 0];

/// How many threads compress: a quarter of the cores, at least one.
#[must_use]
pub fn threads() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    quarter_of(cores)
}

fn quarter_of(cores: usize) -> NonZeroUsize {
    NonZeroUsize::new(cores / 4).unwrap_or(NonZeroUsize::MIN)
}

/// Deflated bytes that stand for themselves, with what a gzip trailer must know of them.
#[derive(Debug, Clone)]
pub struct Segment {
    deflated: Vec<u8>,
    crc: Hasher,
    raw_bytes: u64,
}

/// Deflates one segment after the other.
#[derive(Debug)]
struct Deflater {
    compress: Compress,
}

impl Deflater {
    fn new(level: u32) -> Self {
        Self { compress: Compress::new(Compression::new(level.min(9)), false) }
    }

    fn segment(&mut self, raw: &[u8]) -> io::Result<Segment> {
        let mut crc = Hasher::new();
        crc.update(raw);
        let mut deflated = Vec::with_capacity(raw.len() / 4 + 4096);
        let mut rest = raw;
        loop {
            if deflated.capacity() - deflated.len() < 4096 {
                deflated.reserve((rest.len() / 4).max(64 << 10));
            }
            let before = self.compress.total_in();
            self.compress
                .compress_vec(rest, &mut deflated, FlushCompress::Full)
                .map_err(io::Error::other)?;
            rest = &rest[(self.compress.total_in() - before) as usize..];
            // A flush is whole when it leaves room unused.
            if rest.is_empty() && deflated.len() < deflated.capacity() {
                return Ok(Segment { deflated, crc, raw_bytes: raw.len() as u64 });
            }
        }
    }
}

/// Deflates one segment by itself, for [`GzipWriter::append`].
///
/// # Errors
///
/// None that a caller could cause.
pub fn deflate(raw: &[u8], level: u32) -> io::Result<Segment> {
    Deflater::new(level).segment(raw)
}

/// Writes one gzip member.
#[derive(Debug)]
pub struct GzipWriter<W> {
    out: W,
    raw: Vec<u8>,
    crc: Hasher,
    raw_bytes: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Here(Deflater),
    Pool(Pool),
}

impl<W: Write> GzipWriter<W> {
    /// Begins a member. More than one thread compress beside the caller's; one is the caller's.
    ///
    /// # Errors
    ///
    /// Where the header cannot be written or a thread cannot be started.
    pub fn new(mut out: W, level: u32, threads: NonZeroUsize) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        let work = match threads.get() {
            1 => Work::Here(Deflater::new(level)),
            count => Work::Pool(Pool::start(level, count)?),
        };
        let raw = Vec::with_capacity(SEGMENT_BYTES);
        Ok(Self { out, raw, crc: Hasher::new(), raw_bytes: 0, work })
    }

    /// Appends a segment that was deflated elsewhere.
    ///
    /// # Errors
    ///
    /// Where the bytes before it or its own cannot be written.
    pub fn append(&mut self, segment: &Segment) -> io::Result<()> {
        self.end_segment()?;
        self.drain()?;
        self.put(segment)
    }

    /// Ends the member and returns what it was written to.
    ///
    /// # Errors
    ///
    /// Where bytes cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_segment()?;
        self.drain()?;
        self.out.write_all(&END)?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        self.out.write_all(&(self.raw_bytes as u32).to_le_bytes())?;
        Ok(self.out)
    }

    fn end_segment(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let done = match &mut self.work {
            Work::Here(deflater) => {
                let segment = deflater.segment(&self.raw)?;
                self.raw.clear();
                Some(segment)
            }
            Work::Pool(pool) => {
                let raw = std::mem::replace(&mut self.raw, Vec::with_capacity(SEGMENT_BYTES));
                pool.give(raw)?
            }
        };
        match done {
            Some(segment) => self.put(&segment),
            None => Ok(()),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        while let Work::Pool(pool) = &mut self.work
            && let Some(segment) = pool.take()?
        {
            self.put(&segment)?;
        }
        Ok(())
    }

    fn put(&mut self, segment: &Segment) -> io::Result<()> {
        self.crc.combine(&segment.crc);
        self.raw_bytes += segment.raw_bytes;
        self.out.write_all(&segment.deflated)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = SEGMENT_BYTES - self.raw.len();
        let taken = bytes.len().min(room);
        self.raw.extend_from_slice(&bytes[..taken]);
        if self.raw.len() == SEGMENT_BYTES {
            self.end_segment()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Threads that deflate segments; what they give back keeps the order of what they got.
#[derive(Debug)]
struct Pool {
    threads: Vec<PoolThread>,
    /// Segments given, and segments taken back.
    given: usize,
    taken: usize,
}

#[derive(Debug)]
struct PoolThread {
    jobs: Option<SyncSender<Vec<u8>>>,
    done: Receiver<io::Result<Segment>>,
    handle: Option<JoinHandle<()>>,
}

impl Pool {
    fn start(level: u32, count: usize) -> io::Result<Self> {
        let threads =
            (0..count).map(|index| PoolThread::start(level, index)).collect::<io::Result<_>>()?;
        Ok(Self { threads, given: 0, taken: 0 })
    }

    /// Gives a segment to the next thread; returns the one that it has done, once each has one.
    fn give(&mut self, raw: Vec<u8>) -> io::Result<Option<Segment>> {
        let done = match self.given - self.taken == self.threads.len() {
            true => self.take()?,
            false => None,
        };
        let thread = self.given % self.threads.len();
        self.given += 1;
        let sent = self.threads[thread].jobs.as_ref().is_some_and(|jobs| jobs.send(raw).is_ok());
        if sent { Ok(done) } else { Err(io::Error::other("a compressing thread ended")) }
    }

    /// Waits for the oldest segment that was given; `None` = all were taken.
    fn take(&mut self) -> io::Result<Option<Segment>> {
        if self.taken == self.given {
            return Ok(None);
        }
        let thread = self.taken % self.threads.len();
        self.taken += 1;
        match self.threads[thread].done.recv() {
            Ok(segment) => segment.map(Some),
            Err(ended) => Err(io::Error::other(ended)),
        }
    }
}

impl PoolThread {
    fn start(level: u32, index: usize) -> io::Result<Self> {
        let (jobs, todo) = sync_channel::<Vec<u8>>(1);
        let (results, done) = sync_channel(1);
        let handle =
            std::thread::Builder::new().name(format!("omniprof-gz-{index}")).spawn(move || {
                let mut deflater = Deflater::new(level);
                while let Ok(raw) = todo.recv() {
                    if results.send(deflater.segment(&raw)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { jobs: Some(jobs), done, handle: Some(handle) })
    }
}

impl Drop for PoolThread {
    fn drop(&mut self) {
        self.jobs = None;
        // A thread that holds a result which nobody takes waits for nothing else.
        while self.done.recv().is_ok() {}
        if let Some(handle) = self.handle.take() {
            // A panic in there was seen as an ended thread already.
            let _ended: std::thread::Result<()> = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::bufread::{GzDecoder, MultiGzDecoder};

    use super::*;

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * i / 7 % 251) as u8 ^ (i / 1000) as u8).collect()
    }

    #[test]
    fn a_quarter_of_the_cores_compresses() {
        for (cores, threads) in [(1, 1), (2, 1), (7, 1), (8, 2), (11, 2), (64, 16)] {
            assert_eq!(quarter_of(cores).get(), threads, "of {cores}");
        }
    }

    /// The whole file must be the first member, with nothing behind it.
    fn read_one_member(file: &[u8]) -> Vec<u8> {
        let mut raw = Vec::new();
        let mut rest = file;
        GzDecoder::new(&mut rest).read_to_end(&mut raw).unwrap();
        assert!(rest.is_empty(), "{} bytes behind the first member", rest.len());
        let mut all = Vec::new();
        MultiGzDecoder::new(file).read_to_end(&mut all).unwrap();
        assert_eq!(raw, all);
        raw
    }

    #[test]
    fn many_segments_are_one_member() {
        for threads in [1, 3] {
            for len in [0, 1, 1000, SEGMENT_BYTES, 5 * SEGMENT_BYTES + 17] {
                let raw = sample(len);
                let threads = NonZeroUsize::new(threads).unwrap();
                let mut gzip = GzipWriter::new(Vec::new(), 1, threads).unwrap();
                for part in raw.chunks(70_001) {
                    gzip.write_all(part).unwrap();
                }
                assert_eq!(read_one_member(&gzip.finish().unwrap()), raw);
            }
        }
    }

    #[test]
    fn segments_deflated_elsewhere_are_copied_into_the_member() {
        let (first, second) = (sample(100_000), sample(3_000_000));
        let mut gzip = GzipWriter::new(Vec::new(), 1, NonZeroUsize::MIN).unwrap();
        gzip.write_all(b"head").unwrap();
        gzip.append(&deflate(&first, 1).unwrap()).unwrap();
        gzip.append(&deflate(&second, 6).unwrap()).unwrap();
        gzip.write_all(b"tail").unwrap();
        let raw = read_one_member(&gzip.finish().unwrap());
        assert_eq!(raw, [b"head".as_slice(), &first, &second, b"tail"].concat());
    }

    #[test]
    fn a_writer_that_fails_ends_the_threads() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if bytes.len() == HEADER.len() {
                    Ok(bytes.len())
                } else {
                    Err(io::ErrorKind::StorageFull.into())
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut gzip = GzipWriter::new(Full, 1, NonZeroUsize::new(2).unwrap()).unwrap();
        let error = gzip.write_all(&sample(8 * SEGMENT_BYTES)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
