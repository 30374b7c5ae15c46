//! Waiting for a child together with what it used, which the standard library does not tell.

#![expect(unsafe_code, reason = "wait4 is called directly")]

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

/// Reaps the child if it has ended. Afterwards its `Child` must not be waited for.
pub(super) fn try_wait(pid: u32) -> io::Result<Option<(ExitStatus, Duration)>> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: `rusage` is plain C data, for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers come from live, exclusive references of the types that wait4 fills.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
    if reaped < 0 {
        return Err(io::Error::last_os_error());
    }
    if reaped == 0 {
        return Ok(None);
    }
    let cpu = duration(usage.ru_utime) + duration(usage.ru_stime);
    Ok(Some((ExitStatus::from_raw(status), cpu)))
}

/// The processor time of all children that have ended and were waited for.
pub(super) fn children_cpu() -> io::Result<Duration> {
    // SAFETY: `rusage` is plain C data, for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer comes from a live, exclusive reference of the type that is filled.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(duration(usage.ru_utime) + duration(usage.ru_stime))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.unsigned_abs())
        + Duration::from_micros(time.tv_usec.unsigned_abs())
}
