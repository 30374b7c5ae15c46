//! Tables as CSV (RFC 4180, with line feeds), for all workers in one file a table.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::grid::{Grid, grids};
use super::ops::ops_csv;
use crate::summary::{Summary, Tables};

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvFile {
    /// The name without an extension (`spans`).
    pub name: &'static str,
    /// The whole file.
    pub text: String,
}

/// The columns that say whose row it is. `scope` is `stage` (all workers of a stage together) or
/// `worker`.
const SCOPE_COLUMNS: [&str; 7] = ["scope", "stage", "role", "replica", "rank", "host", "pid"];

/// A file for each table that has rows.
#[must_use]
pub fn csv_files(summary: &Summary) -> Vec<CsvFile> {
    let mut parts: Vec<(Vec<String>, &Tables)> = Vec::new();
    for stage in &summary.stages {
        let scope = vec![
            "stage".to_owned(),
            number(stage.stage),
            stage.role.clone().unwrap_or_default(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ];
        parts.push((scope, &stage.tables));
    }
    for worker in &summary.workers {
        let scope = vec![
            "worker".to_owned(),
            number(worker.stage),
            worker.role.clone().unwrap_or_default(),
            number(worker.replica),
            number(worker.rank),
            worker.host.clone(),
            worker.pid.to_string(),
        ];
        parts.push((scope, &worker.tables));
    }
    let parts: Vec<(Vec<String>, Vec<Grid>)> =
        parts.into_iter().map(|(scope, tables)| (scope, grids(tables))).collect();

    let mut files = Vec::new();
    let tables = parts.first().map_or(0, |(_, grids)| grids.len());
    for table in 0..tables {
        // Of one table, a part may have a column more than another: the widest heads the file.
        let Some(head) =
            parts.iter().map(|(_, grids)| &grids[table]).max_by_key(|grid| grid.columns.len())
        else {
            continue;
        };
        let mut text = String::new();
        let columns = SCOPE_COLUMNS.iter().chain(&head.columns).map(|&name| name.to_owned());
        push_line(&mut text, columns);
        let mut any = false;
        for (scope, grids) in &parts {
            let grid = &grids[table];
            for row in &grid.rows {
                any = true;
                let cells = head.columns.iter().map(|column| {
                    let place = grid.columns.iter().position(|own| own == column);
                    place.map(|place| row[place].text()).unwrap_or_default()
                });
                push_line(&mut text, scope.iter().cloned().chain(cells));
            }
        }
        if any {
            files.push(CsvFile { name: head.name, text });
        }
    }
    files
}

/// Makes a directory with a file for each table that has rows, and `ops.csv`; answers how many
/// bytes they have.
///
/// # Errors
///
/// The directory exists, or something cannot be written.
pub fn write_csv(directory: &Path, summary: &Summary) -> io::Result<u64> {
    DirBuilder::new().mode(0o700).create(directory)?;
    let ops = CsvFile { name: "ops", text: ops_csv(summary) };
    let mut bytes = 0;
    for file in csv_files(summary).into_iter().chain([ops]) {
        let path = directory.join(format!("{}.csv", file.name));
        let mut out = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        out.write_all(file.text.as_bytes())?;
        bytes += file.text.len() as u64;
    }
    Ok(bytes)
}

fn number(number: Option<u32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

pub(super) fn push_line(text: &mut String, cells: impl Iterator<Item = String>) {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            text.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            text.push('"');
            text.push_str(&cell.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(&cell);
        }
    }
    text.push('\n');
}
