//! Escaping of what becomes a part of a file name.

use std::hash::{DefaultHasher, Hasher as _};

use crate::identity::base32;

/// What stands for a part that is not known.
pub(super) const UNKNOWN: &str = "_";

/// The longest part, in bytes: a name holds two of them, the numbers and an extension below 255.
const MAX_PART_BYTES: usize = 48;

/// How much of a part that is too long stays readable.
const KEPT_BYTES: usize = 36;

/// A text as a part of a name: ASCII letters, digits, `-` and `_` stay, and `.` inside; every
/// other byte becomes `=XX`. A part that is too long is cut and ends in `=~` and a hash of the
/// whole, so that two long parts that differ late do not meet. Empty is unknown.
pub(super) fn escape(text: &str) -> String {
    if text.is_empty() {
        return UNKNOWN.to_owned();
    }
    let mut part = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        let inner_dot = byte == b'.' && index != 0 && index + 1 != text.len();
        // A lone `_` is the unknown part and nothing else.
        let plain_underscore = byte == b'_' && text != UNKNOWN;
        if byte.is_ascii_alphanumeric() || byte == b'-' || inner_dot || plain_underscore {
            part.push(char::from(byte));
        } else {
            part.push_str(&format!("={byte:02X}"));
        }
        // What lies far beyond the longest part only feeds the hash.
        if part.len() > 4 * MAX_PART_BYTES {
            break;
        }
    }
    if part.len() <= MAX_PART_BYTES {
        return part;
    }
    part.truncate(KEPT_BYTES);
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    part.push_str("=~");
    part.push_str(&base32(hasher.finish(), 8));
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_readable_where_they_can_be() {
        assert_eq!(escape("thinker"), "thinker");
        assert_eq!(escape("node-3.example.org"), "node-3.example.org");
        assert_eq!(escape("a/b"), "a=2Fb");
        assert_eq!(escape(".."), "=2E=2E");
        assert_eq!(escape("_"), "=5F");
        assert_eq!(escape(""), "_");
        assert_eq!(escape("语"), "=E8=AF=AD");
    }

    #[test]
    fn long_parts_that_differ_late_do_not_meet() {
        let (one, other) = (format!("{}1", "x".repeat(300)), format!("{}2", "x".repeat(300)));
        assert_ne!(escape(&one), escape(&other));
        assert!(escape(&one).len() <= MAX_PART_BYTES);
    }

    proptest! {
        #[test]
        fn a_part_is_a_plain_name(text in ".{0,400}") {
            let part = escape(&text);
            prop_assert!(part.len() <= MAX_PART_BYTES && !part.is_empty());
            prop_assert!(part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=~".contains(&b)));
            prop_assert!(!part.starts_with('.') && !part.ends_with('.'));
        }

        #[test]
        fn different_texts_give_different_parts(one in ".{0,60}", other in ".{0,60}") {
            prop_assert_eq!(one == other, escape(&one) == escape(&other));
        }
    }
}
