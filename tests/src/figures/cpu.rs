//! The CPU backend: what sampling costs, in a worker of its own and in the demo, and how long the
//! demo takes.
//!
//! Two processes at once, each with one busy thread, as on a small machine that is fully used; each
//! records itself into a spool. The cost is the processor time of all threads of the profiler
//! (`omniprof-…`) as a share of that of the rest, so that it does not depend on how busy the
//! machine is with other things.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use backend_cpu::CpuBackend;
use profiler_core::backend::{ProfilerBackend as _, SessionConfig};
use profiler_core::clock::{ClockSource, SystemClock};
use profiler_core::identity::WorkerIdentity;
use profiler_core::record::{Counter, Fact, Sample, StringDef};
use profiler_core::spool::{SpoolHeader, SpoolReader, SpoolWriter};
use serde::{Deserialize, Serialize};

use super::context::spool_options;
use super::measure::{ThreadUsage, threads_of};
use super::ratio::LONG_PAIRS;
use super::role::{Role, VARIABLE};
use super::{Bound, Context, FigureEntry, Measured, measure_ratio, run_child};

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    vec![
        FigureEntry {
            name: "sampling_cpu_share",
            unit: "%",
            required: Some(Bound::AtMost(1.0)),
            anchor: "99 Hz and counters into a spool, two busy processes; their own work is 100 %",
            run: |context| cpu_share(context, "perf_event"),
        },
        FigureEntry {
            name: "demo_cpu_share",
            unit: "%",
            required: Some(Bound::AtMost(1.0)),
            anchor: "all the profiler's threads in the demo's five workers while exporters follow; \
                     the workers' own work is 100 %",
            run: demo_share,
        },
        FigureEntry {
            name: "demo_time",
            unit: "s",
            required: Some(Bound::AtMost(60.0)),
            anchor: "`omniprof demo` as a user types it, once built: from its start to its last line",
            run: demo_time,
        },
        FigureEntry {
            name: "sampling_wall_ratio",
            unit: "x",
            required: None,
            anchor: "the same work, sampled / not sampled, by the clock",
            run: wall_ratio,
        },
        FigureEntry {
            name: "signal_sampling_cpu_share",
            unit: "%",
            required: Some(Bound::AtMost(1.0)),
            anchor: "as sampling_cpu_share, by the fallback (signal timers)",
            run: |context| cpu_share(context, "signal_timer"),
        },
    ]
}

/// Processes of these figures' own.
#[must_use]
pub fn roles() -> Vec<Role> {
    vec![(ROLE, work)]
}

/// The processor time of the profiler's threads between two looks at a process, as a share of what
/// its other threads used. `None` where those used none.
#[must_use]
pub fn profiler_share(before: &[ThreadUsage], after: &[ThreadUsage]) -> Option<f64> {
    let earlier: BTreeMap<u32, Duration> = before.iter().map(|t| (t.tid, t.cpu)).collect();
    let (mut profiler, mut others) = (Duration::ZERO, Duration::ZERO);
    for thread in after {
        let used = thread.cpu.saturating_sub(earlier.get(&thread.tid).copied().unwrap_or_default());
        match thread.name.starts_with("omniprof-") {
            true => profiler += used,
            false => others += used,
        }
    }
    (!others.is_zero()).then(|| profiler.as_secs_f64() / others.as_secs_f64())
}

const ROLE: &str = "cpu-sampling-work";

/// Selects the sampler of a process; `none` = it does not record itself.
const SAMPLER: &str = "OMNIPROF_FIGURES_SAMPLER";

/// The folder of a process's spool.
const FOLDER: &str = "OMNIPROF_FIGURES_FOLDER";

/// How much work a process does: one to two seconds on a core of 2024.
const ROUNDS: u32 = 600;

/// Processes at once.
const PROCESSES: usize = 2;

/// Runs of the share.
const RUNS: usize = 5;

/// What a process prints.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    /// Of all threads of the profiler.
    profiler_ns: u64,
    /// Of the working thread.
    work_ns: u64,
    /// From the work's begin to its end.
    wall_ns: u64,
    /// Samples taken.
    samples: u64,
    /// The sampler that ran.
    sampler: String,
}

