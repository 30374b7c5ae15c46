//! Starting a child that dies with this process and stands back behind all others.
#![expect(unsafe_code, reason = "what a child does between fork and exec cannot be checked")]

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The children that were started here and not yet waited for.
static CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// How far an export stands back: nice 10.
const NICENESS: i32 = 10;

/// Starts the command. The calling thread must live until the child has ended: the kernel sends
/// the signal when the *thread* that forked is gone.
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: the closure runs in the forked child and makes two system calls through rustix,
    // which neither allocate nor lock; it owns nothing that the parent also owns.
    unsafe { command.pre_exec(stand_back) };
    // A key that is pressed for another program of the terminal is none for it.
    command.process_group(0);
    // Held over the fork, so that whoever reaps orphans never takes a child for one.
    let mut children = children();
    let child = command.spawn()?;
    children.insert(child.id());
    Ok(child)
}

/// A child was waited for.
pub(super) fn waited_for(pid: u32) {
    children().remove(&pid);
}

/// Whether a child of this process is an export, which is waited for where it was started.
#[must_use]
pub fn is_export_child(pid: u32) -> bool {
    children().contains(&pid)
}

fn children() -> MutexGuard<'static, BTreeSet<u32>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stand_back() -> io::Result<()> {
    use rustix::process::{Signal, nice, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Where it is refused the child runs all the same.
    let _niceness: rustix::io::Result<i32> = nice(NICENESS);
    Ok(())
}
