//! Time that belongs to what encloses it, in whatever order the two come.
//!
//! Rows are written at their ends, so what is enclosed mostly comes first; but blocks are read by
//! their first instants, and then the enclosing row may. Each side waits for the other in a bounded
//! place; what is pushed out of it keeps its time to itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

/// The rows that wait, on each side, of one worker's spans.
const MAX_WAITING: usize = 1 << 16;
/// The rows that wait, on each side, of one depth of one thread.
const MAX_AT_DEPTH: usize = 1 << 10;
/// The threads and depths that are followed.
const MAX_DEPTHS: usize = 1 << 12;

/// What a row's time means for sums by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share<N> {
    /// The row's own time, as far as is known.
    pub(super) own: u64,
    /// What the row that encloses it, which came before, has less; by its name.
    pub(super) taken: Option<(N, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Enclosing<N> {
    name: N,
    /// The part of its time that nothing inside it has taken yet.
    left: u64,
}

impl<N: Copy> Enclosing<N> {
    fn take(&mut self, time: u64) -> Option<(N, u64)> {
        let taken = time.min(self.left);
        self.left -= taken;
        (taken > 0).then_some((self.name, taken))
    }
}

/// Rows that name the one that encloses them.
#[derive(Debug)]
pub(super) struct ById<K, N> {
    inside: Bounded<K, u64>,
    enclosing: Bounded<K, Enclosing<N>>,
}

impl<K, N> Default for ById<K, N> {
    fn default() -> Self {
        Self { inside: Bounded::default(), enclosing: Bounded::default() }
    }
}

impl<K: Copy + Eq + Hash, N: Copy> ById<K, N> {
    /// Takes a row.
    pub(super) fn add(&mut self, id: K, parent: Option<K>, name: N, time: u64) -> Share<N> {
        let own = time.saturating_sub(self.inside.map.remove(&id).unwrap_or(0));
        self.enclosing.insert(id, Enclosing { name, left: own });
        let Some(parent) = parent else { return Share { own, taken: None } };
        if let Some(enclosing) = self.enclosing.map.get_mut(&parent) {
            return Share { own, taken: enclosing.take(time) };
        }
        let known = self.inside.map.get(&parent).copied().unwrap_or(0);
        self.inside.insert(parent, known.saturating_add(time));
        Share { own, taken: None }
    }
}

/// A map that forgets what was put in first.
#[derive(Debug)]
struct Bounded<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    fn insert(&mut self, key: K, value: V) {
        if self.map.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        // Keys that were removed meanwhile still stand in the order.
        while self.order.len() > MAX_WAITING {
            if let Some(oldest) = self.order.pop_front() {
                self.map.remove(&oldest);
            }
        }
    }
}

/// Rows that know how deep they lie.
#[derive(Debug)]
pub(super) struct ByDepth<T, N> {
    depths: HashMap<(T, u16), Depth<N>>,
}

#[derive(Debug)]
struct Depth<N> {
    /// The rows of this depth by their starts, with their ends, as what may enclose others.
    enclosing: BTreeMap<u64, (u64, Enclosing<N>)>,
    /// The time of rows of this depth whose enclosing row did not come yet, by their starts.
    inside: BTreeMap<u64, u64>,
}

impl<N> Default for Depth<N> {
    fn default() -> Self {
        Self { enclosing: BTreeMap::new(), inside: BTreeMap::new() }
    }
}

impl<T, N> Default for ByDepth<T, N> {
    fn default() -> Self {
        Self { depths: HashMap::new() }
    }
}

