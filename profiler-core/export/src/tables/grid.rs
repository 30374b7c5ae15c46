//! The tables of a summary as rows of cells.

use crate::summary::{
    CounterRow, DeviceRow, FunctionRow, LossRow, MemoryRow, ShapeRow, SizeRow, StackRow, Tables,
    TimeRow,
};

/// A table.
#[derive(Debug)]
pub(super) struct Grid {
    /// The name of its file.
    pub(super) name: &'static str,
    /// Its heading.
    pub(super) title: &'static str,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A value in a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Count(u64),
    /// Microseconds.
    Us(f64),
    Percent(f64),
    Number(f64),
    Empty,
}

impl Cell {
    /// Its text, the same wherever it is shown. Of a float, as many digits as mean something.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Us(us) => format!("{us:.3}"),
            Self::Percent(percent) => format!("{percent:.1}"),
            Self::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                format!("{number:.0}")
            }
            Self::Number(number) => format!("{number:.3}"),
            Self::Empty => String::new(),
        }
    }

    /// Whether it stands at the right edge of its column.
    pub(super) fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }
}

/// All tables, in the order in which people want them; also the empty ones.
pub(super) fn grids(tables: &Tables) -> Vec<Grid> {
    vec![
        spans(&tables.spans),
        operators(&tables.operators),
        functions(&tables.functions),
        devices(&tables.devices),
        nsys("kernels", "Kernels", "Instances", "Name", &tables.kernels),
        nsys("kernel_types", "Kernels by type", "Instances", "Type", &tables.kernel_types),
        nsys("api_calls", "API calls", "Num Calls", "Name", &tables.api_calls),
        nsys("copies", "Copies by time", "Count", "Operation", &tables.copies),
        sizes(&tables.copy_sizes),
        nsys("communication", "Communication", "Instances", "Name", &tables.communication),
        nsys("synchronization", "Waits for devices", "Count", "Name", &tables.synchronization),
        nsys("overheads", "Overheads", "Count", "Name", &tables.overheads),
        memory(&tables.memory),
        nsys("steps", "Steps", "Count", "Name", &tables.steps),
        counters(&tables.counters),
        shapes(&tables.operators_by_shape),
        stacks(&tables.operators_by_stack),
        losses(&tables.losses),
    ]
}

fn spans(rows: &[TimeRow]) -> Grid {
    let columns = vec![
        "Total (%)",
        "Total Time (us)",
        "Self (us)",
        "Count",
        "Avg (us)",
        "Med (us)",
        "Min (us)",
        "Max (us)",
        "StdDev (us)",
        "Name",
    ];
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                Cell::Percent(row.percent),
                Cell::Us(row.total_us),
                row.self_us.map_or(Cell::Empty, Cell::Us),
                Cell::Count(row.count),
                Cell::Us(row.avg_us),
                Cell::Us(row.median_us),
                Cell::Us(row.min_us),
                Cell::Us(row.max_us),
                Cell::Us(row.stddev_us),
                Cell::Text(row.name.clone()),
            ]
        })
        .collect();
    Grid { name: "spans", title: "Spans", columns, rows }
}

fn nsys(
    name: &'static str,
    title: &'static str,
    count: &'static str,
    what: &'static str,
    rows: &[TimeRow],
) -> Grid {
    let columns = vec![
        "Time (%)",
        "Total Time (us)",
        count,
        "Avg (us)",
        "Med (us)",
        "Min (us)",
        "Max (us)",
        "StdDev (us)",
        what,
    ];
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                Cell::Percent(row.percent),
                Cell::Us(row.total_us),
                Cell::Count(row.count),
                Cell::Us(row.avg_us),
                Cell::Us(row.median_us),
                Cell::Us(row.min_us),
                Cell::Us(row.max_us),
                Cell::Us(row.stddev_us),
                Cell::Text(row.name.clone()),
            ]
        })
        .collect();
    Grid { name, title, columns, rows }
}

