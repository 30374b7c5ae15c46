//! What operators cost on a device: the time of the work that they launched. And in which stacks
//! samples found them.
//!
//! Launches are tied to the operators around them by the timeline, which puts each thread's slices
//! in order. A tree of who called whom, by name and inputs, takes the times; so its memory does not
//! grow with the capture.

use std::collections::{BTreeMap, HashMap};
use std::io;

use profiler_core::record::{
    ApiCall, Communication, Counter, Kernel, Memcpy, Memset, Operator, Sample, StackId, StringId,
    flag,
};

use super::by_stack::StackTimes;
use super::worker::Shapes;
use crate::capture::{Consumer as _, Definitions, Place, Worker};
use crate::operator_links::Waiting;
use crate::stacks::Weight;
use crate::timeline::{Draw, Drawn, ItemKind, Lane, Timeline, TimelineCounts};

/// Nodes of the tree, at most; what is called deeper or later counts for its caller.
const MAX_NODES: usize = 1 << 16;

/// Nodes with their stacks, at most; what comes later has no stack.
const MAX_STACKS: usize = 1 << 16;

/// So many rows without an operator, and none is looked for any more.
const GIVE_UP_AFTER: u64 = 1 << 20;

/// What operators of a name took on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceTime {
    /// What they launched themselves, in ns.
    pub(super) own: u64,
    /// That, and what the operators inside them launched.
    pub(super) total: u64,
}

/// An operator's name, and the number of its inputs' text where it is told.
pub(super) type Key = (StringId, Option<u32>);

/// The times of one worker.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkerDeviceTimes {
    pub(super) by_name: BTreeMap<StringId, DeviceTime>,
    pub(super) by_shape: BTreeMap<Key, DeviceTime>,
    pub(super) by_stack: StackTimes,
    /// Work on a device that no operator launched, though there are operators.
    pub(super) unattributed: u64,
}

/// Takes the rows that matter.
#[derive(Default)]
pub(super) struct DeviceTimes {
    timeline: Option<Timeline<Sums>>,
    rows: u64,
    has_operators: bool,
}

impl std::fmt::Debug for DeviceTimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceTimes").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl DeviceTimes {
    pub(super) fn begin(&mut self, workers: &[Worker]) -> io::Result<()> {
        let mut timeline = Timeline::new(Sums::default());
        timeline.begin(workers)?;
        self.timeline = Some(timeline);
        Ok(())
    }

    pub(super) fn worker_end(
        &mut self,
        worker: usize,
        workers: &[Worker],
        definitions: &Definitions,
    ) -> io::Result<()> {
        let Some(timeline) = &mut self.timeline else { return Ok(()) };
        timeline.worker_end(worker, workers, definitions)
    }

    pub(super) fn operators(&mut self, place: &Place<'_>, rows: &[Operator]) -> io::Result<()> {
        self.has_operators |= !rows.is_empty();
        match &mut self.timeline {
            Some(timeline) => timeline.operators(place, rows),
            None => Ok(()),
        }
    }

    /// Rows of calls and of work on devices, given by `give`.
    pub(super) fn rows(
        &mut self,
        count: usize,
        give: impl FnOnce(&mut Timeline<Sums>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.rows += count as u64;
        if !self.has_operators && self.rows > GIVE_UP_AFTER {
            self.timeline = None;
        }
        self.timeline.as_mut().map_or(Ok(()), give)
    }

    /// The times by worker.
    pub(super) fn end(
        &mut self,
        workers: &[Worker],
        definitions: &Definitions,
        shapes: &mut Shapes,
    ) -> io::Result<BTreeMap<usize, WorkerDeviceTimes>> {
        let Some(mut timeline) = self.timeline.take() else { return Ok(BTreeMap::new()) };
        if !self.has_operators {
            return Ok(BTreeMap::new());
        }
        timeline.end(workers, definitions)?;
        Ok(timeline.into_parts().0.times(shapes))
    }
}

