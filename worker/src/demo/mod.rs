//! `omniprof demo`: a small inference pipeline in processes of its own, profiled over HTTP.
//!
//! Three stages do real tensor work with random weights: stage 0 *thinker* (autoregressive
//! decoding, two tensor-parallel ranks), stage 1 *talker* (autoregressive, one rank) and stage 2
//! *diffusion* (a denoise loop and a convolutional decoder, two replicas). Requests pass from
//! stage to stage over Unix sockets. What is profiled is nothing special: each stage embeds the
//! agent as any worker would, and the demo asks for the profile as any user would.

mod denoiser;
mod diffusion;
mod frames;
mod interrupt;
mod pipeline;
mod ranks;
mod stage;
mod talker;
mod thinker;
mod transformer;
mod weights;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use interrupt::Interrupt;
use pipeline::Pipeline;

/// Runs a pipeline of three stages on this machine's processors and profiles a few requests.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// How many requests to profile; one of them is a batch for the diffusion stage.
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub requests: u32,
    /// The root below which traces are written.
    #[arg(long, value_name = "DIR", env = "OMNIPROF_DIR", default_value = "omniprof-traces")]
    pub dir: PathBuf,
    /// Profile for so long, with as many requests as fit in, instead of a number of requests.
    #[arg(long, value_name = "MS")]
    pub duration_ms: Option<u64>,
    /// The port of the HTTP interface on 127.0.0.1; 0 = a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Keep the pipeline running under a steady load, to be profiled with curl.
    #[arg(long)]
    pub serve: bool,
    /// Run the requests without profiling.
    #[arg(long, hide = true)]
    pub unprofiled: bool,
    /// Print one JSON document instead of tables and a progress bar.
    #[arg(long)]
    pub json: bool,
}

/// A stage process of the demo: started by `omniprof demo`, never by hand.
#[derive(Args, Clone, Debug)]
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

/// Runs the demo.
pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let mut pipeline = Pipeline::start(None, &interrupt)?;
    let begin = Instant::now();
    for request in 0..args.requests {
        pipeline.submit(if request == 1 { 4 } else { 1 })?;
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while pipeline.open_requests() > 0 {
        let done = pipeline.next_done(deadline, &interrupt)?;
        eprintln!("{done:?} {:?}", begin.elapsed());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a stage process.
pub fn run_stage(args: StageArgs) -> anyhow::Result<ExitCode> {
    stage::run(&args)
}

/// A step of the model's loop.
fn step() {}
