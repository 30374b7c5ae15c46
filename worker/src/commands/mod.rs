//! The subcommands, one a file.

mod capture;
mod config;
mod export;
mod import;
mod list;
mod probe;
mod prune;
mod recover;
mod run;
mod serve;
mod server;
mod sessions;
mod summary;

use std::process::ExitCode;

pub(crate) use run::RunArgs;

use clap::CommandFactory as _;

use crate::cli::{Cli, Command, CommandError, Exit, Output};
use crate::doctor;

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Result<ExitCode, CommandError> {
    let out = Output;
    let exit = match command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => {
            let resolved = args.config.load()?;
            resolved.warn();
            return Ok(crate::demo::run(&args, &resolved)?);
        }
        #[cfg(feature = "demo")]
        Command::DemoStage(args) => return Ok(crate::demo::run_stage(args)?),
        Command::Run(args) => return run::run(&args),
        Command::Serve(args) => serve::run(&args, &out),
        Command::Start(args) => capture::start(&args, &out),
        Command::Stop(args) => capture::stop(&args, &out),
        Command::Status(args) => capture::status(&args, &out),
        Command::List(args) => list::run(&args, &out),
        Command::Export(args) => export::run(&args, &out),
        Command::Import(args) => import::run(&args, &out),
        Command::Merge(args) => export::merge(&args, &out),
        Command::Summary(args) => summary::run(&args, &out),
        Command::Recover(args) => recover::run(&args, &out),
        Command::Prune(args) => prune::run(&args, &out),
        Command::Doctor(args) => doctor::run(&args, &out),
        Command::ProbeNpu(args) => probe::npu(&args, &out),
        Command::Config(args) => config::run(&args, &out),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "omniprof", &mut script);
            out.text(&String::from_utf8_lossy(&script)).map(|()| Exit::Done)
        }
    }?;
    Ok(exit.into())
}
