//! Rows that wait, in the order in which they came.

use std::collections::VecDeque;

use zerocopy::IntoBytes as _;

const CHUNK_WORDS: usize = 4096;
/// The longest heap bytes kept with a row; longer ones are left out whole, since half a JSON
/// object is none.
const MAX_HEAP_BYTES: usize = CHUNK_WORDS * 4;

/// Words in chunks; a chunk's words are given up when all that lay in it was taken, wherever it
/// stands: one row that waits for long holds no others.
#[derive(Default)]
pub(super) struct Arena {
    chunks: VecDeque<Chunk>,
    spare: Vec<Box<[u64; CHUNK_WORDS]>>,
    /// Chunks that have their words.
    full: usize,
    /// The place of the first chunk's first word. Places wrap.
    base: u32,
}

struct Chunk {
    /// `None` once all was taken.
    words: Option<Box<[u64; CHUNK_WORDS]>>,
    used: usize,
    waiting: usize,
}

impl Arena {
    /// Keeps a row and the bytes that it refers to, and returns where.
    #[inline]
    pub(super) fn push(&mut self, row: &[u64], heap: &[u8]) -> u32 {
        let heap = if heap.len() > MAX_HEAP_BYTES { &[] } else { heap };
        let needed = row.len() + heap.len().div_ceil(8) + 1;
        let has_room = |chunk: &Chunk| chunk.words.is_some() && chunk.used + needed <= CHUNK_WORDS;
        if !self.chunks.back().is_some_and(has_room) {
            self.grow();
        }
        let index = self.chunks.len() - 1;
        let Some(chunk) = self.chunks.back_mut() else { return 0 };
        let Some(words) = chunk.words.as_deref_mut() else { return 0 };
        let at = chunk.used;
        words[at] = heap.len() as u64;
        words[at + 1..at + 1 + row.len()].copy_from_slice(row);
        if !heap.is_empty() {
            let tail = words[at + 1 + row.len()..at + needed].as_mut_bytes();
            tail[..heap.len()].copy_from_slice(heap);
        }
        chunk.used += needed;
        chunk.waiting += 1;
        self.base.wrapping_add((index * CHUNK_WORDS + at) as u32)
    }

    /// The row kept there, with its heap bytes' length in front and the bytes behind. It must be
    /// taken once.
    #[inline]
    pub(super) fn take(&mut self, place: u32) -> &[u64] {
        let offset = place.wrapping_sub(self.base) as usize;
        let Some(chunk) = self.chunks.get_mut(offset / CHUNK_WORDS) else { return &[] };
        chunk.waiting -= 1;
        chunk.words.as_deref().map_or(&[], |words| &words[offset % CHUNK_WORDS..])
    }

    /// Gives up chunks of which all was taken.
    pub(super) fn release(&mut self) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.waiting == 0) {
            let Some(words) = chunk.words.take() else { continue };
            self.full -= 1;
            if self.spare.len() < 64 {
                self.spare.push(words);
            }
        }
        while self.chunks.front().is_some_and(|chunk| chunk.words.is_none()) {
            self.chunks.pop_front();
            self.base = self.base.wrapping_add(CHUNK_WORDS as u32);
        }
    }

    /// What is held. Chunks without words count too: a row that waits for ever would let them pile
    /// up until places come around.
    pub(super) fn bytes(&self) -> usize {
        self.full * CHUNK_WORDS * 8 + self.chunks.len() * size_of::<Chunk>()
    }

    #[cold]
    fn grow(&mut self) {
        let words = self.spare.pop().unwrap_or_else(|| Box::new([0; CHUNK_WORDS]));
        self.full += 1;
        self.chunks.push_back(Chunk { words: Some(words), used: 0, waiting: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_waits_holds_no_others() {
        // Places come around soon.
        let mut arena = Arena { base: u32::MAX - 2 * CHUNK_WORDS as u32, ..Arena::default() };
        let row: Vec<u64> = (0..8).collect();
        let first = arena.push(&row, b"heap");
        let others: Vec<u32> = (0..100_000).map(|_| arena.push(&row, &[])).collect();
        let full = arena.bytes();
        for place in others {
            assert_eq!(arena.take(place)[1..9], row);
        }
        arena.release();
        assert!(arena.bytes() < full / 20, "{} of {full} bytes are held", arena.bytes());
        let last = arena.push(&row, b"last");
        assert_eq!(arena.take(first)[..9], [&[4], &row[..]].concat());
        arena.release();
        assert_eq!(arena.take(last)[1..9], row);
        arena.release();
        assert_eq!(arena.bytes(), 0);
    }
}
