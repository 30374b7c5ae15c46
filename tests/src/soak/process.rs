//! What a process holds.

use std::path::Path;

use anyhow::Context as _;

/// Descriptors, threads and memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory that no file backs, in KiB.
    pub memory_kib: u64,
    /// Mappings.
    pub mappings: usize,
}

impl Held {
    /// What a process holds now.
    ///
    /// # Errors
    ///
    /// It is gone, or is not ours.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let folder = format!("/proc/{pid}");
        let folder = Path::new(&folder);
        let count = |name: &str| {
            let entries = std::fs::read_dir(folder.join(name));
            entries.map(Iterator::count).with_context(|| format!("{name} of process {pid}"))
        };
        let status = std::fs::read_to_string(folder.join("status"))?;
        let memory = status.lines().find_map(|line| {
            line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok()
        });
        Ok(Self {
            descriptors: count("fd")?,
            threads: count("task")?,
            memory_kib: memory.context("the process does not tell its memory")?,
            mappings: std::fs::read_to_string(folder.join("maps"))?.lines().count(),
        })
    }
}
