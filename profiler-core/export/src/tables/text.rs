//! Tables in plain text.

use std::fmt::Write as _;

use super::grid::{Cell, Grid, grids};
use super::ops::ops_text;
use crate::summary::{Activity, Summary, Tables};

/// What the text shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextOptions {
    /// The lines of a table, at most.
    pub rows: usize,
    /// The characters of a name, at most; longer ones are cut.
    pub name_width: usize,
    /// Whether each worker has its own tables beside those of its stage.
    pub workers: bool,
    /// Whether operators are shown once more, told apart by the shapes of their inputs.
    pub by_shape: bool,
    /// Whether operators are shown once more, told apart by the stacks that called them.
    pub by_stack: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { rows: 20, name_width: 80, workers: false, by_shape: false, by_stack: false }
    }
}

/// A summary as text, stage by stage.
#[must_use]
pub fn text(summary: &Summary, options: TextOptions) -> String {
    let mut out = String::new();
    for stage in &summary.stages {
        let workers = match stage.workers.len() {
            1 => "1 worker".to_owned(),
            count => format!("{count} workers"),
        };
        heading(&mut out, &clean(&stage.title), &workers, &stage.activity);
        tables(&mut out, &stage.tables, options);
        if !options.workers || stage.workers.len() < 2 {
            continue;
        }
        for worker in stage.workers.iter().filter_map(|&place| summary.workers.get(place)) {
            let place = format!("{}, pid {}", clean(&worker.host), worker.pid);
            heading(&mut out, &clean(&worker.title), &place, &worker.activity);
            tables(&mut out, &worker.tables, options);
        }
    }
    if !summary.notes.is_empty() {
        out.push_str("Notes\n");
        for note in &summary.notes {
            push(&mut out, format_args!("  {}\n", clean(note)));
        }
    }
    out
}

/// A summary for a file: the stages, then each worker's operator table, which servers write beside
/// their traces, where it has operators or device rows.
#[must_use]
pub fn report(summary: &Summary, options: TextOptions) -> String {
    let mut out = text(summary, options);
    let has_ops = summary
        .workers
        .iter()
        .any(|worker| !worker.tables.operators.is_empty() || !worker.tables.kernels.is_empty());
    if has_ops {
        out.push_str("\nBy worker\n\n");
        out.push_str(&ops_text(summary, options.rows));
    }
    out
}

fn heading(out: &mut String, title: &str, what: &str, activity: &Activity) {
    push(out, format_args!("{title}: {what}, {:.3} s", activity.window_us / 1e6));
    if activity.windows != 1 {
        push(out, format_args!(" in {} windows", activity.windows));
    }
    if let (Some(busy), Some(idle), Some(by)) =
        (activity.busy_percent, activity.idle_percent, activity.busy_by)
    {
        push(out, format_args!(", busy {busy:.1} %, idle {idle:.1} % (by {by}"));
        if activity.busy_uncertain_percent >= 0.1 {
            push(out, format_args!(", ± {:.1} %", activity.busy_uncertain_percent));
        }
        out.push(')');
    }
    if let Some(processors) = activity.processors {
        push(out, format_args!(", {processors:.2} processors"));
    }
    out.push_str("\n\n");
}

fn tables(out: &mut String, tables: &Tables, options: TextOptions) {
    for grid in grids(tables) {
        // The same operators once more would drown the rest.
        let wanted = match grid.name {
            "operators_by_shape" => options.by_shape,
            "operators_by_stack" => options.by_stack,
            _ => true,
        };
        if wanted && !grid.rows.is_empty() {
            table(out, &grid, options);
        }
    }
}

pub(super) fn table(out: &mut String, grid: &Grid, options: TextOptions) {
    let shown = grid.rows.len().min(options.rows);
    push(out, format_args!("  {}", grid.title));
    if shown < grid.rows.len() {
        push(out, format_args!(" ({shown} of {})", grid.rows.len()));
    }
    out.push('\n');
    let cells: Vec<Vec<String>> = grid.rows[..shown]
        .iter()
        .map(|row| {
            row.iter().map(|cell| shorten(&clean(&cell.text()), options.name_width)).collect()
        })
        .collect();
    let widths: Vec<usize> = grid
        .columns
        .iter()
        .enumerate()
        .map(|(column, head)| {
            let longest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            longest.max(head.chars().count())
        })
        .collect();
    let right: Vec<bool> = (0..grid.columns.len())
        .map(|column| grid.rows.iter().all(|row| row.get(column).is_some_and(Cell::is_number)))
        .collect();
    let heads: Vec<String> = grid.columns.iter().map(|&head| head.to_owned()).collect();
    line(out, &heads, &widths, &right);
    let dashes: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    line(out, &dashes, &widths, &right);
    for row in &cells {
        line(out, row, &widths, &right);
    }
    out.push('\n');
}

fn line(out: &mut String, cells: &[String], widths: &[usize], right: &[bool]) {
    let mut text = String::new();
    for ((cell, &width), &right) in cells.iter().zip(widths).zip(right) {
        text.push_str("  ");
        let room = " ".repeat(width.saturating_sub(cell.chars().count()));
        if right {
            text.push_str(&room);
        }
        text.push_str(cell);
        if !right {
            text.push_str(&room);
        }
    }
    out.push_str("  ");
    out.push_str(text.trim_end());
    out.push('\n');
}

/// Names come from the profiled program: control characters would reach the reader's terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes everything.
    if out.write_fmt(text).is_err() {
        out.push('\u{fffd}');
    }
}
