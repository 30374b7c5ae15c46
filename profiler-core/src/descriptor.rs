//! File descriptors inside a process that is not ours.
//!
//! A program may close every descriptor that it finds, or put another file at a number that it
//! takes for free. A descriptor of the profiler therefore moves to a high number, out of the way
//! of programs that count on low ones, and is looked at before each use: whoever finds another
//! file there stops, and neither writes into it nor closes it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::fstat;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};

/// Descriptors move to numbers from about here, where the process may have so many.
const HIGH_NUMBER: u64 = 896;

/// The file behind a descriptor is not ours any more: the program closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("descriptor {number} is not the profiler's any more: the program closed it")]
pub struct LostDescriptor {
    /// Its number.
    pub number: RawFd,
}

impl From<LostDescriptor> for io::Error {
    fn from(lost: LostDescriptor) -> Self {
        Self::other(lost)
    }
}

/// Moves a descriptor to a high number; where there is none it stays. Exec closes it.
#[must_use]
pub fn raise(descriptor: OwnedFd) -> OwnedFd {
    // A soft limit below keeps some room above.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let begin = HIGH_NUMBER.min(limit - limit / 8);
    if descriptor.as_raw_fd().unsigned_abs() as u64 >= begin {
        return descriptor;
    }
    let begin = RawFd::try_from(begin).unwrap_or(RawFd::MAX);
    fcntl_dupfd_cloexec(&descriptor, begin).unwrap_or(descriptor)
}

/// What tells files apart that have one inode in common, as all events of the kernel have; `None`
/// where the descriptor is of another sort.
pub type Mark = fn(BorrowedFd<'_>) -> Option<u64>;

/// Which file a descriptor stands for.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    device: u64,
    inode: u64,
    mark: Option<(Mark, u64)>,
}

impl Identity {
    /// The file behind a descriptor; `None` where it is closed.
    fn of(descriptor: BorrowedFd<'_>, mark: Option<Mark>) -> Option<Self> {
        let found = fstat(descriptor).ok()?;
        let mark = match mark {
            Some(mark) => Some((mark, mark(descriptor)?)),
            None => None,
        };
        Some(Self { device: found.st_dev, inode: found.st_ino, mark })
    }

    /// Whether a descriptor stands for this file: no other open file has the same device and inode
    /// while it is open, or the same mark where it has one.
    #[must_use]
    pub fn is_of(&self, descriptor: BorrowedFd<'_>) -> bool {
        let Ok(found) = fstat(descriptor) else { return false };
        (found.st_dev, found.st_ino) == (self.device, self.inode)
            && self.mark.is_none_or(|(mark, number)| mark(descriptor) == Some(number))
    }
}

/// An open file of the profiler's in a process where others may close it.
#[derive(Debug)]
pub struct Kept<T: AsFd + IntoRawFd> {
    /// Taken by the drop alone.
    file: Option<T>,
    number: RawFd,
    identity: Option<Identity>,
}

impl<T: AsFd + IntoRawFd> Kept<T> {
    /// Keeps a file; [`raise`] it before anything is locked or mapped through it.
    pub fn new(file: T) -> Self {
        Self::of(file, None)
    }

    /// Keeps a file whose inode is not its own.
    pub fn marked(file: T, mark: Mark) -> Self {
        Self::of(file, Some(mark))
    }

    fn of(file: T, mark: Option<Mark>) -> Self {
        let number = file.as_fd().as_raw_fd();
        let identity = Identity::of(file.as_fd(), mark);
        Self { file: Some(file), number, identity }
    }

    /// Which file it is; `None` where it was closed before it was kept.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// The file, if it still is the one that was kept.
    ///
    /// # Errors
    ///
    /// [`LostDescriptor`] where the number is closed or another file's.
    #[inline]
    pub fn get(&self) -> Result<&T, LostDescriptor> {
        let lost = LostDescriptor { number: self.number };
        let file = self.file.as_ref().ok_or(lost)?;
        match self.identity.is_some_and(|identity| identity.is_of(file.as_fd())) {
            true => Ok(file),
            false => Err(lost),
        }
    }
}

impl<T: AsFd + IntoRawFd> AsRawFd for Kept<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.number
    }
}

impl<T: AsFd + IntoRawFd> Drop for Kept<T> {
    fn drop(&mut self) {
        let is_ours = self.get().is_ok();
        let Some(file) = self.file.take() else { return };
        if !is_ours {
            // The number is the program's: it stays as it is.
            let _number: RawFd = file.into_raw_fd();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _};
    use std::os::fd::FromRawFd as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_file_is_used_and_closed_while_it_is_ours() {
        let kept = Kept::new(File::from(raise(tempfile::tempfile().unwrap().into())));
        assert!(kept.as_raw_fd() >= 700, "{}", kept.as_raw_fd());
        kept.get().unwrap().write_all_at(b"x", 0).unwrap();
        let number = kept.as_raw_fd();
        drop(kept);
        assert!(std::fs::read_link(format!("/proc/self/fd/{number}")).is_err(), "it is closed");
    }

    #[test]
    #[expect(unsafe_code, reason = "a program that closes what is not its own is what is tested")]
    fn a_number_that_became_another_files_is_left_alone() {
        let kept = Kept::new(File::from(raise(tempfile::tempfile().unwrap().into())));
        let number = kept.as_raw_fd();
        // Made while the other is open: the file system may give an inode away again.
        let others = tempfile::tempfile().unwrap();
        // SAFETY: nothing but the value under test knows this number.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
        assert_eq!(kept.get().unwrap_err(), LostDescriptor { number });

        let mut same_number = fcntl_dupfd_cloexec(&others, number).map(File::from).unwrap();
        assert_eq!(same_number.as_raw_fd(), number);
        assert_eq!(kept.get().unwrap_err(), LostDescriptor { number });
        drop(kept);
        let mut text = String::new();
        same_number.rewind().unwrap();
        same_number.read_to_string(&mut text).unwrap();
        assert_eq!(text, "", "it is open still, and nothing was written");
    }
}