/// Sums along the timeline.
#[derive(Default)]
pub(super) struct Sums {
    /// The open slices of each lane, as nodes; 0 = no operator.
    lanes: Vec<Vec<u32>>,
    /// The first is the root.
    nodes: Vec<Node>,
    children: HashMap<(u32, u32, StringId, u32), u32>,
    /// The texts of inputs, 0 = none.
    shapes: HashMap<Box<[u8]>, u32>,
    launches: Option<Waiting<(u32, u64), u32>>,
    unattributed: BTreeMap<u32, u64>,
    /// Samples by node and stack.
    samples: BTreeMap<(u32, StackId), Weight>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    worker: u32,
    name: StringId,
    shape: u32,
    own: u64,
}

impl Sums {
    fn around(&self, lane: usize) -> u32 {
        self.lanes.get(lane).and_then(|open| open.last()).copied().unwrap_or(0)
    }

    fn push(&mut self, lane: usize, node: u32) {
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, Vec::new());
        }
        self.lanes[lane].push(node);
    }

    fn node(&mut self, parent: u32, drawn: &Drawn<'_>) -> u32 {
        let name = StringId(drawn.item.name);
        let next = self.shapes.len() as u32 + 1;
        let shape = match drawn.heap::<Operator>() {
            [] => 0,
            text => match self.shapes.get(text) {
                Some(shape) => *shape,
                None if self.shapes.len() >= MAX_NODES => 0,
                None => *self.shapes.entry(text.into()).or_insert(next),
            },
        };
        let key = (parent, drawn.worker, name, shape);
        if let Some(node) = self.children.get(&key) {
            return *node;
        }
        if self.nodes.is_empty() {
            self.nodes.push(Node { parent: 0, worker: 0, name: StringId::NONE, shape: 0, own: 0 });
        }
        if self.nodes.len() >= MAX_NODES {
            return parent;
        }
        let node = self.nodes.len() as u32;
        self.nodes.push(Node { parent, worker: drawn.worker, name, shape, own: 0 });
        self.children.insert(key, node);
        node
    }

    fn device(&mut self, drawn: &Drawn<'_>, correlation: u64, is_graph: bool) {
        let launches = self.launches.get_or_insert_with(Waiting::new);
        let key = (drawn.worker, correlation);
        let node = if is_graph { launches.get(&key) } else { launches.take(&key) };
        let Some(node) = node.filter(|_| correlation != 0) else {
            *self.unattributed.entry(drawn.worker).or_default() += 1;
            return;
        };
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.own = node.own.saturating_add(drawn.item.end.saturating_sub(drawn.item.start));
        }
    }

    fn sample(&mut self, node: u32, row: &Sample) {
        let mut key = (node, row.stack);
        if self.samples.len() >= MAX_STACKS && !self.samples.contains_key(&key) {
            key.1 = StackId::NONE;
        }
        self.samples.entry(key).or_default().add(Weight { samples: 1, ns: row.weight_ns });
    }

    fn add_samples(&self, times: &mut BTreeMap<usize, WorkerDeviceTimes>) {
        let mut seen = Vec::new();
        for (&(place, stack), weight) in &self.samples {
            let Some(node) = self.nodes.get(place as usize) else { continue };
            let of_worker = &mut times.entry(node.worker as usize).or_default().by_stack;
            of_worker.entry((node.name, stack)).or_default().own.add(*weight);
            seen.clear();
            let mut above = Some(node);
            while let Some(node) = above {
                // One that calls itself counts once.
                if !seen.contains(&node.name) {
                    seen.push(node.name);
                    of_worker.entry((node.name, stack)).or_default().total.add(*weight);
                }
                above = (node.parent != 0).then(|| &self.nodes[node.parent as usize]);
            }
        }
    }

    fn times(self, shapes: &mut Shapes) -> BTreeMap<usize, WorkerDeviceTimes> {
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        #[expect(clippy::iter_over_hash_type, reason = "each text is given its own number")]
        for (text, number) in &self.shapes {
            numbers.insert(*number, shapes.intern(&String::from_utf8_lossy(text)));
        }
        let mut times: BTreeMap<usize, WorkerDeviceTimes> = BTreeMap::new();
        for (worker, count) in &self.unattributed {
            times.entry(*worker as usize).or_default().unattributed = *count;
        }
        self.add_samples(&mut times);
        for node in self.nodes.iter().filter(|node| node.own > 0) {
            let worker = times.entry(node.worker as usize).or_default();
            let key_of = |node: &Node| (node.name, numbers.get(&node.shape).copied());
            let mut keys = Vec::new();
            let mut above = Some(node);
            while let Some(node) = above {
                keys.push(key_of(node));
                above = (node.parent != 0).then(|| &self.nodes[node.parent as usize]);
            }
            // One that calls itself counts once.
            keys.sort_unstable();
            keys.dedup();
            let mut names: Vec<StringId> = keys.iter().map(|(name, _)| *name).collect();
            names.dedup();
            for name in names {
                let sum = worker.by_name.entry(name).or_default();
                sum.total = sum.total.saturating_add(node.own);
            }
            for key in keys {
                let sum = worker.by_shape.entry(key).or_default();
                sum.total = sum.total.saturating_add(node.own);
            }
            let own = worker.by_name.entry(node.name).or_default();
            own.own = own.own.saturating_add(node.own);
            let own = worker.by_shape.entry(key_of(node)).or_default();
            own.own = own.own.saturating_add(node.own);
        }
        times
    }
}

