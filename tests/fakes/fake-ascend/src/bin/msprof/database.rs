//! The same as a database.
//!
//! A collective stands there as a whole, and as the tasks that it consisted of.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use crate::raw::{Raw, Task};

const TABLES: &str = "
CREATE TABLE STRING_IDS (id INTEGER PRIMARY KEY, value TEXT);
CREATE TABLE NPU_INFO (id INTEGER, name TEXT);
CREATE TABLE META_DATA (name TEXT, value TEXT);
CREATE TABLE TASK (startNs INTEGER, endNs INTEGER, deviceId INTEGER, connectionId INTEGER,
    globalTaskId INTEGER, globalPid INTEGER, taskType INTEGER, contextId INTEGER, streamId INTEGER,
    taskId INTEGER, modelId INTEGER);
CREATE TABLE COMPUTE_TASK_INFO (name INTEGER, globalTaskId INTEGER PRIMARY KEY, blockNum INTEGER,
    mixBlockNum INTEGER, taskType INTEGER, opType INTEGER);
CREATE TABLE COMMUNICATION_TASK_INFO (name INTEGER, globalTaskId INTEGER, taskType INTEGER,
    planeId INTEGER, groupName INTEGER, notifyId INTEGER, rdmaType INTEGER, srcRank INTEGER,
    dstRank INTEGER, transportType INTEGER, size INTEGER, dataType INTEGER, linkType INTEGER,
    opId INTEGER);
CREATE TABLE COMMUNICATION_OP (opName INTEGER, startNs INTEGER, endNs INTEGER,
    connectionId INTEGER, groupName INTEGER, opId INTEGER PRIMARY KEY, relay INTEGER, retry INTEGER,
    dataType INTEGER, algType INTEGER, count NUMERIC, opType INTEGER, deviceId INTEGER);
CREATE TABLE CANN_API (startNs INTEGER, endNs INTEGER, type INTEGER, globalTid INTEGER,
    connectionId INTEGER PRIMARY KEY, name INTEGER);
INSERT INTO META_DATA VALUES ('SCHEMA_VERSION_MAJOR', '1');
";

/// A task that is no part of another one.
const NO_CONTEXT: u32 = u32::MAX;
/// Calls of AscendCL.
const ACL: u32 = 20_000;
const CALL_NS: u64 = 1_000;

pub(crate) fn write(place: &Path, raw: &Raw) -> std::io::Result<()> {
    try_write(&place.join("msprof_20261124120001.db"), raw).map_err(std::io::Error::other)
}

fn try_write(path: &Path, raw: &Raw) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    connection.execute_batch(TABLES)?;
    let transaction = connection.transaction()?;
    transaction.execute("INSERT INTO NPU_INFO VALUES (?1, 'Ascend NPU')", [raw.device as i64])?;
    let mut writing =
        Writing { transaction: &transaction, raw, strings: HashMap::new(), next_task: 0 };
    for task in &raw.tasks {
        match task.is_collective {
            true => writing.collective(task)?,
            false => writing.kernel(task)?,
        }
    }
    transaction.commit()
}

struct Writing<'a> {
    transaction: &'a Transaction<'a>,
    raw: &'a Raw,
    strings: HashMap<String, i64>,
    next_task: i64,
}

impl Writing<'_> {
    fn string(&mut self, text: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.strings.get(text) {
            return Ok(*id);
        }
        let id = self.strings.len() as i64 + 1;
        self.strings.insert(text.to_owned(), id);
        self.transaction.execute("INSERT INTO STRING_IDS VALUES (?1, ?2)", params![id, text])?;
        Ok(id)
    }

    /// A task of the device, and its number.
    fn task(&mut self, task: &Task, stream: u32, kind: &str) -> rusqlite::Result<i64> {
        self.next_task += 1;
        let kind = self.string(kind)?;
        let number = self.next_task;
        self.transaction.execute(
            "INSERT INTO TASK VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?8)",
            params![
                task.start as i64,
                task.end as i64,
                self.raw.device as i64,
                task.connection as i64,
                number,
                self.raw.process as i64,
                kind,
                NO_CONTEXT,
                stream,
                number,
            ],
        )?;
        Ok(number)
    }

    fn kernel(&mut self, task: &Task) -> rusqlite::Result<()> {
        let number = self.task(task, 2, "KERNEL")?;
        let (name, kind) = (self.string(&task.name)?, self.string(&task.task_type)?);
        self.transaction.execute(
            "INSERT INTO COMPUTE_TASK_INFO VALUES (?1, ?2, 8, 0, ?3, ?1)",
            params![name, number, kind],
        )?;
        if task.launched == task.start {
            return Ok(());
        }
        let name = self.string("aclnnLaunch")?;
        let thread = (self.raw.process << 32) | self.raw.process;
        self.transaction.execute(
            "INSERT INTO CANN_API VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                task.launched as i64,
                (task.launched + CALL_NS) as i64,
                ACL,
                thread as i64,
                task.connection as i64,
                name,
            ],
        )?;
        Ok(())
    }

    fn collective(&mut self, task: &Task) -> rusqlite::Result<()> {
        let (name, group) = (self.string(&task.name)?, self.string("group_name_0")?);
        let operation = self.next_task + 1;
        for (step, kind) in [("Notify_Wait", "NOTIFY_WAIT_SQE"), ("Memcpy", "SDMA_SQE")] {
            let number = self.task(task, 9, kind)?;
            let step = self.string(step)?;
            self.transaction.execute(
                "INSERT INTO COMMUNICATION_TASK_INFO (name, globalTaskId, taskType, groupName, opId)
                 VALUES (?1, ?2, ?1, ?3, ?4)",
                params![step, number, group, operation],
            )?;
        }
        self.transaction.execute(
            "INSERT INTO COMMUNICATION_OP (opName, startNs, endNs, connectionId, groupName, opId,
                 deviceId)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                name,
                task.start as i64,
                task.end as i64,
                task.connection as i64,
                group,
                operation,
                self.raw.device as i64,
            ],
        )?;
        Ok(())
    }
}
