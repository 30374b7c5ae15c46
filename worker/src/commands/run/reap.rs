//! Processes whose parent ended become this process's children, as they would become init's.

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

use super::tree::{self, Stat};

/// From now on orphans of the command stay below this process, where they are found and where
/// they are reaped. Where the kernel refuses, they go to init, and are recorded no more.
pub(super) fn adopt_orphans() {
    if let Err(errno) = set_child_subreaper(Some(getpid())) {
        tracing::debug!(%errno, "orphans of the command go to init");
    }
}

/// Takes the exit codes of orphans that ended: of all children but the command itself and the
/// exports, which others wait for.
pub(super) fn reap_orphans(command: u32) {
    let own = std::process::id();
    for Stat { pid, .. } in tree::zombies_of(own) {
        if pid == command || profiler_worker::is_export_child(pid) {
            continue;
        }
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        // Somebody else may have taken it.
        let _reaped = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}
