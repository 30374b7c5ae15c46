//! The operator table that inference servers write beside their traces.
//!
//! Its columns are those of PyTorch's `key_averages().table()`: operators with their times on the
//! host, kernels, copies and memsets with theirs on the device. A capture without operators has its
//! spans there, which are what its application calls operations.

use super::csv::push_line;
use super::grid::{Cell, Grid};
use super::text::{TextOptions, table};
use crate::summary::{Summary, Tables, TimeRow};

const COLUMNS: [&str; 11] = [
    "Name",
    "Self CPU %",
    "Self CPU",
    "CPU total %",
    "CPU total",
    "CPU time avg",
    "Self CUDA",
    "Self CUDA %",
    "CUDA total",
    "CUDA time avg",
    "# of Calls",
];

/// The table as text, a part for each worker: what vLLM writes as `profiler_out_<rank>.txt`.
#[must_use]
pub fn ops_text(summary: &Summary, rows: usize) -> String {
    let mut out = String::new();
    for worker in &summary.workers {
        let device = device_name(&worker.tables);
        let mut grid = grid(&worker.tables, true);
        grid.columns = grid.columns.iter().map(|&column| of_device(column, device)).collect();
        out.push_str(&super::text::clean(&worker.title));
        out.push('\n');
        table(&mut out, &grid, TextOptions { rows, name_width: 55, ..TextOptions::default() });
        let (cpu, on_device) = totals(&worker.tables);
        out.push_str(&format!("Self CPU time total: {}\n", with_unit(cpu)));
        if device_rows(&worker.tables).next().is_some() {
            out.push_str(&format!("Self {device} time total: {}\n", with_unit(on_device)));
        }
        out.push('\n');
    }
    out
}

/// The table as CSV, all workers in one: times in microseconds.
#[must_use]
pub fn ops_csv(summary: &Summary) -> String {
    let mut text = String::new();
    let scope = ["stage", "role", "replica", "rank"];
    push_line(&mut text, scope.iter().chain(&COLUMNS).map(|&name| name.to_owned()));
    for worker in &summary.workers {
        let number = |number: Option<u32>| number.map(|n| n.to_string()).unwrap_or_default();
        let scope = [
            number(worker.stage),
            worker.role.clone().unwrap_or_default(),
            number(worker.replica),
            number(worker.rank),
        ];
        for row in grid(&worker.tables, false).rows {
            push_line(&mut text, scope.iter().cloned().chain(row.iter().map(Cell::text)));
        }
    }
    text
}

/// The table of one worker, times in microseconds.
pub(super) fn ops_grid(tables: &Tables) -> Grid {
    grid(tables, false)
}

/// What people call the device: PyTorch's tables name the columns after it.
fn device_name(tables: &Tables) -> &'static str {
    let ascend = tables.devices.iter().any(|device| device.name.contains("Ascend"));
    if ascend { "NPU" } else { "CUDA" }
}

fn of_device(column: &'static str, device: &str) -> &'static str {
    match (device, column) {
        ("NPU", "Self CUDA") => "Self NPU",
        ("NPU", "Self CUDA %") => "Self NPU %",
        ("NPU", "CUDA total") => "NPU total",
        ("NPU", "CUDA time avg") => "NPU time avg",
        _ => column,
    }
}

fn host_rows(tables: &Tables) -> &[TimeRow] {
    if tables.operators.is_empty() { &tables.spans } else { &tables.operators }
}

fn device_rows(tables: &Tables) -> impl Iterator<Item = &TimeRow> {
    tables.kernels.iter().chain(&tables.copies)
}

fn totals(tables: &Tables) -> (f64, f64) {
    let cpu = host_rows(tables).iter().filter_map(|row| row.self_us).sum();
    (cpu, device_rows(tables).map(|row| row.total_us).sum())
}

fn grid(tables: &Tables, units: bool) -> Grid {
    let (cpu, on_device) = totals(tables);
    let time = |us: f64| if units { Cell::Text(with_unit(us)) } else { Cell::Us(us) };
    let share = |part: f64, whole: f64| {
        let percent = if whole > 0.0 { part * 100.0 / whole } else { 0.0 };
        if units { Cell::Text(format!("{percent:.2}%")) } else { Cell::Number(percent) }
    };
    let mut sorted: Vec<&TimeRow> = host_rows(tables).iter().collect();
    sorted.sort_by(|a, b| b.self_us.unwrap_or(0.0).total_cmp(&a.self_us.unwrap_or(0.0)));
    let mut rows = Vec::new();
    for row in device_rows(tables) {
        rows.push(vec![
            Cell::Text(row.name.clone()),
            share(0.0, cpu),
            time(0.0),
            share(0.0, cpu),
            time(0.0),
            time(0.0),
            time(row.total_us),
            share(row.total_us, on_device),
            time(row.total_us),
            time(row.avg_us),
            Cell::Count(row.count),
        ]);
    }
    for row in sorted {
        let own = row.self_us.unwrap_or(0.0);
        rows.push(vec![
            Cell::Text(row.name.clone()),
            share(own, cpu),
            time(own),
            share(row.total_us, cpu),
            time(row.total_us),
            time(row.avg_us),
            time(row.self_device_us.unwrap_or(0.0)),
            share(row.self_device_us.unwrap_or(0.0), on_device),
            time(row.device_us.unwrap_or(0.0)),
            time(row.device_us.unwrap_or(0.0) / row.count.max(1) as f64),
            Cell::Count(row.count),
        ]);
    }
    Grid { name: "ops", title: "Operators", columns: COLUMNS.to_vec(), rows }
}

/// As PyTorch prints times.
fn with_unit(us: f64) -> String {
    if us >= 1e6 {
        format!("{:.3}s", us / 1e6)
    } else if us >= 1e3 {
        format!("{:.3}ms", us / 1e3)
    } else {
        format!("{us:.3}us")
    }
}
