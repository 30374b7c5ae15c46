//! Threads that launch: made once, each with a stream and a graph of its own, as in a server.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::device::{Block, Device, Graph, Stream};

/// Launches before a thread waits for its stream: deep enough that the device is never idle.
const DEPTH: u64 = 512;
/// Nodes of the graph.
const NODES: u64 = 1000;

/// What to launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(clippy::exhaustive_enums, reason = "the workload's own choices")]
pub enum Kind {
    /// Kernels that do nothing, one call each.
    Launch,
    /// The same kernels as nodes of a graph of 1000 that is replayed.
    Graph,
    /// A memset, a copy, a kernel with shared memory and a copy, over and over.
    Mixed,
}

impl Kind {
    /// Its word in commands.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Graph => "graph",
            Self::Mixed => "mixed",
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        let kinds = [Self::Launch, Self::Graph, Self::Mixed];
        let found = kinds.into_iter().find(|kind| kind.name() == word);
        found.with_context(|| format!("there is no work called {word:?}"))
    }
}

/// What a thread shall do.
#[derive(Clone)]
pub(crate) enum Job {
    /// Stay on this processor.
    Stay(usize),
    /// So many kernels.
    Work(Kind, u64),
    /// So many launches, each timed by itself.
    Timed(u64),
    /// Launches, each timed, until told to stop.
    Until(Arc<AtomicBool>),
}

/// What came of a job.
pub(crate) struct Done {
    pub(crate) kernels: u64,
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    /// The time of each launch, ns, where launches were timed.
    pub(crate) launches_ns: Vec<u32>,
}

/// What came of the jobs of several threads.
pub(crate) struct AllDone {
    pub(crate) kernels: u64,
    /// From the first thread's begin to the last one's end.
    pub(crate) spent: Duration,
    pub(crate) launches_ns: Vec<u32>,
}

/// The threads.
pub(crate) struct Crew {
    device: Device,
    members: Vec<Member>,
    pinned: bool,
}

struct Member {
    jobs: Sender<Job>,
    outcomes: Receiver<anyhow::Result<Done>>,
}

impl Crew {
    pub(crate) fn new(device: Device) -> Self {
        Self { device, members: Vec::new(), pinned: false }
    }

    /// Each thread stays on a processor of its own, so that two processes use the same ones.
    pub(crate) fn pin(&mut self) -> anyhow::Result<()> {
        if !std::mem::replace(&mut self.pinned, true) {
            for (place, member) in self.members.iter().enumerate() {
                member.stay(place)?;
            }
        }
        Ok(())
    }

    /// Gives the job to so many threads; [`Crew::gather`] takes what comes of it.
    pub(crate) fn begin(&mut self, job: &Job, threads: usize) -> anyhow::Result<()> {
        while self.members.len() < threads {
            let member = Member::start(self.device)?;
            if self.pinned {
                member.stay(self.members.len())?;
            }
            self.members.push(member);
        }
        for member in &self.members[..threads] {
            member.jobs.send(job.clone()).context("a launching thread has ended")?;
        }
        Ok(())
    }

    /// Waits for the jobs of so many threads.
    pub(crate) fn gather(&self, threads: usize) -> anyhow::Result<AllDone> {
        let mut done = Vec::new();
        for member in &self.members[..threads] {
            done.push(member.outcomes.recv().context("a launching thread has ended")??);
        }
        let begin = done.iter().map(|done| done.begin).min().context("no thread")?;
        let end = done.iter().map(|done| done.end).max().context("no thread")?;
        Ok(AllDone {
            kernels: done.iter().map(|done| done.kernels).sum(),
            spent: end - begin,
            launches_ns: done.into_iter().flat_map(|done| done.launches_ns).collect(),
        })
    }
}

