//! Reads the records of a perf ring: bytes in, meaning out, nothing trusted.
//!
//! The layouts are those of `PERF_SAMPLE_IP | TID | TIME | CPU | PERIOD | REGS_USER | STACK_USER`
//! with `sample_id_all`, as `perf_event_open(2)` describes them; [`crate::perf`] asks for exactly
//! these.

use perf_event_open_sys::bindings as sys;

use crate::registers::{REGISTER_COUNT, Registers};

/// A record of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// A thread's stack at an instant.
    Sample(RawSample<'a>),
    /// Code was mapped.
    Mapped,
    /// A thread was renamed, or its process was replaced by `exec`.
    Renamed { thread: u32, name: &'a [u8], exec: bool },
    /// A thread began.
    Began { process: u32, thread: u32 },
    /// A thread ended.
    Ended { process: u32, thread: u32 },
    /// The kernel had no room for that many records.
    Lost { count: u64, time: u64 },
    /// A kind that says nothing to us.
    Other,
    /// Bytes that are no record of the layout we asked for.
    Malformed,
}

/// A sample as the kernel or the signal handler took it, not unwound yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawSample<'a> {
    /// The instant, CLOCK_MONOTONIC.
    pub(crate) time: u64,
    pub(crate) process: u32,
    pub(crate) thread: u32,
    pub(crate) cpu: u32,
    /// The time that it stands for.
    pub(crate) weight_ns: u64,
    /// `None` where the kernel had no registers of a process of our own word size.
    pub(crate) registers: Option<Registers>,
    /// Where the thread was in its own code, for samples without registers.
    pub(crate) address: u64,
    /// The stack from the stack pointer upwards.
    pub(crate) stack: &'a [u8],
}

/// The size of `perf_event_header`.
pub(crate) const HEADER_LEN: usize = 8;

/// The length of the record that begins with `header`; `None` = no record can be that short.
pub(crate) fn record_len(header: [u8; HEADER_LEN]) -> Option<usize> {
    let len = usize::from(u16::from_ne_bytes([header[6], header[7]]));
    (len >= HEADER_LEN).then_some(len)
}

/// Reads one whole record, header included.
pub(crate) fn decode(record: &[u8]) -> Record<'_> {
    let Some((header, body)) = record.split_first_chunk::<HEADER_LEN>() else {
        return Record::Malformed;
    };
    let kind = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
    let misc = u32::from(u16::from_ne_bytes([header[4], header[5]]));
    let mut reader = Reader(body);
    let decoded = match kind {
        sys::PERF_RECORD_SAMPLE => sample(&mut reader).map(Record::Sample),
        sys::PERF_RECORD_MMAP | sys::PERF_RECORD_MMAP2 => Some(Record::Mapped),
        sys::PERF_RECORD_COMM => renamed(&mut reader, misc),
        sys::PERF_RECORD_FORK => {
            task(&mut reader).map(|(process, thread)| Record::Began { process, thread })
        }
        sys::PERF_RECORD_EXIT => {
            task(&mut reader).map(|(process, thread)| Record::Ended { process, thread })
        }
        sys::PERF_RECORD_LOST => lost(&mut reader, true),
        sys::PERF_RECORD_LOST_SAMPLES => lost(&mut reader, false),
        _ => Some(Record::Other),
    };
    decoded.unwrap_or(Record::Malformed)
}

fn sample<'a>(reader: &mut Reader<'a>) -> Option<RawSample<'a>> {
    let address = reader.u64()?;
    let process = reader.u32()?;
    let thread = reader.u32()?;
    let time = reader.u64()?;
    let cpu = reader.u32()?;
    reader.u32()?;
    let weight_ns = reader.u64()?;
    let abi = reader.u64()?;
    let mut registers = None;
    if abi != u64::from(sys::PERF_SAMPLE_REGS_ABI_NONE) {
        let mut values = [0; REGISTER_COUNT];
        for value in &mut values {
            *value = reader.u64()?;
        }
        if abi == u64::from(sys::PERF_SAMPLE_REGS_ABI_64) {
            registers = Some(Registers::from_perf(values));
        }
    }
    let size = usize::try_from(reader.u64()?).ok()?;
    let mut stack: &[u8] = &[];
    if size != 0 {
        let area = reader.bytes(size)?;
        let valid = usize::try_from(reader.u64()?).ok()?;
        stack = area.get(..valid)?;
    }
    Some(RawSample { time, process, thread, cpu, weight_ns, registers, address, stack })
}

fn renamed<'a>(reader: &mut Reader<'a>, misc: u32) -> Option<Record<'a>> {
    let _process = reader.u32()?;
    let thread = reader.u32()?;
    let end = reader.0.iter().position(|byte| *byte == 0)?;
    let exec = misc & sys::PERF_RECORD_MISC_COMM_EXEC != 0;
    Some(Record::Renamed { thread, name: &reader.0[..end], exec })
}

fn task(reader: &mut Reader<'_>) -> Option<(u32, u32)> {
    let process = reader.u32()?;
    let _parent = reader.u32()?;
    let thread = reader.u32()?;
    Some((process, thread))
}

fn lost<'a>(reader: &mut Reader<'_>, has_id: bool) -> Option<Record<'a>> {
    if has_id {
        reader.u64()?;
    }
    let count = reader.u64()?;
    // `sample_id_all`: pid and tid, then the time.
    reader.u64()?;
    let time = reader.u64()?;
    Some(Record::Lost { count, time })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*value))
    }

    fn u64(&mut self) -> Option<u64> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*value))
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (value, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(value)
    }
}
