//! Tables of what rows refer to, and of what is known of the capture.

use std::path::Path;

use parquet::errors::ParquetError;
use profiler_core::record::DeviceVendor;

use super::rows::{worker_columns, worker_values};
use super::table::{Column, Kind, TableWriter, Value};
use super::{Written, metadata};
use crate::capture::{Definitions, Worker};
use crate::stacks::FrameNames;

struct Tables<'a> {
    directory: &'a Path,
    written: &'a mut Vec<Written>,
}

impl Tables<'_> {
    /// Writes a table; one without rows is left out, but for that of the workers.
    fn write(
        &mut self,
        name: &'static str,
        columns: Vec<Column>,
        rows: impl Iterator<Item = Vec<Value>>,
    ) -> Result<(), ParquetError> {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let path = self.directory.join(format!("{name}.parquet"));
        let mut table = TableWriter::create(&path, name, columns, &metadata(name))?;
        for row in rows {
            table.push(row)?;
        }
        let rows = table.finish()?;
        self.written.push(Written { name, rows });
        Ok(())
    }
}

/// Writes all of them.
pub(super) fn write(
    directory: &Path,
    workers: &[Worker],
    definitions: &Definitions,
    names: &mut FrameNames,
    written: &mut Vec<Written>,
) -> Result<(), ParquetError> {
    let mut tables = Tables { directory, written };
    workers_table(&mut tables, workers)?;
    windows(&mut tables, workers)?;
    facts(&mut tables, workers)?;
    losses(&mut tables, workers)?;
    threads(&mut tables, workers)?;
    processes(&mut tables, workers)?;
    devices(&mut tables, workers)?;
    device_streams(&mut tables, workers)?;
    modules(&mut tables, workers)?;
    launch_configs(&mut tables, definitions)?;
    stacks(&mut tables, definitions)?;
    frames(&mut tables, workers, definitions, names)?;
    strings(&mut tables, definitions)
}

fn of_worker(worker: &Worker, more: impl IntoIterator<Item = Value>) -> Vec<Value> {
    worker_values(worker).into_iter().chain(more).collect()
}

fn with_worker(columns: impl IntoIterator<Item = Column>) -> Vec<Column> {
    worker_columns().into_iter().chain(columns).collect()
}

fn number(number: impl Into<u64>) -> Value {
    Value::Number(number.into())
}

fn hex(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Value::text(&text)
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::text(text) }
}

fn workers_table(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let columns = with_worker([
        Column::new("session", Kind::Text),
        Column::nullable("prefix", Kind::Text),
        Column::new("title", Kind::Text),
        Column::new("key", Kind::Text),
        Column::new("program", Kind::Text),
        Column::new("writer", Kind::Text),
        Column::new("complete", Kind::Flag),
        Column::new("lost", Kind::Unsigned64),
        Column::new("joined_by", Kind::Text),
        Column::new("clock_error_ns", Kind::Unsigned64),
        Column::new("realtime_offset_ns", Kind::Signed64),
        Column::new("boottime_offset_ns", Kind::Signed64),
    ]);
    let rows = workers.iter().map(|worker| {
        of_worker(
            worker,
            [
                Value::text(&worker.session),
                worker.prefix.as_deref().map_or(Value::Null, Value::text),
                Value::text(&worker.title()),
                Value::text(&worker.identity.key),
                Value::text(&worker.identity.program),
                Value::text(&worker.writer),
                number(u64::from(worker.complete)),
                number(worker.lost()),
                Value::text(worker.clock.by.text()),
                number(worker.clock.error_ns),
                Value::Number(worker.clock.realtime_offset_ns as u64),
                Value::Number(worker.clock.boottime_offset_ns as u64),
            ],
        )
    });
    tables.write("workers", columns, rows)
}

fn windows(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let columns = with_worker([
        Column::new("window", Kind::Unsigned32),
        Column::nullable("warmup", Kind::Instant),
        Column::new("begin", Kind::Instant),
        Column::nullable("end", Kind::Instant),
        Column::nullable("step", Kind::Unsigned64),
    ]);
    let optional = |instant: Option<u64>| instant.map_or(Value::Null, Value::Number);
    let rows = workers.iter().flat_map(|worker| {
        worker.windows.iter().map(move |window| {
            of_worker(
                worker,
                [
                    number(window.window),
                    optional(window.warmup),
                    number(window.begin),
                    optional(window.end),
                    optional(window.step),
                ],
            )
        })
    });
    tables.write("windows", columns, rows)
}

fn facts(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let columns = with_worker([Column::new("key", Kind::Text), Column::new("value", Kind::Text)]);
    let rows = workers.iter().flat_map(|worker| {
        worker
            .facts
            .iter()
            .map(move |(key, value)| of_worker(worker, [Value::text(key), Value::text(value)]))
    });
    tables.write("facts", columns, rows)
}

