//! Processes that join by the injected file: idle, and many at once.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::start_request::StartRequest;
use rustix::thread::CpuSet;

use super::injected::{Injected, Launches, Machine};
use crate::figures::{Bound, Context, FigureEntry, Measured};

const PROCESSES: usize = 64;
const PROCESSORS: usize = 2;
const KERNELS: u64 = 1000;
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn figures() -> Vec<FigureEntry> {
    let fake = "a stand-in for CUPTI and the driver";
    let many = "64 processes on 2 processors, told to use the device at one moment (stand-ins)";
    vec![
        FigureEntry {
            name: "joined-idle-cupti-calls",
            unit: "calls",
            required: Some(Bound::AtMost(0.0)),
            anchor: fake,
            run: |context| Ok(Idle::of(context)?.calls()),
        },
        FigureEntry {
            name: "joined-idle-threads",
            unit: "threads",
            required: Some(Bound::AtMost(1.0)),
            anchor: fake,
            run: |context| Ok(Idle::of(context)?.threads()),
        },
        FigureEntry {
            name: "joining-64-until-armed",
            unit: "s",
            required: Some(Bound::AtMost(2.0)),
            anchor: many,
            run: |context| Ok(Many::of(context)?.time()),
        },
        FigureEntry {
            name: "joining-64-memory",
            unit: "MiB",
            required: Some(Bound::AtMost(12.0)),
            anchor: "the greatest growth of a process from joined to armed",
            run: |context| Ok(Many::of(context)?.memory()),
        },
        FigureEntry {
            name: "joining-64-lost",
            unit: "rows",
            required: Some(Bound::AtMost(0.0)),
            anchor: "of 64 x 1000 kernels",
            run: |context| Ok(Many::of(context)?.lost()),
        },
    ]
}

fn controller(context: &Context) -> anyhow::Result<Controller> {
    Controller::builder()
        .root(context.fresh_dir("joining")?)
        .without_exporter()
        .options(|options| options.retention = None)
        .build()
        .context("no controller")
}

/// One process that has joined and records nothing.
struct Idle {
    calls: u64,
    threads: usize,
    opened_us: f64,
}

impl Idle {
    fn of(context: &Context) -> anyhow::Result<Self> {
        let controller = controller(context)?;
        let dir = controller.socket_dir().context("the controller does not listen")?;
        let machine = Machine::new(context)?;
        let (go, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut process = Injected::start(context, &machine, &dir, Launches::Once(1), &go)?;
        let threads_before = process.threads()?;
        drop(end);
        let opened_ns: u64 = process.hear("opened ")?.parse()?;
        anyhow::ensure!(controller.wait_for_workers(1, DEADLINE), "it does not join");
        let threads = process.threads()? - threads_before;
        machine.launch()?;
        let calls = process.hear("calls ")?.parse()?;
        Ok(Self { calls, threads, opened_us: opened_ns as f64 / 1e3 })
    }

    fn calls(&self) -> Measured {
        Measured::noted(self.calls as f64, format!("cuInit took {:.0} us", self.opened_us))
    }

    fn threads(&self) -> Measured {
        Measured::noted(self.threads as f64, "beside the program's own")
    }
}

/// Many processes that join at one moment and are armed.
struct Many {
    joined: Duration,
    armed: Duration,
    grown: Vec<u64>,
    kernels: u64,
    drops: u64,
    workers: usize,
}

impl Many {
    fn of(context: &Context) -> anyhow::Result<Self> {
        let controller = controller(context)?;
        let dir = controller.socket_dir().context("the controller does not listen")?;
        let machine = Machine::new(context)?;
        let (go, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // The controller's own threads share the two processors with them.
        let before = rustix::thread::sched_getaffinity(None)?;
        let mut two = CpuSet::new();
        let usable = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
        for cpu in usable.take(PROCESSORS) {
            two.set(cpu);
        }
        rustix::thread::sched_setaffinity(None, &two)?;
        let processes: anyhow::Result<Vec<Injected>> = (0..PROCESSES)
            .map(|_| Injected::start(context, &machine, &dir, Launches::Once(KERNELS), &go))
            .collect();
        let measured = processes
            .and_then(|processes| Self::measure(&controller, &machine, processes, || drop(end)));
        rustix::thread::sched_setaffinity(None, &before)?;
        measured
    }

    fn measure(
        controller: &Controller,
        machine: &Machine,
        mut processes: Vec<Injected>,
        go: impl FnOnce(),
    ) -> anyhow::Result<Self> {
        let begin = Instant::now();
        go();
        anyhow::ensure!(controller.wait_for_workers(PROCESSES, DEADLINE), "not all of them join");
        let joined = begin.elapsed();
        let looked = Instant::now();
        let idle: Vec<u64> =
            processes.iter().map(Injected::anonymous_bytes).collect::<Result<_, _>>()?;
        let looked = looked.elapsed();
        controller.start(&StartRequest::default())?;
        let armed = begin.elapsed() - looked;
        let recording: Vec<u64> =
            processes.iter().map(Injected::anonymous_bytes).collect::<Result<_, _>>()?;
        machine.launch()?;
        for process in &mut processes {
            process.hear("opened ")?;
            process.hear("calls ")?;
            process.hear("launched")?;
        }
        let wait_ms = u64::try_from(DEADLINE.as_millis())?;
        let manifest = controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
        let grown = idle.iter().zip(&recording).map(|(idle, now)| now.saturating_sub(*idle));
        let mut many = Self {
            joined,
            armed,
            grown: grown.collect(),
            kernels: 0,
            drops: 0,
            workers: manifest.workers.len(),
        };
        for line in &manifest.workers {
            anyhow::ensure!(line.error.is_none(), "{line:?}");
            many.kernels += line.records.get("kernel").copied().unwrap_or(0);
            many.drops += line.drops.values().sum::<u64>();
        }
        Ok(many)
    }

    fn time(&self) -> Measured {
        let joined = self.joined.as_secs_f64();
        Measured::noted(self.armed.as_secs_f64(), format!("all joined after {joined:.2} s"))
    }

    fn memory(&self) -> Measured {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let greatest = self.grown.iter().copied().max().unwrap_or(0);
        let least = self.grown.iter().copied().min().unwrap_or(0);
        Measured::noted(mib(greatest), format!("the least {:.1} MiB", mib(least)))
    }

    fn lost(&self) -> Measured {
        let asked = PROCESSES as u64 * KERNELS;
        let note = format!("{} workers; {} drops were counted", self.workers, self.drops);
        Measured::noted(asked.abs_diff(self.kernels) as f64, note)
    }
}
