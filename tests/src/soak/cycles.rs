//! Starts and stops at speed: what is held after many is what was held after ten.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::manifest::WorkerLine;
use profiler_worker::start_request::StartRequest;

use super::process::Held;
use super::worker::Worker;
use super::{Cycles, Line, Setting, is_whole, wait_for};
use crate::cuda_stand_in::CudaStandIn;
use crate::npu_stand_in::NpuStandIn;

/// Buffers and allocators have their size by then.
const WARM: u32 = 10;
const DEADLINE: Duration = Duration::from_secs(60);
/// What an allocator may keep for itself, in KiB, of one process.
const SLACK_KIB: f64 = 2048.0;
/// Rows that were made before the window or after it.
const OUTSIDE: &str = "outside_window";

/// Cycles of two worker processes.
///
/// # Errors
///
/// A cycle fails.
pub fn run(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    const NAME: &str = "cycles";
    let (controller, dir) = super::controller(setting.folder(NAME)?)?;
    let workers = vec![Worker::start(&dir, 0)?, Worker::start(&dir, 1)?];
    Run { name: NAME, device: None, controller, workers }.lines(setting.cycles)
}

/// The same of workers that launch on a stand-in for libcupti.
///
/// # Errors
///
/// A cycle fails, or the stand-in cannot be laid out.
pub fn cuda(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    const NAME: &str = "cycles-cuda";
    let (controller, dir, folder) = device(setting, NAME)?;
    let Some(machine) = CudaStandIn::install(&folder)? else {
        let why = "this user can give no process a device node of its own";
        return Ok(vec![Line::skipped(NAME, "rate", why)]);
    };
    let workers = vec![Worker::on_cuda(&dir, 0, &machine)?, Worker::on_cuda(&dir, 1, &machine)?];
    Run { name: NAME, device: Some("cuda"), controller, workers }.lines(setting.cycles)
}

/// The same of workers in which a stand-in for libmspti launches.
///
/// # Errors
///
/// A cycle fails, or the stand-in cannot be built.
pub fn npu(setting: &Setting) -> anyhow::Result<Vec<Line>> {
    const NAME: &str = "cycles-npu";
    let (controller, dir, folder) = device(setting, NAME)?;
    let machine = NpuStandIn::install(&folder)?;
    let workers = vec![Worker::on_npu(&dir, 0, &machine)?, Worker::on_npu(&dir, 1, &machine)?];
    Run { name: NAME, device: Some("npu"), controller, workers }.lines(setting.cycles)
}

/// A controller, where its workers find it, and a folder for a stand-in.
fn device(setting: &Setting, name: &'static str) -> anyhow::Result<(Controller, PathBuf, PathBuf)> {
    let folder = setting.folder(name)?;
    let machine = folder.join("machine");
    std::fs::create_dir(&machine)?;
    let (controller, dir) = super::controller(folder.join("traces"))?;
    Ok((controller, dir, machine))
}

/// What is cycled.
struct Run {
    name: &'static str,
    /// The backend that records the workers' device.
    device: Option<&'static str>,
    controller: Controller,
    workers: Vec<Worker>,
}

/// What was seen in all cycles.
#[derive(Default)]
struct Seen {
    cycles: u32,
    slowest: Duration,
    lost: u64,
    kernels: u64,
}