fn losses(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let columns = with_worker([
        Column::nullable("from", Kind::Instant),
        Column::nullable("to", Kind::Instant),
        Column::new("count", Kind::Unsigned64),
        Column::nullable("kind", Kind::Text),
        Column::new("cause", Kind::Text),
    ]);
    let instant = |at: u64| if at == 0 { Value::Null } else { Value::Number(at) };
    let rows = workers.iter().flat_map(|worker| {
        worker.losses.iter().map(move |loss| {
            of_worker(
                worker,
                [
                    instant(loss.from),
                    instant(loss.to),
                    number(loss.count),
                    loss.kind.map_or(Value::Null, |kind| Value::text(&kind.to_string())),
                    Value::text(loss.cause_text()),
                ],
            )
        })
    });
    tables.write("losses", columns, rows)
}

fn threads(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let columns = with_worker([
        Column::new("thread", Kind::Unsigned32),
        Column::new("process", Kind::Unsigned32),
        Column::nullable("name", Kind::Text),
    ]);
    let rows = workers.iter().flat_map(|worker| {
        worker.threads.iter().map(move |(&id, thread)| {
            of_worker(worker, [number(id), number(thread.process), text(&thread.name)])
        })
    });
    tables.write("threads", columns, rows)
}

fn processes(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let columns = with_worker([
        Column::new("process", Kind::Unsigned32),
        Column::new("parent", Kind::Unsigned32),
        Column::nullable("name", Kind::Text),
        Column::nullable("command_line", Kind::Text),
    ]);
    let rows = workers.iter().flat_map(|worker| {
        worker.processes.iter().map(move |(&id, process)| {
            of_worker(
                worker,
                [
                    number(id),
                    number(process.parent),
                    text(&process.name),
                    text(&process.command_line.join(" ")),
                ],
            )
        })
    });
    tables.write("processes", columns, rows)
}

fn devices(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let numbers = [
        "capability_major",
        "capability_minor",
        "multiprocessors",
        "warp_size",
        "max_threads_per_block",
        "max_threads_per_multiprocessor",
        "registers_per_block",
        "registers_per_multiprocessor",
        "shared_bytes_per_block",
        "shared_bytes_per_block_optin",
        "shared_bytes_per_multiprocessor",
    ];
    let columns = with_worker(
        [
            Column::new("device", Kind::Unsigned32),
            Column::new("name", Kind::Text),
            Column::nullable("uuid", Kind::Text),
            Column::nullable("vendor", Kind::Text),
            Column::new("memory_bytes", Kind::Unsigned64),
        ]
        .into_iter()
        .chain(numbers.map(|name| Column::new(name, Kind::Unsigned32))),
    );
    let rows = workers.iter().flat_map(|worker| {
        worker.devices.iter().map(move |(&id, device)| {
            let row = &device.row;
            of_worker(
                worker,
                [
                    number(id),
                    Value::text(&device.name),
                    hex(&device.uuid),
                    DeviceVendor::from_number(row.vendor)
                        .map_or(Value::Null, |vendor| Value::text(vendor.text())),
                    number(row.memory_bytes),
                    number(row.capability_major),
                    number(row.capability_minor),
                    number(row.multiprocessors),
                    number(row.warp_size),
                    number(row.max_threads_per_block),
                    number(row.max_threads_per_multiprocessor),
                    number(row.registers_per_block),
                    number(row.registers_per_multiprocessor),
                    number(row.shared_bytes_per_block),
                    number(row.shared_bytes_per_block_optin),
                    number(row.shared_bytes_per_multiprocessor),
                ],
            )
        })
    });
    tables.write("devices", columns, rows)
}

fn device_streams(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let columns = with_worker([
        Column::new("device", Kind::Unsigned32),
        Column::new("context", Kind::Unsigned32),
        Column::new("stream", Kind::Unsigned32),
        Column::nullable("name", Kind::Text),
        Column::new("priority", Kind::Signed32),
    ]);
    let rows = workers.iter().flat_map(|worker| {
        worker.stream_names.iter().map(move |(&(device, context, stream), name)| {
            of_worker(
                worker,
                [
                    number(device),
                    number(context),
                    number(stream),
                    text(&name.name),
                    number(name.priority as u32),
                ],
            )
        })
    });
    tables.write("device_streams", columns, rows)
}

