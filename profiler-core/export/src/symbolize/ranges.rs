//! Which file an address lies in.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ModuleFile;

/// The most ranges of one process; a process has some hundreds.
const MAX_RANGES: usize = 1 << 16;

/// A range of a process's addresses and the file that was mapped there.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    pub(super) file: Arc<ModuleFile>,
    /// The file's byte that an address shows is `address - start + file_offset`, also where the
    /// range was cut by a later one.
    start: u64,
    file_offset: u64,
    end: u64,
}

impl Mapped {
    /// Where in the file `address` lies.
    pub(super) fn offset_of(&self, address: u64) -> u64 {
        (address - self.start).wrapping_add(self.file_offset)
    }
}

/// The ranges of one process; where two overlap the later one holds.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    by_start: BTreeMap<u64, Mapped>,
}

impl Ranges {
    /// Adds a range; `false` where there are too many already.
    pub(super) fn insert(
        &mut self,
        start: u64,
        end: u64,
        file_offset: u64,
        file: Arc<ModuleFile>,
    ) -> bool {
        if start >= end {
            return true;
        }
        if self.by_start.len() >= MAX_RANGES {
            return false;
        }
        // The one that begins before and reaches in keeps its head, and its tail where it goes on.
        let before =
            self.by_start.range(..start).next_back().map(|(&key, mapped)| (key, mapped.clone()));
        if let Some((key, mapped)) = before
            && mapped.end > start
        {
            if let Some(head) = self.by_start.get_mut(&key) {
                head.end = start;
            }
            if mapped.end > end {
                self.by_start.insert(end, mapped);
            }
        }
        let covered: Vec<u64> = self.by_start.range(start..end).map(|(&key, _)| key).collect();
        for key in covered {
            if let Some(mapped) = self.by_start.remove(&key)
                && mapped.end > end
            {
                self.by_start.insert(end, mapped);
            }
        }
        self.by_start.insert(start, Mapped { file, start, file_offset, end });
        true
    }

    /// The range that holds `address`.
    pub(super) fn find(&self, address: u64) -> Option<&Mapped> {
        let (_, mapped) = self.by_start.range(..=address).next_back()?;
        (address < mapped.end).then_some(mapped)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str) -> Arc<ModuleFile> {
        Arc::new(ModuleFile { path: name.into(), build_id: Box::default() })
    }

    #[test]
    fn the_last_range_holds_and_leaves_head_and_tail() {
        let mut ranges = Ranges::default();
        ranges.insert(100, 200, 1000, file("a"));
        ranges.insert(120, 150, 0, file("b"));
        let at = |address| ranges.find(address).map(|m| (&*m.file.path, m.offset_of(address)));
        assert_eq!(at(99), None);
        assert_eq!(at(119), Some(("a", 1019)));
        assert_eq!(at(120), Some(("b", 0)));
        assert_eq!(at(149), Some(("b", 29)));
        assert_eq!(at(150), Some(("a", 1050)));
        assert_eq!(at(200), None);
    }

    proptest! {
        /// The same as painting an array, one range over the other.
        #[test]
        fn equals_a_painted_array(
            rows in prop::collection::vec((0_u64..64, 0_u64..64, 0_u64..1000), 0..24)
        ) {
            let mut ranges = Ranges::default();
            let mut painted: Vec<Option<(String, u64)>> = vec![None; 64];
            for (index, &(start, end, offset)) in rows.iter().enumerate() {
                let name = index.to_string();
                ranges.insert(start, end, offset, file(&name));
                for address in start..end.max(start) {
                    painted[address as usize] = Some((name.clone(), address - start + offset));
                }
            }
            for (address, expected) in painted.iter().enumerate() {
                let found = ranges
                    .find(address as u64)
                    .map(|m| (m.file.path.to_string(), m.offset_of(address as u64)));
                prop_assert_eq!(&found, expected);
            }
        }
    }
}
