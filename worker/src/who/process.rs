//! What a process shows of itself.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use profiler_core::process_facts::ProcessFacts;

/// Command lines are read up to here.
const MAX_COMMAND_LINE_BYTES: u64 = 64 << 10;

/// Environments are read up to here.
const MAX_ENVIRONMENT_BYTES: u64 = 1 << 20;

/// A process's title, command line and environment, as `/proc` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests and other readers of processes fill it")]
pub struct ProcessText {
    /// The first word of the command line; servers overwrite it with a title.
    pub title: String,
    /// The words of the command line, joined by spaces.
    pub command_line: String,
    /// `NAME=value` each, as they were when the process began; empty where it may not be read.
    pub environment: Vec<String>,
    /// The process's parent.
    pub parent: u32,
}

impl ProcessText {
    /// Reads a process of this machine; `None` where it is not there.
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        let proc = Path::new("/proc").join(pid.to_string());
        let stat = std::fs::read_to_string(proc.join("stat")).ok()?;
        let command_line = read(&proc.join("cmdline"), MAX_COMMAND_LINE_BYTES).ok()?;
        let environment = read(&proc.join("environ"), MAX_ENVIRONMENT_BYTES).unwrap_or_default();
        let mut words = texts(&command_line);
        // A title that was written over a longer command line leaves zeros behind it.
        while words.last().is_some_and(String::is_empty) {
            words.pop();
        }
        Some(Self {
            title: words.first().map(|title| title.trim().to_owned()).unwrap_or_default(),
            command_line: words.join(" ").trim().to_owned(),
            environment: texts(&environment).into_iter().filter(|v| !v.is_empty()).collect(),
            parent: parent(&stat).unwrap_or(0),
        })
    }

    /// What a process's agent said of it. Its parent is of the process's own namespace, and left
    /// out.
    #[must_use]
    pub fn of_facts(facts: &ProcessFacts) -> Self {
        let variables = facts.environment.iter();
        Self {
            title: facts.command_line.first().cloned().unwrap_or_default(),
            command_line: facts.title.clone(),
            environment: variables.map(|(name, value)| format!("{name}={value}")).collect(),
            parent: 0,
        }
    }

    /// This, with the variables that an agent said before those that the process began with:
    /// frameworks set ranks later on.
    #[must_use]
    pub fn with_variables_of(mut self, said: Self) -> Self {
        let began_with = std::mem::replace(&mut self.environment, said.environment);
        self.environment.extend(began_with);
        self
    }

    /// The value of a variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find_map(|variable| {
            variable.strip_prefix(name).and_then(|rest| rest.strip_prefix('='))
        })
    }
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn texts(bytes: &[u8]) -> Vec<String> {
    bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// Field 4 of `/proc/PID/stat`; field 2, in brackets, may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}
