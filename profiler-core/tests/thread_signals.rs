//! Threads of the profiler block every signal; the thread that starts them stays as it was.

use profiler_core::thread::{block_signals, spawn_blocked};

fn blocked() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("SigBlk");
    u64::from_str_radix(line.trim(), 16).expect("a mask")
}

/// All signals but SIGKILL and SIGSTOP, which nobody can block, and 32 and 33, which are libc's.
const ALL: u64 = !(1 << 8 | 1 << 18 | 1 << 31 | 1 << 32);

#[test]
fn a_started_thread_blocks_all_signals_and_its_starter_none_more() {
    let before = blocked();
    let (mask, name) = spawn_blocked("omniprof-test", || {
        let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        (blocked(), name)
    })
    .unwrap()
    .join()
    .unwrap();
    assert_eq!(mask & ALL, ALL, "{mask:x}");
    assert_eq!(name.trim(), "omniprof-test");
    assert_eq!(blocked(), before);
    let held = block_signals();
    assert_eq!(blocked() & ALL, ALL);
    drop(held);
    assert_eq!(blocked(), before);
}
