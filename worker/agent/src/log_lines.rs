//! What backends log during a session: warnings and errors become notes of its result.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use profiler_core::sink::LogLevel;
use profiler_core::spool::LogFn;

/// Distinct lines, at most; a backend that logs without end says little more after these.
const MAX_DISTINCT: usize = 32;

/// The longest line that is kept, in bytes.
const MAX_LINE_BYTES: usize = 1024;

/// The lines of a session, each with how often it came.
#[derive(Clone, Default)]
pub(crate) struct LogLines(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    counts: BTreeMap<String, u64>,
    left_out: u64,
}

impl LogLines {
    /// Takes lines, from any thread.
    pub(crate) fn writer(&self) -> Arc<LogFn> {
        let lines = self.clone();
        Arc::new(move |level, target, message| lines.take(level, target, message))
    }

    fn take(&self, level: LogLevel, target: &str, message: &str) {
        if level < LogLevel::Warn {
            return;
        }
        let mut end = message.len().min(MAX_LINE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let line = format!("{target}: {}", &message[..end]);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.counts.len() < MAX_DISTINCT || lines.counts.contains_key(&line) {
            *lines.counts.entry(line).or_default() += 1;
        } else {
            lines.left_out += 1;
        }
    }

    /// The lines, as notes.
    pub(crate) fn notes(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes: Vec<String> = lines
            .counts
            .iter()
            .map(|(line, times)| match times {
                1 => line.clone(),
                times => format!("{line} ({times} times)"),
            })
            .collect();
        if lines.left_out > 0 {
            notes.push(format!("{} further lines were logged by backends", lines.left_out));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_errors_are_kept_and_bounded() {
        let lines = LogLines::default();
        let write = lines.writer();
        write(LogLevel::Info, "x", "nothing to act on");
        write(LogLevel::Warn, "x", "less than it should be");
        write(LogLevel::Warn, "x", "less than it should be");
        write(LogLevel::Error, "y", &"ü".repeat(MAX_LINE_BYTES));
        let notes = lines.notes();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert_eq!(notes[0], "x: less than it should be (2 times)");
        assert!(notes[1].len() <= MAX_LINE_BYTES + 3);
        for number in 0..100 {
            write(LogLevel::Error, "z", &number.to_string());
        }
        let notes = lines.notes();
        assert_eq!(notes.len(), MAX_DISTINCT + 1);
        assert_eq!(notes[MAX_DISTINCT], "70 further lines were logged by backends");
    }
}
