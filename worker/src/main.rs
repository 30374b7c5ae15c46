//! The `omniprof` command.

mod cli;
mod commands;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod doctor;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter = EnvFilter::try_new(&cli.log).unwrap_or_else(|_unreadable| EnvFilter::new("warn"));
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(format).init();
    match commands::run(cli.command) {
        Ok(code) => code,
        Err(cli::CommandError { exit, error }) => {
            // Nobody is left to tell where standard error is closed.
            let _told = writeln!(std::io::stderr(), "omniprof: {error:#}");
            exit.into()
        }
    }
}
