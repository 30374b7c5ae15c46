//! Rows of one stream and kind on their way to a block.

use std::time::Instant;

use zerocopy::IntoBytes as _;

use crate::record::HeapRef;
use crate::spool::encode::{u32_of, u64_of};
use crate::spool::layout::{Column, Layout, columns};

/// A block that has so many heap bytes is closed.
pub(super) const BLOCK_HEAP_BYTES: usize = 1 << 20;

/// Rows of one stream and kind that will be a block.
pub(super) struct Gathered {
    pub(super) layout: Option<&'static Layout>,
    pub(super) columns: Vec<Column>,
    pub(super) stride: usize,
    pub(super) rows: Vec<u8>,
    pub(super) heap: Vec<u8>,
    /// The heap is as the producer gave it, because not all references to it are known.
    pub(super) opaque: bool,
    pub(super) since: Instant,
}

impl Gathered {
    pub(super) fn new(layout: Option<&'static Layout>, stride: usize) -> Self {
        Self {
            layout,
            columns: columns(layout, stride),
            stride,
            rows: Vec::new(),
            heap: Vec::new(),
            opaque: false,
            since: Instant::now(),
        }
    }

    /// The memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        let columns = self.columns.capacity() * size_of::<Column>();
        size_of::<Self>() + columns + self.rows.capacity() + self.heap.capacity()
    }

    pub(super) fn count(&self) -> usize {
        self.rows.len() / self.stride
    }

    /// Takes rows with copies of their heap bytes, such that these lie in the rows' order; stops
    /// early once the block has heap bytes enough. How many bytes of `rows` were taken.
    pub(super) fn take_with_heap(&mut self, layout: &Layout, rows: &[u8], heap: &[u8]) -> usize {
        let mut taken = 0;
        for row in rows.chunks_exact(self.stride) {
            let start = self.rows.len();
            self.rows.extend_from_slice(row);
            for &at in &layout.heap_refs {
                let at = at as usize;
                let Some(field) = row.get(at..at + size_of::<HeapRef>()) else { break };
                let place = HeapRef { offset: u32_of(field, 0), len: u32_of(field, 4) };
                let bytes = place.of(heap).unwrap_or_default();
                let place = match bytes.len() {
                    0 => HeapRef::default(),
                    _ => HeapRef::push(&mut self.heap, bytes),
                };
                let target = start + at;
                self.rows[target..target + size_of::<HeapRef>()].copy_from_slice(place.as_bytes());
            }
            taken += self.stride;
            if self.heap.len() >= BLOCK_HEAP_BYTES {
                break;
            }
        }
        taken
    }
}

/// The smallest and the largest of the rows' first instants, 0 where they have none.
pub(super) fn first_times(rows: &[u8], stride: usize, time: Option<u32>) -> (u64, u64) {
    let Some(at) = time.map(|at| at as usize).filter(|at| at + 8 <= stride) else {
        return (0, 0);
    };
    let (mut first, mut last) = (u64::MAX, 0);
    for row in rows.chunks_exact(stride) {
        let time = u64_of(row, at);
        first = first.min(time);
        last = last.max(time);
    }
    (first.min(last), last)
}
