//! Measuring: processor time, memory, threads, child processes.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};

use super::rusage;

/// Processor time of the calling thread.
#[must_use]
pub fn thread_cpu() -> Duration {
    cpu_of(ClockId::ThreadCPUTime)
}

/// Processor time of this process, all threads.
#[must_use]
pub fn process_cpu() -> Duration {
    cpu_of(ClockId::ProcessCPUTime)
}

fn cpu_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Memory of this process that is resident now.
///
/// # Errors
///
/// `/proc/self/status` cannot be read.
pub fn rss_bytes() -> anyhow::Result<u64> {
    status_bytes(Path::new("/proc/self/status"), "VmRSS")
}

/// The most memory of this process that was ever resident.
///
/// # Errors
///
/// `/proc/self/status` cannot be read.
pub fn peak_rss_bytes() -> anyhow::Result<u64> {
    status_bytes(Path::new("/proc/self/status"), "VmHWM")
}

/// A field in kB of a `/proc/PID/status` file, in bytes.
///
/// # Errors
///
/// The file cannot be read, or has no such field.
pub fn status_bytes(path: &Path, field: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let kib: u64 = status_field(&text, field)
        .and_then(|rest| rest.strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("{} has no {field}", path.display()))?;
    Ok(kib * 1024)
}

fn status_field<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .map(|(_, rest)| rest.trim())
}

/// What a thread has used so far.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadUsage {
    /// The thread.
    pub tid: u32,
    /// Its name (at most 15 bytes, as the kernel keeps it).
    pub name: String,
    /// Its processor time.
    pub cpu: Duration,
    /// How often it went to sleep of its own accord: its wake-ups.
    pub voluntary_switches: u64,
}

/// The threads of a process, in the order of their ids. Threads that end meanwhile are left out.
///
/// # Errors
///
/// There is no such process.
pub fn threads_of(pid: u32) -> anyhow::Result<Vec<ThreadUsage>> {
    let tasks = format!("/proc/{pid}/task");
    let mut threads = Vec::new();
    for entry in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        let dir = entry?.path();
        let Some(tid) = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok())
        else {
            continue;
        };
        let read = |name: &str| fs::read_to_string(dir.join(name));
        let (Ok(name), Ok(schedstat), Ok(status)) =
            (read("comm"), read("schedstat"), read("status"))
        else {
            continue;
        };
        let cpu_ns = schedstat.split_ascii_whitespace().next().and_then(|n| n.parse().ok());
        let switches =
            status_field(&status, "voluntary_ctxt_switches").and_then(|n| n.parse().ok());
        threads.push(ThreadUsage {
            tid,
            name: name.trim_end().to_owned(),
            cpu: Duration::from_nanos(cpu_ns.unwrap_or(0)),
            voluntary_switches: switches.unwrap_or(0),
        });
    }
    threads.sort_by_key(|thread| thread.tid);
    Ok(threads)
}

/// What a child process used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildRun {
    /// How it ended.
    pub status: ExitStatus,
    /// From its start to its end.
    pub wall: Duration,
    /// Its processor time, with that of its own children it has waited for.
    pub cpu: Duration,
    /// The most memory that was resident, read from `/proc` every millisecond. (What the kernel
    /// reports at its end also contains the peak of the process that started it.)
    pub peak_rss_bytes: u64,
    /// What it printed.
    pub stdout: Vec<u8>,
}

/// Runs a child to its end and tells what it used. Its standard error goes to ours.
///
/// # Errors
///
/// It cannot be started or waited for.
pub fn run_child(command: &mut Command) -> anyhow::Result<ChildRun> {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start", command.get_program().display()))?;
    let mut pipe = child.stdout.take().context("the child has no standard output")?;
    let reader = std::thread::Builder::new().name("figures-stdout".to_owned()).spawn(
        move || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes)?;
            Ok(bytes)
        },
    )?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_rss_bytes = 0;
    let (status, cpu) = loop {
        if let Some(ended) = rusage::try_wait(child.id())? {
            break ended;
        }
        // A child that has just ended has no memory any more.
        if let Ok(bytes) = status_bytes(Path::new(&status_file), "VmHWM") {
            peak_rss_bytes = peak_rss_bytes.max(bytes);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let wall = begin.elapsed();
    let stdout =
        reader.join().map_err(|_panic| anyhow::anyhow!("the reading thread panicked"))??;
    Ok(ChildRun { status, wall, cpu, peak_rss_bytes, stdout })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_measured() {
        let run = run_child(Command::new("sh").args(["-c", "echo hello; exit 3"])).unwrap();
        assert_eq!(run.status.code(), Some(3));
        assert_eq!(run.stdout, b"hello\n");
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let run = run_child(Command::new("sh").args(["-c", burn])).unwrap();
        assert!(run.cpu > Duration::ZERO);
        assert!(run.cpu <= run.wall * 2);
        assert!(run.peak_rss_bytes > 100 << 10);
    }

    #[test]
    fn own_memory_and_threads_are_read() {
        let ballast = vec![1_u8; 64 << 20];
        assert!(rss_bytes().unwrap() >= 64 << 20);
        assert!(peak_rss_bytes().unwrap() >= rss_bytes().unwrap() / 2);
        assert_eq!(ballast.iter().map(|&b| u64::from(b)).sum::<u64>(), 64 << 20);
        let threads = threads_of(std::process::id()).unwrap();
        assert!(threads.iter().any(|thread| thread.tid == std::process::id()));
        assert!(thread_cpu() <= process_cpu());
    }
}
