//! Inputs that are nearly right.

use profiler_core::synthetic::Random;

/// Numbers at which readers err.
const NUMBERS: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Longest input that is made, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// Makes inputs of a corpus; the same ones for a seed.
#[derive(Debug)]
pub struct Mutator {
    dice: Random,
    words: &'static [&'static str],
}

impl Mutator {
    /// Words are those of the target's language.
    #[must_use]
    pub fn new(seed: u64, words: &'static [&'static str]) -> Self {
        Self { dice: Random::new(seed), words }
    }

    /// One input.
    pub fn make(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.choose(corpus).clone();
        for _ in 0..=self.dice.below(6) {
            self.change(&mut input, corpus);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn choose<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a Vec<u8> {
        &corpus[self.dice.below(corpus.len() as u64) as usize]
    }

    fn place(&mut self, input: &[u8]) -> usize {
        self.dice.below(input.len() as u64 + 1) as usize
    }

    /// A range of at most `most` bytes.
    fn range(&mut self, input: &[u8], most: u64) -> std::ops::Range<usize> {
        let start = self.place(input);
        let len = self.dice.below(most) as usize;
        start..(start + len).min(input.len())
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        match self.dice.below(10) {
            0 | 1 => {
                let place = self.place(input);
                if let Some(byte) = input.get_mut(place) {
                    *byte ^= 1 << self.dice.below(8);
                }
            }
            2 | 3 => {
                let number = NUMBERS[self.dice.below(NUMBERS.len() as u64) as usize];
                let number = number.wrapping_add(self.dice.below(3)).wrapping_sub(1);
                let width = [1, 2, 4, 8][self.dice.below(4) as usize];
                let place = self.place(input);
                if let Some(bytes) = input.get_mut(place..place + width) {
                    bytes.copy_from_slice(&number.to_le_bytes()[..width]);
                }
            }
            4 => {
                let range = self.range(input, 64);
                input.drain(range);
            }
            5 => {
                let range = self.range(input, 256);
                let copied = input[range].to_vec();
                let place = self.place(input);
                input.splice(place..place, copied);
            }
            6 => {
                let other = self.choose(corpus).clone();
                let range = self.range(&other, 4096);
                let place = self.place(input);
                input.splice(place..place, other[range].iter().copied());
            }
            7 => {
                let place = self.place(input);
                input.truncate(place);
            }
            8 => {
                let place = self.place(input);
                let random: Vec<u8> =
                    (0..self.dice.below(16)).map(|_| self.dice.below(256) as u8).collect();
                input.splice(place..place, random);
            }
            _ => self.word(input),
        }
    }

    /// Puts a word where one stood, or anywhere.
    fn word(&mut self, input: &mut Vec<u8>) {
        if self.words.is_empty() {
            return;
        }
        let word = self.words[self.dice.below(self.words.len() as u64) as usize].as_bytes();
        let place = self.place(input);
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(byte);
        let end = input[place..].iter().position(|byte| !is_part(byte));
        let end = end.map_or(input.len(), |len| place + len);
        let start = input[..place].iter().rposition(|byte| !is_part(byte)).map_or(0, |at| at + 1);
        input.splice(start..end, word.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_inputs() {
        let corpus = [b"{\"a\": 1}".to_vec(), Vec::new()];
        let make = || {
            let mut mutator = Mutator::new(7, &["null", "1e999"]);
            (0..200).map(|_| mutator.make(&corpus)).collect::<Vec<_>>()
        };
        let made = make();
        assert_eq!(made, make());
        let mut distinct = made;
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 50, "{}", distinct.len());
    }
}
