//! The databases of msprof (`msprof_*.db`) and of torch_npu's profiler
//! (`ascend_pytorch_profiler*.db`).
//!
//! Tables and columns are those that msprof documents as its data in DB format; those that a version
//! lacks are read as nothing. A file may be damaged, or made to do harm: it is opened for reading
//! alone and without its journal, views and triggers do not count, and what is read of it is bound
//! by its size.

mod rows;
mod strings;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use super::ImportError;
use super::source::Source;
use super::survey::{Layout, Survey};

pub(super) use self::rows::read;
use self::strings::Strings;

/// Rows hold numbers, which are small.
const MAX_ROW_BYTES: i32 = 4 << 10;
/// A text, with its row.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Steps of SQLite's machine between two looks at how many it has made.
const STEPS: i32 = 10_000;
/// What it may make, and what more for each byte of the file: a row of 20 bytes takes some hundred.
const LEAST_STEPS: u64 = 2_000_000;
const STEPS_A_BYTE: u64 = 32;

/// The version of the tables that is known.
const KNOWN_MAJOR: &str = "1";
/// Devices that are listed where the table of devices is missing.
const MAX_DEVICES: usize = 64;

/// An opened database.
struct Database {
    connection: Connection,
    path: PathBuf,
    bytes: u64,
    /// Columns of the tables that were asked for.
    columns: RefCell<BTreeMap<&'static str, HashSet<String>>>,
}

/// What is known before rows are made.
pub(super) fn survey(source: &Source) -> Result<Survey, ImportError> {
    let database = Database::open(&source.path)?;
    let mut survey = Survey { layout: Layout::Msprof, begin: u64::MAX, ..Survey::default() };
    let mut is_known = false;
    for table in ["TASK", "CANN_API", "COMMUNICATION_OP", "MSTX_EVENTS", "PYTORCH_API"] {
        if !database.has(table)? {
            continue;
        }
        is_known = true;
        database.needs(table, &["startNs", "endNs"])?;
        // What is no number is text to SQLite, and greater than all numbers.
        let sql = format!(
            "SELECT min(CAST(startNs AS INTEGER)), max(CAST(endNs AS INTEGER)) FROM {table} \
             WHERE CAST(startNs AS INTEGER) > 0"
        );
        database.each(&sql, |row| {
            survey.begin = survey.begin.min(instant(row, 0)?.unwrap_or(u64::MAX));
            survey.end = survey.end.max(instant(row, 1)?.unwrap_or(0));
            Ok(true)
        })?;
    }
    if !is_known {
        return Err(source.no_trace(
            "it is a database without the tables of msprof (TASK, CANN_API, COMMUNICATION_OP)",
        ));
    }
    if survey.begin == u64::MAX {
        return Err(source.no_trace("none of its tables has a row with an instant"));
    }
    survey.end = survey.end.max(survey.begin) + 1;
    survey.process = database.process()?;
    survey.npus = database.devices()?;
    survey.rank = database.rank()?;
    survey.notes.extend(database.version_note()?);
    Ok(survey)
}

impl Database {
    fn open(path: &Path) -> Result<Self, ImportError> {
        let meta = std::fs::metadata(path)
            .map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
        let bytes = meta.len();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let opened = Connection::open_with_flags(uri(path), flags);
        let connection = opened.map_err(|error| failed(path, error))?;
        let mut this =
            Self { connection, path: path.to_owned(), bytes, columns: RefCell::default() };
        this.guard().map_err(|error| failed(path, error))?;
        Ok(this)
    }

