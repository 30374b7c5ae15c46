//! Rows that wait, in the order in which they came.

use std::collections::VecDeque;

use zerocopy::IntoBytes as _;

const CHUNK_WORDS: usize = 4096;
/// The longest heap bytes kept with a row; longer ones are left out whole, since half a JSON
/// object is none.
const MAX_HEAP_BYTES: usize = CHUNK_WORDS * 4;

/// Words in chunks; a chunk is given up when all that lay in it was taken.
#[derive(Default)]
pub(super) struct Arena {
    chunks: VecDeque<Chunk>,
    spare: Vec<Box<[u64; CHUNK_WORDS]>>,
    /// The place of the first chunk's first word. Places wrap.
    base: u32,
}

struct Chunk {
    words: Box<[u64; CHUNK_WORDS]>,
    used: usize,
    waiting: usize,
}

impl Arena {
    /// Keeps a row and the bytes that it refers to, and returns where.
    #[inline]
    pub(super) fn push(&mut self, row: &[u64], heap: &[u8]) -> u32 {
        let heap = if heap.len() > MAX_HEAP_BYTES { &[] } else { heap };
        let needed = row.len() + heap.len().div_ceil(8) + 1;
        if self.chunks.back().is_none_or(|chunk| chunk.used + needed > CHUNK_WORDS) {
            self.grow();
        }
        let index = self.chunks.len() - 1;
        let Some(chunk) = self.chunks.back_mut() else { return 0 };
        let at = chunk.used;
        chunk.words[at] = heap.len() as u64;
        chunk.words[at + 1..at + 1 + row.len()].copy_from_slice(row);
        if !heap.is_empty() {
            let tail = chunk.words[at + 1 + row.len()..at + needed].as_mut_bytes();
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
        &chunk.words[offset % CHUNK_WORDS..]
    }

    /// Gives up chunks of which all was taken.
    pub(super) fn release(&mut self) {
        while let Some(chunk) = self.chunks.front() {
            if chunk.waiting > 0 {
                return;
            }
            if let Some(chunk) = self.chunks.pop_front()
                && self.spare.len() < 64
            {
                self.spare.push(chunk.words);
            }
            self.base = self.base.wrapping_add(CHUNK_WORDS as u32);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK_WORDS * 8
    }

    #[cold]
    fn grow(&mut self) {
        let words = self.spare.pop().unwrap_or_else(|| Box::new([0; CHUNK_WORDS]));
        self.chunks.push_back(Chunk { words, used: 0, waiting: 0 });
    }
}
