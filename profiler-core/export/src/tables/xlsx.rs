//! The operator tables as one workbook: by name, by input shapes, and by stack.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rust_xlsxwriter::{Format, Workbook, Worksheet, XlsxError};

use super::grid::{Cell, Grid, grids};
use super::ops::ops_grid;
use crate::summary::{Summary, WorkerSummary};

/// A cell holds no longer text.
const MAX_TEXT: usize = 32_767;

/// Writes the operators of all workers to a new workbook: the sheet `summary` holds the operator
/// table, `by shape` the same told apart by the shapes of the inputs, where they were recorded, and
/// `by stack` by the code that called them, where it was sampled.
///
/// # Errors
///
/// The file is there already, or cannot be written.
pub fn write_xlsx(path: &Path, summary: &Summary) -> io::Result<()> {
    let bytes = workbook(summary).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&bytes)
}

fn workbook(summary: &Summary) -> Result<Vec<u8>, XlsxError> {
    let mut workbook = Workbook::new();
    let operators = |worker: &WorkerSummary| Some(ops_grid(&worker.tables));
    sheet(workbook.add_worksheet(), "summary", summary, &operators)?;
    for (title, name) in [("by shape", "operators_by_shape"), ("by stack", "operators_by_stack")] {
        let of = |worker: &WorkerSummary| {
            grids(&worker.tables).into_iter().find(|grid| grid.name == name)
        };
        let is_there = |worker| of(worker).is_some_and(|grid| !grid.rows.is_empty());
        if summary.workers.iter().any(is_there) {
            sheet(workbook.add_worksheet(), title, summary, &of)?;
        }
    }
    workbook.save_to_buffer()
}

fn sheet(
    sheet: &mut Worksheet,
    name: &str,
    summary: &Summary,
    grid_of: &dyn Fn(&WorkerSummary) -> Option<Grid>,
) -> Result<(), XlsxError> {
    sheet.set_name(name)?;
    sheet.set_freeze_panes(1, 0)?;
    let bold = Format::new().set_bold();
    let parts: Vec<(&WorkerSummary, Grid)> =
        summary.workers.iter().filter_map(|worker| Some((worker, grid_of(worker)?))).collect();
    // Of one table, a worker may have a column more than another: the widest heads the sheet.
    let Some((_, widest)) = parts.iter().max_by_key(|(_, grid)| grid.columns.len()) else {
        return Ok(());
    };
    sheet.write_string_with_format(0, 0, "Worker", &bold)?;
    for (column, title) in widest.columns.iter().enumerate() {
        sheet.write_string_with_format(0, column as u16 + 1, *title, &bold)?;
    }
    let mut line = 0;
    for (worker, grid) in &parts {
        for row in &grid.rows {
            line += 1;
            sheet.write_string(line, 0, cut(&worker.title))?;
            for (column, title) in widest.columns.iter().enumerate() {
                let Some(place) = grid.columns.iter().position(|own| own == title) else {
                    continue;
                };
                write(sheet, line, column as u16 + 1, &row[place])?;
            }
        }
    }
    Ok(())
}

fn write(sheet: &mut Worksheet, row: u32, column: u16, cell: &Cell) -> Result<(), XlsxError> {
    match cell {
        Cell::Text(text) => sheet.write_string(row, column, cut(text))?,
        Cell::Count(count) => sheet.write_number(row, column, *count as f64)?,
        Cell::Us(number) | Cell::Percent(number) | Cell::Number(number) => {
            sheet.write_number(row, column, *number)?
        }
        Cell::Empty => return Ok(()),
    };
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
