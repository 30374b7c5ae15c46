//! Protobuf, as much of it as traces need.

/// Appends fields to a message.
pub(crate) trait Proto {
    fn varint(&mut self, value: u64);
    fn raw(&mut self, bytes: &[u8]);

    fn uint(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u32, value: f64) {
        self.varint(u64::from(field) << 3 | 1);
        self.raw(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }
}

impl Proto for Vec<u8> {
    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Appends a message built by `fill`.
pub(crate) fn message(out: &mut Vec<u8>, field: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    out.bytes(field, &inner);
}

/// A short message on the stack: what is written for every slice.
pub(crate) struct Short {
    bytes: [u8; Self::ROOM],
    len: usize,
}

impl Short {
    const ROOM: usize = 128;

    #[inline]
    pub(crate) fn new() -> Self {
        Self { bytes: [0; Self::ROOM], len: 0 }
    }

    /// Leaves room for the length of a message that begins here, and returns where.
    #[inline]
    pub(crate) fn begin(&mut self, tag: u8) -> usize {
        self.byte(tag);
        self.byte(0);
        self.len
    }

    /// Writes the length of the message that began there; it is below 128.
    #[inline]
    pub(crate) fn end(&mut self, begin: usize) {
        self.bytes[begin - 1] = (self.len - begin) as u8;
    }

    /// Appends the first `len` of some bytes.
    #[inline]
    pub(crate) fn put_some(&mut self, bytes: [u8; 8], len: usize) {
        // All eight at once: copying as many as there are costs a call.
        self.bytes[self.len..self.len + 8].copy_from_slice(&bytes);
        self.len += len;
    }

    /// Appends bytes whose number is known.
    #[inline]
    pub(crate) fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    #[inline]
    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    pub(crate) fn varint(&mut self, value: u64) {
        if value >= 1 << 56 {
            return self.long_varint(value);
        }
        let (bytes, len) = varint(value);
        self.put_some(bytes, len);
    }

    #[cold]
    fn long_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }
}

/// The varint of a value below 2^56, and its length. Without branches: the lengths of instants and
/// ids are what nobody can predict.
#[inline]
fn varint(value: u64) -> ([u8; 8], usize) {
    // Each step makes room for one more bit in every half of what the step before spread.
    let halves = (value & 0x0fff_ffff) | (value & 0x00ff_ffff_f000_0000) << 4;
    let quarters = (halves & 0x0000_3fff_0000_3fff) | (halves & 0x0fff_c000_0fff_c000) << 2;
    let groups = (quarters & 0x007f_007f_007f_007f) | (quarters & 0x3f80_3f80_3f80_3f80) << 1;
    let bits = 64 - (value | 1).leading_zeros();
    // Seven bits a byte, rounded up.
    let len = (bits * 9 + 64) / 64;
    let goes_on = 0x8080_8080_8080_8080 & ((1 << (8 * (len - 1))) - 1);
    ((groups | goes_on).to_le_bytes(), len as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Proto as _, Short};

    fn check(value: u64) {
        let mut plain = Vec::new();
        plain.varint(value);
        let mut short = Short::new();
        short.byte(7);
        short.varint(value);
        assert_eq!(short.as_slice()[1..], plain, "{value:#x}");
    }

    #[test]
    fn varints_of_every_length_are_as_one_writes_them() {
        for bits in 0..64 {
            for value in [1_u64 << bits, (1 << bits) - 1, (1 << bits) + 1] {
                check(value);
            }
        }
        check(u64::MAX);
    }

    proptest! {
        #[test]
        fn any_varint_is_as_one_writes_it(value: u64, shift in 0_u32..64) {
            check(value >> shift);
        }
    }
}
