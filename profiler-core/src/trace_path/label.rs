//! The label that a user gives a session.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest label that is taken, in characters.
pub const MAX_LABEL_CHARS: usize = 128;

/// A session's label (`profile_prefix`), fit to stand inside a session id.
///
/// The rule: 1 to 128 characters. ASCII letters, digits, `.`, `-` and `_` stay as they are; every
/// run of other characters (spaces, other scripts, punctuation) becomes one `_`. What looks like
/// a path or a terminal sequence is refused and not repaired: `/`, `\`, `..`, a `.` or `-` at the
/// front, control characters. The text as it was given stays in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionLabel {
    given: String,
    label: String,
}

impl SessionLabel {
    /// Reads a label.
    ///
    /// # Errors
    ///
    /// [`LabelError`] where the text is refused by the rule above.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let chars = text.chars().count();
        if chars == 0 {
            return Err(LabelError::Empty);
        }
        if chars > MAX_LABEL_CHARS {
            return Err(LabelError::TooLong { chars });
        }
        if let Some(found) = text.chars().find(|c| c.is_control() || is_invisible(*c)) {
            return Err(LabelError::Control { code_point: u32::from(found) });
        }
        for (part, name) in [("/", "`/`"), ("\\", "`\\`"), ("..", "`..`")] {
            if text.contains(part) {
                return Err(LabelError::PathLike { part: name });
            }
        }
        if text.starts_with(['.', '-']) {
            return Err(LabelError::Front);
        }
        let mut label = String::with_capacity(chars);
        let mut replaced = false;
        for c in text.chars() {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') {
                label.push(c);
                replaced = false;
            } else if !replaced {
                label.push('_');
                replaced = true;
            }
        }
        Ok(Self { given: text.to_owned(), label })
    }

    /// The label as it stands in the session id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.label
    }

    /// The text as the user gave it.
    #[must_use]
    pub fn given(&self) -> &str {
        &self.given
    }
}

/// Characters that reorder or hide text: as dangerous in a listing as control characters.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c), 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x2069 | 0xFEFF)
}

impl fmt::Display for SessionLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Serialize for SessionLabel {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.given)
    }
}

impl<'de> Deserialize<'de> for SessionLabel {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A label was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// Nothing was given.
    #[error("the prefix is empty: leave it out, or give 1 to {MAX_LABEL_CHARS} characters")]
    Empty,
    /// Too much was given.
    #[error("the prefix has {chars} characters, at most {MAX_LABEL_CHARS} are taken")]
    TooLong {
        /// How many.
        chars: usize,
    },
    /// It holds a control character, or one that hides or reorders text.
    #[error("the prefix holds the control character U+{code_point:04X}")]
    Control {
        /// Which one.
        code_point: u32,
    },
    /// It looks like a path.
    #[error(
        "the prefix holds {part}: it is a label inside the session's id, never a path; the root is set by `--dir` or OMNIPROF_DIR"
    )]
    PathLike {
        /// What was found.
        part: &'static str,
    },
    /// It begins with `.` or `-`.
    #[error("the prefix begins with `.` or `-`: begin with a letter, a digit or `_`")]
    Front,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn label(text: &str) -> Result<String, LabelError> {
        SessionLabel::parse(text).map(|label| label.as_str().to_owned())
    }

    #[test]
    fn labels_are_kept_replaced_or_refused() {
        assert_eq!(label("warm-run_1.b").unwrap(), "warm-run_1.b");
        assert_eq!(label("two  words, really").unwrap(), "two_words_really");
        assert_eq!(label("实验 7").unwrap(), "_7");
        assert_eq!(SessionLabel::parse("实验 7").unwrap().given(), "实验 7");
        assert_eq!(label(""), Err(LabelError::Empty));
        assert_eq!(label(&"x".repeat(300)), Err(LabelError::TooLong { chars: 300 }));
        assert_eq!(label("a/b"), Err(LabelError::PathLike { part: "`/`" }));
        assert_eq!(label("a\\b"), Err(LabelError::PathLike { part: "`\\`" }));
        assert_eq!(label("a..b"), Err(LabelError::PathLike { part: "`..`" }));
        assert_eq!(label("a\nb"), Err(LabelError::Control { code_point: 10 }));
        assert_eq!(label("a\u{202e}b"), Err(LabelError::Control { code_point: 0x202e }));
        assert_eq!(label(".hidden"), Err(LabelError::Front));
        assert_eq!(label("-rf"), Err(LabelError::Front));
    }

    proptest! {
        #[test]
        fn a_label_is_plain_or_refused(text in "\\PC{0,140}|.{0,20}") {
            if let Ok(label) = label(&text) {
                prop_assert!(!label.is_empty() && label.len() <= MAX_LABEL_CHARS);
                prop_assert!(label.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)));
                prop_assert!(!label.contains(".."));
            }
        }
    }
}
