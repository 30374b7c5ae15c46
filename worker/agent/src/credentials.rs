//! Who is at the other end of a Unix socket.

#![expect(unsafe_code, reason = "no safe form takes a peer whose pid this process cannot see")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};

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
