//! Starts and stops at speed: what is held after many is what was held after ten.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::start_request::StartRequest;

use super::process::Held;
use super::worker::Worker;
use super::{Line, Setting, is_whole, wait_for};

const NAME: &str = "cycles";
/// Buffers and allocators have their size by then.
const WARM: u32 = 10;
const DEADLINE: Duration = Duration::from_secs(60);
/// What an allocator may keep for itself, in KiB, of one process.
const SLACK_KIB: f64 = 2048.0;

/// Cycles of two worker processes.
///
/// # Errors
///
/// A cycle fails.
pub fn run(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    let (controller, dir) = super::controller(setting.folder(NAME)?)?;
    let workers = [Worker::start(&dir, 0)?, Worker::start(&dir, 1)?];
    anyhow::ensure!(controller.wait_for_workers(2, DEADLINE), "the workers do not join");

    let own = std::process::id();
    let processes = [("controller", own), ("worker", workers[0].pid())];
    let mut warm = Vec::new();
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    for cycle in 1..=setting.cycles.max(WARM + 1) {
        let start = Instant::now();
        one(&controller).with_context(|| format!("cycle {cycle}"))?;
        slowest = slowest.max(start.elapsed());
        if cycle == WARM {
            warm = held(&processes)?;
        }
    }
    let rate = f64::from(setting.cycles) / began.elapsed().as_secs_f64();

    let mut lines = vec![
        Line::told(NAME, "rate", rate, "/s")
            .noted(format!("{} cycles, the slowest {slowest:.0?}", setting.cycles)),
    ];
    let mut last = held(&processes)?;
    // Threads of the last session may still be ending.
    let settled = |now: &[Held]| {
        now.iter()
            .zip(&warm)
            .all(|(now, warm)| now.descriptors <= warm.descriptors && now.threads <= warm.threads)
    };
    let _settled: anyhow::Result<()> = wait_for("as it was", Duration::from_secs(5), || {
        last = held(&processes).ok()?;
        settled(&last).then_some(())
    });
    for ((name, _), (warm, last)) in processes.iter().zip(warm.iter().zip(&last)) {
        let of = |what: &str| format!("{name}-{what}-added");
        let added = |last: usize, warm: usize| last as f64 - warm as f64;
        let note = |last: usize, warm: usize| format!("{warm} after {WARM}, {last} at the end");
        for (what, last, warm, allowed) in [
            ("descriptors", last.descriptors, warm.descriptors, 0.0),
            ("threads", last.threads, warm.threads, 0.0),
            // An allocator maps an arena for each thread that ever was at the same time.
            ("mappings", last.mappings, warm.mappings, 16.0),
        ] {
            let line = Line::bounded(NAME, &of(what), added(last, warm), "", allowed);
            lines.push(line.noted(note(last, warm)));
        }
        let grown = last.memory_kib as f64 - warm.memory_kib as f64;
        let line = Line::bounded(NAME, &of("memory"), grown, "KiB", SLACK_KIB);
        lines.push(
            line.noted(format!("{} after {WARM}, {} at the end", warm.memory_kib, last.memory_kib)),
        );
    }
    Ok(lines)
}

fn held(processes: &[(&str, u32)]) -> anyhow::Result<Vec<Held>> {
    processes.iter().map(|(_, pid)| Held::of(*pid)).collect()
}

fn one(controller: &Controller) -> anyhow::Result<()> {
    controller.start(&StartRequest::default())?;
    let wait_ms = u64::try_from(DEADLINE.as_millis())?;
    let manifest = controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
    anyhow::ensure!(manifest.workers.len() == 2, "{} lines", manifest.workers.len());
    for line in &manifest.workers {
        anyhow::ensure!(is_whole(line), "{}: {line:?}", line.name());
    }
    // Its files are named in the last lines that the controller writes into it.
    anyhow::ensure!(controller.wait_until_idle(DEADLINE), "the controller stays busy");
    wait_for("an empty folder", DEADLINE, || std::fs::remove_dir_all(&manifest.directory).ok())
}