    /// Takes from the file what it could do beside being read.
    fn guard(&mut self) -> rusqlite::Result<()> {
        for (setting, is_on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        ] {
            self.connection.set_db_config(setting, is_on)?;
        }
        self.connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        self.connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES)?;
        self.connection.pragma_update(None, "cell_size_check", true)?;
        let mut left = (LEAST_STEPS + self.bytes.saturating_mul(STEPS_A_BYTE)) / STEPS as u64;
        let is_over = move || {
            left = left.saturating_sub(1);
            left == 0
        };
        self.connection.progress_handler(STEPS, Some(is_over))
    }

    /// While `read` runs, rows may hold texts.
    fn with_texts<T>(
        &self,
        read: impl FnOnce() -> Result<T, ImportError>,
    ) -> Result<T, ImportError> {
        let most = i32::try_from(self.bytes.min(MAX_TEXT_BYTES)).unwrap_or(i32::MAX);
        let limit = |bytes: i32| {
            let set = self.connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes);
            set.map(drop).map_err(|error| failed(&self.path, error))
        };
        limit(most.max(MAX_ROW_BYTES))?;
        let outcome = read();
        limit(MAX_ROW_BYTES)?;
        outcome
    }

    fn has(&self, table: &'static str) -> Result<bool, ImportError> {
        Ok(!self.columns_of(table)?.is_empty())
    }

    fn has_column(&self, table: &'static str, column: &str) -> Result<bool, ImportError> {
        Ok(self.columns_of(table)?.contains(column))
    }

    /// The names of a table's columns; none where it is missing or no table.
    fn columns_of(&self, table: &'static str) -> Result<HashSet<String>, ImportError> {
        if let Some(known) = self.columns.borrow().get(table) {
            return Ok(known.clone());
        }
        let found = self.look_up(table).map_err(|error| failed(&self.path, error))?;
        self.columns.borrow_mut().insert(table, found.clone());
        Ok(found)
    }

    fn look_up(&self, table: &str) -> rusqlite::Result<HashSet<String>> {
        // Virtual tables have no page of their own.
        let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 \
                   AND name = ?1 COLLATE NOCASE";
        let count: i64 = self.connection.query_row(sql, [table], |row| row.get(0))?;
        if count == 0 {
            return Ok(HashSet::new());
        }
        // As rows: a statement's own list of names would not bear any bytes.
        let mut statement = self.connection.prepare("SELECT name FROM pragma_table_xinfo(?1)")?;
        let mut rows = statement.query([table])?;
        let mut columns = HashSet::new();
        while let Some(row) = rows.next()? {
            columns.insert(text(row, 0)?);
        }
        Ok(columns)
    }

    /// A table that is there has these columns.
    fn needs(&self, table: &'static str, columns: &[&str]) -> Result<(), ImportError> {
        let known = self.columns_of(table)?;
        match columns.iter().find(|column| !known.contains(**column)) {
            None => Ok(()),
            Some(missing) => Err(ImportError::NotATrace {
                path: self.path.clone(),
                why: format!("its table {table} lacks the column {missing}"),
            }),
        }
    }

    /// A column as it is asked for, or nothing where this version lacks it.
    fn column(
        &self,
        table: &'static str,
        prefix: &str,
        column: &str,
    ) -> Result<String, ImportError> {
        Ok(match self.has_column(table, column)? {
            true => format!("{prefix}{column}"),
            false => "NULL".to_owned(),
        })
    }

    /// Gives each row of a query to `take`, until that says `false`.
    fn each(
        &self,
        sql: &str,
        mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
    ) -> Result<(), ImportError> {
        let mut read = || {
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if !take(row)? {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|error| failed(&self.path, error))
    }

    fn strings(&self) -> Result<Strings, ImportError> {
        let mut strings = Strings::default();
        if !self.has("STRING_IDS")? {
            return Ok(strings);
        }
        self.needs("STRING_IDS", &["id", "value"])?;
        self.with_texts(|| {
            self.each("SELECT id, value FROM STRING_IDS", |row| {
                if let Some(id) = number(row, 0)? {
                    strings.add(id, &text(row, 1)?);
                }
                Ok(strings.read_bytes() <= self.bytes)
            })
        })?;
        if strings.read_bytes() > self.bytes {
            return Err(self.too_much());
        }
        Ok(strings)
    }

    /// The small table that names a column's numbers.
    fn names(&self, table: &'static str) -> Result<BTreeMap<i64, String>, ImportError> {
        let mut names = BTreeMap::new();
        if self.has_column(table, "id")? && self.has_column(table, "name")? {
            self.with_texts(|| {
                self.each(&format!("SELECT id, name FROM {table} LIMIT 1024"), |row| {
                    if let Some(id) = number(row, 0)? {
                        names.insert(id, text(row, 1)?);
                    }
                    Ok(true)
                })
            })?;
        }
        Ok(names)
    }

    fn process(&self) -> Result<u32, ImportError> {
        let mut found = None;
        let mut take = |sql: &str, shift: u32| {
            self.each(sql, |row| {
                let process = number(row, 0)?.map(|number| number >> shift);
                found = process.and_then(|process| u32::try_from(process).ok());
                Ok(false)
            })
        };
        if self.has_column("TASK", "globalPid")? {
            take("SELECT globalPid FROM TASK LIMIT 1", 0)?;
        } else if self.has_column("CANN_API", "globalTid")? {
            take("SELECT globalTid FROM CANN_API LIMIT 1", 32)?;
        }
        Ok(found.unwrap_or(0))
    }

    /// Devices, and what they are called.
    fn devices(&self) -> Result<Vec<(u32, String)>, ImportError> {
        let mut devices: Vec<(u32, String)> = Vec::new();
        for (number, name) in self.names("NPU_INFO")? {
            // -1 stands for none.
            let Ok(number) = u32::try_from(number) else { continue };
            if devices.len() < MAX_DEVICES {
                devices.push((number, name));
            }
        }
        if devices.is_empty() && self.has_column("TASK", "deviceId")? {
            let sql = format!("SELECT DISTINCT deviceId FROM TASK LIMIT {MAX_DEVICES}");
            self.each(&sql, |row| {
                let device = number(row, 0)?.and_then(|device| u32::try_from(device).ok());
                devices.extend(device.map(|device| (device, "Ascend NPU".to_owned())));
                Ok(true)
            })?;
        }
        Ok(devices)
    }

    /// The rank, where there is one.
    fn rank(&self) -> Result<Option<u32>, ImportError> {
        let mut ranks = Vec::new();
        if self.has_column("RANK_DEVICE_MAP", "rankId")? {
            self.each("SELECT DISTINCT rankId FROM RANK_DEVICE_MAP LIMIT 2", |row| {
                ranks.push(number(row, 0)?);
                Ok(true)
            })?;
        }
        let [Some(rank)] = ranks[..] else { return Ok(None) };
        Ok(u32::try_from(rank).ok())
    }

    fn version_note(&self) -> Result<Option<String>, ImportError> {
        if !self.has_column("META_DATA", "name")? || !self.has_column("META_DATA", "value")? {
            return Ok(None);
        }
        let mut major = None;
        let sql = "SELECT value FROM META_DATA WHERE name = 'SCHEMA_VERSION_MAJOR' LIMIT 1";
        self.with_texts(|| {
            self.each(sql, |row| {
                major = Some(text(row, 0)?);
                Ok(false)
            })
        })?;
        let unknown = major.filter(|major| major != KNOWN_MAJOR);
        Ok(unknown.map(|major| {
            let major: String = major.chars().take(16).collect();
            format!(
                "the database has tables of version {major}, and version {KNOWN_MAJOR} is known: \
                 some of it may be misunderstood"
            )
        }))
    }

    fn too_much(&self) -> ImportError {
        ImportError::NotATrace {
            path: self.path.clone(),
            why: "it has more in it than a database of its size holds".to_owned(),
        }
    }
}

/// The file's address, which says that nobody changes it: no journal is looked for, and nothing is
/// made beside it.
fn uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

fn failed(path: &Path, error: rusqlite::Error) -> ImportError {
    if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) {
        return ImportError::NotATrace {
            path: path.to_owned(),
            why: "reading it takes more steps than a database of its size can need".to_owned(),
        };
    }
    ImportError::Database { path: path.to_owned(), source: Box::new(error) }
}

/// A number, however it is kept.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<i64>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => Some(number),
        // The cast saturates.
        ValueRef::Real(number) if number.is_finite() => Some(number as i64),
        ValueRef::Text(bytes) => {
            std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok())
        }
        _ => None,
    })
}

/// An instant, ns since 1970.
fn instant(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(number(row, column)?.and_then(|ns| u64::try_from(ns).ok()).filter(|ns| *ns > 0))
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    })
}
