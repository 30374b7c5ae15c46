//! A worker on libtorch: the stages of `omniprof demo --engine torch`.
//!
//! The same binary runs with and without a GPU: libtorch's CUDA part is opened at run time where it
//! is there, and nothing of it is linked. What is profiled is nothing special: the agent is
//! embedded as in any worker, and finds libtorch in the process by itself.

mod decoder;
mod denoiser;
mod device;
mod engine;
mod weights;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use demo_stage::StageArgs;

use engine::Torch;

/// The stages of omniprof's demo on libtorch; `omniprof demo --engine torch` starts them.
#[derive(Parser, Debug)]
#[command(name = "torch-worker", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Tell the device that tensors would lie on.
    Check,
    /// A stage process of the demo.
    #[command(hide = true)]
    Stage(StageArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell where standard error is closed.
            let _told = writeln!(std::io::stderr(), "torch-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check => {
            let device = device::pick(0)?;
            writeln!(std::io::stdout(), "{device:?}")?;
            Ok(ExitCode::SUCCESS)
        }
        // Training is no part of it: without gradients operators have no sequence numbers.
        Command::Stage(args) => tch::no_grad(|| {
            demo_stage::run(&args, |args| {
                let nth = args.replica + args.rank;
                Ok(Box::new(Torch { device: device::pick(nth)? }))
            })
        }),
    }
}
