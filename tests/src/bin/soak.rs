//! Soak and faults: `soak [--cycles N | --hour] [--seconds N] [--workers N] [--seed N] [--json]
//! [SCENARIO…]`.
//!
//! One line for each thing that was counted: how much, the most that is allowed, and whether it
//! holds. The exit code is 1 if something does not hold.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints lines")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use profiler_tests::soak::{Cycles, Setting, scenarios, worker};

/// Starts and stops at speed, kills processes, fills and slows disks, steps clocks, and counts what that leaves.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// The scenarios; none = all.
    scenarios: Vec<String>,
    /// Start/stop cycles of each scenario of cycles.
    #[arg(long, default_value_t = 1000)]
    cycles: u32,
    /// As many cycles as fit into an hour, of each scenario of cycles.
    #[arg(long, conflicts_with = "cycles")]
    hour: bool,
    /// How long each scenario of faults works, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Workers of the scenario that has many.
    #[arg(long, default_value_t = 256)]
    workers: usize,
    /// Decides what is killed when.
    #[arg(long, default_value_t = 20_220_614)]
    seed: u64,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = worker::play_if_asked()? {
        return Ok(code);
    }
    let args = Args::parse();
    for asked in &args.scenarios {
        if !scenarios().iter().any(|(name, _)| name == asked) {
            let known: Vec<_> = scenarios().iter().map(|(name, _)| *name).collect();
            eprintln!("soak: no scenario {asked:?}; there are {}", known.join(", "));
            return Ok(ExitCode::from(2));
        }
    }
    let faults = Duration::from_secs(args.seconds);
    let cycles = match args.hour {
        true => Cycles::For(Duration::from_secs(3600)),
        false => Cycles::Count(args.cycles),
    };
    let setting = Setting::new(cycles, faults, args.workers, args.seed)?;
    eprintln!("soak: seed {}", args.seed);
    let mut holds = true;
    for (name, run) in scenarios() {
        if !args.scenarios.is_empty() && !args.scenarios.iter().any(|asked| asked == name) {
            continue;
        }
        match run(&setting) {
            Ok(lines) => {
                for line in lines {
                    holds &= line.holds();
                    match args.json {
                        true => println!("{}", serde_json::to_string(&line)?),
                        false => println!("{line}"),
                    }
                }
            }
            Err(error) => {
                holds = false;
                println!("{name}: FAILED: {error:#}");
            }
        }
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
