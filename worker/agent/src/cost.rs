//! What the profiler itself costs the process.

use std::collections::BTreeMap;
use std::path::Path;

/// Processor time of this process's own threads, by thread id, as far as it was seen.
///
/// Threads of ours end while a session stops, and with them their accounts: so the times are read
/// several times, and of each thread the last one counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnTime {
    before: BTreeMap<u32, u64>,
    latest: BTreeMap<u32, u64>,
}

impl OwnTime {
    /// Begins to count.
    pub(crate) fn begin() -> Self {
        let before = read();
        Self { latest: before.clone(), before }
    }

    /// Looks again.
    pub(crate) fn look(&mut self) {
        for (thread, ns) in read() {
            self.latest.insert(thread, ns);
        }
    }

    /// What was spent since the beginning, as of the last look.
    pub(crate) fn spent_ns(&self) -> u64 {
        let spent = |(thread, ns): (&u32, &u64)| {
            ns.saturating_sub(self.before.get(thread).copied().unwrap_or(0))
        };
        self.latest.iter().map(spent).sum()
    }
}

/// Every thread of this process whose name is one of ours.
fn read() -> BTreeMap<u32, u64> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return BTreeMap::new() };
    let mut times = BTreeMap::new();
    for task in tasks.flatten() {
        let path = task.path();
        let thread = task.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(thread), true) = (thread, is_ours(&path)) {
            times.insert(thread, cpu_ns(&path));
        }
    }
    times
}

fn is_ours(task: &Path) -> bool {
    std::fs::read(task.join("comm")).is_ok_and(|name| name.starts_with(b"omniprof-"))
}

/// The first number of `schedstat`; where the kernel has none, `stat` in clock ticks.
fn cpu_ns(task: &Path) -> u64 {
    let schedstat = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    if let Some(ns) = schedstat.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok()) {
        return ns;
    }
    let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
    let Some((_, after_name)) = stat.rsplit_once(')') else { return 0 };
    let fields: Vec<u64> =
        after_name.split_ascii_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    let ticks: u64 = fields.iter().sum();
    ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}