fn sizes(rows: &[SizeRow]) -> Grid {
    let columns = vec![
        "Total (MB)",
        "Count",
        "Avg (MB)",
        "Med (MB)",
        "Min (MB)",
        "Max (MB)",
        "StdDev (MB)",
        "GB/s",
        "Operation",
    ];
    let mb = |bytes: f64| Cell::Us(bytes / 1e6);
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                mb(row.total_bytes as f64),
                Cell::Count(row.count),
                mb(row.avg_bytes),
                mb(row.median_bytes as f64),
                mb(row.min_bytes as f64),
                mb(row.max_bytes as f64),
                mb(row.stddev_bytes),
                Cell::Us(row.bytes_per_second / 1e9),
                Cell::Text(row.name.clone()),
            ]
        })
        .collect();
    Grid { name: "copy_sizes", title: "Copies by size", columns, rows }
}

/// The share of the time of all operators themselves.
pub(super) fn self_percent(rows: &[TimeRow]) -> impl Fn(&TimeRow) -> f64 + use<> {
    let all: f64 = rows.iter().filter_map(|row| row.self_us).sum();
    move |row| match row.self_us {
        Some(own) if all > 0.0 => own * 100.0 / all,
        _ => 0.0,
    }
}

/// Of a row of operators, what it took on a device; nothing where none was recorded.
fn device_cells(row: &TimeRow) -> Vec<Cell> {
    let (Some(own), Some(total)) = (row.self_device_us, row.device_us) else { return Vec::new() };
    vec![Cell::Us(own), Cell::Us(total), Cell::Us(total / row.count.max(1) as f64)]
}

const DEVICE_COLUMNS: [&str; 3] = ["Self device (us)", "Device total (us)", "Device time avg (us)"];

fn operators(rows: &[TimeRow]) -> Grid {
    let mut columns = vec![
        "Name",
        "Self CPU %",
        "Self CPU (us)",
        "CPU total %",
        "CPU total (us)",
        "CPU time avg (us)",
    ];
    if rows.iter().any(|row| row.device_us.is_some()) {
        columns.extend(DEVICE_COLUMNS);
    }
    columns.push("# of Calls");
    let share = self_percent(rows);
    let mut sorted: Vec<&TimeRow> = rows.iter().collect();
    sorted.sort_by(|a, b| b.self_us.unwrap_or(0.0).total_cmp(&a.self_us.unwrap_or(0.0)));
    let rows = sorted
        .into_iter()
        .map(|row| {
            let mut cells = vec![
                Cell::Text(row.name.clone()),
                Cell::Percent(share(row)),
                Cell::Us(row.self_us.unwrap_or(0.0)),
                Cell::Percent(row.percent),
                Cell::Us(row.total_us),
                Cell::Us(row.avg_us),
            ];
            cells.extend(device_cells(row));
            cells.push(Cell::Count(row.count));
            cells
        })
        .collect();
    Grid { name: "operators", title: "Operators", columns, rows }
}

fn shapes(rows: &[ShapeRow]) -> Grid {
    let mut columns =
        vec!["Name", "Self CPU (us)", "CPU total %", "CPU total (us)", "CPU time avg (us)"];
    if rows.iter().any(|row| row.row.device_us.is_some()) {
        columns.extend(DEVICE_COLUMNS);
    }
    columns.extend(["# of Calls", "Input Shapes"]);
    let rows = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                Cell::Text(row.row.name.clone()),
                Cell::Us(row.row.self_us.unwrap_or(0.0)),
                Cell::Percent(row.row.percent),
                Cell::Us(row.row.total_us),
                Cell::Us(row.row.avg_us),
            ];
            cells.extend(device_cells(&row.row));
            cells.extend([Cell::Count(row.row.count), Cell::Text(row.shapes.clone())]);
            cells
        })
        .collect();
    Grid { name: "operators_by_shape", title: "Operators by input shapes", columns, rows }
}

fn stacks(rows: &[StackRow]) -> Grid {
    let columns =
        vec!["Name", "Self CPU (us)", "CPU total (us)", "Samples", "Stack (innermost first)"];
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                Cell::Text(row.name.clone()),
                Cell::Us(row.self_us),
                Cell::Us(row.total_us),
                Cell::Count(row.samples),
                Cell::Text(row.stack.join(" < ")),
            ]
        })
        .collect();
    Grid { name: "operators_by_stack", title: "Operators by stack, as sampled", columns, rows }
}

