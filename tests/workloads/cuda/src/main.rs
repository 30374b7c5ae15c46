//! Puts known work on a GPU, while an agent in this process may be told to record it.
//!
//! Without further words it reads commands (see the library) from its input until that ends, and
//! answers each by a line of JSON. With `--kind` it does that one work and prints its answer.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use cuda_workload::{Commands, Kind};
use profiler_agent::Agent;

#[derive(Parser)]
struct Arguments {
    /// Do this work once, instead of reading commands.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Kernels, over all threads.
    #[arg(long, default_value_t = 200_000, requires = "kind")]
    launches: u64,
    /// Launching threads.
    #[arg(long, default_value_t = 1, requires = "kind")]
    threads: usize,
    /// Wait so long before the work, and as long after it.
    #[arg(long, default_value_t = 0, requires = "kind")]
    linger_ms: u64,
    /// Be a worker: the rank that the agent tells.
    #[arg(long)]
    rank: Option<u32>,
    /// The folder of the controller's socket, where the usual one is not meant.
    #[arg(long, requires = "rank")]
    socket_dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let _agent = arguments.rank.map(|rank| connect(rank, &arguments)).transpose()?;
    let mut commands = Commands::new();
    if let Some(kind) = arguments.kind {
        commands.ask("run launch 10000 1")?;
        std::thread::sleep(Duration::from_millis(arguments.linger_ms));
        let line = format!("run {} {} {}", kind.name(), arguments.launches, arguments.threads);
        answer(&commands.ask(&line)?)?;
        std::thread::sleep(Duration::from_millis(arguments.linger_ms));
        return Ok(());
    }
    for line in std::io::stdin().lock().lines() {
        let outcome = commands
            .ask(&line?)
            .unwrap_or_else(|error| serde_json::json!({ "error": format!("{error:#}") }));
        answer(&outcome)?;
    }
    Ok(())
}

fn connect(rank: u32, arguments: &Arguments) -> anyhow::Result<Agent> {
    let mut builder = Agent::builder().stage(0).role("workload").replica(0).rank(rank);
    if let Some(dir) = &arguments.socket_dir {
        builder = builder.socket_dir(dir);
    }
    builder.connect().context("no agent")
}

fn answer(value: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