impl Draw for Sums {
    fn begin(&mut self, _workers: &[Worker]) -> io::Result<()> {
        Ok(())
    }

    fn open_lane(&mut self, _lane: &Lane, _worker: &Worker) -> io::Result<()> {
        Ok(())
    }

    fn slice(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()> {
        let around = self.around(lane);
        match drawn.item.kind {
            ItemKind::Operator => {
                let node = self.node(around, drawn);
                self.push(lane, node);
            }
            ItemKind::ApiCall => {
                let correlation = drawn.row::<ApiCall>().correlation;
                if around != 0 && correlation != 0 {
                    let launches = self.launches.get_or_insert_with(Waiting::new);
                    launches.insert((drawn.worker, correlation), around);
                }
                self.push(lane, around);
            }
            ItemKind::Kernel => {
                let row: &Kernel = drawn.row();
                self.device(drawn, row.correlation, row.flags & flag::GRAPH != 0);
            }
            ItemKind::Memcpy => {
                let row: &Memcpy = drawn.row();
                self.device(drawn, row.correlation, row.flags & flag::GRAPH != 0);
            }
            ItemKind::Memset => {
                let row: &Memset = drawn.row();
                self.device(drawn, row.correlation, row.flags & flag::GRAPH != 0);
            }
            ItemKind::Communication => {
                self.device(drawn, drawn.row::<Communication>().correlation, false);
            }
            ItemKind::Synchronization
            | ItemKind::Overhead
            | ItemKind::Span
            | ItemKind::Step
            | ItemKind::Marker
            | ItemKind::Memory
            | ItemKind::Sample => self.push(lane, around),
        }
        Ok(())
    }

    fn end_slice(&mut self, lane: usize, _at: u64) -> io::Result<()> {
        if let Some(open) = self.lanes.get_mut(lane) {
            open.pop();
        }
        Ok(())
    }

    fn instant(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()> {
        let node = self.around(lane);
        if drawn.item.kind == ItemKind::Sample && node != 0 {
            self.sample(node, drawn.row());
        }
        Ok(())
    }

    fn counters(&mut self, _place: &Place<'_>, _rows: &[Counter]) -> io::Result<()> {
        Ok(())
    }

    fn samples(&mut self, _place: &Place<'_>, _rows: &[Sample]) -> io::Result<()> {
        Ok(())
    }

    fn finish(
        &mut self,
        _workers: &[Worker],
        _definitions: &Definitions,
        _counts: &TimelineCounts,
    ) -> io::Result<()> {
        Ok(())
    }
}
