//! What operators are tied to: the launches they enclose, and what follows from those on a device;
//! forward operators and their backward ones.
//!
//! A launch belongs to the innermost operator that is open on its thread when it begins. A
//! backward operator belongs to the forward one of the same sequence number on the thread that it
//! names; where several of those enclose each other, to the innermost, as PyTorch has it.
//!
//! Slices must come as the timeline gives them: in order on each lane, the lanes of threads before
//! those of devices.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use profiler_core::record::{
    ApiCall, Communication, Kernel, Memcpy, Memset, Operator, OperatorScope, Synchronization, flag,
};

use crate::timeline::{Drawn, ItemKind};

/// Launches whose device work has not come, and forward operators whose backward has not, at most;
/// past that the oldest are forgotten.
const MAX_WAITING: usize = 1 << 17;

/// Where a slice lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlicePlace {
    pub(crate) lane: usize,
    pub(crate) start: u64,
}

/// What a slice is tied to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// The operator's number, for an operator its own; 0 = none.
    pub(crate) operator: u64,
    /// Of a backward operator, the forward one.
    pub(crate) forward: Option<SlicePlace>,
}

/// Follows the slices of a capture.
pub(crate) struct OperatorLinks {
    /// The open slices of each lane: the operator's number, for others that of the one around.
    lanes: Vec<Vec<u64>>,
    last_operator: u64,
    launches: Waiting<(u32, u64), u64>,
    forwards: Waiting<(u32, u32, i64), SlicePlace>,
}

impl OperatorLinks {
    pub(crate) fn new() -> Self {
        Self {
            lanes: Vec::new(),
            last_operator: 0,
            launches: Waiting::new(),
            forwards: Waiting::new(),
        }
    }

    /// A slice begins.
    #[inline]
    pub(crate) fn begin(&mut self, lane: usize, drawn: &Drawn<'_>) -> Links {
        match drawn.item.kind {
            ItemKind::Operator => self.operator(lane, drawn),
            // Without operators there is nothing to follow.
            _ if self.last_operator == 0 => Links::default(),
            ItemKind::ApiCall => {
                let operator = self.around(lane);
                let correlation = drawn.row::<ApiCall>().correlation;
                if operator != 0 && correlation != 0 {
                    self.launches.insert((drawn.worker, correlation), operator);
                }
                self.push(lane, operator);
                Links { operator, forward: None }
            }
            ItemKind::Span | ItemKind::Overhead => {
                let operator = self.around(lane);
                self.push(lane, operator);
                Links::default()
            }
            ItemKind::Kernel
            | ItemKind::Memcpy
            | ItemKind::Memset
            | ItemKind::Communication
            | ItemKind::Synchronization => Links { operator: self.of_device(drawn), forward: None },
            ItemKind::Step | ItemKind::Marker | ItemKind::Memory | ItemKind::Sample => {
                Links::default()
            }
        }
    }

    /// The slice of that lane that began last and has not ended ends.
    #[inline]
    pub(crate) fn end(&mut self, lane: usize) {
        if let Some(open) = self.lanes.get_mut(lane) {
            open.pop();
        }
    }

    fn operator(&mut self, lane: usize, drawn: &Drawn<'_>) -> Links {
        self.last_operator += 1;
        let operator = self.last_operator;
        self.push(lane, operator);
        let row: &Operator = drawn.row();
        let mut forward = None;
        if row.sequence >= 0 {
            if row.scope == OperatorScope::BackwardFunction.number() {
                let key = (drawn.worker, row.forward_thread, row.sequence);
                forward = self.forwards.get(&key);
            } else if row.scope == OperatorScope::Function.number() {
                let place = SlicePlace { lane, start: drawn.item.start };
                self.forwards.insert((drawn.worker, row.thread, row.sequence), place);
            }
        }
        Links { operator, forward }
    }

    fn push(&mut self, lane: usize, operator: u64) {
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, Vec::new());
        }
        self.lanes[lane].push(operator);
    }

    fn around(&self, lane: usize) -> u64 {
        self.lanes.get(lane).and_then(|open| open.last()).copied().unwrap_or(0)
    }

    fn of_device(&mut self, drawn: &Drawn<'_>) -> u64 {
        let (correlation, is_graph) = match drawn.item.kind {
            ItemKind::Kernel => {
                let row: &Kernel = drawn.row();
                (row.correlation, row.flags & flag::GRAPH != 0)
            }
            ItemKind::Memcpy => {
                let row: &Memcpy = drawn.row();
                (row.correlation, row.flags & flag::GRAPH != 0)
            }
            ItemKind::Memset => {
                let row: &Memset = drawn.row();
                (row.correlation, row.flags & flag::GRAPH != 0)
            }
            ItemKind::Communication => (drawn.row::<Communication>().correlation, false),
            ItemKind::Synchronization => (drawn.row::<Synchronization>().correlation, true),
            _ => (0, true),
        };
        if correlation == 0 {
            return 0;
        }
        let key = (drawn.worker, correlation);
        // One launch of a graph causes many; what else is launched comes once.
        let found = if is_graph { self.launches.get(&key) } else { self.launches.take(&key) };
        found.unwrap_or(0)
    }
}

/// A map that forgets the oldest where it has no room.
pub(crate) struct Waiting<K, V> {
    values: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Copy + Eq + Hash, V: Copy> Waiting<K, V> {
    pub(crate) fn new() -> Self {
        Self { values: HashMap::new(), order: VecDeque::new() }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        // What was taken stands in the order still.
        while self.order.len() > MAX_WAITING {
            if let Some(oldest) = self.order.pop_front() {
                self.values.remove(&oldest);
            }
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.values.get(key).copied()
    }

    pub(crate) fn take(&mut self, key: &K) -> Option<V> {
        self.values.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes_first() {
        let mut waiting = Waiting::new();
        for key in 0..=MAX_WAITING {
            waiting.insert(key, key);
        }
        assert_eq!(waiting.get(&0), None);
        assert_eq!(waiting.take(&MAX_WAITING), Some(MAX_WAITING));
        assert_eq!(waiting.get(&MAX_WAITING), None);
        waiting.insert(1, 7);
        assert_eq!(waiting.get(&1), Some(7));
    }
}
