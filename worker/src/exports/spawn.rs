//! Starting a child that dies with this process and stands back behind all others.
#![expect(unsafe_code, reason = "what a child does between fork and exec cannot be checked")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// How far an export stands back: nice 10.
const NICENESS: i32 = 10;

/// Starts the command. The calling thread must live until the child has ended: the kernel sends
/// the signal when the *thread* that forked is gone.
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: the closure runs in the forked child and makes two system calls through rustix,
    // which neither allocate nor lock; it owns nothing that the parent also owns.
    unsafe { command.pre_exec(stand_back) };
    command.spawn()
}

fn stand_back() -> io::Result<()> {
    use rustix::process::{Signal, nice, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Where it is refused the child runs all the same.
    let _niceness: rustix::io::Result<i32> = nice(NICENESS);
    Ok(())
}