impl Member {
    /// Where it cannot, it goes on as it was.
    fn stay(&self, place: usize) -> anyhow::Result<()> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        // Neighbours may be two halves of one core.
        self.jobs.send(Job::Stay(2 * place % processors)).context("a thread has ended")?;
        self.outcomes.recv().context("a thread has ended")??;
        Ok(())
    }

    fn start(device: Device) -> anyhow::Result<Self> {
        let (jobs, to_do) = channel();
        let (done, outcomes) = channel();
        std::thread::Builder::new().name("launcher".to_owned()).spawn(move || {
            let mut launcher = None;
            for job in to_do {
                let outcome = match &mut launcher {
                    Some(launcher) => Launcher::run(launcher, &job),
                    None => {
                        Launcher::new(device).and_then(|fresh| launcher.insert(fresh).run(&job))
                    }
                };
                if done.send(outcome).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, outcomes })
    }
}

/// A thread's own: a stream, and what was made for it so far.
struct Launcher {
    device: Device,
    stream: Stream,
    graph: Option<Graph>,
    block: Option<Block>,
}

impl Launcher {
    fn new(device: Device) -> anyhow::Result<Self> {
        device.enter()?;
        let stream = device.stream()?;
        Ok(Self { device, stream, graph: None, block: None })
    }

    fn run(&mut self, job: &Job) -> anyhow::Result<Done> {
        match job {
            Job::Stay(processor) => {
                let mut only = CpuSet::new();
                only.set(*processor);
                sched_setaffinity(None, &only).ok();
                let now = Instant::now();
                Ok(Done { kernels: 0, begin: now, end: now, launches_ns: Vec::new() })
            }
            Job::Work(kind, kernels) => self.work(*kind, *kernels),
            Job::Timed(launches) => self.timed(|launched| launched < *launches),
            Job::Until(stop) => self.timed(|_| !stop.load(Ordering::Relaxed)),
        }
    }

    fn work(&mut self, kind: Kind, kernels: u64) -> anyhow::Result<Done> {
        match kind {
            Kind::Launch => self.launches(kernels),
            Kind::Graph => self.replays(kernels),
            Kind::Mixed => self.mixed(kernels),
        }
    }

    fn launches(&self, kernels: u64) -> anyhow::Result<Done> {
        let begin = Instant::now();
        for launched in 1..=kernels {
            self.device.launch(&self.stream)?;
            if launched % DEPTH == 0 {
                self.stream.wait()?;
            }
        }
        self.done(kernels, begin)
    }

    fn replays(&mut self, kernels: u64) -> anyhow::Result<Done> {
        if self.graph.is_none() {
            let graph = self.device.graph(&self.stream, NODES)?;
            // The first launch uploads it.
            self.stream.replay(&graph)?;
            self.stream.wait()?;
            self.graph = Some(graph);
        }
        let graph = self.graph.as_ref().context("the graph was just made")?;
        let begin = Instant::now();
        let replays = kernels.div_ceil(NODES);
        for _ in 0..replays {
            self.stream.replay(graph)?;
        }
        self.done(replays * NODES, begin)
    }

    fn mixed(&mut self, kernels: u64) -> anyhow::Result<Done> {
        if self.block.is_none() {
            self.block = Some(self.device.block()?);
        }
        let block = self.block.as_ref().context("the block was just made")?;
        let begin = Instant::now();
        for launched in 1..=kernels {
            self.device.mixed(&self.stream, block)?;
            if launched % DEPTH == 0 {
                self.stream.wait()?;
            }
        }
        self.done(kernels, begin)
    }

    fn timed(&self, goes_on: impl Fn(u64) -> bool) -> anyhow::Result<Done> {
        let mut launches_ns = Vec::with_capacity(1 << 20);
        let begin = Instant::now();
        let mut launched = 0;
        while goes_on(launched) {
            let before = Instant::now();
            self.device.launch(&self.stream)?;
            let spent = before.elapsed().as_nanos();
            launches_ns.push(u32::try_from(spent).unwrap_or(u32::MAX));
            launched += 1;
            if launched % DEPTH == 0 {
                self.stream.wait()?;
            }
        }
        Ok(Done { launches_ns, ..self.done(launched, begin)? })
    }

    fn done(&self, kernels: u64, begin: Instant) -> anyhow::Result<Done> {
        self.stream.wait()?;
        Ok(Done { kernels, begin, end: Instant::now(), launches_ns: Vec::new() })
    }
}
