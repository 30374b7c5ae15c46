//! The command's processes, through `/proc`.

use std::collections::{BTreeMap, BTreeSet};

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) state: u8,
    /// Clock ticks from boot.
    pub(super) start_ticks: u64,
    /// Where its stack begins, which every program image has elsewhere; 0 where it is not told.
    pub(super) stack: u64,
}

impl Stat {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Reads the line. Field 2, the name in brackets, may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let pid = head.split_once(" (")?.0.parse().ok()?;
        let mut fields = tail.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        // Counted from field 3, the state: 22 is the start, 28 the stack.
        let start_ticks = fields.nth(17)?.parse().ok()?;
        let stack = fields.nth(5).and_then(|field| field.parse().ok()).unwrap_or(0);
        Some(Self { pid, parent, state, start_ticks, stack })
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// All processes that are to be seen.
fn all() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Stat::of).collect()
}

/// The living processes below this one: the command, what it started, and orphans of these. The
/// export children of the controller are none of them.
pub(super) fn descendants() -> Vec<Stat> {
    below(std::process::id(), all(), profiler_worker::is_export_child)
}

/// The children of a process that ended and were not waited for.
pub(super) fn zombies_of(parent: u32) -> Vec<Stat> {
    let mut zombies = all();
    zombies.retain(|stat| stat.parent == parent && stat.state == b'Z');
    zombies
}

fn below(root: u32, all: Vec<Stat>, is_left_out: impl Fn(u32) -> bool) -> Vec<Stat> {
    let mut children: BTreeMap<u32, Vec<Stat>> = BTreeMap::new();
    for stat in all {
        children.entry(stat.parent).or_default().push(stat);
    }
    let (mut found, mut seen, mut open) = (Vec::new(), BTreeSet::from([root]), vec![root]);
    while let Some(parent) = open.pop() {
        for stat in children.remove(&parent).unwrap_or_default() {
            // Processes change while they are listed: even a ring has to end.
            if is_left_out(stat.pid) || !seen.insert(stat.pid) {
                continue;
            }
            open.push(stat.pid);
            if !stat.is_over() {
                found.push(stat);
            }
        }
    }
    found.sort_by_key(|stat| stat.pid);
    found
}

/// How long a process has been there, as the kernel's clock ticks tell it.
pub(super) fn age(stat: &Stat) -> std::time::Duration {
    let ticks_a_second = rustix::param::clock_ticks_per_second().max(1);
    let started =
        std::time::Duration::from_millis(stat.start_ticks.saturating_mul(1000) / ticks_a_second);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = std::time::Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    );
    now.saturating_sub(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, state: u8) -> Stat {
        Stat { pid, parent, state, start_ticks: 1, stack: 0 }
    }

    #[test]
    fn a_line_is_read_behind_any_name() {
        let tail = "S 4 4 4 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 100 18446744073709551615 \
                    1 2 140722 5 6";
        for name in ["cat", "a b", ") S 9 (", "))", ""] {
            let stat = Stat::parse(&format!("17 ({name}) {tail}")).unwrap();
            assert_eq!((stat.pid, stat.parent, stat.state), (17, 4, b'S'), "{name:?}");
            assert_eq!((stat.start_ticks, stat.stack), (4242, 140_722), "{name:?}");
        }
        for text in ["", "17", "17 (cat)", "17 (cat) S 1", "x (cat) S 1"] {
            assert_eq!(Stat::parse(text), None, "{text:?}");
        }
        let own = Stat::of(std::process::id()).unwrap();
        assert!(own.start_ticks > 0 && own.stack > 0 && !own.is_over());
        assert!(age(&own) < std::time::Duration::from_secs(86_400));
    }

    #[test]
    fn a_tree_is_followed_and_rings_end() {
        let all = vec![
            process(10, 1, b'S'),
            process(11, 10, b'S'),
            process(12, 11, b'Z'),
            process(13, 12, b'R'),
            process(14, 10, b'S'),
            process(15, 14, b'S'),
            process(20, 1, b'S'),
            process(30, 31, b'S'),
            process(31, 30, b'S'),
        ];
        let pids = |root, all| -> Vec<u32> {
            below(root, all, |pid| pid == 14).iter().map(|stat| stat.pid).collect()
        };
        assert_eq!(pids(10, all.clone()), [11, 13]);
        assert_eq!(pids(30, all), [31]);
    }
}
