//! What a command says on standard output.

use std::io::{self, Write as _};

use serde::Serialize;

use super::CommandError;

/// Standard output. A reader that goes away (`| head`) ends the command quietly.
#[derive(Debug, Default)]
pub(crate) struct Output;

impl Output {
    /// Writes a text as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        quiet(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    }

    /// Writes a line.
    pub(crate) fn line(&self, line: &str) -> Result<(), CommandError> {
        self.text(&format!("{line}\n"))
    }

    /// Writes a document for people and programs, over several lines.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), CommandError> {
        self.line(&serde_json::to_string_pretty(value)?)
    }

    /// Writes a document on one line.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), CommandError> {
        self.line(&serde_json::to_string(value)?)
    }
}

fn quiet(written: io::Result<()>) -> Result<(), CommandError> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// A number of bytes for people.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_fitting_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (20 << 30, "20.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}