fn cpu_share(context: &Context, sampler: &str) -> anyhow::Result<Measured> {
    let mut shares = Vec::new();
    let mut on_processor = Vec::new();
    for _ in 0..RUNS {
        let reports = run(context, sampler)?;
        if let Some(other) = reports.iter().find(|report| report.sampler != sampler) {
            return Ok(Measured::Skipped(format!(
                "{sampler} cannot be had here, {} ran",
                other.sampler
            )));
        }
        for report in &reports {
            let expected = report.work_ns as f64 / 1e9 * 99.0;
            anyhow::ensure!(
                report.samples as f64 > expected * 0.4,
                "{} samples, {expected:.0} were due",
                report.samples
            );
        }
        let total = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>() as f64;
        shares.push(total(|r| r.profiler_ns) / total(|r| r.work_ns) * 100.0);
        on_processor.push(total(|r| r.work_ns) / total(|r| r.wall_ns) * 100.0);
    }
    // The profiler wakes by the clock: where other programs hold the processors, the same work
    // takes longer and its share grows.
    let Measured::Value { value, note } = Measured::median_of(&shares) else {
        anyhow::bail!("a median is a value");
    };
    on_processor.sort_by(f64::total_cmp);
    let busy = on_processor.get(RUNS / 2).copied().unwrap_or_default();
    Ok(Measured::noted(value, format!("{note}; the work had a processor {busy:.0} % of the time")))
}

fn wall_ratio(context: &Context) -> anyhow::Result<Measured> {
    let longest = |sampler: &str| {
        let reports = run(context, sampler)?;
        let wall = reports.iter().map(|report| report.wall_ns).max();
        Ok(wall.context("no process reported")? as f64)
    };
    measure_ratio(|| longest("none"), || longest("perf_event")).map(Measured::Ratio)
}

/// How long the demo is profiled. What a session takes once, to arm and to stop, is some 8 ms a
/// worker and in the share as well.
const DEMO_MS: &str = "20000";

/// The profiler's share in the processor time of the demo's workers.
fn demo_share(context: &Context) -> anyhow::Result<Measured> {
    let mut shares = Vec::new();
    for _ in 0..LONG_PAIRS {
        let root = context.fresh_dir("demo")?;
        let mut command = Command::new(context.omniprof()?);
        command.args(["demo", "--json", "--duration-ms", DEMO_MS, "--dir"]).arg(&root);
        let run = run_child(&mut command)?;
        anyhow::ensure!(run.status.success(), "the demo ended with {}", run.status);
        let outcome: serde_json::Value = serde_json::from_slice(&run.stdout)?;
        let manifest = &outcome["manifest"];
        let directory = root.join(manifest["directory"].as_str().context("no directory")?);
        let workers = manifest["workers"].as_array().context("no workers")?;
        anyhow::ensure!(!workers.is_empty(), "no worker took part");
        let (mut profiler_ns, mut total_ns) = (0.0, 0.0);
        for worker in workers {
            if worker["records"]["sample"].as_u64().is_none_or(|samples| samples == 0) {
                return Ok(Measured::Skipped(format!("not sampled: {}", worker["notes"])));
            }
            profiler_ns += worker["own_cpu_ns"].as_f64().context("a worker's own time")?;
            let files = worker["files"].as_array().context("a worker's files")?;
            let spool = files.iter().find(|file| file["format"] == "spool");
            let spool = spool.and_then(|file| file["path"].as_str()).context("no spool")?;
            total_ns += recorded_cpu_ns(&directory.join(spool))?;
        }
        shares.push(profiler_ns / (total_ns - profiler_ns) * 100.0);
    }
    Ok(Measured::median_of(&shares))
}

/// How long a user waits for the demo.
fn demo_time(context: &Context) -> anyhow::Result<Measured> {
    let mut seconds = Vec::new();
    for _ in 0..LONG_PAIRS {
        let root = context.fresh_dir("demo")?;
        let mut command = Command::new(context.omniprof()?);
        let run = run_child(command.args(["demo", "--dir"]).arg(&root))?;
        anyhow::ensure!(run.status.success(), "the demo ended with {}", run.status);
        let told = String::from_utf8_lossy(&run.stdout);
        anyhow::ensure!(told.contains("\nOpen "), "the demo names no file to open: {told}");
        seconds.push(run.wall.as_secs_f64());
    }
    Ok(Measured::median_of(&seconds))
}

