//! Who is at the other end of a Unix socket.

#![expect(unsafe_code, reason = "no safe form takes a peer whose pid this process cannot see")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};

use crate::link::OVERFLOW_UID;

/// How many users there are.
const USERS: u64 = u32::MAX as u64;

/// Whether the kernel may mean by `user` somebody whom it cannot name in this user namespace. Where
/// the namespace knows all users, that one is a user as any other.
pub(crate) fn is_unknown(user: u32) -> bool {
    if user != OVERFLOW_UID {
        return false;
    }
    // A process that cannot read it, as in a container without /proc, may be in any namespace.
    !std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| knows_all_users(&map))
}

/// Whether a user namespace's map, each line of which ends in a number of users, names them all.
fn knows_all_users(map: &str) -> bool {
    let numbers =
        map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    numbers.sum::<u64>() >= USERS
}

/// The process and the user that the kernel shows for the peer.
///
/// The process is 0 where its pid namespace is none of this process's: a controller outside the
/// container. Rust's types for a pid know no 0, so that the kernel is asked directly.
///
/// # Errors
///
/// The kernel's answer.
pub(crate) fn of_peer(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let mut who = MaybeUninit::<libc::ucred>::zeroed();
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call; `who` has room for `len` bytes, and the
    // kernel writes no more.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            who.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a `ucred`, and the kernel wrote one over them.
    let who = unsafe { who.assume_init() };
    Ok((u32::try_from(who.pid).unwrap_or(0), who.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_unknown_only_where_some_users_are() {
        assert!(knows_all_users("         0          0 4294967295\n"));
        assert!(knows_all_users("0 0 1000\n1000 1000 4294966295\n"));
        for some in ["", "0 1000 1\n", "0 100000 65536\n", "0 0\n", "0 0 -1\n", "x y z\n"] {
            assert!(!knows_all_users(some), "{some:?}");
        }
        assert!(!is_unknown(0) && !is_unknown(1000));
    }
}
