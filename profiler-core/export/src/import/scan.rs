//! Cutting a JSON document of any length into its events, without keeping it.

use std::io::{self, BufRead};

/// No event is longer; what is, is passed over.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// A part of the document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A field of the outermost object, with its value; other than the events.
    Field(&'a str, &'a [u8]),
    /// An event.
    Event(&'a [u8]),
    /// An event or field that is too long.
    TooLong,
    /// What is no event stood in the list.
    Strange,
    /// The document ends before its list does.
    CutOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Object,
    List { in_object: bool },
    End,
}

/// Reads a document part by part.
pub(super) struct Scanner<R> {
    input: R,
    place: Place,
    key: String,
    bytes: Vec<u8>,
}

impl<R: BufRead> Scanner<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, place: Place::Start, key: String::new(), bytes: Vec::new() }
    }

    /// The next part; `None` at the end, and where the document is no trace at all.
    pub(super) fn next(&mut self) -> io::Result<Option<Part<'_>>> {
        loop {
            let Some(byte) = self.token()? else {
                let was = std::mem::replace(&mut self.place, Place::End);
                return Ok(
                    matches!(was, Place::List { .. } | Place::Object).then_some(Part::CutOff)
                );
            };
            match (self.place, byte) {
                (Place::Start, b'[') => self.place = Place::List { in_object: false },
                (Place::Start, b'{') => self.place = Place::Object,
                (Place::Start, 0xef | 0xbb | 0xbf) => {}
                (Place::Start | Place::End, _) => {
                    self.place = Place::End;
                    return Ok(None);
                }
                (Place::Object | Place::List { .. }, b',') => {}
                (Place::Object, b'"') => {
                    if let Some(part) = self.field()? {
                        return Ok(Some(match part {
                            true => Part::Field(&self.key, &self.bytes),
                            false => Part::TooLong,
                        }));
                    }
                }
                (Place::Object, b'}') | (Place::List { in_object: false }, b']') => {
                    self.place = Place::End;
                    return Ok(None);
                }
                (Place::List { in_object: true }, b']') => self.place = Place::Object,
                (Place::List { .. }, b'{') => {
                    return Ok(Some(match self.value(byte)? {
                        Captured::Whole => Part::Event(&self.bytes),
                        Captured::TooLong => Part::TooLong,
                        Captured::CutOff => {
                            self.place = Place::End;
                            Part::CutOff
                        }
                    }));
                }
                (Place::List { .. }, other) => {
                    self.value(other)?;
                    return Ok(Some(Part::Strange));
                }
                (Place::Object, _) => {
                    self.place = Place::End;
                    return Ok(Some(Part::CutOff));
                }
            }
        }
    }

    /// A field whose key's quote was read: whether its value was captured; `None` where the list of
    /// events begins, or the document ends.
    fn field(&mut self) -> io::Result<Option<bool>> {
        if self.value(b'"')? != Captured::Whole {
            self.place = Place::End;
            return Ok(Some(false));
        }
        self.key = serde_json::from_slice(&self.bytes).unwrap_or_default();
        if self.token()? != Some(b':') {
            self.place = Place::End;
            return Ok(Some(false));
        }
        let Some(first) = self.token()? else { return Ok(None) };
        if self.key == "traceEvents" && first == b'[' {
            self.place = Place::List { in_object: true };
            return Ok(None);
        }
        Ok(Some(self.value(first)? == Captured::Whole))
    }

    /// The next byte that is no white space.
    fn token(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let found = buffer.iter().position(|byte| !byte.is_ascii_whitespace());
            match found {
                Some(at) => {
                    let byte = buffer[at];
                    self.input.consume(at + 1);
                    return Ok(Some(byte));
                }
                None => {
                    let all = buffer.len();
                    self.input.consume(all);
                }
            }
        }
    }

    /// Captures the value that begins with `first`, which was read.
    fn value(&mut self, first: u8) -> io::Result<Captured> {
        self.bytes.clear();
        self.bytes.push(first);
        let mut depth = usize::from(matches!(first, b'{' | b'['));
        let mut in_text = first == b'"';
        let mut escaped = false;
        let is_bare = depth == 0 && !in_text;
        let mut too_long = false;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(if is_bare { Captured::Whole } else { Captured::CutOff });
            }
            let mut taken = 0;
            let mut done = false;
            for &byte in buffer {
                if is_bare && matches!(byte, b',' | b'}' | b']') {
                    done = true;
                    break;
                }
                taken += 1;
                if in_text {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => {
                            in_text = false;
                            done = depth == 0;
                        }
                        _ => {}
                    }
                } else {
                    match byte {
                        b'"' => in_text = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => {
                            depth -= 1;
                            done = depth == 0;
                        }
                        _ => {}
                    }
                }
                if done {
                    break;
                }
            }
            if self.bytes.len() + taken > MAX_EVENT_BYTES {
                too_long = true;
                self.bytes.clear();
            } else if !too_long {
                self.bytes.extend_from_slice(&buffer[..taken]);
            }
            self.input.consume(taken);
            if done {
                return Ok(if too_long { Captured::TooLong } else { Captured::Whole });
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Captured {
    Whole,
    TooLong,
    CutOff,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> Vec<String> {
        // A buffer of three bytes: every boundary lies everywhere.
        let mut scanner = Scanner::new(io::BufReader::with_capacity(3, text.as_bytes()));
        let mut found = Vec::new();
        while let Some(part) = scanner.next().unwrap() {
            found.push(match part {
                Part::Field(key, value) => format!("{key}={}", String::from_utf8_lossy(value)),
                Part::Event(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                other => format!("{other:?}"),
            });
            assert!(found.len() < 1000);
        }
        found
    }

    #[test]
    fn an_array_is_its_events() {
        let text = "[{\"a\": \"}]\\\"\"}, {\"b\": {\"c\": [1]}} ]";
        assert_eq!(parts(text), ["{\"a\": \"}]\\\"\"}", "{\"b\": {\"c\": [1]}}"]);
    }

    #[test]
    fn an_object_has_fields_before_and_behind_its_events() {
        let text = r#"{"x": 1, "traceEvents": [{}, {"ph":"X"}], "y": {"z":[2]}, "w": "t"}"#;
        assert_eq!(parts(text), ["x=1", "{}", r#"{"ph":"X"}"#, r#"y={"z":[2]}"#, r#"w="t""#]);
    }

    #[test]
    fn what_is_cut_off_or_strange_is_told() {
        assert_eq!(parts(r#"[{"a":1},{"b":"#), [r#"{"a":1}"#, "CutOff"]);
        assert_eq!(parts(r#"[{"a":1},"#), [r#"{"a":1}"#, "CutOff"]);
        assert_eq!(parts(r#"[1, "x", [2], {}]"#), ["Strange", "Strange", "Strange", "{}"]);
        assert_eq!(parts("no JSON"), Vec::<String>::new());
        assert_eq!(parts(""), Vec::<String>::new());
    }

    proptest! {
        /// Whatever the bytes are, the scan ends.
        #[test]
        fn hostile_documents(bytes in proptest::collection::vec(
            prop_oneof![Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'"'), Just(b'\\'),
                        Just(b','), Just(b':'), any::<u8>()], 0..200)) {
            let mut scanner = Scanner::new(bytes.as_slice());
            let mut count = 0;
            while let Some(_part) = scanner.next().unwrap() {
                count += 1;
                prop_assert!(count <= bytes.len() + 1);
            }
        }
    }
}
