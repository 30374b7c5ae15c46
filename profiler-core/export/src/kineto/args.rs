//! The arguments of events, named as PyTorch names them.

use std::collections::HashMap;

use profiler_core::record::{
    ApiCall, Communication, DeviceDef, Kernel, LaunchConfigDef, Marker, Memcpy, Memory, MemoryKind,
    Memset, Operator, Overhead, Span, StringId, Synchronization, SynchronizationKind, flag,
};

use super::occupancy::Occupancy;
use super::text::{double, escape, number, signed};
use crate::capture::Worker;
use crate::operator_shapes::{self, Input};
use crate::timeline::{Drawn, ItemKind};

/// What a launch configuration says of a kernel, written once a configuration and device.
#[derive(Default)]
pub(super) struct ConfigArgs {
    devices: HashMap<(u32, u32), DeviceDef>,
    /// By worker and device; there are few.
    texts: Vec<((u32, u32), Texts)>,
    last: usize,
}

/// By configuration.
type Texts = Vec<Box<[u8]>>;

impl ConfigArgs {
    pub(super) fn learn(&mut self, worker: &Worker) {
        for (device, info) in &worker.devices {
            self.devices.insert((worker.index as u32, *device), info.row);
        }
    }

    fn append(&mut self, out: &mut Vec<u8>, drawn: &Drawn<'_>, row: &Kernel) {
        let place = (drawn.worker, row.device);
        if self.texts.get(self.last).is_none_or(|(known, _)| *known != place) {
            let known = self.texts.iter().position(|(known, _)| *known == place);
            self.last = known.unwrap_or(self.texts.len());
            if known.is_none() {
                self.texts.push((place, Vec::new()));
            }
        }
        let texts = &mut self.texts[self.last].1;
        let index = row.config.0 as usize;
        if texts.len() <= index {
            texts.resize(index + 1, Box::default());
        }
        if texts[index].is_empty() {
            let Some(config) = drawn.definitions.config(row.config) else { return };
            texts[index] = config_text(config, self.devices.get(&place)).into();
        }
        out.extend_from_slice(&texts[index]);
    }
}

fn config_text(config: &LaunchConfigDef, device: Option<&DeviceDef>) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, "registers per thread", u64::from(config.registers));
    let shared = u64::from(config.static_shared_bytes) + u64::from(config.dynamic_shared_bytes);
    field(&mut out, "shared memory", shared);
    if let Some(occupancy) = device.and_then(|device| Occupancy::of(config, device)) {
        key(&mut out, "blocks per SM");
        six_digits(&mut out, occupancy.blocks);
        key(&mut out, "warps per SM");
        six_digits(&mut out, occupancy.warps);
        field(&mut out, "est. achieved occupancy %", occupancy.percent);
    }
    let triple = |out: &mut Vec<u8>, name: &str, numbers: [u32; 3]| {
        key(out, name);
        let [x, y, z] = numbers;
        out.extend_from_slice(format!("[{x},{y},{z}]").as_bytes());
    };
    triple(&mut out, "grid", [config.grid_x, config.grid_y, config.grid_z]);
    triple(&mut out, "block", [config.block_x, config.block_y, config.block_z]);
    if config.cluster_x != 0 {
        triple(&mut out, "cluster", [config.cluster_x, config.cluster_y, config.cluster_z]);
    }
    out
}

/// As PyTorch writes such numbers: six digits behind the point, of which zeroes are left out.
fn six_digits(out: &mut Vec<u8>, value: f32) {
    let text = format!("{value:.6}");
    out.extend_from_slice(text.trim_end_matches('0').trim_end_matches('.').as_bytes());
}

/// Appends the arguments between the braces; `operator` is the number of the operator that the
/// slice is or belongs to, 0 = none.
#[inline]
pub(super) fn append(
    out: &mut Vec<u8>,
    configs: &mut ConfigArgs,
    drawn: &Drawn<'_>,
    correlation: u64,
    operator: u64,
    full: bool,
) {
    let from = out.len();
    append_fields(out, configs, drawn, correlation, full);
    if operator != 0 {
        field(out, "External id", operator);
    }
    // Every field but a kind's first brings its comma.
    if out.get(from) == Some(&b',') {
        out.remove(from);
    }
}

