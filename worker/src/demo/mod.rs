//! `omniprof demo`: a small inference pipeline in processes of its own, profiled over HTTP.
//!
//! Three stages do real tensor work with random weights: stage 0 *thinker* (autoregressive
//! decoding, two tensor-parallel ranks), stage 1 *talker* (autoregressive, one rank) and stage 2
//! *diffusion* (a denoise loop and a convolutional decoder, two replicas). Requests pass from
//! stage to stage over Unix sockets. The stages are those of `demo_stage`, on candle in this program or
//! on libtorch in `torch-worker`. What is profiled is nothing special: each stage embeds the
//! agent as any worker would, and the demo asks for the profile as any user would.

mod candle;
mod denoiser;
mod engine;
mod interrupt;
mod pipeline;
mod profile;
mod report;
mod transformer;
mod weights;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use demo_stage::{PLACES, StageArgs};
use indicatif::ProgressBar;

use crate::cli::RootArgs;
use crate::config::{ConfigArgs, Resolved};
use engine::{EngineName, StageProgram};
use interrupt::{Interrupt, Interrupted};
use pipeline::Pipeline;
use profile::Service;

/// Runs a pipeline of three stages on this machine's processors and profiles a few requests.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// How many requests to profile; one of them is a batch for the diffusion stage.
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub(crate) requests: u32,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    /// Profile for so long, with as many requests as fit in, instead of a number of requests.
    #[arg(long, value_name = "MS")]
    pub(crate) duration_ms: Option<u64>,
    /// The port of the HTTP interface on 127.0.0.1; a free one, or 8790 with --serve, if absent.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Keep the pipeline running under a steady load, to be profiled with curl.
    #[arg(long)]
    pub(crate) serve: bool,
    /// The device backend that the stages use (`npu`, `cuda`); without, one that is available.
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// What computes the tensors. `torch` needs the program `torch-worker`, and records the
    /// operators of libtorch with the shapes of their inputs.
    #[arg(long, value_name = "NAME", value_enum, default_value_t = EngineName::Candle)]
    pub(crate) engine: EngineName,
    /// Run the requests without profiling.
    #[arg(long, hide = true)]
    pub(crate) unprofiled: bool,
    /// Print one JSON document instead of tables and a progress bar.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

/// The port of `--serve` where none is named: the same as that of `omniprof serve`.
const SERVE_PORT: u16 = 8790;

/// The most requests that are on their way at once where they come without an end.
const MOST_OPEN: usize = 4;

/// The most requests that wait for the thinker where their number is known.
const MOST_WAITING: usize = 16;

/// How long the next result may take. A debug build on a busy machine needs a while.
const REQUEST_DEADLINE: Duration = Duration::from_secs(120);

/// How often `--serve --json` says how many requests are done.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Runs the demo, configured as a server is.
///
/// # Errors
///
/// What kept it from running; all that it started has ended then.
pub(crate) fn run(args: &DemoArgs, resolved: &Resolved) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    match run_until_interrupted(args, resolved, &interrupt) {
        Err(error) if error.is::<Interrupted>() => Ok(ExitCode::from(130)),
        other => other,
    }
}

/// Runs a stage process.
///
/// # Errors
///
/// What ended it, unless the stage before just closed.
pub(crate) fn run_stage(args: StageArgs) -> anyhow::Result<ExitCode> {
    demo_stage::run(&args, |_args| Ok(Box::new(candle::Candle)))
}

fn run_until_interrupted(
    args: &DemoArgs,
    resolved: &Resolved,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(args.requests > 0, "--requests must be at least 1");
    let program = StageProgram::of(args.engine)?;
    if args.unprofiled {
        let mut pipeline = Pipeline::start(&program, None, interrupt)?;
        work(&mut pipeline, args, interrupt)?;
        return Ok(ExitCode::SUCCESS);
    }
    let port = args.port.unwrap_or(if args.serve { SERVE_PORT } else { 0 });
    let service = Service::start(&resolved.root(args.root.dir.as_deref()), resolved, port)?;
    let starting = report::spinner(args, "starting five stage processes");
    // Declared after the service, so that it ends first: its stages leave the controller in order.
    let socket_dir = service.controller().socket_dir();
    let mut pipeline = Pipeline::start(&program, socket_dir.as_deref(), interrupt)?;
    service.wait_for(PLACES.len(), interrupt)?;
    // First touches of weights and of code are no part of the picture.
    warm_up(&mut pipeline, interrupt)?;
    starting.finish_and_clear();
    if args.serve {
        return serve(&mut pipeline, &service, args, interrupt);
    }

    service.start_profile(&start_body(args))?;
    let begin = Instant::now();
    work(&mut pipeline, args, interrupt)?;
    let elapsed = begin.elapsed();
    let exporting = report::spinner(args, "stopping and exporting");
    let manifest = service.stop_profile()?;
    exporting.finish_and_clear();
    drop(pipeline);
    report::print(args, &service, &manifest, elapsed)
}