fn functions(rows: &[FunctionRow]) -> Grid {
    let waiting = rows.iter().any(|row| row.waiting_us > 0.0);
    let mut columns = vec!["Self (%)", "Self (us)", "Total (%)", "Total (us)", "Samples"];
    if waiting {
        columns.push("Waiting (us)");
    }
    columns.extend(["Function", "Module"]);
    let rows = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                Cell::Percent(row.self_percent),
                Cell::Us(row.self_us),
                Cell::Percent(row.total_percent),
                Cell::Us(row.total_us),
                Cell::Count(row.total_samples),
            ];
            if waiting {
                cells.push(Cell::Us(row.waiting_us));
            }
            cells.extend([Cell::Text(row.name.clone()), Cell::Text(row.module.clone())]);
            cells
        })
        .collect();
    Grid { name: "functions", title: "Sampled functions", columns, rows }
}

fn devices(rows: &[DeviceRow]) -> Grid {
    let mut columns = vec![
        "Device",
        "Busy (%)",
        "Idle (%)",
        "Kernels (%)",
        "Copies (%)",
        "Copies under kernels (%)",
        "Kernels",
        "Kernel Time (us)",
        "Name",
        "Worker",
    ];
    // Of devices whose collectives are kernels there is nothing to say.
    let communicates = rows.iter().any(|row| row.communication_percent > 0.0);
    if communicates {
        columns.splice(6..6, ["Communication (%)", "Communication under kernels (%)"]);
    }
    let rows = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                Cell::Count(u64::from(row.device)),
                Cell::Percent(row.busy_percent),
                Cell::Percent(row.idle_percent),
                Cell::Percent(row.compute_percent),
                Cell::Percent(row.copy_percent),
                Cell::Percent(row.copy_overlap_percent),
            ];
            if communicates {
                cells.push(Cell::Percent(row.communication_percent));
                cells.push(Cell::Percent(row.communication_overlap_percent));
            }
            cells.extend([
                Cell::Count(row.kernels),
                Cell::Us(row.kernels_us),
                Cell::Text(row.name.clone()),
                Cell::Text(row.worker.clone()),
            ]);
            cells
        })
        .collect();
    Grid { name: "devices", title: "Devices", columns, rows }
}

fn memory(rows: &[MemoryRow]) -> Grid {
    let columns = vec![
        "Device",
        "Allocations",
        "Allocated (bytes)",
        "Frees",
        "Freed (bytes)",
        "Peak (bytes)",
        "Peak reserved (bytes)",
        "Allocator",
    ];
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                Cell::Count(u64::from(row.device)),
                Cell::Count(row.allocations),
                Cell::Count(row.allocated_bytes),
                Cell::Count(row.frees),
                Cell::Count(row.freed_bytes),
                Cell::Count(row.peak_bytes),
                Cell::Count(row.peak_reserved_bytes),
                Cell::Text(row.allocator.clone()),
            ]
        })
        .collect();
    Grid { name: "memory", title: "Memory", columns, rows }
}

fn counters(rows: &[CounterRow]) -> Grid {
    let columns = vec!["Values", "Min", "Mean", "Max", "Change", "Unit", "Device", "Counter"];
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                Cell::Count(row.count),
                Cell::Number(row.min),
                Cell::Number(row.mean),
                Cell::Number(row.max),
                Cell::Number(row.change),
                Cell::Text(row.unit.clone()),
                row.device.map_or(Cell::Empty, |device| Cell::Count(u64::from(device))),
                Cell::Text(row.name.clone()),
            ]
        })
        .collect();
    Grid { name: "counters", title: "Counters", columns, rows }
}

fn losses(rows: &[LossRow]) -> Grid {
    let columns = vec!["Rows", "Cause", "Kind"];
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                Cell::Count(row.count),
                Cell::Text(row.cause.clone()),
                Cell::Text(row.kind.clone()),
            ]
        })
        .collect();
    Grid { name: "losses", title: "Rows that were not kept", columns, rows }
}
