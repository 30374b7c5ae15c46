//! Very many workers at once.

use std::time::{Duration, Instant};

use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_worker::controller::StopRequest;
use profiler_worker::start_request::StartRequest;

use super::kills;
use super::process::Held;
use super::worker::{self, Worker};
use super::{Line, Setting, is_whole};

const NAME: &str = "many";
const DEADLINE: Duration = Duration::from_secs(120);
const CAPTURES: usize = 3;
/// So many processes must not take the machine by their own work.
const EVERY: Duration = Duration::from_millis(100);

/// Captures of all of them; a tenth is killed in the last.
///
/// # Errors
///
/// A capture fails, or a spool cannot be read.
pub fn run(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    let (controller, dir) = super::controller(setting.folder(NAME)?)?;
    let count = setting.workers;
    let mut workers: Vec<Worker> =
        (0..count).map(|rank| Worker::marking(&dir, rank, EVERY)).collect::<Result<_, _>>()?;
    anyhow::ensure!(controller.wait_for_workers(count, DEADLINE), "the workers do not join");

    let (mut start, mut stop) = (Duration::ZERO, Duration::ZERO);
    let (mut missing, mut bad, mut expected_dead) = (0, 0, 0);
    let (mut marks, mut holes, mut gap_ms) = (0, 0, 0.0_f64);
    for capture in 0..CAPTURES {
        let begin = Instant::now();
        controller.start(&StartRequest::default())?;
        start = start.max(begin.elapsed());
        std::thread::sleep(Duration::from_secs(2));
        // Whoever is killed is killed after this, and the others go on.
        let until = SystemClock::new().now().monotonic_ns;
        if capture == CAPTURES - 1 {
            expected_dead = count / 10;
            for worker in workers.iter_mut().take(expected_dead) {
                worker.kill()?;
            }
        }
        let begin = Instant::now();
        let wait_ms = u64::try_from(DEADLINE.as_millis())?;
        let manifest = controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
        stop = stop.max(begin.elapsed());
        missing += count.abs_diff(manifest.workers.len());
        let whole = manifest.workers.iter().filter(|line| is_whole(line));
        bad += (count - expected_dead).abs_diff(whole.count());
        for spool in super::spools(std::path::Path::new(&manifest.directory))? {
            let read = worker::read(&spool)?;
            bad += usize::from(read.damaged || read.marks == 0);
            marks += read.marks;
            holes += read.holes();
            gap_ms = gap_ms.max(until.saturating_sub(read.last) as f64 / 1e6);
        }
    }
    let held = Held::of(std::process::id())?;
    Ok(vec![
        Line::told(NAME, "start", start.as_secs_f64() * 1e3, "ms")
            .noted(format!("the slowest of {CAPTURES}, {count} processes")),
        Line::told(NAME, "stop", stop.as_secs_f64() * 1e3, "ms").noted("all files whole"),
        Line::bounded(NAME, "lines-missing", missing as f64, "", 0.0),
        Line::bounded(NAME, "not-as-expected", bad as f64, "", 0.0)
            .noted(format!("{expected_dead} were killed")),
        kills::holes_line(NAME, holes, marks),
        Line::bounded(NAME, "recorded-until-the-stop", gap_ms, "ms", kills::LOST_MS),
        Line::told(NAME, "controller-threads", held.threads as f64, ""),
    ])
}
