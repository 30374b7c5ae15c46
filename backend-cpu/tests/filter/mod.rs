//! A filter of system calls, as container runtimes install them.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Gives the command's process a filter that has an answer of its own for some calls.
#[expect(unsafe_code, reason = "seccomp filters have no safe form")]
pub(crate) fn filter(command: &mut Command, calls: &[libc::c_long], answer: u32) {
    let statement =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the system call is the first word of `seccomp_data`.
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        filter.push(statement(equal, 0, 1, *call as u32));
        filter.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, answer));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: sets a flag of the process and reads no memory.
        let locked = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: `program` and the filter it names outlive the call, which copies them.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        };
        match (locked, installed) {
            (0, 0) => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure allocates nothing and makes system calls only, as it must after fork.
    unsafe { command.pre_exec(install) };
}
