//! The second reading: the rows of each table.

use std::collections::HashMap;

use profiler_core::record::{
    ApiCall, ApiDomain, Communication, Kernel, Marker, Operator, OperatorScope, StackId,
};
use rusqlite::Row;

use super::super::ImportError;
use super::super::metrics::Metric;
use super::super::rows::AnyRow;
use super::super::source::Source;
use super::super::translate::{STEPS_OF_COLLECTIVES, Translator};
use super::{Database, Strings, instant, number};

/// A task that is no part of another one.
const NO_CONTEXT: i64 = u32::MAX as i64;
/// Parts of tasks that are told from them.
const MAX_PARTS: usize = 1 << 21;

/// The tasks that collectives consist of.
const STEPS: &str = "COMMUNICATION_TASK_INFO";

/// What msprof's timeline puts before the name of a call.
const API_TYPES: [(i64, &str); 5] = [
    (20_000, "AscendCL"),
    (15_000, "Model"),
    (10_000, "Node"),
    (5_500, "Communication"),
    (5_000, "Runtime"),
];

/// The kind of PyTorch's calls that are operators.
const OPERATOR: i64 = 50_001;

/// Kinds of the application's marks that are instants.
const MARKERS: [i64; 2] = [0, 3];

/// Reads a database's tables into rows.
pub(in super::super) fn read(
    translator: &mut Translator<'_>,
    source: &Source,
) -> Result<(), ImportError> {
    let database = &Database::open(&source.path)?;
    let strings = &database.strings()?;
    translator.leave_out_many("texts for which there was no room", strings.left_out());
    let mut reading = Reading { database, strings, translator };
    reading.calls()?;
    reading.operators()?;
    reading.tasks()?;
    reading.communication()?;
    reading.marks()?;
    reading.metrics()
}

struct Reading<'a, 'b> {
    database: &'a Database,
    strings: &'a Strings,
    translator: &'a mut Translator<'b>,
}

/// The parts of tasks: device, stream and number of the task, and when each began.
#[derive(Default)]
struct Parts(Vec<(i64, i64, i64, u64)>);

impl Parts {
    /// Whether a part of this task began while it ran. Numbers of tasks come again.
    fn lie_in(&self, (device, stream, task): (i64, i64, i64), start: u64, end: u64) -> bool {
        let first = self.0.partition_point(|part| *part < (device, stream, task, start));
        let found = self.0.get(first);
        found.is_some_and(|part| (part.0, part.1, part.2) == (device, stream, task) && part.3 < end)
    }
}

impl Reading<'_, '_> {
    /// A query over a table's columns in the order of its instants. What has a point in it stands
    /// as it is; a column that this version lacks is nothing.
    fn select(
        &self,
        table: &'static str,
        columns: &[&str],
        joins: &str,
    ) -> Result<String, ImportError> {
        self.database.needs(table, &["startNs", "endNs"])?;
        let mut list = Vec::new();
        for column in columns {
            list.push(match column.contains('.') {
                true => (*column).to_owned(),
                false => self.database.column(table, "t.", column)?,
            });
        }
        let list = list.join(", ");
        // Some versions keep instants as text.
        Ok(format!(
            "SELECT CAST(t.startNs AS INTEGER), CAST(t.endNs AS INTEGER), {list} FROM {table} t \
             {joins} ORDER BY 1, t.rowid"
        ))
    }