/// The processor time that a process used from its spool's first counter to its last.
fn recorded_cpu_ns(spool: &Path) -> anyhow::Result<f64> {
    let mut reader = SpoolReader::open(spool)?;
    let (mut name, mut values) = (None, Vec::new());
    while let Some(block) = reader.next_block()? {
        for string in block.rows::<StringDef>().unwrap_or_default() {
            if string.text.text(block.heap()).as_deref() == Some("cpu time") {
                name = Some((block.stream(), string.id));
            }
        }
        for counter in block.rows::<Counter>().unwrap_or_default() {
            if name == Some((block.stream(), counter.name)) {
                values.push(counter.value);
            }
        }
    }
    let (first, last) = (values.first().copied(), values.last().copied());
    let used = last.zip(first).map(|(last, first)| last - first);
    used.filter(|ns| *ns > 0.0).with_context(|| format!("no `cpu time` in {}", spool.display()))
}

/// Runs the processes at once and gathers what they print.
fn run(context: &Context, sampler: &str) -> anyhow::Result<Vec<Report>> {
    let mut children: Vec<Child> = Vec::new();
    for _ in 0..PROCESSES {
        let mut command = Command::new(context.this_program()?);
        command.env(VARIABLE, ROLE).env(SAMPLER, sampler);
        command.env(FOLDER, context.fresh_dir("cpu-sampling")?);
        children.push(command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?);
    }
    let mut reports = Vec::new();
    for child in children {
        let output = child.wait_with_output()?;
        anyhow::ensure!(
            output.status.success(),
            "the working process ended with {}",
            output.status
        );
        reports.push(serde_json::from_slice(&output.stdout).context("no report")?);
    }
    Ok(reports)
}

/// The process: works, and records itself if it shall.
fn work() -> anyhow::Result<ExitCode> {
    let sampler = std::env::var(SAMPLER)?;
    let mut recording = None;
    if sampler != "none" {
        recording = Some(Recording::start(&sampler)?);
    }
    let own = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    let before = threads_of(std::process::id())?;
    let begin = Instant::now();
    let result = std::hint::black_box(busy_work(ROUNDS));
    let wall = begin.elapsed();
    let after = threads_of(std::process::id())?;
    anyhow::ensure!(result != 0, "the work was left out");

    let used = |threads: &[ThreadUsage], of: &dyn Fn(&ThreadUsage) -> bool| {
        threads.iter().filter(|t| of(t)).map(|t| t.cpu.as_nanos() as u64).sum::<u64>()
    };
    let profiler = |threads: &[ThreadUsage]| used(threads, &|t| t.name.starts_with("omniprof-"));
    let working = |threads: &[ThreadUsage]| used(threads, &|t| t.tid == own);
    let mut report = Report {
        profiler_ns: profiler(&after).saturating_sub(profiler(&before)),
        work_ns: working(&after).saturating_sub(working(&before)),
        wall_ns: wall.as_nanos() as u64,
        samples: 0,
        sampler: "none".to_owned(),
    };
    if let Some(recording) = recording {
        (report.samples, report.sampler) = recording.stop()?;
    }
    serde_json::to_writer(std::io::stdout(), &report)?;
    Ok(ExitCode::SUCCESS)
}

/// A session of the CPU backend into a spool.
struct Recording {
    session: Box<dyn profiler_core::backend::ProfileSession>,
    writer: SpoolWriter,
    folder: PathBuf,
}

