//! Who a worker is.

use std::fmt;
use std::hash::{BuildHasher as _, DefaultHasher, Hasher as _, RandomState};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::{ClockSource as _, SystemClock};

/// A worker: one process, as everything that names it sees it.
///
/// `stage`, `role`, `replica` and `rank` are what the pipeline calls it and may be unknown;
/// the rest is what the machine says and is always known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerIdentity {
    /// The pipeline stage, from 0.
    pub stage: Option<u32>,
    /// What the stage does (`thinker`, `diffusion`).
    pub role: Option<String>,
    /// The replica of the stage, from 0.
    pub replica: Option<u32>,
    /// The rank within the replica, from 0.
    pub rank: Option<u32>,
    /// The host's name.
    pub host: String,
    /// The process's id, as it sees it itself.
    pub pid: u32,
    /// Distinguishes processes that all else makes equal: `WorkerKey`.
    pub key: String,
    /// The kernel's boot id: equal on processes whose CLOCK_MONOTONIC is the same.
    pub boot_id: String,
    /// The time namespace's inode: likewise.
    pub time_namespace: u64,
    /// The pid namespace's inode: pids are comparable where it is equal.
    pub pid_namespace: u64,
    /// When the process started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
    /// The executable's name.
    pub program: String,
}

impl WorkerIdentity {
    /// This process, with what the pipeline calls it.
    ///
    /// What the machine does not tell (no `/proc`) is empty or 0; the key stays unique, for a
    /// random number is part of it. Each call draws another key: keep the value.
    #[must_use]
    pub fn of_this_process(
        stage: Option<u32>,
        role: Option<&str>,
        replica: Option<u32>,
        rank: Option<u32>,
    ) -> Self {
        let worker = Self::of_directory("self", std::process::id());
        Self { stage, role: role.map(str::to_owned), replica, rank, ..worker }
    }

    /// Another process of this machine, as this one sees it.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] where there is no such process, or `/proc` does not show it.
    pub fn of_process(pid: u32) -> Result<Self, IdentityError> {
        let worker = Self::of_directory(&pid.to_string(), pid);
        if worker.start_ticks == 0 {
            return Err(IdentityError { pid });
        }
        Ok(worker)
    }

    /// Whether both are of one process: a program that embeds an agent, say, and an agent elsewhere
    /// that looks at it.
    #[must_use]
    pub fn is_same_process(&self, other: &Self) -> bool {
        (self.pid, self.start_ticks) == (other.pid, other.start_ticks)
            && self.pid_namespace == other.pid_namespace
            && self.boot_id == other.boot_id
    }

    fn of_directory(name: &str, pid: u32) -> Self {
        let proc = Path::new("/proc").join(name);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let boot_id = read_line(Path::new("/proc/sys/kernel/random/boot_id"));
        let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
        let start_ticks = start_ticks(&stat).unwrap_or(0);
        let pid_namespace = namespace(&proc.join("ns/pid"));
        let parts = KeyParts { boot_id: &boot_id, pid_namespace, pid, start_ticks };
        let key = WorkerKey::new(&parts, random_u64()).to_string();
        Self {
            stage: None,
            role: None,
            replica: None,
            rank: None,
            host,
            pid,
            key,
            time_namespace: namespace(&proc.join("ns/time")),
            pid_namespace,
            start_ticks,
            program: read_line(&proc.join("comm")),
            boot_id,
        }
    }
}

/// The process is not to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("/proc shows no process {pid}: it ended, or lives in another pid namespace")]
pub struct IdentityError {
    /// Its id.
    pub pid: u32,
}

/// What tells processes apart, beside chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the inputs of the key, all of them")]
pub struct KeyParts<'a> {
    /// The kernel's boot id.
    pub boot_id: &'a str,
    /// The pid namespace's inode.
    pub pid_namespace: u64,
    /// The process's id in it.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// The length of a key.
const KEY_CHARS: usize = 10;

/// 10 base32 characters that tell apart processes whose host name and pid are equal: of other
/// containers and boots, before and after an exec, with a pid used again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerKey(String);

impl WorkerKey {
    /// The key of a process and a random number, drawn once a process image.
    #[must_use]
    pub fn new(parts: &KeyParts<'_>, random: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(parts.boot_id.as_bytes());
        hasher.write_u8(0xFF);
        hasher.write_u64(parts.pid_namespace);
        hasher.write_u32(parts.pid);
        hasher.write_u64(parts.start_ticks);
        hasher.write_u64(random);
        Self(base32(hasher.finish(), KEY_CHARS))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The lowest `5 * chars` bits of a number in lower case base32 (RFC 4648's alphabet).
pub(crate) fn base32(number: u64, chars: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digit = |index: usize| {
        let bits = number.checked_shr(5 * index as u32).unwrap_or(0) & 31;
        char::from(ALPHABET[bits as usize])
    };
    (0..chars).rev().map(digit).collect()
}

/// A random number from the kernel; where it gives none, from what changes at every call.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0_u8; 8];
    let flags = rustix::rand::GetRandomFlags::NONBLOCK;
    if rustix::rand::getrandom(&mut bytes, flags) == Ok(bytes.len()) {
        return u64::from_ne_bytes(bytes);
    }
    // Keys that the standard library seeds itself, and a hash over time.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(SystemClock::new().monotonic_ns());
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// Field 22 of `/proc/PID/stat`; field 2, in brackets, may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The inode of a link such as `pid:[4026531836]`.
fn namespace(link: &Path) -> u64 {
    let target = std::fs::read_link(link).unwrap_or_default();
    let text = target.to_string_lossy();
    let inode = text.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']'));
    inode.and_then(|inode| inode.parse().ok()).unwrap_or(0)
}

fn read_line(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        let worker = WorkerIdentity::of_this_process(Some(1), Some("talker"), None, Some(0));
        assert_eq!((worker.stage, worker.role.as_deref()), (Some(1), Some("talker")));
        assert_eq!(worker.pid, std::process::id());
        assert_eq!(worker.boot_id.len(), 36);
        assert!(worker.start_ticks > 0 && worker.pid_namespace > 0 && !worker.host.is_empty());
        assert_eq!(worker.key.len(), KEY_CHARS);
        let again = WorkerIdentity::of_this_process(None, None, None, None);
        assert_ne!(again.key, worker.key);
    }

    #[test]
    fn a_process_is_seen_from_outside_as_it_sees_itself() {
        let inside = WorkerIdentity::of_this_process(None, None, None, None);
        let outside = WorkerIdentity::of_process(std::process::id()).unwrap();
        assert_eq!(WorkerIdentity { key: inside.key.clone(), ..outside }, inside);
        assert_eq!(WorkerIdentity::of_process(u32::MAX), Err(IdentityError { pid: u32::MAX }));
    }

    #[test]
    fn start_ticks_are_found_behind_any_program_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        for name in ["cat", "a b", ") S 1", "))"] {
            assert_eq!(start_ticks(&format!("17 ({name}) {tail}")), Some(4242), "{name:?}");
        }
        for text in ["", "17", "17 (cat)", "17 (cat) S 1"] {
            assert_eq!(start_ticks(text), None, "{text:?}");
        }
    }

    #[test]
    fn base32_is_big_endian() {
        assert_eq!(base32(0, 4), "aaaa");
        assert_eq!(base32(31, 2), "a7");
        assert_eq!(base32(32, 2), "ba");
        assert_eq!(base32(u64::MAX, 14), "ap777777777777");
    }
}
