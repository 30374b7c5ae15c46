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

    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
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
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }
}
