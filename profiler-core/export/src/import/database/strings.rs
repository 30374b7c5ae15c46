//! The texts that a database's numbers stand for.

use std::collections::HashMap;

/// Longer texts are cut.
const MAX_BYTES: usize = 64 << 10;
/// Texts that are kept at once, and their bytes.
const MAX_TEXTS: usize = 1 << 21;
const MAX_KEPT_BYTES: usize = 256 << 20;

/// Texts by their numbers.
#[derive(Debug, Default)]
pub(super) struct Strings {
    texts: HashMap<i64, Box<str>>,
    kept_bytes: usize,
    read_bytes: u64,
    left_out: u64,
}

impl Strings {
    pub(super) fn add(&mut self, id: i64, text: &str) {
        self.read_bytes = self.read_bytes.saturating_add(text.len() as u64);
        let text = cut(text);
        if self.texts.len() >= MAX_TEXTS || self.kept_bytes + text.len() > MAX_KEPT_BYTES {
            self.left_out += 1;
            return;
        }
        self.kept_bytes += text.len();
        self.texts.insert(id, text.into());
    }

    /// The text; empty where there is none, or where none was collected (`N/A`).
    pub(super) fn get(&self, id: Option<i64>) -> &str {
        let text = id.and_then(|id| self.texts.get(&id)).map_or("", |text| text);
        if text == "N/A" { "" } else { text }
    }

    /// How many bytes of text there were.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Texts for which there was no room.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// The beginning of a text that is too long.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
