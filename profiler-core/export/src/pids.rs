//! Process and thread ids that are unique over the workers of a trace.

use crate::capture::Worker;

/// Larger than any process id of Linux.
const GROUP: u32 = 1 << 22;
/// As many groups as a signed 32-bit process id has room for.
const GROUPS: u32 = 500;

/// The ids of a worker, moved where another machine or container has the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pids {
    offset: u32,
}

impl Pids {
    /// The ids of `worker`, one of `workers`. Those of the first machine stay as they are.
    pub(crate) fn of(worker: &Worker, workers: &[Worker]) -> Self {
        let space = |worker: &Worker| {
            let identity = &worker.identity;
            (identity.host.clone(), identity.boot_id.clone(), identity.pid_namespace)
        };
        let mut spaces = Vec::new();
        for other in workers {
            if !spaces.contains(&space(other)) {
                spaces.push(space(other));
            }
        }
        let group = spaces.iter().position(|s| *s == space(worker)).unwrap_or(0) as u32;
        Self { offset: group % GROUPS * GROUP }
    }

    /// A process id.
    pub(crate) fn process(self, pid: u32) -> u32 {
        pid % GROUP + self.offset
    }

    /// A thread id.
    pub(crate) fn thread(self, tid: u32) -> u32 {
        tid % GROUP + self.offset
    }
}