    /// Gives each row that has an instant to `take`, with its begin and end.
    fn each(
        &mut self,
        sql: &str,
        mut take: impl FnMut(&mut Self, &Row<'_>, u64, u64) -> rusqlite::Result<()>,
    ) -> Result<(), ImportError> {
        let database = self.database;
        database.each(sql, |row| {
            match (instant(row, 0)?, instant(row, 1)?) {
                (Some(start), end) => take(self, row, start, end.unwrap_or(start).max(start))?,
                (None, _) => self.translator.leave_out("without an instant"),
            }
            Ok(!self.translator.rows.is_closed)
        })
    }

    fn name(&self, row: &Row<'_>, column: usize) -> rusqlite::Result<&str> {
        Ok(self.strings.get(number(row, column)?))
    }

    /// The thread whose number a row has, process in its upper half.
    fn thread(&mut self, row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
        let global = number(row, column)?.unwrap_or(0) as u64;
        let (process, thread) = ((global >> 32).to_string(), (global & 0xffff_ffff).to_string());
        Ok(self.translator.own_thread(&process, &thread, ""))
    }

    fn calls(&mut self) -> Result<(), ImportError> {
        if !self.database.has("CANN_API")? {
            return Ok(());
        }
        let columns = ["name", "type", "globalTid", "connectionId"];
        let sql = self.select("CANN_API", &columns, "")?;
        self.each(&sql, |this, row, start, end| {
            let kind = number(row, 3)?;
            let known = API_TYPES.iter().find(|(number, _)| Some(*number) == kind);
            let kind = known.map_or("Api", |(_, name)| *name);
            let name = format!("{kind}@{}", this.name(row, 2)?);
            let call = ApiCall {
                start,
                end,
                correlation: connection(row, 5)?,
                name: this.translator.rows.string(&name),
                thread: this.thread(row, 4)?,
                domain: ApiDomain::AscendRuntime.number(),
                ..ApiCall::default()
            };
            this.translator.rows.push(AnyRow::ApiCall(call));
            Ok(())
        })
    }

    /// What torch_npu's profiler adds of PyTorch.
    fn operators(&mut self) -> Result<(), ImportError> {
        if !self.database.has("PYTORCH_API")? {
            return Ok(());
        }
        let columns = ["name", "type", "globalTid", "sequenceNumber", "inputShapes"];
        let sql = self.select("PYTORCH_API", &columns, "")?;
        self.each(&sql, |this, row, start, end| {
            let thread = this.thread(row, 4)?;
            let strings = this.strings;
            let name = strings.get(number(row, 2)?);
            if number(row, 3)?.is_some_and(|kind| kind != OPERATOR) {
                this.translator.span(name, "torch_npu", thread, start, end);
                return Ok(());
            }
            let operator = Operator {
                start,
                end,
                // Where there is none, the greatest number of 32 bits stands.
                sequence: number(row, 5)?.filter(|number| *number < NO_CONTEXT).unwrap_or(-1),
                name: this.translator.rows.string(name),
                thread,
                stack: StackId::NONE,
                scope: OperatorScope::Function.number(),
                ..Operator::default()
            };
            let shapes = strings.get(number(row, 6)?).into();
            this.translator.rows.push(AnyRow::Operator(operator, shapes));
            Ok(())
        })
    }

    fn tasks(&mut self) -> Result<(), ImportError> {
        if !self.database.has("TASK")? {
            return Ok(());
        }
        let parts = self.parts()?;
        let mut joins = String::new();
        let mut columns = vec![
            "t.rowid",
            "deviceId",
            "streamId",
            "taskId",
            "contextId",
            "connectionId",
            "taskType",
            self.step()?,
        ];
        // The operators that tasks are, those that schedule collectives on AI CPUs, and those that
        // collectives consist of.
        for (table, alias, name, kind) in [
            ("COMPUTE_TASK_INFO", "c", "c.name", "c.taskType"),
            ("COMMUNICATION_SCHEDULE_TASK_INFO", "s", "s.name", "s.taskType"),
            (STEPS, "m", "m.name", "m.taskType"),
        ] {
            if self.database.has(table)? && self.database.has_column("TASK", "globalTaskId")? {
                self.database.needs(table, &["name", "globalTaskId", "taskType"])?;
                joins += &format!("LEFT JOIN {table} {alias} USING (globalTaskId) ");
                columns.extend([name, kind]);
            }
        }
        let sql = self.select("TASK", &columns, &joins)?;
        let mut last = None;
        self.each(&sql, |this, row, start, end| {
            // One that has two names there is one all the same.
            let id = number(row, 2)?;
            if std::mem::replace(&mut last, id) == id {
                return Ok(());
            }
            let [device, stream, task, context] =
                [number(row, 3)?, number(row, 4)?, number(row, 5)?, number(row, 6)?];
            let whole = (device.unwrap_or(0), stream.unwrap_or(0), task.unwrap_or(0));
            if context == Some(NO_CONTEXT) && parts.lie_in(whole, start, end) {
                this.translator.leave_out("tasks whose parts are there");
                return Ok(());
            }
            if number(row, 9)? == Some(1) {
                this.translator.leave_out(STEPS_OF_COLLECTIVES);
                return Ok(());
            }
            let accelerator = this.name(row, 8)?;
            let mut name = "";
            let mut category = "";
            for column in (10..columns.len() + 2).step_by(2) {
                if name.is_empty() {
                    name = this.name(row, column)?;
                    category = this.name(row, column + 1)?;
                }
            }
            let name = if name.is_empty() { accelerator } else { name }.to_owned();
            let category = if category.is_empty() { accelerator } else { category }.to_owned();
            let device = small(device);
            let kernel = Kernel {
                start,
                end,
                correlation: connection(row, 7)?,
                name: this.translator.rows.string(&name),
                category: this.translator.rows.string(&category),
                device,
                context: device,
                stream: small(stream),
                ..Kernel::default()
            };
            this.translator.rows.push(AnyRow::Kernel(kernel));
            Ok(())
        })
    }

    /// What tells of a task whether it is a step of a collective that is there as a whole, in which
    /// it is no work of its own.
    fn step(&self) -> Result<&'static str, ImportError> {
        let has_both = self.database.has_column("TASK", "globalTaskId")?
            && self.database.has_column(STEPS, "opId")?
            && self.database.has_column("COMMUNICATION_OP", "opId")?;
        Ok(if has_both { "m.opId IN (SELECT opId FROM COMMUNICATION_OP)" } else { "NULL" })
    }

