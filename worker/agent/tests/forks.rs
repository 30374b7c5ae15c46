//! A process that forks while its threads ask for the agent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(unsafe_code, reason = "a fork is what is tested")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{PATIENCE, builder};

/// Enough that some fork comes while another thread is inside.
const FORKS: u32 = 200;

/// Steps and leaves by `exit`, with the handlers that the parent set up.
fn fork_and_wait() -> bool {
    // SAFETY: the child steps and ends by `exit`; what it may not do there is what is tested.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        profiler_agent::step();
        let is_inert = profiler_agent::Agent::current().is_none();
        // SAFETY: ends the process; its handlers are ours and those of the C library.
        unsafe { libc::exit(i32::from(!is_inert)) };
    }
    let deadline = Instant::now() + PATIENCE;
    let mut status = 0;
    // SAFETY: the pid is that of our child, the pointer that of a local number.
    while unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == 0 {
        if Instant::now() >= deadline {
            // SAFETY: the pid is that of our child, which was not waited for yet.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    status == 0
}

#[test]
fn a_child_hangs_on_no_lock_that_another_thread_held() {
    let local = builder().local().unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    profiler_agent::step();
                }
            });
        }
        let all_ended = (0..FORKS).all(|_| fork_and_wait());
        is_over.store(true, Ordering::Relaxed);
        assert!(all_ended, "a child never ended, or had an agent");
    });
    drop(local);
}
