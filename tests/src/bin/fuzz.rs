//! Fuzzes what reads what others wrote: `fuzz [--seconds N] [--seed N] [--keep DIR] [TARGET…]`.
//!
//! One line a target: inputs, rate, the slowest, the process's peak of memory, and what broke it.
//! The exit code is 1 if an input made a target panic, 3 if one hung.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints lines")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use profiler_tests::figures::peak_rss_bytes;
use profiler_tests::fuzz::{Amount, run, targets};

/// Reads what nobody would write.
#[derive(Parser)]
#[command(name = "fuzz")]
struct Args {
    /// The targets; none = all.
    targets: Vec<String>,
    /// How long each target is fuzzed, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Decides which inputs are made.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep inputs that broke a target in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let all = targets::all();
    for asked in &args.targets {
        if !all.iter().any(|target| target.name == asked) {
            let known: Vec<_> = all.iter().map(|target| target.name).collect();
            eprintln!("fuzz: no target {asked:?}; there are {}", known.join(", "));
            return Ok(ExitCode::from(2));
        }
    }
    let mut broken = false;
    for target in all {
        if !args.targets.is_empty() && !args.targets.iter().any(|asked| asked == target.name) {
            continue;
        }
        let told = run(&target, Amount::Time(Duration::from_secs(args.seconds)), args.seed)?;
        let rate = told.inputs as f64 / told.spent.as_secs_f64();
        let peak = peak_rss_bytes()? >> 20;
        println!(
            "{:<12} {:>10} inputs, {rate:>8.0} /s, slowest {:>6.1} ms, peak {peak} MiB, {} broke it",
            target.name,
            told.inputs,
            told.slowest.as_secs_f64() * 1e3,
            told.broken.len(),
        );
        broken |= !told.broken.is_empty();
        for (number, (input, message)) in told.broken.iter().enumerate() {
            println!("{}: panicked: {message}", target.name);
            if let Some(folder) = &args.keep {
                std::fs::create_dir_all(folder)?;
                let path = folder.join(format!("{}-{}-{number}", target.name, args.seed));
                std::fs::write(&path, input)?;
                println!("{}: the input is in {}", target.name, path.display());
            }
        }
    }
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