    /// A task of several parts (FFTS+) stands beside them, as a whole: its time is theirs.
    fn parts(&mut self) -> Result<Parts, ImportError> {
        let mut parts = Parts::default();
        for column in ["contextId", "deviceId", "streamId", "taskId"] {
            if !self.database.has_column("TASK", column)? {
                return Ok(parts);
            }
        }
        let sql = format!(
            "SELECT CAST(startNs AS INTEGER), deviceId, streamId, taskId FROM TASK WHERE contextId \
             >= 0 AND contextId < {NO_CONTEXT} LIMIT {MAX_PARTS}"
        );
        self.database.each(&sql, |row| {
            let place = [number(row, 1)?, number(row, 2)?, number(row, 3)?];
            if let ([Some(device), Some(stream), Some(task)], Some(start)) =
                (place, instant(row, 0)?)
            {
                parts.0.push((device, stream, task, start));
            }
            Ok(true)
        })?;
        if parts.0.len() == MAX_PARTS {
            let note = "tasks may be counted beside some of their parts: there were too many";
            self.translator.notes.push(note.to_owned());
        }
        parts.0.sort_unstable();
        Ok(parts)
    }

    fn communication(&mut self) -> Result<(), ImportError> {
        if !self.database.has("COMMUNICATION_OP")? {
            return Ok(());
        }
        let types = self.database.names("ENUM_HCCL_DATA_TYPE")?;
        let mut groups: HashMap<Option<i64>, u32> = HashMap::new();
        // Older versions do not say of which device a collective is.
        let devices = &self.translator.survey.npus;
        let only = if devices.len() == 1 { devices[0].0 } else { 0 };
        if devices.len() > 1 && !self.database.has_column("COMMUNICATION_OP", "deviceId")? {
            let note =
                "the database does not say on which device collectives ran: they are shown on 0";
            self.translator.notes.push(note.to_owned());
        }
        let columns = [
            "opName",
            "groupName",
            "connectionId",
            "dataType",
            "algType",
            "count",
            "deviceId",
            "rankSize",
        ];
        let sql = self.select("COMMUNICATION_OP", &columns, "")?;
        self.each(&sql, |this, row, start, end| {
            let group = number(row, 3)?;
            let next = groups.len() as u32;
            let data_type = number(row, 5)?.and_then(|kind| types.get(&kind));
            let strings = this.strings;
            let rows = &mut this.translator.rows;
            let operation = Communication {
                start,
                end,
                correlation: connection(row, 4)?,
                count: number(row, 7)?.and_then(|count| u64::try_from(count).ok()).unwrap_or(0),
                name: rows.string(strings.get(number(row, 2)?)),
                algorithm: rows.string(strings.get(number(row, 6)?)),
                data_type: rows.string(data_type.map_or("", String::as_str)),
                communicator: rows.string(strings.get(group)),
                device: number(row, 8)?.map_or(only, |device| small(Some(device))),
                // A lane for each group of ranks.
                stream: *groups.entry(group).or_insert(next),
                ranks: number(row, 9)?.and_then(|ranks| u32::try_from(ranks).ok()).unwrap_or(0),
                ..Communication::default()
            };
            rows.push(AnyRow::Communication(operation));
            Ok(())
        })
    }

