//! A look ahead: what a spool says of its windows, clocks, process and losses.
//!
//! Windows end, clocks are tied and threads get their names after the rows that need them were
//! written. So a second reader of the same spool runs ahead of the one that reads the rows, and
//! takes the few rows that the others are read by.

use std::collections::{BTreeMap, BTreeSet};

use profiler_core::clock::ClockDomain;
use profiler_core::record::{
    ClockTuple, ContextDef, DeviceDef, Fact, HeapRef, Loss, Module, ProcessDef, RecordKind, Row,
    StreamDef, ThreadDef, Window,
};

use super::source::BlockSource;
use super::window::WindowRows;
use super::{
    CaptureError, DeviceInfo, ModuleInfo, ProcessInfo, StreamName, ThreadInfo, prefix_rows,
};

/// What was seen of a spool so far. Instants are the worker's CLOCK_MONOTONIC.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) windows: WindowRows,
    pub(super) tuples: Vec<ClockTuple>,
    pub(super) facts: BTreeMap<String, String>,
    pub(super) modules: BTreeSet<ModuleInfo>,
    pub(super) losses: Vec<(ClockDomain, u32, Loss)>,
    pub(super) threads: BTreeMap<u32, ThreadInfo>,
    pub(super) processes: BTreeMap<u32, ProcessInfo>,
    pub(super) devices: BTreeMap<u32, DeviceInfo>,
    pub(super) contexts: BTreeMap<u32, u32>,
    pub(super) stream_names: BTreeMap<(u32, u32, u32), StreamName>,
    /// Counts changes, so that what is derived from this is made anew only where it must be.
    pub(super) version: u64,
}

/// More of each than any capture has; a broken or hostile file costs no more memory than this.
const MAX_ENTRIES: usize = 1 << 18;

fn is_surveyed(kind: RecordKind) -> bool {
    [
        Window::KIND,
        ClockTuple::KIND,
        Fact::KIND,
        Module::KIND,
        Loss::KIND,
        ThreadDef::KIND,
        ProcessDef::KIND,
        DeviceDef::KIND,
        ContextDef::KIND,
        StreamDef::KIND,
    ]
    .contains(&kind)
}

impl Survey {
    /// Reads on as far as the source goes now.
    pub(super) fn poll(&mut self, source: &mut dyn BlockSource) -> Result<(), CaptureError> {
        let tuples_before = self.tuples.len();
        while let Some(head) = source.skim()? {
            if !is_surveyed(head.kind) || !source.load(&head)? {
                continue;
            }
            let Some(block) = source.block() else { continue };
            let clock = source.stream(block.stream).map_or(ClockDomain::Monotonic, |i| i.clock);
            self.version += 1;
            let stride = block.stride;
            let (rows, heap) = (block.rows, block.heap);
            match block.kind {
                Window::KIND => {
                    prefix_rows::<Window>(rows, stride, |row| self.windows.add(&row));
                }
                ClockTuple::KIND => prefix_rows::<ClockTuple>(rows, stride, |row| {
                    if self.tuples.len() < MAX_ENTRIES {
                        self.tuples.push(row);
                    }
                }),
                Fact::KIND => prefix_rows::<Fact>(rows, stride, |row| self.add_fact(&row, heap)),
                Module::KIND => {
                    prefix_rows::<Module>(rows, stride, |row| self.add_module(&row, heap));
                }
                // Counts add up, so what a segment repeats must not count again.
                Loss::KIND if head.repeated => {}
                Loss::KIND => prefix_rows::<Loss>(rows, stride, |row| {
                    if self.losses.len() < MAX_ENTRIES {
                        self.losses.push((clock, block.stream.0, row));
                    }
                }),
                ThreadDef::KIND => prefix_rows::<ThreadDef>(rows, stride, |row| {
                    if self.threads.len() < MAX_ENTRIES {
                        let info = ThreadInfo { name: text(row.name, heap), process: row.process };
                        self.threads.insert(row.thread, info);
                    }
                }),
                ProcessDef::KIND => prefix_rows::<ProcessDef>(rows, stride, |row| {
                    if self.processes.len() < MAX_ENTRIES {
                        let info = ProcessInfo {
                            name: text(row.name, heap),
                            command_line: text(row.command_line, heap)
                                .split('\0')
                                .map(str::to_owned)
                                .collect(),
                            parent: row.parent,
                        };
                        self.processes.insert(row.process, info);
                    }
                }),
                DeviceDef::KIND => prefix_rows::<DeviceDef>(rows, stride, |row| {
                    if self.devices.len() < MAX_ENTRIES {
                        let info = DeviceInfo {
                            name: text(row.name, heap),
                            uuid: row.uuid.of(heap).unwrap_or_default().to_vec(),
                            row,
                        };
                        self.devices.insert(row.device, info);
                    }
                }),
                ContextDef::KIND => prefix_rows::<ContextDef>(rows, stride, |row| {
                    if self.contexts.len() < MAX_ENTRIES {
                        self.contexts.insert(row.context, row.device);
                    }
                }),
                StreamDef::KIND => prefix_rows::<StreamDef>(rows, stride, |row| {
                    if self.stream_names.len() < MAX_ENTRIES {
                        let info = StreamName {
                            name: text(row.name, heap),
                            priority: row.priority as i32,
                        };
                        self.stream_names.insert((row.device, row.context, row.stream), info);
                    }
                }),
                _ => {}
            }
        }
        if self.tuples.len() != tuples_before {
            // Each segment repeats the tuples before it.
            self.tuples.sort_by_key(|t| (t.monotonic, t.driver_stream, t.error_ns));
            self.tuples.dedup();
        }
        Ok(())
    }

    /// The instant up to which rows of a growing spool can be placed: no window begins or ends
    /// before it unknown to us, and a clock tuple lies behind it.
    pub(super) fn placed_until(&self) -> u64 {
        let tuple = self.tuples.last().map_or(0, |t| t.monotonic);
        self.windows.settled_until().min(tuple)
    }

    /// The newest instant that is known.
    pub(super) fn newest(&self) -> u64 {
        let tuple = self.tuples.last().map_or(0, |t| t.monotonic);
        self.windows.open_until.max(tuple)
    }

    fn add_fact(&mut self, row: &Fact, heap: &[u8]) {
        let key = text(row.key, heap);
        if self.facts.len() < MAX_ENTRIES || self.facts.contains_key(&key) {
            self.facts.insert(key, text(row.value, heap));
        }
    }

    fn add_module(&mut self, row: &Module, heap: &[u8]) {
        let module = ModuleInfo {
            time: row.time,
            start_address: row.start_address,
            end_address: row.end_address,
            file_offset: row.file_offset,
            path: text(row.path, heap),
            build_id: row.build_id.of(heap).unwrap_or_default().to_vec(),
            process: row.process,
        };
        // Each segment repeats the modules before it.
        if self.modules.len() < MAX_ENTRIES {
            self.modules.insert(module);
        }
    }
}

fn text(place: HeapRef, heap: &[u8]) -> String {
    place.text(heap).unwrap_or_default().into_owned()
}