fn start_body(args: &DemoArgs) -> serde_json::Value {
    let mut body = serde_json::json!({ "profile_prefix": "demo", "merge_profiles": true });
    if let Some(duration_ms) = args.duration_ms {
        body["duration_ms"] = duration_ms.into();
    }
    if let Some(backend) = &args.backend {
        body["backend"] = backend.as_str().into();
    }
    if args.engine == EngineName::Torch {
        // Operators come with their shapes.
        body["record_shapes"] = true.into();
    }
    body
}

fn warm_up(pipeline: &mut Pipeline, interrupt: &Interrupt) -> anyhow::Result<()> {
    // One for each replica.
    for _ in 0..2 {
        pipeline.submit(1)?;
    }
    drain(pipeline, interrupt, &ProgressBar::hidden())
}

/// The requests that are profiled.
fn work(pipeline: &mut Pipeline, args: &DemoArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    if let Some(duration_ms) = args.duration_ms {
        let bar = report::spinner(args, "requests run");
        let until = Instant::now() + Duration::from_millis(duration_ms);
        keep_busy(pipeline, &mut 0, until, interrupt)?;
        bar.finish_and_clear();
        return drain(pipeline, interrupt, &ProgressBar::hidden());
    }
    let bar = report::bar(args, u64::from(args.requests));
    for request in 0..args.requests {
        // Requests wait here and not in a full socket, where an interrupt would not be seen.
        while pipeline.open_requests() >= MOST_WAITING {
            finish_one(pipeline, interrupt, &bar)?;
        }
        // The second request is a batch.
        pipeline.submit(if request == 1 { 4 } else { 1 })?;
    }
    drain(pipeline, interrupt, &bar)?;
    bar.finish_and_clear();
    Ok(())
}

/// Waits until no request is on its way.
fn drain(pipeline: &mut Pipeline, interrupt: &Interrupt, bar: &ProgressBar) -> anyhow::Result<()> {
    while pipeline.open_requests() > 0 {
        finish_one(pipeline, interrupt, bar)?;
    }
    Ok(())
}

fn finish_one(
    pipeline: &mut Pipeline,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let done = pipeline.next_done(Instant::now() + REQUEST_DEADLINE, interrupt)?;
    anyhow::ensure!(done.is_some(), "the pipeline does not finish its requests");
    bar.inc(1);
    Ok(())
}

/// Gives the pipeline requests until an instant; every fourth of all `submitted` is a batch. Says
/// how many were done.
fn keep_busy(
    pipeline: &mut Pipeline,
    submitted: &mut u64,
    until: Instant,
    interrupt: &Interrupt,
) -> anyhow::Result<u64> {
    let mut done = 0;
    while Instant::now() < until {
        while pipeline.open_requests() < MOST_OPEN {
            *submitted += 1;
            pipeline.submit(if *submitted % 4 == 2 { 4 } else { 1 })?;
        }
        done += u64::from(pipeline.next_done(until, interrupt)?.is_some());
    }
    Ok(done)
}

/// Keeps the pipeline busy until the user ends it.
fn serve(
    pipeline: &mut Pipeline,
    service: &Service,
    args: &DemoArgs,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    report::print_curl_lines(args, service)?;
    let (mut submitted, mut done) = (0, 0);
    loop {
        match keep_busy(pipeline, &mut submitted, Instant::now() + TELL_EVERY, interrupt) {
            Err(error) if error.is::<Interrupted>() => return Ok(ExitCode::SUCCESS),
            other => done += other?,
        }
        if args.json {
            report::print_requests_done(done)?;
        }
    }
}