#[inline]
fn append_fields(
    out: &mut Vec<u8>,
    configs: &mut ConfigArgs,
    drawn: &Drawn<'_>,
    correlation: u64,
    full: bool,
) {
    match drawn.item.kind {
        ItemKind::Kernel => {
            let row: &Kernel = drawn.row();
            if full {
                // When it was queued is not recorded; PyTorch writes the same.
                out.extend_from_slice(br#""queued":0,"#);
            }
            device(out, row.device, row.context, row.stream, correlation);
            if full {
                configs.append(out, drawn, row);
                graph(out, row.graph, row.graph_node);
                string(out, drawn, "category", row.category);
            }
            unfinished(out, row.flags);
        }
        ItemKind::ApiCall => {
            let row: &ApiCall = drawn.row();
            out.extend_from_slice(br#""cbid":"#);
            number(out, u64::from(row.function));
            out.extend_from_slice(br#","correlation":"#);
            number(out, correlation);
            if full && row.result != 0 {
                field(out, "result", u64::from(row.result));
            }
            unfinished(out, row.flags);
        }
        ItemKind::Memcpy => memcpy(out, drawn, drawn.row(), correlation, full),
        ItemKind::Memset => {
            let row: &Memset = drawn.row();
            device(out, row.device, row.context, row.stream, correlation);
            bytes(out, drawn, row.size_bytes);
            if full {
                graph(out, row.graph, row.graph_node);
            }
            unfinished(out, row.flags);
        }
        ItemKind::Communication => {
            let row: &Communication = drawn.row();
            device(out, row.device, 0, row.stream, correlation);
            string(out, drawn, "Collective name", StringId(drawn.item.name));
            string(out, drawn, "dtype", row.data_type);
            field(out, "In msg nelems", row.count);
            field(out, "Group size", u64::from(row.ranks));
            string(out, drawn, "Process Group Name", row.communicator);
            string(out, drawn, "Algorithm", row.algorithm);
            unfinished(out, row.flags);
        }
        ItemKind::Synchronization => synchronization(out, drawn.row(), correlation),
        ItemKind::Overhead => unfinished(out, drawn.row::<Overhead>().flags),
        ItemKind::Operator => operator(out, drawn, drawn.row(), full),
        ItemKind::Span => {
            let row: &Span = drawn.row();
            fields(out, drawn.heap::<Span>());
            string(out, drawn, "target", row.target);
            string(out, drawn, "request", row.request);
            string(out, drawn, "stage", row.stage);
            unfinished(out, row.flags);
        }
        ItemKind::Marker => {
            let row: &Marker = drawn.row();
            fields(out, drawn.heap::<Marker>());
            string(out, drawn, "target", row.target);
            string(out, drawn, "request", row.request);
            field(out, "payload", row.payload);
        }
        ItemKind::Memory => memory(out, drawn, drawn.row()),
        ItemKind::Step | ItemKind::Sample => {}
    }
}

fn memcpy(out: &mut Vec<u8>, drawn: &Drawn<'_>, row: &Memcpy, correlation: u64, full: bool) {
    device(out, row.device, row.context, row.stream, correlation);
    bytes(out, drawn, row.size_bytes);
    if row.source_device != row.target_device {
        field(out, "fromDevice", u64::from(row.source_device));
        field(out, "inDevice", u64::from(row.device));
        field(out, "toDevice", u64::from(row.target_device));
    }
    if full {
        graph(out, row.graph, row.graph_node);
    }
    unfinished(out, row.flags);
}

fn synchronization(out: &mut Vec<u8>, row: &Synchronization, correlation: u64) {
    let kind = SynchronizationKind::from_number(row.synchronization_kind);
    out.extend_from_slice(br#""cuda_sync_kind":"#);
    escape(out, kind.map_or("Unknown", SynchronizationKind::text));
    if row.stream != u32::MAX {
        field(out, "stream", u64::from(row.stream));
    }
    if kind == Some(SynchronizationKind::StreamWaitEvent) {
        field(out, "wait_on_cuda_event_record_corr_id", row.event_correlation);
        field(out, "wait_on_cuda_event_id", row.event);
    }
    field(out, "correlation", correlation);
    field(out, "device", u64::from(row.device));
    field(out, "context", u64::from(row.context));
}

fn operator(out: &mut Vec<u8>, drawn: &Drawn<'_>, row: &Operator, full: bool) {
    if row.sequence >= 0 {
        key(out, "Sequence number");
        signed(out, row.sequence);
        field(out, "Fwd thread id", u64::from(row.forward_thread));
    }
    let shapes = drawn.heap::<Operator>();
    if full && !shapes.is_empty() {
        inputs(out, &String::from_utf8_lossy(shapes));
    }
    unfinished(out, row.flags);
}

/// The inputs of an operator, in three lists as PyTorch writes them.
fn inputs(out: &mut Vec<u8>, shapes: &str) {
    let Some(inputs) = operator_shapes::parse(shapes) else {
        key(out, "Input Dims");
        escape(out, shapes);
        return;
    };
    let mut list = |name: &str, write: &dyn Fn(&mut Vec<u8>, &Input<'_>)| {
        key(out, name);
        out.push(b'[');
        for (index, input) in inputs.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write(out, input);
        }
        out.push(b']');
    };
    list("Input Dims", &|out, input| match input {
        Input::Tensor { sizes, .. } => {
            out.push(b'[');
            out.extend_from_slice(sizes.as_bytes());
            out.push(b']');
        }
        Input::Number(_) | Input::Other => out.extend_from_slice(b"[]"),
    });
    list("Input type", &|out, input| match input {
        Input::Tensor { dtype, .. } => escape(out, operator_shapes::pytorch_type(dtype)),
        Input::Number(_) => escape(out, "Scalar"),
        Input::Other => escape(out, ""),
    });
    list("Concrete Inputs", &|out, input| match input {
        Input::Number("true") => escape(out, "True"),
        Input::Number("false") => escape(out, "False"),
        Input::Number(text) => escape(out, text),
        Input::Tensor { .. } | Input::Other => escape(out, ""),
    });
}

fn memory(out: &mut Vec<u8>, drawn: &Drawn<'_>, row: &Memory) {
    let is_host = matches!(
        u8::try_from(row.memory_kind).ok().and_then(MemoryKind::from_number),
        Some(MemoryKind::Pageable | MemoryKind::Pinned)
    );
    out.extend_from_slice(br#""Addr":"#);
    number(out, row.address);
    key(out, "Bytes");
    let size = i64::try_from(row.size_bytes).unwrap_or(i64::MAX);
    signed(out, if row.operation == 2 { -size } else { size });
    field(out, "Device Type", u64::from(!is_host));
    field(out, "Device Id", u64::from(row.device));
    field(out, "Total Allocated", row.total_allocated_bytes);
    field(out, "Total Reserved", row.total_reserved_bytes);
    string(out, drawn, "Allocator", row.allocator);
}

#[inline]
fn device(out: &mut Vec<u8>, device: u32, context: u32, stream: u32, correlation: u64) {
    out.extend_from_slice(br#""device":"#);
    number(out, u64::from(device));
    out.extend_from_slice(br#","context":"#);
    number(out, u64::from(context));
    out.extend_from_slice(br#","stream":"#);
    number(out, u64::from(stream));
    out.extend_from_slice(br#","correlation":"#);
    number(out, correlation);
}

fn bytes(out: &mut Vec<u8>, drawn: &Drawn<'_>, size: u64) {
    field(out, "bytes", size);
    let ns = drawn.item.end - drawn.item.start;
    key(out, "memory bandwidth (GB/s)");
    double(out, if ns == 0 { 0.0 } else { size as f64 / ns as f64 });
}

fn graph(out: &mut Vec<u8>, graph: u32, node: u64) {
    if graph != 0 {
        field(out, "graph id", u64::from(graph));
        field(out, "graph node id", node);
    }
}

#[inline]
fn unfinished(out: &mut Vec<u8>, flags: u32) {
    if flags & flag::UNFINISHED != 0 {
        out.extend_from_slice(br#","unfinished":true"#);
    }
}

/// The application's own fields, inside those of the event.
fn fields(out: &mut Vec<u8>, heap: &[u8]) {
    let Ok(text) = str::from_utf8(heap) else { return };
    if text.is_empty() {
        return;
    }
    key(out, "fields");
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => out.extend_from_slice(text.as_bytes()),
        Err(_) => escape(out, text),
    }
}

fn string(out: &mut Vec<u8>, drawn: &Drawn<'_>, name: &str, id: StringId) {
    let text = drawn.definitions.string(id);
    if !text.is_empty() {
        key(out, name);
        escape(out, text);
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    number(out, value);
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}
