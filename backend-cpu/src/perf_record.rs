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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u32, misc: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend((misc as u16).to_ne_bytes());
        bytes.extend(((HEADER_LEN + body.len()) as u16).to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn pair(low: u32, high: u32) -> u64 {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&low.to_ne_bytes());
        bytes[4..].copy_from_slice(&high.to_ne_bytes());
        u64::from_ne_bytes(bytes)
    }

    /// A sample with `abi`, a stack area of `area` and `valid` bytes of it filled.
    fn sample_record(abi: u64, area: &[u8], valid: u64) -> Vec<u8> {
        let mut body = words(&[0x1000, pair(7, 8), 99, pair(3, 0), 10_101_010, abi]);
        if abi != 0 {
            body.extend(words(&(1..=REGISTER_COUNT as u64).collect::<Vec<_>>()));
        }
        body.extend(words(&[area.len() as u64]));
        body.extend(area);
        if !area.is_empty() {
            body.extend(words(&[valid]));
        }
        record(sys::PERF_RECORD_SAMPLE, sys::PERF_RECORD_MISC_USER, &body)
    }

    #[test]
    fn a_sample_carries_registers_and_the_filled_part_of_the_stack() {
        let bytes = sample_record(2, &[5; 64], 24);
        let Record::Sample(sample) = decode(&bytes) else { panic!("{:?}", decode(&bytes)) };
        assert_eq!((sample.process, sample.thread, sample.cpu, sample.time), (7, 8, 3, 99));
        assert_eq!((sample.address, sample.weight_ns), (0x1000, 10_101_010));
        assert_eq!(sample.stack, [5; 24]);
        let registers = sample.registers.unwrap();
        assert!(registers.ip != 0 && registers.sp != 0 && registers.fp != 0);
    }

    #[test]
    fn a_sample_of_a_32_bit_process_or_without_registers_keeps_its_address() {
        for abi in [0, 1] {
            let bytes = sample_record(abi, &[], 0);
            let Record::Sample(sample) = decode(&bytes) else { panic!("{:?}", decode(&bytes)) };
            assert_eq!((sample.registers, sample.address), (None, 0x1000));
            assert_eq!(sample.stack, [] as [u8; 0]);
        }
    }

    #[test]
    fn a_stack_longer_than_its_area_is_no_sample() {
        assert_eq!(decode(&sample_record(2, &[0; 8], 9)), Record::Malformed);
        let mut cut = sample_record(2, &[0; 64], 64);
        cut.truncate(cut.len() - 1);
        assert_eq!(decode(&cut), Record::Malformed);
    }

    #[test]
    fn losses_are_counted_with_their_instant() {
        let identity = [pair(7, 8), 1234, pair(0, 0)];
        let lost = words(&[&[42, 17], &identity[..]].concat());
        let expected = Record::Lost { count: 17, time: 1234 };
        assert_eq!(decode(&record(sys::PERF_RECORD_LOST, 0, &lost)), expected);
        let lost = words(&[&[17], &identity[..]].concat());
        assert_eq!(decode(&record(sys::PERF_RECORD_LOST_SAMPLES, 0, &lost)), expected);
    }

    #[test]
    fn threads_begin_end_and_are_renamed() {
        let task = words(&[pair(7, 1), pair(9, 2), 5]);
        let began = Record::Began { process: 7, thread: 9 };
        assert_eq!(decode(&record(sys::PERF_RECORD_FORK, 0, &task)), began);
        let ended = Record::Ended { process: 7, thread: 9 };
        assert_eq!(decode(&record(sys::PERF_RECORD_EXIT, 0, &task)), ended);
        let mut name = words(&[pair(7, 9)]);
        name.extend(b"worker\0\0");
        let renamed = |exec| Record::Renamed { thread: 9, name: b"worker", exec };
        assert_eq!(decode(&record(sys::PERF_RECORD_COMM, 0, &name)), renamed(false));
        let misc = sys::PERF_RECORD_MISC_COMM_EXEC;
        assert_eq!(decode(&record(sys::PERF_RECORD_COMM, misc, &name)), renamed(true));
        assert_eq!(decode(&record(4321, 0, &[])), Record::Other);
    }

    #[test]
    fn a_record_is_no_shorter_than_its_header() {
        assert_eq!(record_len([0; 8]), None);
        let whole = record(1, 0, &[0; 16]);
        assert_eq!(record_len(*whole.first_chunk().unwrap()), Some(24));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_a_panic(kind in 0u32..32, misc: u16, body: Vec<u8>) {
            let bytes = record(kind, u32::from(misc), &body);
            if let Record::Sample(sample) = decode(&bytes) {
                prop_assert!(sample.stack.len() <= body.len());
            }
            let _short: Record<'_> = decode(&body);
        }

        #[test]
        fn a_cut_sample_is_malformed(len in 0usize..200) {
            let bytes = sample_record(2, &[1; 64], 64);
            if len < bytes.len() {
                prop_assert_eq!(decode(&bytes[..len]), Record::Malformed);
            }
        }
    }
}
