//! The commands.

use std::path::Path;
use std::str::SplitAsciiWhitespace;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::crew::{AllDone, Crew, Job, Kind};
use crate::device::{Device, Stream, Taken};
use crate::memory;
use crate::unread::Unread;

/// Takes commands, one after the other. The device is opened at the first that needs it.
///
/// | line | does | answers |
/// |---|---|---|
/// | `run KIND KERNELS THREADS` | that work | `kernels`, `ns` |
/// | `latencies LAUNCHES` | launches, each timed, on one thread | `kernels`, `ns`, and of one launch `p50_ns`, `p9999_ns`, `longest_ns` |
/// | `begin` | launches in the background until `end` | |
/// | `end` | ends them | as `latencies` |
/// | `pin` | each launching thread stays on a processor of its own from its next work on | |
/// | `memory` | | `rss_bytes`, `peak_rss_bytes`, `device_free_bytes` |
/// | `forget-peak` | counts the peak of memory from now on | |
/// | `spin` | launches a kernel that runs for seconds, on a stream of its own | |
/// | `join` | waits until it has ended | |
/// | `take-all-but BYTES` | takes the device's memory until no more than that is free | `device_free_bytes` |
/// | `give-back` | frees what was taken | `device_free_bytes` |
/// | `lose` | a kernel writes where nothing is: the device is lost for this process | |
/// | `unread on`, `unread off` | records with CUPTI, and hands buffers back unread | `buffers` |
/// | `keep FILE` … `unread off` | the same, but what CUPTI wrote goes to the file | `buffers` |
#[derive(Default)]
pub struct Commands {
    device: Option<Device>,
    crew: Option<Crew>,
    background: Option<Arc<AtomicBool>>,
    unread: Option<Unread>,
    taken: Taken,
    spinning: Option<Stream>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl Commands {
    /// Nothing was done yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does what a line says.
    ///
    /// # Errors
    ///
    /// The line is no command; there is no driver or device; CUDA or CUPTI refused something.
    pub fn ask(&mut self, line: &str) -> anyhow::Result<Value> {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("run") => {
                let kind: Kind = word(&mut words)?;
                let (kernels, threads): (u64, usize) = (word(&mut words)?, word(&mut words)?);
                let share = kernels / threads.max(1) as u64;
                let done = self.work(&Job::Work(kind, share), threads.max(1))?;
                Ok(json!({ "kernels": done.kernels, "ns": done.spent.as_nanos() as u64 }))
            }
            Some("latencies") => {
                let launches = word(&mut words)?;
                Ok(told(self.work(&Job::Timed(launches), 1)?))
            }
            Some("begin") => {
                let stop = Arc::new(AtomicBool::new(false));
                self.crew()?.begin(&Job::Until(Arc::clone(&stop)), 1)?;
                self.background = Some(stop);
                Ok(json!({}))
            }
            Some("end") => {
                let stop = self.background.take().context("nothing was begun")?;
                stop.store(true, Ordering::Relaxed);
                Ok(told(self.crew()?.gather(1)?))
            }
            Some("pin") => {
                self.crew()?.pin()?;
                Ok(json!({}))
            }
            Some("memory") => {
                let device = self.device()?;
                device.enter()?;
                let (rss, peak) = memory::resident()?;
                Ok(json!({
                    "rss_bytes": rss,
                    "peak_rss_bytes": peak,
                    "device_free_bytes": device.free_bytes()?,
                }))
            }
            Some("forget-peak") => {
                memory::forget_peak()?;
                Ok(json!({}))
            }
            Some("spin") => {
                let device = self.device()?;
                device.enter()?;
                let stream = device.stream()?;
                device.spin(&stream)?;
                self.spinning = Some(stream);
                Ok(json!({}))
            }
            Some("join") => {
                let stream = self.spinning.take().context("nothing spins")?;
                self.device()?.enter()?;
                stream.wait()?;
                Ok(json!({}))
            }
            Some("take-all-but") => {
                let left_bytes = word(&mut words)?;
                let device = self.device()?;
                device.enter()?;
                device.take_all_but(left_bytes, &mut self.taken)?;
                Ok(json!({ "device_free_bytes": device.free_bytes()? }))
            }
            Some("give-back") => {
                let device = self.device()?;
                device.enter()?;
                self.taken.give_back()?;
                Ok(json!({ "device_free_bytes": device.free_bytes()? }))
            }
            Some("lose") => {
                let device = self.device()?;
                device.enter()?;
                device.lose(&device.stream()?)?;
                Ok(json!({}))
            }
            Some("keep") => {
                let path = words.next().context("keep what in which file?")?;
                self.device()?.enter()?;
                self.unread = Some(Unread::begin(Some(Path::new(path)))?);
                Ok(json!({}))
            }
            Some("unread") => match words.next() {
                Some("on") => {
                    self.device()?.enter()?;
                    self.unread = Some(Unread::begin(None)?);
                    Ok(json!({}))
                }
                _ => {
                    let unread = self.unread.take().context("nothing is recorded")?;
                    Ok(json!({ "buffers": unread.end()? }))
                }
            },
            _ => anyhow::bail!("there is no command {line:?}"),
        }
    }

    fn device(&mut self) -> anyhow::Result<Device> {
        match self.device {
            Some(device) => Ok(device),
            None => Ok(*self.device.insert(Device::open()?)),
        }
    }

    fn crew(&mut self) -> anyhow::Result<&mut Crew> {
        let device = self.device()?;
        Ok(self.crew.get_or_insert_with(|| Crew::new(device)))
    }

    fn work(&mut self, job: &Job, threads: usize) -> anyhow::Result<AllDone> {
        let crew = self.crew()?;
        crew.begin(job, threads)?;
        crew.gather(threads)
    }
}

fn word<T: std::str::FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> anyhow::Result<T>
where
    T::Err: std::fmt::Display,
{
    let word = words.next().context("a word is missing")?;
    word.parse().map_err(|error| anyhow::anyhow!("{word:?}: {error}"))
}

fn told(mut done: AllDone) -> Value {
    let times = &mut done.launches_ns;
    times.sort_unstable();
    let at = |share: f64| {
        let rank = (times.len() as f64 * share) as usize;
        times.get(rank.min(times.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    json!({
        "kernels": done.kernels,
        "ns": done.spent.as_nanos() as u64,
        "p50_ns": at(0.5),
        "p9999_ns": at(0.9999),
        "longest_ns": times.last().copied().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_command_is_refused() {
        let mut commands = Commands::new();
        for line in ["", "fly", "run", "run launch", "run nothing 5 1", "end", "join", "unread off"]
        {
            assert!(commands.ask(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn times_are_told_by_rank() {
        let now = std::time::Duration::from_nanos(7);
        let done = AllDone { kernels: 3, spent: now, launches_ns: vec![30, 10, 20] };
        let told = told(done);
        assert_eq!(told["p50_ns"], 20);
        assert_eq!(told["longest_ns"], 30);
        assert_eq!(told["ns"], 7);
    }
}
