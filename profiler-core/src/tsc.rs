//! The processor's time stamp counter.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "the intrinsic that reads the counter is an unsafe function")
)]

use std::io::BufRead as _;

/// The counter now, 0 on processors without one.
#[inline]
#[must_use]
pub fn read() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC is part of every x86-64 processor; Linux leaves it open to user code
        // unless a process forbids it to itself by prctl(PR_SET_TSC).
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        0
    }
}

/// Whether the counter runs evenly on all cores, in all states of sleep, so that its ticks can be
/// instants: the kernel takes it for its own clock, and the processor says that it neither changes
/// its pace nor stops.
#[must_use]
pub fn is_steady() -> bool {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = std::fs::read_to_string(source).unwrap_or_default();
    if !matches!(source.trim(), "tsc" | "kvm-clock") {
        return false;
    }
    let Ok(info) = std::fs::File::open("/proc/cpuinfo") else { return false };
    // All processors have the same, and on large machines the file is long.
    let mut lines = std::io::BufReader::new(info).lines().map_while(Result::ok);
    let flags = lines.find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
    has("constant_tsc") && has("nonstop_tsc")
}
