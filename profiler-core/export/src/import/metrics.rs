//! Counters of the AI cores, one value a kernel each: from the tables that Ascend's tools write
//! beside a timeline, and from their databases. They are counters at the instant at which the
//! kernel began, of its device.

use std::path::Path;

use profiler_core::record::Counter;

use super::event::nanoseconds;
use super::l2_cache::Tasks;
use super::rows::{AnyRow, Rows};
use super::table::Table;
use super::translate::Translator;

/// What the column of instants is called: by msprof, and by torch_npu's profiler.
const STARTS: [&str; 2] = ["Task Start Time(us)", "Start Time(us)"];
/// What the columns are called that name a task; its name by msprof, and by torch_npu's profiler.
pub(super) const DEVICE: &str = "Device_id";
const STREAM: &str = "Stream ID";
const TASK: &str = "Task ID";
const NAMES: [&str; 2] = ["Op Name", "Name"];

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

    pub(super) fn new(name: &str, unit: &str) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned() }
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
    stream: Option<usize>,
    task: Option<usize>,
    name: Option<usize>,
    metrics: Vec<(usize, Metric)>,
}

impl Columns {
    /// `None` where the table has no instants.
    fn of(head: &[String]) -> Option<Self> {
        let place = |name: &str| head.iter().position(|column| column == name);
        let metrics: Vec<(usize, Metric)> = head
            .iter()
            .enumerate()
            .filter_map(|(place, column)| Some((place, Metric::of_column(column)?)))
            .collect();
        let start = STARTS.into_iter().find_map(place)?;
        Some(Self {
            start,
            device: place(DEVICE),
            stream: place(STREAM),
            task: place(TASK),
            name: NAMES.into_iter().find_map(place),
            metrics,
        })
    }
}

/// Reads a table of kernels; what cannot be read of it is a note. `tasks` are those that other
/// tables tell more of.
pub(super) fn read(translator: &mut Translator<'_>, table: &Path, tasks: Option<&mut Tasks>) {
    if let Err(error) = try_read(translator, table, tasks) {
        translator.notes.push(format!(
            "{} cannot be read, and counters of the AI cores that stand there are missing: {error}",
            table.display()
        ));
    }
}

fn try_read(
    translator: &mut Translator<'_>,
    path: &Path,
    mut tasks: Option<&mut Tasks>,
) -> std::io::Result<()> {
    let mut table = Table::open(path)?;
    let Some(columns) = Columns::of(table.head()) else { return Ok(()) };
    if columns.metrics.is_empty() && tasks.is_none() {
        return Ok(());
    }
    while let Some(line) = table.next()? {
        let Some(line) = line else {
            translator.leave_out("lines longer than 1 MiB");
            continue;
        };
        let start = nanoseconds(line.field(columns.start)).and_then(|ns| u64::try_from(ns).ok());
        let Some(start) = start else {
            translator.leave_out("counters without an instant");
            continue;
        };
        let device = line.number(columns.device).unwrap_or_else(|| translator.only_device());
        if let (Some(tasks), Some(name), Some(stream), Some(task)) =
            (&mut tasks, columns.name, line.number(columns.stream), line.number(columns.task))
        {
            tasks.add((device, stream, task), translator.rows.string(line.field(name)), start);
        }
        for (place, metric) in &columns.metrics {
            // `N/A` where the kernel's core has no such counter.
            let Ok(value) = line.field(*place).parse::<f64>() else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_kernel_are_told_from_its_counters() {
        let fields = |head: &str| head.split(',').map(str::to_owned).collect::<Vec<_>>();
        let head = "Device_id,Model ID,Op Name,Task Start Time(us),Task Duration(us),HF32 Eligible,\
                    aicore_time(us),aic_mac_ratio,aic_total_cycles,aic_l2_read_bw(GB/s),memory_bound";
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
        assert_eq!((columns.name, columns.stream, columns.task), (Some(2), None, None));
        let without = Columns::of(&fields("Device_id,Op Name,Task Start Time(us)")).unwrap();
        assert!(without.metrics.is_empty());
        assert!(Columns::of(&fields("Device_id,aic_mac_ratio")).is_none());
    }
}
