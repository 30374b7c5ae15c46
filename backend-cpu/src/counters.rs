//! Counters of a process: processor time, memory, faults, context switches, threads.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use profiler_core::descriptor::{Kept, raise};
use profiler_core::record::{Counter, HeapRef, StringDef, StringId};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};

use crate::process::Process;
use crate::usage::{OwnUsage, process_cpu_ns};

/// The counters, their names and units; a counter's id is its place here, from 1.
const NAMES: [&str; 10] = [
    "cpu utilisation",
    "cpu time",
    "cpu time in user mode",
    "cpu time in the kernel",
    "resident memory",
    "minor page faults",
    "major page faults",
    "voluntary context switches",
    "involuntary context switches",
    "threads",
];

/// Their units; 100 % is one processor.
const UNITS: [&str; 10] =
    ["%", "ns", "ns", "ns", "bytes", "faults", "faults", "switches", "switches", "threads"];

/// Held open, so that a reading opens nothing.
enum Files {
    /// The kernel tells a process more of itself, and cheaper, than `/proc/PID/stat`.
    Own { statm: Kept<File>, threads: Kept<File> },
    /// `status` is the main thread's.
    Other { stat: Kept<File>, status: Kept<File> },
}

/// Reads the counters of one process and emits them.
pub(crate) struct Counters {
    sink: Arc<dyn RecordSink>,
    stream: StreamId,
    pid: u32,
    files: Files,
    page_bytes: u64,
    tick_ns: u64,
    defined: bool,
    /// The instant and the processor time of the last reading.
    last: Option<(u64, f64)>,
}

impl Counters {
    /// Opens what the readings need.
    ///
    /// # Errors
    ///
    /// Where `/proc` does not show the process.
    pub(crate) fn open(
        process: &Process,
        sink: Arc<dyn RecordSink>,
        stream: StreamId,
    ) -> std::io::Result<Self> {
        let file = |name: &str| -> std::io::Result<Kept<File>> {
            Ok(Kept::new(File::from(raise(process.file(name)?.into()))))
        };
        let files = match process.own {
            true => Files::Own { statm: file("statm")?, threads: file("task")? },
            false => Files::Other { stat: file("stat")?, status: file("status")? },
        };
        Ok(Self {
            sink,
            stream,
            pid: process.pid,
            files,
            page_bytes: rustix::param::page_size() as u64,
            tick_ns: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            defined: false,
            last: None,
        })
    }

    /// Reads and emits all counters; `false` = the sink or the process has ended.
    pub(crate) fn sample(&mut self, time: u64) -> bool {
        let Some(mut values) = self.read() else { return false };
        values[0] = values[1].and_then(|cpu_ns| self.utilisation(time, cpu_ns));
        // The kernel adds the context switches up for the calling process only; of others it
        // tells them thread by thread, and reading every thread's would cost more than sampling.
        let switches_of = if matches!(self.files, Files::Own { .. }) { 0 } else { self.pid };
        let mut rows = Vec::with_capacity(NAMES.len());
        for (index, value) in values.iter().enumerate() {
            let Some(value) = *value else { continue };
            rows.push(Counter {
                time,
                value,
                name: name_id(index),
                unit: unit_id(index),
                device: u32::MAX,
                thread: if matches!(index, 7 | 8) { switches_of } else { 0 },
            });
        }
        self.emit(&rows)
    }

    /// The values but the utilisation, in the order of [`NAMES`].
    fn read(&self) -> Option<Values> {
        let mut buffer = [0; 4096];
        let mut values: Values = [None; NAMES.len()];
        let resident_pages;
        match &self.files {
            Files::Own { statm, threads } => {
                let usage = OwnUsage::read().ok()?;
                values[1] = Some((usage.user_ns + usage.system_ns) as f64);
                values[2] = Some(usage.user_ns as f64);
                values[3] = Some(usage.system_ns as f64);
                values[5] = Some(usage.minor_faults as f64);
                values[6] = Some(usage.major_faults as f64);
                values[7] = Some(usage.voluntary_switches as f64);
                values[8] = Some(usage.involuntary_switches as f64);
                // The folder has a link for each thread, one for itself and one for its parent.
                let links = threads.get().ok()?.metadata().ok()?.nlink();
                values[9] = Some(links.saturating_sub(2) as f64);
                resident_pages = second_number(read(statm, &mut buffer)?)?;
            }
            Files::Other { stat, status } => {
                let stat = Stat::parse(read(stat, &mut buffer)?)?;
                let user = stat.user_ticks.saturating_mul(self.tick_ns);
                let system = stat.system_ticks.saturating_mul(self.tick_ns);
                let cpu_ns = process_cpu_ns(self.pid).unwrap_or(user.saturating_add(system));
                values[1] = Some(cpu_ns as f64);
                values[2] = Some(user as f64);
                values[3] = Some(system as f64);
                values[5] = Some(stat.minor_faults as f64);
                values[6] = Some(stat.major_faults as f64);
                values[9] = Some(stat.threads as f64);
                resident_pages = stat.resident_pages;
                if let Some(text) = read(status, &mut buffer) {
                    values[7] = status_field(text, b"voluntary_ctxt_switches:");
                    values[8] = status_field(text, b"nonvoluntary_ctxt_switches:");
                }
            }
        }
        values[4] = Some(resident_pages.saturating_mul(self.page_bytes) as f64);
        Some(values)
    }