impl<T: Copy + Eq + Hash, N: Copy> ByDepth<T, N> {
    /// Takes a row of a thread.
    pub(super) fn add(&mut self, thread: T, depth: u16, name: N, start: u64, end: u64) -> Share<N> {
        let time = end.saturating_sub(start);
        let mut own = time;
        if let Some(below) = depth.checked_add(1).and_then(|below| self.depth(thread, below)) {
            let mut after = below.inside.split_off(&start);
            let mut rest = after.split_off(&end.max(start));
            below.inside.append(&mut rest);
            for inside in after.values() {
                own = own.saturating_sub(*inside);
            }
        }
        let mut taken = None;
        let mut found = depth == 0;
        if let Some(above) = depth.checked_sub(1).and_then(|above| self.depth(thread, above))
            && let Some((_, (until, enclosing))) = above.enclosing.range_mut(..=start).next_back()
            && start < *until
        {
            taken = enclosing.take(time);
            found = true;
        }
        if let Some(here) = self.depth(thread, depth) {
            here.enclosing.insert(start, (end, Enclosing { name, left: own }));
            if here.enclosing.len() > MAX_AT_DEPTH {
                here.enclosing.pop_first();
            }
            if !found {
                let inside = here.inside.entry(start).or_default();
                *inside = inside.saturating_add(time);
                if here.inside.len() > MAX_AT_DEPTH {
                    here.inside.pop_first();
                }
            }
        }
        Share { own, taken }
    }

    fn depth(&mut self, thread: T, depth: u16) -> Option<&mut Depth<N>> {
        if self.depths.len() >= MAX_DEPTHS && !self.depths.contains_key(&(thread, depth)) {
            return None;
        }
        Some(self.depths.entry((thread, depth)).or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tree of calls: name, start, end, depth, parent.
    fn calls() -> Vec<(usize, u64, u64, u16, Option<usize>)> {
        vec![
            (0, 0, 100, 0, None),
            (1, 10, 40, 1, Some(0)),
            (2, 15, 20, 2, Some(1)),
            (3, 20, 30, 2, Some(1)),
            (4, 50, 90, 1, Some(0)),
            (5, 100, 130, 0, None),
            (6, 100, 130, 1, Some(5)),
        ]
    }

    const OWN: [u64; 7] = [30, 15, 5, 10, 40, 0, 30];

    fn order() -> impl Strategy<Value = Vec<(usize, u64, u64, u16, Option<usize>)>> {
        Just(calls()).prop_shuffle()
    }

    fn put(own: &mut [u64; 7], name: usize, share: Share<usize>) {
        own[name] += share.own;
        if let Some((enclosing, time)) = share.taken {
            own[enclosing] -= time;
        }
    }

    proptest! {
        #[test]
        fn the_order_of_rows_does_not_matter(calls in order()) {
            let (mut by_id, mut by_depth) = (ById::default(), ByDepth::default());
            let (mut ids, mut depths) = ([0; 7], [0; 7]);
            for (name, start, end, depth, parent) in calls {
                put(&mut ids, name, by_id.add(name, parent, name, end - start));
                put(&mut depths, name, by_depth.add(7, depth, name, start, end));
            }
            prop_assert_eq!(ids, OWN);
            prop_assert_eq!(depths, OWN);
        }

        #[test]
        fn wild_rows_take_no_more_than_there_is(
            rows in prop::collection::vec((0_u64..50, any::<u64>(), any::<u64>(), 0_u16..4, 0_u64..50), 0..200)
        ) {
            let (mut by_id, mut by_depth) = (ById::default(), ByDepth::default());
            for (id, start, end, depth, parent) in rows {
                let time = end.saturating_sub(start);
                prop_assert!(by_id.add(id, Some(parent), id, time).own <= time);
                prop_assert!(by_depth.add(1, depth, id, start, end).own <= time);
            }
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut by_id = ById::default();
        let mut by_depth = ByDepth::default();
        for id in 0..3 * MAX_WAITING as u64 {
            by_id.add(id, Some(id + 10_000_000), 0, 1);
            by_depth.add(1, 3, 0, id * 10, id * 10 + 5);
        }
        assert!(
            by_id.inside.map.len() <= MAX_WAITING && by_id.enclosing.order.len() <= MAX_WAITING
        );
        assert!(by_depth.depths.values().all(|depth| depth.inside.len() <= MAX_AT_DEPTH));
    }
}