    /// Ranges and marks of the application.
    fn marks(&mut self) -> Result<(), ImportError> {
        if !self.database.has("MSTX_EVENTS")? {
            return Ok(());
        }
        let columns = ["eventType", "message", "domainId", "globalTid"];
        let sql = self.select("MSTX_EVENTS", &columns, "")?;
        self.each(&sql, |this, row, start, end| {
            let thread = this.thread(row, 5)?;
            let strings = this.strings;
            let (name, domain) = (strings.get(number(row, 3)?), strings.get(number(row, 4)?));
            if number(row, 2)?.is_some_and(|kind| !MARKERS.contains(&kind)) {
                this.translator.span(name, domain, thread, start, end);
                return Ok(());
            }
            let marker = Marker {
                time: start,
                name: this.translator.rows.string(name),
                target: this.translator.rows.string(domain),
                thread,
                ..Marker::default()
            };
            this.translator.rows.push(AnyRow::Marker(marker));
            Ok(())
        })
    }

    /// Counters of the AI cores, one value a kernel each.
    fn metrics(&mut self) -> Result<(), ImportError> {
        let has_tasks = self.database.has_column("TASK", "globalTaskId")?;
        if !has_tasks || !self.database.has("TASK_PMU_INFO")? {
            return Ok(());
        }
        self.database.needs("TASK_PMU_INFO", &["globalTaskId", "name", "value"])?;
        let joins = "JOIN TASK_PMU_INFO p USING (globalTaskId)";
        let sql = self.select("TASK", &["deviceId", "p.name", "p.value"], joins)?;
        let mut known: HashMap<Option<i64>, Metric> = HashMap::new();
        self.each(&sql, |this, row, start, _| {
            let name = number(row, 3)?;
            let value: Option<f64> = match row.get_ref(4)? {
                rusqlite::types::ValueRef::Integer(value) => Some(value as f64),
                rusqlite::types::ValueRef::Real(value) => Some(value).filter(|v| v.is_finite()),
                _ => None,
            };
            let Some(value) = value else { return Ok(()) };
            let strings = this.strings;
            let metric =
                known.entry(name).or_insert_with(|| Metric::of_database(strings.get(name)));
            metric.push(&mut this.translator.rows, start, small(number(row, 2)?), value);
            Ok(())
        })
    }
}

/// What ties a call to what it caused; some versions have a number for none.
fn connection(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let known = number(row, column)?.and_then(|number| u64::try_from(number).ok());
    Ok(known.filter(|number| *number != u64::from(u32::MAX)).unwrap_or(0))
}

fn small(number: Option<i64>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}