    fn emit(&mut self, rows: &[Counter]) -> bool {
        let rows = Batch::new(self.stream, rows);
        let answer = match self.defined {
            true => self.sink.emit(&[rows]),
            false => {
                let (definitions, heap) = definitions();
                self.sink.emit(&[Batch::with_heap(self.stream, &definitions, &heap), rows])
            }
        };
        match answer {
            Emit::Accepted => self.defined = true,
            Emit::Closed => return false,
            // Refused and counted; the definitions come again until they are taken.
            _ => {}
        }
        true
    }

    fn utilisation(&mut self, time: u64, cpu_ns: f64) -> Option<f64> {
        let before = self.last.replace((time, cpu_ns));
        let (before_time, before_cpu) = before?;
        let elapsed = time.checked_sub(before_time).filter(|elapsed| *elapsed > 0)?;
        Some((cpu_ns - before_cpu).max(0.0) / elapsed as f64 * 100.0)
    }
}

/// A value a counter; `None` = not known.
type Values = [Option<f64>; NAMES.len()];

fn name_id(index: usize) -> StringId {
    StringId(index as u32 + 1)
}

fn unit_id(index: usize) -> StringId {
    StringId((NAMES.len() + index) as u32 + 1)
}

fn definitions() -> (Vec<StringDef>, Vec<u8>) {
    let mut heap = Vec::new();
    let mut rows = Vec::new();
    for (index, text) in NAMES.iter().enumerate() {
        let text = HeapRef::push(&mut heap, text.as_bytes());
        rows.push(StringDef { text, id: name_id(index), reserved: 0 });
    }
    for (index, text) in UNITS.iter().enumerate() {
        let text = HeapRef::push(&mut heap, text.as_bytes());
        rows.push(StringDef { text, id: unit_id(index), reserved: 0 });
    }
    (rows, heap)
}

fn read<'a>(file: &Kept<File>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let len = file.get().ok()?.read_at(buffer, 0).ok()?;
    buffer.get(..len).filter(|text| !text.is_empty())
}

/// What we need of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: u32,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    pub(crate) user_ticks: u64,
    pub(crate) system_ticks: u64,
    pub(crate) threads: u64,
    pub(crate) resident_pages: u64,
}

impl Stat {
    /// Reads the line; `None` where it is none.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        // The name may hold anything, blanks and brackets too; after its bracket comes field 3.
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(field(4)?).ok()?,
            minor_faults: field(10)?,
            major_faults: field(12)?,
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            threads: field(20)?,
            resident_pages: field(24)?,
        })
    }
}

/// The second number of a line of numbers.
fn second_number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn status_field(text: &[u8], key: &[u8]) -> Option<f64> {
    let line = text.split(|byte| *byte == b'\n').find(|line| line.starts_with(key))?;
    let value = std::str::from_utf8(&line[key.len()..]).ok()?;
    value.trim().parse::<u64>().ok().map(|value| value as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let line =
            b"42 (a ) R (b) S 7 42 42 0 -1 4194304 100 1 3 2 50 60 0 0 20 0 9 0 123 4096 25 \
                     18446744073709551615 0 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.parent, stat.threads, stat.resident_pages), (7, 9, 25));
        assert_eq!((stat.minor_faults, stat.major_faults), (100, 3));
        assert_eq!((stat.user_ticks, stat.system_ticks), (50, 60));
    }

    #[test]
    fn context_switches_are_told_apart() {
        let text = b"Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(status_field(text, b"voluntary_ctxt_switches:"), Some(12.0));
        assert_eq!(status_field(text, b"nonvoluntary_ctxt_switches:"), Some(3.0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _parsed: Option<Stat> = Stat::parse(&bytes);
            let _field: Option<f64> = status_field(&bytes, b"threads:");
        }
    }
}
