//! What the profiler itself costs the process.

use std::path::Path;

use profiler_core::thread::ended_cpu_ns;

/// What a span, marker or step takes of the application's thread that makes it, in nanoseconds: the
/// bound that the figure `span-recording` keeps. Measuring each would cost as much as it takes.
const MARK_COST_NS: u64 = 100;

/// Processor time of this process's own threads since a beginning, of those that live and those
/// that ended, and of an application's thread on which a session was armed.
#[derive(Debug)]
pub(crate) struct OwnTime {
    before_ns: u64,
    /// What the thread that arms had spent, where it is the application's.
    arming_from_ns: Option<u64>,
    armed_elsewhere_ns: u64,
}

impl OwnTime {
    /// Begins to count, on the thread that arms.
    pub(crate) fn begin() -> Self {
        let is_ours = is_ours(Path::new("/proc/thread-self"));
        Self {
            before_ns: read(),
            arming_from_ns: (!is_ours).then(thread_cpu_ns),
            armed_elsewhere_ns: 0,
        }
    }

    /// The thread that arms is done with it.
    pub(crate) fn armed(&mut self) {
        if let Some(begin) = self.arming_from_ns.take() {
            self.armed_elsewhere_ns = thread_cpu_ns().saturating_sub(begin);
        }
    }

    /// What was spent since the beginning.
    pub(crate) fn spent_ns(&self) -> u64 {
        read().saturating_sub(self.before_ns) + self.armed_elsewhere_ns
    }
}

/// What `count` spans, markers and steps took of the application's threads, at most.
pub(crate) fn marks_ns(count: u64) -> u64 {
    count.saturating_mul(MARK_COST_NS)
}

fn thread_cpu_ns() -> u64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000) + u64::try_from(spent.tv_nsec).unwrap_or(0)
}

/// What all threads of ours have spent in this process's life.
fn read() -> u64 {
    let ended = ended_cpu_ns();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return ended };
    let living = tasks.flatten().map(|task| task.path()).filter(|task| is_ours(task));
    ended + living.map(|task| cpu_ns(&task)).sum::<u64>()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use profiler_core::thread::spawn_blocked;

    use super::OwnTime;

    #[test]
    fn a_thread_that_ended_is_counted() {
        let own = OwnTime::begin();
        let burn = || {
            let mut rounds = 0_u64;
            let own = rustix::time::ClockId::ThreadCPUTime;
            while rustix::time::clock_gettime(own).tv_nsec < 20_000_000 {
                rounds = std::hint::black_box(rounds + 1);
            }
        };
        spawn_blocked("omniprof-burn", burn).unwrap().join().unwrap();
        let spent = Duration::from_nanos(own.spent_ns());
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
    }
}
