//! Tables as Ascend's tools write them: fields parted by commas, below a head that names them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

/// Longer lines are passed over; operators of very many inputs have some thousand bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A table that is read from its begin to its end.
pub(super) struct Table {
    lines: Lines<BufReader<File>>,
    head: Vec<String>,
}

impl Table {
    /// Reads its head.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let mut lines = Lines { input: BufReader::new(File::open(path)?), line: Vec::new() };
        let head = lines.next()?.flatten().unwrap_or_default();
        Ok(Self { lines, head })
    }

    /// What the columns are called.
    pub(super) fn head(&self) -> &[String] {
        &self.head
    }

    /// The place of a column.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.head.iter().position(|column| column == name)
    }

    /// The next line; `Some(None)` = it is too long.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Option<Line>>> {
        Ok(self.lines.next()?.map(|fields| fields.map(Line)))
    }
}

/// The fields of a line.
pub(super) struct Line(Vec<String>);

impl Line {
    /// A field; nothing where the line ends before it.
    pub(super) fn field(&self, place: usize) -> &str {
        self.0.get(place).map_or("", String::as_str)
    }

    /// A number; nothing where none stands there (`N/A`).
    pub(super) fn number(&self, place: Option<usize>) -> Option<u32> {
        self.field(place?).parse().ok()
    }
}

/// Lines, cut into fields. Readers of libraries take lines of any length.
struct Lines<R> {
    input: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line; `Some(None)` = it is too long.
    fn next(&mut self) -> std::io::Result<Option<Option<Vec<String>>>> {
        self.line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        if self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') && self.line.len() > MAX_LINE_BYTES {
            skip_line(&mut self.input)?;
            return Ok(Some(None));
        }
        Ok(Some(Some(fields(&String::from_utf8_lossy(&self.line)))))
    }
}

fn skip_line(input: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        let (used, is_over) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (bytes.len(), bytes.is_empty()),
        };
        input.consume(used);
        if is_over {
            return Ok(());
        }
    }
}

/// Fields parted by commas; those in quotes may hold some.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for char in line.trim_start_matches('\u{feff}').chars() {
        match char {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap_or_else(|| unreachable!("one is there")).push(char),
        }
    }
    for field in &mut fields {
        // Instants end with a tab, for the sake of spreadsheets.
        *field = field.trim().to_owned();
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_commas_outside_of_quotes_and_long_ones_passed_over() {
        let long = "x".repeat(MAX_LINE_BYTES + 10);
        let text = format!("a,\"\"\"4,16;16\"\"\", 3.5\t\r\n{long}\n,b");
        let mut lines = Lines { input: text.as_bytes(), line: Vec::new() };
        assert_eq!(lines.next().unwrap().unwrap().unwrap(), ["a", "4,16;16", "3.5"]);
        assert_eq!(lines.next().unwrap(), Some(None));
        assert_eq!(lines.next().unwrap().unwrap().unwrap(), ["", "b"]);
        assert_eq!(lines.next().unwrap(), None);
    }
}
