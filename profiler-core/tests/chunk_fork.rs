//! A forked child is inert: it appends nothing, and its parent goes on.
#![expect(unsafe_code, reason = "forks")]

use profiler_core::chunk::{PoolCell, chunks};

static CURRENT: PoolCell = PoolCell::new();

#[test]
fn a_forked_child_appends_nothing() {
    let (pool, mut collector) = chunks(1 << 20);
    CURRENT.set(Some(pool));
    assert!(pool.append(1, b"before", &[]));
    // SAFETY: the child calls nothing but code that neither allocates nor locks, then ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        let inert = !pool.append(1, b"child", &[])
            && !CURRENT.get().is_some_and(|pool| pool.append(1, b"child", &[]))
            && !pool.is_open();
        // SAFETY: ends the process at once, as a forked child of a threaded process must.
        unsafe { libc::_exit(if inert { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the status goes to a variable of ours.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status}");
    assert!(pool.append(1, b"after", &[]));
    let mut seen = Vec::new();
    collector.drain(|entry| seen.push(entry.payload.to_vec()));
    assert_eq!(seen, [&b"before"[..], b"after"]);
    assert_eq!(collector.take_dropped(), []);
}
