//! The texts of a span or marker, as one run of bytes: each part is a tag and UTF-8.
//!
//! The tags are bytes that UTF-8 never holds, so that no part needs a length.

use std::fmt::{self, Write as _};

pub(super) const NAME: u8 = 0xF8;
pub(super) const TARGET: u8 = 0xF9;
pub(super) const REQUEST: u8 = 0xFA;
pub(super) const STAGE: u8 = 0xFB;
/// `"key":value` in JSON.
pub(super) const FIELD: u8 = 0xFC;
/// Something had no room.
pub(super) const CUT: u8 = 0xFD;

/// Names are cut here.
pub(super) const MAX_NAME_BYTES: usize = 192;

/// Other texts but fields are cut here.
pub(super) const MAX_LABEL_BYTES: usize = 96;

/// Takes bytes, as long as there is room.
pub(super) trait Room {
    fn len(&self) -> usize;
    /// Appends all bytes or none; whether it did.
    fn append(&mut self, bytes: &[u8]) -> bool;
    fn truncate(&mut self, len: usize);
}

/// Bytes on the heap, bounded all the same: a span of `tracing` keeps them until it is entered.
impl Room for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        if self.len() + bytes.len() > super::open::TEXT_BYTES {
            return false;
        }
        self.extend_from_slice(bytes);
        true
    }

    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }
}

/// Appends a part, cut to `max` bytes at a character's boundary.
#[inline]
pub(super) fn push(room: &mut impl Room, tag: u8, text: &str, max: usize) {
    let text = if text.len() <= max { text } else { cut(text, max) };
    let before = room.len();
    if !(room.append(&[tag]) && room.append(text.as_bytes())) {
        room.truncate(before);
        push_cut(room);
    }
}

#[cold]
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// Appends a field; one that has no room is left out, and the row says so.
pub(super) fn push_field(room: &mut impl Room, key: &str, value: &dyn FieldValue) {
    let before = room.len();
    let mut json = Json { room, is_full: false };
    let written = json.field(key, value);
    if written.is_err() || json.is_full {
        room.truncate(before);
        push_cut(room);
    }
}

fn push_cut(room: &mut impl Room) {
    // Where not even this has room, the part before it was cut, too.
    room.append(&[CUT]);
}

/// A value that a span's field can have.
///
/// Implemented for numbers, truth values and texts; other values are given as texts.
pub trait FieldValue {
    /// Writes the value as JSON.
    ///
    /// # Errors
    ///
    /// Where `out` takes no more.
    fn write_json(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}

macro_rules! as_it_is_shown {
    ($($type:ty)*) => {$(
        impl FieldValue for $type {
            fn write_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                write!(out, "{self}")
            }
        }
    )*};
}

as_it_is_shown! { bool i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize }

impl FieldValue for f64 {
    fn write_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        // JSON has no infinities.
        if self.is_finite() { write!(out, "{self}") } else { write!(out, "\"{self}\"") }
    }
}

impl FieldValue for f32 {
    fn write_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        if self.is_finite() { write!(out, "{self}") } else { write!(out, "\"{self}\"") }
    }
}

impl FieldValue for str {
    fn write_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        quote(&self, out)
    }
}

impl FieldValue for String {
    fn write_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.as_str().write_json(out)
    }
}

impl<T: FieldValue + ?Sized> FieldValue for &T {
    fn write_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        (**self).write_json(out)
    }
}

/// Writes what a value shows as a JSON text.
pub(super) fn quote(value: &dyn fmt::Display, out: &mut dyn fmt::Write) -> fmt::Result {
    out.write_char('"')?;
    write!(Escape(out), "{value}")?;
    out.write_char('"')
}

struct Escape<'a>(&'a mut dyn fmt::Write);

impl fmt::Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.0.write_str(&text[plain..at])?;
            plain = at + 1;
            match byte {
                b'"' => self.0.write_str("\\\"")?,
                b'\\' => self.0.write_str("\\\\")?,
                b'\n' => self.0.write_str("\\n")?,
                b'\t' => self.0.write_str("\\t")?,
                _ => write!(self.0, "\\u{byte:04x}")?,
            }
        }
        self.0.write_str(&text[plain..])
    }
}

/// Writes a field into a room.
struct Json<'a, R: Room> {
    room: &'a mut R,
    is_full: bool,
}

impl<R: Room> Json<'_, R> {
    fn field(&mut self, key: &str, value: &dyn FieldValue) -> fmt::Result {
        if !self.room.append(&[FIELD]) {
            return Err(fmt::Error);
        }
        key.write_json(self)?;
        self.write_char(':')?;
        value.write_json(self)
    }
}

impl<R: Room> fmt::Write for Json<'_, R> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_full || !self.room.append(text.as_bytes()) {
            self.is_full = true;
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// The parts of a run of bytes; what is before the first tag or no UTF-8 is nothing of ours and
/// left out.
pub(super) fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &str)> {
    std::iter::from_fn(move || {
        loop {
            let begin = bytes.iter().position(|byte| *byte >= NAME)?;
            let tag = bytes[begin];
            let rest = &bytes[begin + 1..];
            let end = rest.iter().position(|byte| *byte >= NAME).unwrap_or(rest.len());
            let part = &rest[..end];
            bytes = &rest[end..];
            if let Ok(text) = std::str::from_utf8(part) {
                return Some((tag, text));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_come_out_as_they_went_in() {
        let mut room = Vec::new();
        push(&mut room, NAME, "größe", MAX_NAME_BYTES);
        push(&mut room, REQUEST, "r-1", MAX_LABEL_BYTES);
        push_field(&mut room, "a\"b", &"x\\\n\u{1}");
        push_field(&mut room, "n", &-3);
        push_field(&mut room, "f", &f64::NAN);
        let found: Vec<_> = parts(&room).collect();
        assert_eq!(
            found,
            [
                (NAME, "größe"),
                (REQUEST, "r-1"),
                (FIELD, r#""a\"b":"x\\\n\u0001""#),
                (FIELD, r#""n":-3"#),
                (FIELD, r#""f":"NaN""#),
            ]
        );
    }

    #[test]
    fn a_field_without_room_is_left_out_and_told() {
        let mut room = Vec::new();
        push(&mut room, NAME, &"n".repeat(1000), MAX_NAME_BYTES);
        push_field(&mut room, "long", &"x".repeat(1000));
        push_field(&mut room, "short", &1);
        let found: Vec<_> = parts(&room).collect();
        assert_eq!(found[0].1.len(), MAX_NAME_BYTES);
        assert_eq!(found[1..], [(CUT, ""), (FIELD, r#""short":1"#)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let total: usize = parts(&bytes).map(|(_, text)| text.len() + 1).sum();
            prop_assert!(total <= bytes.len());
        }

        #[test]
        fn any_texts_fit_or_are_cut(
            name in ".*", request in ".*", key in ".*", value in ".*", number in any::<f64>(),
        ) {
            let mut room = Vec::new();
            push(&mut room, NAME, &name, MAX_NAME_BYTES);
            push(&mut room, REQUEST, &request, MAX_LABEL_BYTES);
            push_field(&mut room, &key, &value);
            push_field(&mut room, "number", &number);
            prop_assert!(room.len() <= super::super::open::TEXT_BYTES);
            let fields: Vec<&str> =
                parts(&room).filter(|(tag, _)| *tag == FIELD).map(|(_, text)| text).collect();
            let json = format!("{{{}}}", fields.join(","));
            prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{}", json);
        }
    }
}
