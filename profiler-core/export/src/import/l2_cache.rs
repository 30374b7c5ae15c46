//! Counters of the L2 cache, two values a kernel: from the table that `msprof` writes beside a
//! timeline. It has no instants: a line names a task by its device, stream and number, and the table
//! of kernels says when that began.
//!
//! <https://www.hiascend.com/document/detail/en/canncommercial/850/devaids/profiling/atlasprofiling_16_0073.html>

use std::collections::HashMap;
use std::path::Path;

use profiler_core::record::StringId;

use super::metrics::{DEVICE, Metric};
use super::table::Table;
use super::translate::Translator;

const STREAM: &str = "Stream Id";
const TASK: &str = "Task Id";
const NAME: &str = "Op Name";

/// What the columns are called, and the counters.
const COUNTERS: [(&str, &str); 2] =
    [("Hit Rate", "l2_cache_hit_rate"), ("Victim Rate", "l2_cache_victim_rate")];
/// Both are shares of the requests; the second may be greater than one.
const UNIT: &str = "1";

/// Tasks that are known at once.
const MAX_TASKS: usize = 1 << 21;

/// Device, stream and number.
type Place = (u32, u32, u32);

/// When tasks began, by what names them in other tables.
#[derive(Debug, Default)]
pub(super) struct Tasks(HashMap<(Place, StringId), Option<u64>>);

impl Tasks {
    /// One that began then. Numbers come again, as do those of a graph's tasks at each replay:
    /// which one a line of another table means is not known then.
    pub(super) fn add(&mut self, place: Place, name: StringId, start: u64) {
        if self.0.len() >= MAX_TASKS && !self.0.contains_key(&(place, name)) {
            return;
        }
        let known = self.0.entry((place, name)).or_insert(Some(start));
        if *known != Some(start) {
            *known = None;
        }
    }

    fn start(&self, place: Place, name: StringId) -> Option<u64> {
        self.0.get(&(place, name)).copied().flatten()
    }
}

/// Reads the table; what cannot be read of it is a note.
pub(super) fn read(translator: &mut Translator<'_>, table: &Path, tasks: &Tasks) {
    match try_read(translator, table, tasks) {
        Ok(0) => {}
        Ok(lost) => translator.notes.push(format!(
            "{lost} lines of {} became no counters of the L2 cache: no kernel, or more than one, has \
             their device, stream, number and name",
            table.display()
        )),
        Err(error) => translator.notes.push(format!(
            "{} cannot be read, and counters of the L2 cache that stand there are missing: {error}",
            table.display()
        )),
    }
}

/// Gives the number of lines that belong to no kernel.
fn try_read(translator: &mut Translator<'_>, path: &Path, tasks: &Tasks) -> std::io::Result<u64> {
    let mut table = Table::open(path)?;
    let (Some(stream), Some(task), Some(name)) =
        (table.place(STREAM), table.place(TASK), table.place(NAME))
    else {
        return Ok(0);
    };
    let device = table.place(DEVICE);
    let counters = COUNTERS.map(|(column, name)| (table.place(column), Metric::new(name, UNIT)));
    let mut lost = 0;
    while let Some(line) = table.next()? {
        let Some(line) = line else {
            translator.leave_out("lines longer than 1 MiB");
            continue;
        };
        let device = line.number(device).unwrap_or_else(|| translator.only_device());
        let name = translator.rows.string(line.field(name));
        let start = match (line.number(Some(stream)), line.number(Some(task))) {
            (Some(stream), Some(task)) => tasks.start((device, stream, task), name),
            _ => None,
        };
        let Some(start) = start else {
            lost += 1;
            continue;
        };
        for (place, metric) in &counters {
            let value = place.and_then(|place| line.field(place).parse::<f64>().ok());
            if let Some(value) = value.filter(|value| value.is_finite()) {
                metric.push(&mut translator.rows, start, device, value);
            }
        }
        if translator.rows.is_closed {
            break;
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_whose_number_comes_again_is_not_told_apart() {
        let mut tasks = Tasks::default();
        let (add, multiply) = (StringId(1), StringId(2));
        tasks.add((0, 2, 5), add, 100);
        tasks.add((0, 2, 5), multiply, 200);
        tasks.add((0, 2, 6), add, 300);
        tasks.add((0, 2, 6), add, 400);
        tasks.add((0, 2, 6), add, 300);
        // The same line in two tables is one task.
        tasks.add((1, 2, 5), add, 500);
        tasks.add((1, 2, 5), add, 500);
        let started = |device, task, name| tasks.start((device, 2, task), name);
        assert_eq!((started(0, 5, add), started(0, 5, multiply)), (Some(100), Some(200)));
        assert_eq!((started(0, 6, add), started(1, 5, add)), (None, Some(500)));
        assert_eq!(started(0, 7, add), None);
    }
}
