//! A program that closes whatever descriptors it finds, while it is recorded, and puts files of its
//! own in their places: none of them is read, written, waited for or closed for ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(unsafe_code, reason = "a program that closes what is not its own is what is tested")]

mod support;

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use profiler_core::backend::SessionConfig;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{DupFlags, dup3};
use support::*;

const DRAIN: Duration = Duration::from_millis(500);

/// The numbers of all open descriptors behind the standard ones.
fn open_numbers() -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let numbers: Vec<RawFd> = numbers.filter(|number| *number > 2).collect();
    // The list's own is closed by now.
    numbers.into_iter().filter(|number| is_open(*number)).collect()
}

fn is_open(number: RawFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok()
}

fn process_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Puts an event descriptor that is always readable at each number; what keeps them open.
fn take_over(numbers: &[RawFd]) -> Vec<OwnedFd> {
    let others = eventfd(7, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let mut taken = vec![];
    for number in numbers {
        // SAFETY: what holds the number finds out by looking; that is what is tested.
        let mut place = unsafe { OwnedFd::from_raw_fd(*number) };
        // Closed and put there at once: else another thread's file could come in between.
        dup3(&others, &mut place, DupFlags::CLOEXEC).unwrap();
        taken.push(place);
    }
    taken.push(others);
    taken
}

/// One test, for it changes all of the process's descriptors.
#[test]
fn a_program_that_closes_all_descriptors_keeps_its_own() {
    let mut timers = SessionConfig::default();
    timers.options.insert("cpu.sampler".to_owned(), "signal_timer".into());
    let mut configs = vec![timers];
    if perf_allowed() {
        configs.extend([in_layout("inherited"), in_layout("per_thread")]);
    } else {
        skipped("perf events are refused here: the timers alone are tried");
    }
    for config in configs {
        let before = open_numbers();
        let sink = MemorySink::new();
        let mut session = start(&sink, &config).unwrap();
        std::hint::black_box(burn(Duration::from_millis(200)));
        let mut ours = open_numbers();
        ours.retain(|number| !before.contains(number));
        // Without files that are read and closed again.
        for _ in 0..5 {
            std::hint::black_box(burn(Duration::from_millis(20)));
            let now = open_numbers();
            ours.retain(|number| now.contains(number));
        }
        assert!(!ours.is_empty());
        let theirs = take_over(&ours);

        std::hint::black_box(burn(Duration::from_millis(300)));
        let idle = process_cpu();
        std::thread::sleep(Duration::from_millis(500));
        let spent = process_cpu() - idle;
        assert!(spent < Duration::from_millis(250), "it spins on what is always readable");
        session.flush().unwrap();
        session.stop(DRAIN).unwrap();
        drop(session);

        for number in &ours {
            assert!(is_open(*number), "{number} was closed");
        }
        let mut count = [0; 8];
        rustix::io::read(&theirs[0], &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 7, "neither read nor written");
        assert!(sink.written().samples.len() > 5, "what was sampled before is there");
        drop(theirs);
    }
}
