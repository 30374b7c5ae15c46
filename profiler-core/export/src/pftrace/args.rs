//! What is written beside a slice's name.

use profiler_core::record::{
    ApiCall, Communication, Kernel, Marker, Memcpy, Memory, Memset, Operator, Overhead, Span,
    StringId, Synchronization, flag,
};

use super::field;
use crate::proto::{Proto as _, message};
use crate::timeline::{Drawn, ItemKind};

/// The number of `correlation` within a sequence.
pub(super) const CORRELATION: u64 = 1;
const UNFINISHED: u64 = 2;
/// How many names the minimal level uses.
const MINIMAL: usize = 2;

const NAMES: &[&str] = &[
    "correlation",
    "unfinished",
    "device",
    "context",
    "stream",
    "grid",
    "block",
    "registers per thread",
    "shared memory",
    "local memory per thread",
    "cluster",
    "graph",
    "graph node",
    "category",
    "bytes",
    "bandwidth (GB/s)",
    "from device",
    "to device",
    "value",
    "result",
    "function",
    "thread",
    "event",
    "event correlation",
    "shapes",
    "sequence",
    "forward thread",
    "scope",
    "target",
    "request",
    "stage",
    "fields",
    "span",
    "parent",
    "payload",
    "address",
    "allocator",
    "total allocated bytes",
    "total reserved bytes",
    "algorithm",
    "data type",
    "count",
    "communicator",
    "ranks",
];

/// The names that a level uses, with their numbers.
pub(super) fn names(full: bool) -> impl Iterator<Item = (u64, &'static str)> {
    let count = if full { NAMES.len() } else { MINIMAL };
    NAMES[..count].iter().enumerate().map(|(index, name)| (index as u64 + 1, *name))
}

/// The flags of the row, 0 where it has none.
pub(super) fn flags(drawn: &Drawn<'_>) -> u32 {
    match drawn.item.kind {
        ItemKind::Kernel => drawn.row::<Kernel>().flags,
        ItemKind::Memcpy => drawn.row::<Memcpy>().flags,
        ItemKind::Memset => drawn.row::<Memset>().flags,
        ItemKind::Communication => drawn.row::<Communication>().flags,
        ItemKind::ApiCall => drawn.row::<ApiCall>().flags,
        ItemKind::Overhead => drawn.row::<Overhead>().flags,
        ItemKind::Operator => drawn.row::<Operator>().flags,
        ItemKind::Span => drawn.row::<Span>().flags,
        ItemKind::Synchronization
        | ItemKind::Step
        | ItemKind::Marker
        | ItemKind::Memory
        | ItemKind::Sample => 0,
    }
}

pub(super) fn append_unfinished(event: &mut Vec<u8>) {
    message(event, field::event::DEBUG_ANNOTATIONS, |annotation| {
        annotation.uint(field::annotation::NAME_IID, UNFINISHED);
        annotation.uint(field::annotation::BOOL, 1);
    });
}

/// Appends everything but the correlation id, which stands there already.
pub(super) fn append_all(event: &mut Vec<u8>, drawn: &Drawn<'_>) {
    if flags(drawn) & flag::UNFINISHED != 0 {
        append_unfinished(event);
    }
    let mut args = Args { event, drawn };
    match drawn.item.kind {
        ItemKind::Kernel => args.kernel(drawn.row()),
        ItemKind::Memcpy => args.memcpy(drawn.row()),
        ItemKind::Memset => args.memset(drawn.row()),
        ItemKind::Communication => args.communication(drawn.row()),
        ItemKind::ApiCall => args.api_call(drawn.row()),
        ItemKind::Synchronization => args.synchronization(drawn.row()),
        ItemKind::Overhead => args.overhead(drawn.row()),
        ItemKind::Operator => args.operator(drawn.row()),
        ItemKind::Span => args.span(drawn.row()),
        ItemKind::Marker => args.marker(drawn.row()),
        ItemKind::Memory => args.memory(drawn.row()),
        ItemKind::Step | ItemKind::Sample => {}
    }
}

struct Args<'a, 'b> {
    event: &'a mut Vec<u8>,
    drawn: &'a Drawn<'b>,
}

impl Args<'_, '_> {
    fn number(&mut self, name: &'static str, value: u64) {
        self.put(name, |annotation| annotation.uint(field::annotation::UINT, value));
    }

    fn signed(&mut self, name: &'static str, value: i64) {
        self.put(name, |annotation| annotation.uint(field::annotation::INT, value as u64));
    }

    fn text(&mut self, name: &'static str, value: &str) {
        if !value.is_empty() {
            self.put(name, |annotation| annotation.text(field::annotation::TEXT, value));
        }
    }

    fn string(&mut self, name: &'static str, id: StringId) {
        let definitions = self.drawn.definitions;
        self.text(name, definitions.string(id));
    }

    fn json(&mut self, name: &'static str, value: &[u8]) {
        let Ok(value) = str::from_utf8(value) else { return };
        if value.is_empty() {
            return;
        }
        match serde_json::from_str::<serde::de::IgnoredAny>(value) {
            Ok(_) => self.put(name, |annotation| annotation.text(field::annotation::JSON, value)),
            Err(_) => self.text(name, value),
        }
    }

