//! Counters of the AI cores, one value a kernel each: from the tables that Ascend's tools write
//! beside a timeline, and from their databases. They are counters at the instant at which the
//! kernel began, of its device.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use profiler_core::record::Counter;

use super::event::nanoseconds;
use super::rows::{AnyRow, Rows};
use super::translate::Translator;

/// Longer lines are left out; operators of very many inputs have some thousand bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What the column of instants is called: by msprof, and by torch_npu's profiler.
const STARTS: [&str; 2] = ["Task Start Time(us)", "Start Time(us)"];
const DEVICE: &str = "Device_id";

/// A counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metric {
    name: String,
    unit: String,
}

impl Metric {
    /// As a table's head has it: `aic_mac_time(us)`. What describes a kernel begins with a capital.
    fn of_column(head: &str) -> Option<Self> {
        if !head.starts_with(|first: char| first.is_ascii_lowercase()) {
            return None;
        }
        let (name, unit) = match head.strip_suffix(')').and_then(|head| head.rsplit_once('(')) {
            Some((name, unit)) => (name, unit),
            None => (head, common_unit(head)),
        };
        Some(Self { name: name.to_owned(), unit: unit.to_owned() })
    }

    /// As a database has it, in units of its own and without saying so.
    #[cfg_attr(not(feature = "ascend-db"), expect(dead_code, reason = "no databases are read"))]
    pub(super) fn of_database(name: &str) -> Self {
        let unit = match name {
            _ if name.ends_with("_time") => "ns",
            _ if name.contains("_bw") => "bytes/s",
            _ => common_unit(name),
        };
        Self { name: name.to_owned(), unit: unit.to_owned() }
    }

    pub(super) fn push(&self, rows: &mut Rows<'_>, time: u64, device: u32, value: f64) {
        let row = Counter {
            time,
            value,
            name: rows.string(&self.name),
            unit: rows.string(&self.unit),
            device,
            thread: 0,
        };
        rows.push(AnyRow::Counter(row));
    }
}

/// The unit of what has one whoever wrote it.
fn common_unit(name: &str) -> &'static str {
    match name {
        _ if name.ends_with("_ratio") || name.ends_with("_rate") => "1",
        _ if name.ends_with("_cycles") => "cycles",
        _ => "",
    }
}

/// Where the values of a table stand.
struct Columns {
    start: usize,
    device: Option<usize>,
    metrics: Vec<(usize, Metric)>,
}

impl Columns {
    /// `None` where the table has no counters.
    fn of(head: &[String]) -> Option<Self> {
        let place = |name: &str| head.iter().position(|column| column == name);
        let metrics: Vec<(usize, Metric)> = head
            .iter()
            .enumerate()
            .filter_map(|(place, column)| Some((place, Metric::of_column(column)?)))
            .collect();
        let start = STARTS.into_iter().find_map(place)?;
        (!metrics.is_empty()).then_some(Self { start, device: place(DEVICE), metrics })
    }
}

/// Reads a table of kernels; what cannot be read of it is a note.
pub(super) fn read(translator: &mut Translator<'_>, table: &Path) {
    if let Err(error) = try_read(translator, table) {
        translator.notes.push(format!(
            "{} cannot be read, and counters of the AI cores that stand there are missing: {error}",
            table.display()
        ));
    }
}

fn try_read(translator: &mut Translator<'_>, table: &Path) -> std::io::Result<()> {
    let mut lines = Lines { input: BufReader::new(File::open(table)?), line: Vec::new() };
    let Some(Some(head)) = lines.next()? else { return Ok(()) };
    let Some(columns) = Columns::of(&head) else { return Ok(()) };
    while let Some(line) = lines.next()? {
        let Some(fields) = line else {
            translator.leave_out("lines longer than 1 MiB");
            continue;
        };
        let field = |place: usize| fields.get(place).map_or("", String::as_str);
        let start = nanoseconds(field(columns.start)).and_then(|ns| u64::try_from(ns).ok());
        let Some(start) = start else {
            translator.leave_out("counters without an instant");
            continue;
        };
        let device = columns.device.and_then(|place| field(place).parse().ok()).unwrap_or(0);
        for (place, metric) in &columns.metrics {
            // `N/A` where the kernel's core has no such counter.
            let Ok(value) = field(*place).parse::<f64>() else { continue };
            if value.is_finite() {
                metric.push(&mut translator.rows, start, device, value);
            }
        }
        if translator.rows.is_closed {
            break;
        }
    }
    Ok(())
}

/// The lines of a table, cut into fields. Readers of libraries take lines of any length.
struct Lines<R> {
    input: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line; `Some(None)` = it is too long.
    fn next(&mut self) -> std::io::Result<Option<Option<Vec<String>>>> {
        self.line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        if self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') && self.line.len() > MAX_LINE_BYTES {
            skip_line(&mut self.input)?;
            return Ok(Some(None));
        }
        Ok(Some(Some(fields(&String::from_utf8_lossy(&self.line)))))
    }
}

fn skip_line(input: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        let (used, is_over) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (bytes.len(), bytes.is_empty()),
        };
        input.consume(used);
        if is_over {
            return Ok(());
        }
    }
}

/// Fields parted by commas; those in quotes may hold some.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for char in line.trim_start_matches('\u{feff}').chars() {
        match char {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap_or_else(|| unreachable!("one is there")).push(char),
        }
    }
    for field in &mut fields {
        // Instants end with a tab, for the sake of spreadsheets.
        *field = field.trim().to_owned();
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_kernel_are_told_from_its_counters() {
        let head = "Device_id,Model ID,Op Name,Task Start Time(us),Task Duration(us),HF32 Eligible,\
                    aicore_time(us),aic_mac_ratio,aic_total_cycles,aic_l2_read_bw(GB/s),memory_bound\n";
        let columns = Columns::of(&fields(head)).unwrap();
        assert_eq!((columns.start, columns.device), (3, Some(0)));
        let found: Vec<(usize, &str, &str)> = columns
            .metrics
            .iter()
            .map(|(place, metric)| (*place, metric.name.as_str(), metric.unit.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (6, "aicore_time", "us"),
                (7, "aic_mac_ratio", "1"),
                (8, "aic_total_cycles", "cycles"),
                (9, "aic_l2_read_bw", "GB/s"),
                (10, "memory_bound", ""),
            ]
        );
        assert!(Columns::of(&fields("Device_id,Op Name,Task Start Time(us)")).is_none());
        assert!(Columns::of(&fields("Device_id,aic_mac_ratio")).is_none());
    }

    #[test]
    fn lines_are_cut_at_commas_outside_of_quotes_and_long_ones_passed_over() {
        let long = "x".repeat(MAX_LINE_BYTES + 10);
        let text = format!("a,\"\"\"4,16;16\"\"\", 3.5\t\r\n{long}\n,b");
        let mut lines = Lines { input: text.as_bytes(), line: Vec::new() };
        assert_eq!(lines.next().unwrap().unwrap().unwrap(), ["a", "4,16;16", "3.5"]);
        assert_eq!(lines.next().unwrap(), Some(None));
        assert_eq!(lines.next().unwrap().unwrap().unwrap(), ["", "b"]);
        assert_eq!(lines.next().unwrap(), None);
    }
}
