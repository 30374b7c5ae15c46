//! A stage process: joins the pipeline, and works until the stage before it closes.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use profiler_agent::{Agent, TracingLayer};
use profiler_core::schedule::StepSource;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::frames::{self, Connect, ToFront};
use crate::{Engine, PLACES, Ranks, diffusion, talker, thinker};

/// A stage process of the demo: started by `omniprof demo`, never by hand.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct StageArgs {
    /// The folder of the pipeline's sockets.
    #[arg(long)]
    pub sockets: PathBuf,
    /// The stage.
    #[arg(long)]
    pub stage: u32,
    /// The replica of the stage.
    #[arg(long)]
    pub replica: u32,
    /// The rank within the replica.
    #[arg(long)]
    pub rank: u32,
    /// The process that started this one.
    #[arg(long)]
    pub parent: u32,
    /// Do not look for a profiler.
    #[arg(long)]
    pub unprofiled: bool,
}

/// The connections of a stage.
pub(crate) struct Wires {
    /// The stage before: the front for stage 0.
    pub(crate) before: UnixStream,
    /// The front, to which results go.
    pub(crate) front: UnixStream,
    /// The replicas of the stage after.
    pub(crate) after: Vec<UnixStream>,
    /// The other ranks.
    pub(crate) ranks: Ranks,
}

/// Runs a stage to its end: joins the profiler and the pipeline, then has `engine` make the models.
///
/// # Errors
///
/// What ended it, unless the stage before just closed.
pub fn run(
    args: &StageArgs,
    engine: impl FnOnce(&StageArgs) -> anyhow::Result<Box<dyn Engine>>,
) -> anyhow::Result<ExitCode> {
    die_with_parent(args.parent)?;
    // Held until the end: dropping the agent ends a capture in order.
    let _agent = if args.unprofiled { None } else { Some(join_profiler(args)?) };
    // The program's own subscriber prints warnings; here spans go to the profiler.
    let _spans = tracing::subscriber::set_default(Registry::default().with(TracingLayer::new()));
    let engine = engine(args)?;
    let engine = &*engine;
    let wires = join(args)?;
    match (args.stage, args.rank) {
        (0, 0) => thinker::lead(wires, engine)?,
        (0, 1) => thinker::follow(wires, engine)?,
        (1, 0) => talker::run(wires, engine)?,
        (2, 0) => diffusion::run(wires, engine)?,
        (stage, rank) => anyhow::bail!("the demo has no stage {stage} with a rank {rank}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The socket on which a stage's replica waits for the stage before.
#[must_use]
pub fn inlet(sockets: &Path, stage: u32, replica: u32) -> PathBuf {
    sockets.join(format!("stage{stage}.replica{replica}"))
}

/// The socket on which the front waits for all stages.
#[must_use]
pub fn front(sockets: &Path) -> PathBuf {
    sockets.join("front")
}

fn die_with_parent(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the signal was set.
    let now = getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    anyhow::ensure!(now == parent, "the process that started this stage is gone");
    Ok(())
}

/// Makes this process a worker of the profiler: all that a program has to do.
fn join_profiler(args: &StageArgs) -> anyhow::Result<Agent> {
    let role = PLACES.iter().find(|place| place.stage == args.stage).map_or("?", |p| p.role);
    Agent::builder()
        .stage(args.stage)
        .role(role)
        .replica(args.replica)
        .rank(args.rank)
        .step_source(StepSource::Api)
        .connect()
        .context("this stage cannot be profiled")
}

fn join(args: &StageArgs) -> anyhow::Result<Wires> {
    // Stage 0 listens for its other rank, the others for the stage before.
    let listener = if args.rank == 0 {
        let path = inlet(&args.sockets, args.stage, args.replica);
        Some(UnixListener::bind(&path).with_context(|| path.display().to_string())?)
    } else {
        None
    };
    let mut front = connect(&front(&args.sockets))?;
    let (stage, replica, rank) = (args.stage, args.replica, args.rank);
    frames::write(&mut front, &ToFront::Ready { stage, replica, rank })?;
    let Connect { next } =
        frames::read(&mut front)?.context("the demo ended before the pipeline was whole")?;

    let after = next.iter().map(|path| connect(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let (before, ranks) = match (stage, rank, listener) {
        (0, 0, Some(listener)) => {
            let (peer, _) = listener.accept()?;
            (front.try_clone()?, Ranks::Pair { rank: 0, peer })
        }
        (0, 1, _) => {
            let peer = connect(&inlet(&args.sockets, 0, args.replica))?;
            (peer.try_clone()?, Ranks::Pair { rank: 1, peer })
        }
        (_, _, Some(listener)) => (listener.accept()?.0, Ranks::Alone),
        (_, rank, None) => anyhow::bail!("stage {stage} has no rank {rank}"),
    };
    Ok(Wires { before, front, after, ranks })
}

fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))
}
