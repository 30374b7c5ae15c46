//! Why a process cannot be sampled by perf events, in words on which a person can act.

use std::io;

use crate::process::Process;

/// The kernel refused, or has nothing to sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What was refused.
    pub(crate) what: String,
    /// The setting to change; empty where none would help.
    pub(crate) remedy: String,
}

impl Refusal {
    /// What was refused and what to do, as one text.
    pub(crate) fn text(&self) -> String {
        match self.remedy.as_str() {
            "" => self.what.clone(),
            remedy => format!("{}: {remedy}", self.what),
        }
    }

    /// Opening an event failed.
    pub(crate) fn of_open(error: &io::Error, process: &Process) -> Self {
        let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
        let paranoid = paranoid.ok().and_then(|text| text.trim().parse().ok());
        Self::explain_open(error, paranoid, process.own, process.pid)
    }

    /// A seccomp filter would end the process that tries.
    pub(crate) fn deadly() -> Self {
        Self {
            what: "a seccomp filter ends processes that call perf_event_open".to_owned(),
            remedy: "allow perf_event_open in that filter".to_owned(),
        }
    }

    fn explain_open(error: &io::Error, paranoid: Option<i32>, own: bool, pid: u32) -> Self {
        let what = format!("perf_event_open is refused ({error})");
        let remedy = match (error.raw_os_error(), paranoid) {
            (Some(libc::EACCES | libc::EPERM), Some(level)) if level > 2 => format!(
                "kernel.perf_event_paranoid is {level}; set it to 2 (`sysctl \
                 kernel.perf_event_paranoid=2`) or give the process CAP_PERFMON"
            ),
            (Some(libc::EACCES | libc::EPERM), _) if !own => format!(
                "process {pid} belongs to another user or is protected; record as its owner or \
                 with CAP_PERFMON and CAP_SYS_PTRACE, and see that no seccomp filter forbids \
                 perf_event_open"
            ),
            (Some(libc::EACCES | libc::EPERM), Some(level)) => format!(
                "kernel.perf_event_paranoid is {level} and would allow it, so that a seccomp \
                 filter or a security module forbids it; allow perf_event_open in the container's \
                 seccomp profile, or give it CAP_PERFMON"
            ),
            (Some(libc::EACCES | libc::EPERM), None) => "allow perf_event_open in the container's \
                 seccomp profile, or give it CAP_PERFMON"
                .to_owned(),
            (Some(libc::ENOSYS), _) => "this kernel has no perf events, or a seccomp filter hides \
                 them; allow perf_event_open in the container's seccomp profile"
                .to_owned(),
            (Some(libc::EINVAL), _) => "kernel.perf_event_max_sample_rate may be below the rate \
                 asked for, or the kernel is older than 4.1"
                .to_owned(),
            (Some(libc::EMFILE | libc::ENFILE), _) => {
                "raise the limit of open files (`ulimit -n`)".to_owned()
            }
            _ => String::new(),
        };
        Self { what, remedy }
    }

    /// Mapping a ring failed.
    pub(crate) fn of_ring(error: &io::Error) -> Self {
        let remedy = match error.raw_os_error() {
            Some(libc::EPERM) => {
                "this user may lock no more memory; raise \
                 kernel.perf_event_mlock_kb or the limit of locked memory (`ulimit -l`)"
            }
            _ => "",
        };
        Self { what: format!("a perf ring cannot be had ({error})"), remedy: remedy.to_owned() }
    }

    /// There is no thread that could be sampled.
    pub(crate) fn no_thread(process: &Process) -> Self {
        Self {
            what: format!("process {} has no thread to sample: it has ended", process.pid),
            remedy: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(code: i32, paranoid: Option<i32>, own: bool) -> String {
        let error = io::Error::from_raw_os_error(code);
        Refusal::explain_open(&error, paranoid, own, 7).remedy
    }

    #[test]
    fn the_remedy_names_the_setting_that_forbids_it() {
        assert!(remedy(libc::EACCES, Some(4), true).contains("kernel.perf_event_paranoid is 4"));
        assert!(remedy(libc::EPERM, Some(1), true).contains("seccomp"));
        assert!(remedy(libc::EACCES, Some(2), false).contains("process 7"));
        assert!(remedy(libc::ENOSYS, None, true).contains("seccomp"));
        assert!(remedy(libc::EMFILE, Some(2), true).contains("ulimit -n"));
    }
}
