//! Sums by name, with a bound on how many names are kept apart.

use std::collections::HashMap;
use std::hash::Hash;

use super::distribution::Distribution;

/// The names that one table keeps apart; the rest is counted in one line.
pub const MAX_NAMES: usize = 1024;

/// The buckets of all histograms of a summary together; after that, new names go to the rest.
pub(super) const MAX_BUCKETS: usize = 4 << 20;

/// What is summed up of a name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sums {
    /// How long each lasted, in ns.
    pub(super) times: Distribution,
    /// The time without what it encloses, in ns.
    pub(super) own: u64,
    /// Bytes, where it has some.
    pub(super) bytes: Distribution,
    /// How many had not ended.
    pub(super) unfinished: u64,
}

impl Sums {
    pub(super) fn merge(&mut self, other: &Self) {
        self.times.merge(&other.times);
        self.bytes.merge(&other.bytes);
        self.own = self.own.saturating_add(other.own);
        self.unfinished += other.unfinished;
    }
}

/// Sums by name.
#[derive(Clone, Debug)]
pub(super) struct ByName<K> {
    names: HashMap<K, Sums>,
    rest: Sums,
}

impl<K> Default for ByName<K> {
    fn default() -> Self {
        Self { names: HashMap::new(), rest: Sums::default() }
    }
}

impl<K: Eq + Hash + Copy + Ord> ByName<K> {
    /// The sums of a name, or of the rest.
    pub(super) fn of(&mut self, name: K, buckets: &usize) -> &mut Sums {
        if (self.names.len() >= MAX_NAMES || *buckets >= MAX_BUCKETS)
            && !self.names.contains_key(&name)
        {
            return &mut self.rest;
        }
        self.names.entry(name).or_default()
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let mut sorted: Vec<_> = other.names.iter().collect();
        sorted.sort_unstable_by_key(|&(name, _)| *name);
        for (name, sums) in sorted {
            self.of(*name, &0).merge(sums);
        }
        self.rest.merge(&other.rest);
    }

    /// All names in order, then the rest where there is one.
    pub(super) fn sorted(&self) -> Vec<(Option<K>, &Sums)> {
        let mut sorted: Vec<_> =
            self.names.iter().map(|(name, sums)| (Some(*name), sums)).collect();
        sorted.sort_unstable_by_key(|&(name, _)| name);
        if self.rest.times.count() > 0 {
            sorted.push((None, &self.rest));
        }
        sorted
    }
}