fn modules(tables: &mut Tables<'_>, workers: &[Worker]) -> Result<(), ParquetError> {
    let columns = with_worker([
        Column::new("process", Kind::Unsigned32),
        Column::new("start_address", Kind::Unsigned64),
        Column::new("end_address", Kind::Unsigned64),
        Column::new("file_offset", Kind::Unsigned64),
        Column::new("path", Kind::Text),
        Column::nullable("build_id", Kind::Text),
    ]);
    let rows = workers.iter().flat_map(|worker| {
        worker.modules.iter().map(move |module| {
            of_worker(
                worker,
                [
                    number(module.process),
                    number(module.start_address),
                    number(module.end_address),
                    number(module.file_offset),
                    Value::text(&module.path),
                    hex(&module.build_id),
                ],
            )
        })
    });
    tables.write("modules", columns, rows)
}

fn launch_configs(tables: &mut Tables<'_>, definitions: &Definitions) -> Result<(), ParquetError> {
    let names = [
        "config",
        "grid_x",
        "grid_y",
        "grid_z",
        "block_x",
        "block_y",
        "block_z",
        "registers",
        "static_shared_bytes",
        "dynamic_shared_bytes",
        "local_bytes",
        "shared_executed_bytes",
        "cluster_x",
        "cluster_y",
        "cluster_z",
    ];
    let columns = names.map(|name| Column::new(name, Kind::Unsigned32)).to_vec();
    let rows = definitions.configs().iter().skip(1).map(|config| {
        [
            config.id.0,
            config.grid_x,
            config.grid_y,
            config.grid_z,
            config.block_x,
            config.block_y,
            config.block_z,
            config.registers,
            config.static_shared_bytes,
            config.dynamic_shared_bytes,
            config.local_bytes,
            config.shared_executed_bytes,
            config.cluster_x,
            config.cluster_y,
            config.cluster_z,
        ]
        .map(number)
        .to_vec()
    });
    tables.write("launch_configs", columns, rows)
}

fn stacks(tables: &mut Tables<'_>, definitions: &Definitions) -> Result<(), ParquetError> {
    let columns = vec![
        Column::new("stack", Kind::Sequence),
        Column::nullable("parent", Kind::Unsigned32),
        Column::new("frame", Kind::Unsigned32),
    ];
    let rows = (1..definitions.stack_count() as u32).filter_map(|stack| {
        let (frame, parent) = definitions.stack_top(profiler_core::record::StackId(stack))?;
        let parent = (!parent.is_none()).then_some(parent.0);
        Some(vec![number(stack), Value::optional(parent), number(frame as u64)])
    });
    tables.write("stacks", columns, rows)
}

fn frames(
    tables: &mut Tables<'_>,
    workers: &[Worker],
    definitions: &Definitions,
    names: &mut FrameNames,
) -> Result<(), ParquetError> {
    let columns = with_worker([
        Column::new("frame", Kind::Unsigned32),
        Column::new("level", Kind::Unsigned32),
        Column::new("process", Kind::Unsigned32),
        Column::new("address", Kind::Unsigned64),
        Column::new("function", Kind::Text),
        Column::new("named", Kind::Flag),
        Column::new("inlined", Kind::Flag),
        Column::nullable("file", Kind::Text),
        Column::nullable("line", Kind::Unsigned32),
        Column::nullable("module", Kind::Text),
        Column::nullable("build_id", Kind::Text),
        Column::new("rel_pc", Kind::Unsigned64),
    ]);
    let rows = definitions.frames().iter().enumerate().flat_map(|(frame, info)| {
        let resolved = names.frames(definitions, frame);
        let worker = workers.iter().find(|worker| worker.index == info.worker);
        let Some(worker) = worker else { return Vec::new() };
        resolved
            .iter()
            .enumerate()
            .map(|(level, function)| {
                let module = function.module.as_ref();
                of_worker(
                    worker,
                    [
                        number(frame as u64),
                        number(level as u64),
                        number(info.process),
                        number(info.address),
                        Value::text(&function.function),
                        number(u64::from(function.named)),
                        number(u64::from(function.inlined)),
                        function.file.as_deref().map_or(Value::Null, Value::text),
                        Value::optional((function.line > 0).then_some(function.line)),
                        module.map_or(Value::Null, |module| Value::text(&module.path)),
                        module.map_or(Value::Null, |module| hex(&module.build_id)),
                        number(function.rel_pc),
                    ],
                )
            })
            .collect()
    });
    tables.write("frames", columns, rows)
}

fn strings(tables: &mut Tables<'_>, definitions: &Definitions) -> Result<(), ParquetError> {
    let columns = vec![Column::new("string", Kind::Sequence), Column::new("text", Kind::Text)];
    let rows = definitions
        .strings()
        .enumerate()
        .skip(1)
        .map(|(id, text)| vec![number(id as u64), Value::text(text)]);
    tables.write("strings", columns, rows)
}