impl Run {
    fn lines(self, amount: Cycles) -> anyhow::Result<Vec<Line>> {
        let count = self.workers.len();
        anyhow::ensure!(self.controller.wait_for_workers(count, DEADLINE), "they do not join");
        let worker = self.workers.first().context("a worker")?.pid();
        let processes = [("controller", std::process::id()), ("worker", worker)];
        let mut warm = Vec::new();
        let mut seen = Seen::default();
        let began = Instant::now();
        loop {
            let is_enough = match amount {
                Cycles::Count(count) => seen.cycles >= count,
                Cycles::For(time) => began.elapsed() >= time,
            };
            if is_enough && seen.cycles > WARM {
                break;
            }
            seen.cycles += 1;
            let start = Instant::now();
            self.one(&mut seen).with_context(|| format!("cycle {}", seen.cycles))?;
            seen.slowest = seen.slowest.max(start.elapsed());
            if seen.cycles == WARM {
                warm = held(&processes)?;
            }
        }
        let Seen { cycles, slowest, lost, kernels } = seen;
        let rate = f64::from(cycles) / began.elapsed().as_secs_f64();
        let mut lines = vec![
            Line::told(self.name, "rate", rate, "/s")
                .noted(format!("{cycles} cycles, the slowest {slowest:.0?}")),
            Line::bounded(self.name, "lost", lost as f64, "rows", 0.0),
        ];
        if self.device.is_some() {
            anyhow::ensure!(kernels > 0, "no kernel was recorded");
            lines.push(Line::told(self.name, "kernels", kernels as f64, ""));
        }
        lines.extend(self.added(&processes, &warm)?);
        for worker in self.workers {
            worker.end()?;
        }
        Ok(lines)
    }

    fn one(&self, seen: &mut Seen) -> anyhow::Result<()> {
        self.controller.start(&StartRequest::default())?;
        let wait_ms = u64::try_from(DEADLINE.as_millis())?;
        let manifest = self.controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
        let lines: Vec<&WorkerLine> =
            manifest.workers.iter().filter(|line| !line.host_counters).collect();
        anyhow::ensure!(lines.len() == self.workers.len(), "{} lines", lines.len());
        for line in lines {
            anyhow::ensure!(is_whole(line), "{}: {line:?}", line.name());
            let is_recorded = self.device.is_none_or(|id| line.backend.as_deref() == Some(id));
            anyhow::ensure!(is_recorded, "{} is recorded by {:?}", line.name(), line.backend);
            let drops = line.drops.iter().filter(|(cause, _)| *cause != OUTSIDE);
            seen.lost += drops.map(|(_, count)| count).sum::<u64>();
            seen.kernels += line.records.get("kernel").copied().unwrap_or_default();
        }
        // Its files are named in the last lines that the controller writes into it.
        anyhow::ensure!(self.controller.wait_until_idle(DEADLINE), "the controller stays busy");
        wait_for("an empty folder", DEADLINE, || std::fs::remove_dir_all(&manifest.directory).ok())
    }

    /// What each process holds beyond what it held when it was warm.
    fn added(&self, processes: &[(&str, u32)], warm: &[Held]) -> anyhow::Result<Vec<Line>> {
        let mut last = held(processes)?;
        // Threads of the last session may still be ending.
        let settled = |now: &[Held]| {
            now.iter().zip(warm).all(|(now, warm)| {
                now.descriptors <= warm.descriptors && now.threads <= warm.threads
            })
        };
        let _settled: anyhow::Result<()> = wait_for("as it was", Duration::from_secs(5), || {
            last = held(processes).ok()?;
            settled(&last).then_some(())
        });
        let mut lines = Vec::new();
        for ((name, _), (warm, last)) in processes.iter().zip(warm.iter().zip(&last)) {
            for (what, warm, last, unit, allowed) in [
                ("descriptors", warm.descriptors as u64, last.descriptors as u64, "", 0.0),
                ("threads", warm.threads as u64, last.threads as u64, "", 0.0),
                // An allocator maps an arena for each thread that ever was at the same time.
                ("mappings", warm.mappings as u64, last.mappings as u64, "", 16.0),
                ("memory", warm.memory_kib, last.memory_kib, "KiB", SLACK_KIB),
            ] {
                let added = last as f64 - warm as f64;
                let line =
                    Line::bounded(self.name, &format!("{name}-{what}-added"), added, unit, allowed);
                lines.push(line.noted(format!("{warm} after {WARM}, {last} at the end")));
            }
        }
        Ok(lines)
    }
}

fn held(processes: &[(&str, u32)]) -> anyhow::Result<Vec<Held>> {
    processes.iter().map(|(_, pid)| Held::of(*pid)).collect()
}
