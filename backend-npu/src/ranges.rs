//! Ranges that the application marked: MSPTI gives their begin and their end as two records.

use std::collections::HashMap;

/// Ranges that may be open at once.
const MAX_OPEN: usize = 1 << 16;

/// The begin of a range. Its end has neither name nor domain.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) thread: u32,
    pub(crate) name: Box<[u8]>,
    pub(crate) domain: Box<[u8]>,
}

/// The ranges that are open, by source (the device's or the host's) and number.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    open: HashMap<(bool, u64), Range>,
    /// Begins that found no place.
    refused: u64,
    /// Ends of ranges that began before the capture.
    unopened: u64,
    /// Records of no flag that is known.
    pub(crate) strange: u64,
}

impl Ranges {
    /// A range begins. One of the same number that never ended is forgotten.
    pub(crate) fn open(&mut self, key: (bool, u64), range: Range) {
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&key) {
            self.refused += 1;
            return;
        }
        self.open.insert(key, range);
    }

    /// A range ends.
    pub(crate) fn close(&mut self, key: (bool, u64)) -> Option<Range> {
        let range = self.open.remove(&key);
        self.unopened += u64::from(range.is_none());
        range
    }

    /// Those that are still open, in the order of their begin.
    pub(crate) fn take_open(&mut self) -> Vec<Range> {
        let mut open: Vec<Range> = std::mem::take(&mut self.open).into_values().collect();
        open.sort_by_key(|range| range.start);
        open
    }

    /// What a person should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let told = [
            (self.refused, "marker ranges were not kept: too many were open at once"),
            (self.unopened, "marker ranges ended that had begun before the capture"),
            (self.strange, "markers had no flag that is known"),
        ];
        let told = told.into_iter().filter(|(count, _)| *count > 0);
        told.map(|(count, text)| format!("{count} {text}")).collect()
    }
}
