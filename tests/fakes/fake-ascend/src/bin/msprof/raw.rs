//! What the stand-in for aclprof wrote.

use std::path::Path;

/// Counters of the AI cores were recorded.
const AICORE_METRICS: u64 = 0x4;
/// Accesses of the L2 cache were.
const L2CACHE: u64 = 0x10;

/// A capture.
pub(crate) struct Raw {
    pub(crate) process: u64,
    pub(crate) device: u64,
    bits: u64,
    pub(crate) tasks: Vec<Task>,
}

/// What a device did. Instants are CLOCK_REALTIME, ns.
pub(crate) struct Task {
    pub(crate) is_collective: bool,
    pub(crate) name: String,
    pub(crate) task_type: String,
    pub(crate) connection: u64,
    pub(crate) launched: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Raw {
    pub(crate) fn read(place: &Path) -> std::io::Result<Self> {
        let mut text = None;
        for entry in std::fs::read_dir(place)? {
            let path = entry?.path().join("data/fake.slice_0");
            if path.is_file() {
                text = Some(std::fs::read_to_string(path)?);
            }
        }
        let text = text.ok_or_else(|| std::io::Error::other("no raw data of the stand-in"))?;
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default().split(',');
        let head: Vec<u64> = head.filter_map(|text| text.parse().ok()).collect();
        let [process, device, bits] = head[..] else {
            return Err(std::io::Error::other("a raw file without a head"));
        };
        Ok(Self { process, device, bits, tasks: lines.filter_map(Task::parse).collect() })
    }

    pub(crate) fn has_metrics(&self) -> bool {
        self.bits & AICORE_METRICS != 0
    }

    pub(crate) fn has_l2_cache(&self) -> bool {
        self.bits & L2CACHE != 0
    }
}

impl Task {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        let [kind, name, task_type, connection, launched, start, end] = fields[..] else {
            return None;
        };
        Some(Self {
            is_collective: kind == "communication",
            name: name.to_owned(),
            task_type: task_type.to_owned(),
            connection: connection.parse().ok()?,
            launched: launched.parse().ok()?,
            start: start.parse().ok()?,
            end: end.parse().ok()?,
        })
    }

    /// Work of the host's kind uses no AI core and none of their caches.
    pub(crate) fn is_of_a_core(&self) -> bool {
        self.task_type != "AI_CPU"
    }
}