impl Recording {
    fn start(sampler: &str) -> anyhow::Result<Self> {
        let folder = PathBuf::from(std::env::var(FOLDER)?);
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.join("work.spool"))?;
        let clock: Arc<dyn ClockSource> = Arc::new(SystemClock::new());
        let header = header(clock.as_ref());
        let writer = SpoolWriter::create(file, &header, spool_options(), Arc::clone(&clock))?;
        let mut config = SessionConfig::default();
        config.options.insert("cpu.sampler".to_owned(), sampler.into());
        let mut session = CpuBackend::new().open(&config, writer.sink(), clock)?;
        session.start()?;
        Ok(Self { session, writer, folder })
    }

    /// Ends it; the number of samples in the spool, and the sampler that ran.
    fn stop(mut self) -> anyhow::Result<(u64, String)> {
        self.session.stop(Duration::from_secs(2))?;
        drop(self.session);
        drop(self.writer.finish(Duration::from_secs(5)));
        let mut reader = SpoolReader::open(&self.folder.join("work.spool"))?;
        let (mut samples, mut sampler) = (0, String::new());
        while let Some(block) = reader.next_block()? {
            if let Some(rows) = block.rows::<Sample>() {
                samples += rows.len() as u64;
            }
            for fact in block.rows::<Fact>().unwrap_or_default() {
                if fact.key.text(block.heap()).as_deref() == Some("cpu.sampler") {
                    sampler = fact.value.text(block.heap()).unwrap_or_default().into_owned();
                }
            }
        }
        Ok((samples, sampler))
    }
}

fn header(clock: &dyn ClockSource) -> SpoolHeader {
    SpoolHeader {
        session: "figures".to_owned(),
        prefix: None,
        worker: WorkerIdentity {
            stage: None,
            role: None,
            replica: None,
            rank: None,
            host: "figures".to_owned(),
            pid: std::process::id(),
            key: "figures".to_owned(),
            boot_id: String::new(),
            time_namespace: 0,
            pid_namespace: 0,
            start_ticks: 0,
            program: "figures".to_owned(),
        },
        writer: "figures".to_owned(),
        created: clock.now(),
        fence: 1,
    }
}

/// Work with many functions and call depths: a little of what a server and a model do.
fn busy_work(rounds: u32) -> u64 {
    let mut result = 1;
    for round in 0..rounds {
        result ^= numbers(round) ^ text(round) ^ tree(12, u64::from(round));
    }
    result | 1
}

#[inline(never)]
fn numbers(seed: u32) -> u64 {
    const SIZE: usize = 96;
    let cell = |row: usize, column: usize| (row * 7 + column * 3 + seed as usize) as f32 % 11.0;
    let mut product = vec![0.0_f32; SIZE * SIZE];
    for row in 0..SIZE {
        for inner in 0..SIZE {
            let left = cell(row, inner);
            for column in 0..SIZE {
                product[row * SIZE + column] += left * cell(inner, column);
            }
        }
    }
    product.iter().map(|value| *value as u64).sum()
}

#[inline(never)]
fn text(seed: u32) -> u64 {
    let mut words: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for index in 0..300_u32 {
        let number = index.wrapping_mul(2_654_435_761).wrapping_add(seed) % 97;
        words.entry(format!("word-{number}")).or_default().push(index);
    }
    let json = serde_json::to_string(&words).unwrap_or_default();
    let back: BTreeMap<String, Vec<u32>> = serde_json::from_str(&json).unwrap_or_default();
    back.values().flatten().map(|index| u64::from(*index)).sum()
}

#[inline(never)]
fn tree(depth: u32, seed: u64) -> u64 {
    if depth == 0 {
        return std::hint::black_box(seed.rotate_left(7) ^ 0x9e37_79b9);
    }
    tree(depth - 1, seed ^ 1).wrapping_add(tree(depth - 1, seed.rotate_left(3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(tid: u32, name: &str, ms: u64) -> ThreadUsage {
        ThreadUsage {
            tid,
            name: name.to_owned(),
            cpu: Duration::from_millis(ms),
            voluntary_switches: 0,
        }
    }

    #[test]
    fn the_share_is_of_the_others_time_between_the_looks() {
        let before = [usage(1, "main", 100), usage(2, "omniprof-cpu", 5)];
        let after = [
            usage(1, "main", 1100),
            usage(2, "omniprof-cpu", 10),
            usage(3, "omniprof-spool", 5),
            usage(4, "worker", 1000),
        ];
        assert_eq!(profiler_share(&before, &after), Some(0.005));
        assert_eq!(profiler_share(&after, &after), None);
    }
}