    fn some(&mut self, name: &'static str, value: u64) {
        if value != 0 {
            self.number(name, value);
        }
    }

    fn put(&mut self, name: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
        let Some(index) = NAMES.iter().position(|known| *known == name) else { return };
        message(self.event, field::event::DEBUG_ANNOTATIONS, |annotation| {
            annotation.uint(field::annotation::NAME_IID, index as u64 + 1);
            value(annotation);
        });
    }

    fn place(&mut self, device: u32, context: u32, stream: u32) {
        self.number("device", u64::from(device));
        self.some("context", u64::from(context));
        if stream != u32::MAX {
            self.number("stream", u64::from(stream));
        }
    }

    fn kernel(&mut self, row: &Kernel) {
        self.place(row.device, row.context, row.stream);
        if let Some(config) = self.drawn.definitions.config(row.config) {
            let [x, y, z] = [config.grid_x, config.grid_y, config.grid_z];
            self.text("grid", &format!("{x}, {y}, {z}"));
            let [x, y, z] = [config.block_x, config.block_y, config.block_z];
            self.text("block", &format!("{x}, {y}, {z}"));
            self.number("registers per thread", u64::from(config.registers));
            let shared =
                u64::from(config.static_shared_bytes) + u64::from(config.dynamic_shared_bytes);
            self.number("shared memory", shared);
            self.some("local memory per thread", u64::from(config.local_bytes));
            if config.cluster_x != 0 {
                let [x, y, z] = [config.cluster_x, config.cluster_y, config.cluster_z];
                self.text("cluster", &format!("{x}, {y}, {z}"));
            }
        }
        self.graph(row.graph, row.graph_node);
        self.string("category", row.category);
    }

    fn graph(&mut self, graph: u32, node: u64) {
        self.some("graph", u64::from(graph));
        let definitions = self.drawn.definitions;
        match definitions.graph_node(self.drawn.worker as usize, node) {
            Some(name) if node != 0 => self.text("graph node", name),
            _ => self.some("graph node", node),
        }
    }

    fn memcpy(&mut self, row: &Memcpy) {
        self.place(row.device, row.context, row.stream);
        self.number("bytes", row.size_bytes);
        self.bandwidth(row.size_bytes);
        if row.source_device != row.target_device {
            self.number("from device", u64::from(row.source_device));
            self.number("to device", u64::from(row.target_device));
        }
        self.graph(row.graph, row.graph_node);
    }

    fn bandwidth(&mut self, bytes: u64) {
        let ns = self.drawn.item.end - self.drawn.item.start;
        if ns > 0 {
            self.text("bandwidth (GB/s)", &format!("{:.3}", bytes as f64 / ns as f64));
        }
    }

    fn memset(&mut self, row: &Memset) {
        self.place(row.device, row.context, row.stream);
        self.number("bytes", row.size_bytes);
        self.number("value", u64::from(row.value));
        self.bandwidth(row.size_bytes);
        self.graph(row.graph, row.graph_node);
    }

    fn communication(&mut self, row: &Communication) {
        self.place(row.device, 0, row.stream);
        self.string("algorithm", row.algorithm);
        self.string("data type", row.data_type);
        self.number("count", row.count);
        self.string("communicator", row.communicator);
        self.some("ranks", u64::from(row.ranks));
    }

    fn api_call(&mut self, row: &ApiCall) {
        self.some("result", u64::from(row.result));
        self.number("function", u64::from(row.function));
    }

    fn synchronization(&mut self, row: &Synchronization) {
        self.place(row.device, row.context, row.stream);
        self.some("event", row.event);
        self.some("event correlation", row.event_correlation);
    }

    fn overhead(&mut self, row: &Overhead) {
        if row.device != u32::MAX {
            self.number("device", u64::from(row.device));
        }
    }

    fn operator(&mut self, row: &Operator) {
        let shapes = String::from_utf8_lossy(self.drawn.heap::<Operator>()).into_owned();
        self.text("shapes", &shapes);
        if row.sequence >= 0 {
            self.signed("sequence", row.sequence);
        }
        self.some("forward thread", u64::from(row.forward_thread));
        let scope = profiler_core::record::OperatorScope::from_number(row.scope);
        if let Some(scope) = scope {
            self.text("scope", scope.text());
        }
    }

    fn span(&mut self, row: &Span) {
        self.string("target", row.target);
        self.string("request", row.request);
        self.string("stage", row.stage);
        self.number("span", row.id);
        self.some("parent", row.parent);
        self.json("fields", self.drawn.heap::<Span>());
    }

    fn marker(&mut self, row: &Marker) {
        self.string("target", row.target);
        self.string("request", row.request);
        self.some("payload", row.payload);
        self.json("fields", self.drawn.heap::<Marker>());
    }

    fn memory(&mut self, row: &Memory) {
        self.number("address", row.address);
        self.number("bytes", row.size_bytes);
        self.place(row.device, row.context, row.stream);
        self.string("allocator", row.allocator);
        self.some("total allocated bytes", row.total_allocated_bytes);
        self.some("total reserved bytes", row.total_reserved_bytes);
    }
}
