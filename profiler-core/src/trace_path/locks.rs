//! Who holds a lock on a spool.

use std::fs::File;

use rustix::process::{Flock, FlockType, fcntl_getlk};

/// Whether another process holds a process-owned lock on the file.
pub(super) fn is_held(file: &File) -> bool {
    let asked = Flock::from(FlockType::WriteLock);
    fcntl_getlk(file, &asked).is_ok_and(|holder| holder.is_some())
}

/// The inodes of the files that this process itself has locked; none where the kernel does not
/// tell.
pub(super) fn own_inodes() -> Vec<u64> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    parse(&locks, std::process::id())
}

/// Lines such as `1: POSIX  ADVISORY  WRITE 4711 fd:01:393228 0 EOF`. The device is not compared:
/// layered file systems tell another one than `stat` does.
fn parse(locks: &str, pid: u32) -> Vec<u64> {
    let pid = pid.to_string();
    let mut inodes = Vec::new();
    for line in locks.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "POSIX", _, _, holder, place, ..] = words.as_slice() else { continue };
        let inode = place.rsplit(':').next().and_then(|inode| inode.parse().ok());
        if let (true, Some(inode)) = (**holder == *pid, inode) {
            inodes.push(inode);
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_locks_are_found_among_all() {
        let locks = "1: POSIX  ADVISORY  WRITE 4711 fd:01:393228 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 47 fd:01:1 0 EOF\n\
                     2: -> POSIX  ADVISORY  WRITE 4711 fd:01:2 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 4711 00:1b:3 0 EOF\n\
                     4: POSIX  ADVISORY  READ 4711 00:1b:44 100 200\n\
                     garbage\n5: POSIX\n6: POSIX a b 4711 x 0 0\n";
        assert_eq!(parse(locks, 4711), [393_228, 44]);
        assert_eq!(parse("", 1), Vec::<u64>::new());
    }
}
