//! Prints omniprof's figures: `figures [GROUP…] [--only NAME] [--bin-dir DIR] [--json]`.
//!
//! One line a figure: name, measured, unit, required, verdict, note, anchor. The exit code is 1
//! if any figure is `SHORT`, 2 for a wrong command line.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints lines")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use profiler_tests::figures::{Context, Line, Verdict, groups};

/// Measures omniprof and compares with what must be reached.
#[derive(Parser)]
#[command(name = "figures")]
struct Args {
    /// The groups to measure (spool, export, stop, cpu, cuda, npu, process, libtorch); none = all.
    groups: Vec<String>,
    /// Measure the figure of this name only. May be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The folder of the omniprof binary, where it does not lie beside this program.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Keep captures that figures took in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Print the names and bounds, measure nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = profiler_tests::figures::role::play_if_asked()? {
        return Ok(code);
    }
    let args = Args::parse();
    let all = groups();
    for asked in &args.groups {
        if !all.iter().any(|(name, _)| name == asked) {
            let known: Vec<_> = all.iter().map(|(name, _)| *name).collect();
            eprintln!("figures: no group {asked:?}; there are {}", known.join(", "));
            return Ok(ExitCode::from(2));
        }
    }
    for asked in &args.only {
        if !all.iter().flat_map(|(_, entries)| entries).any(|entry| entry.name == *asked) {
            eprintln!("figures: no figure {asked:?}; --list names them");
            return Ok(ExitCode::from(2));
        }
    }
    if cfg!(debug_assertions) && !args.list {
        eprintln!("figures: built without optimisation, so the numbers mean nothing");
    }

    let context = Context::new(args.bin_dir)?.keeping_in(args.keep);
    let mut short = 0_usize;
    for (group, entries) in &all {
        if !args.groups.is_empty() && !args.groups.iter().any(|asked| asked == group) {
            continue;
        }
        for entry in entries {
            if !args.only.is_empty() && !args.only.iter().any(|asked| asked == entry.name) {
                continue;
            }
            if args.list {
                let required = entry.required.map_or("-".to_owned(), |bound| bound.to_string());
                println!("{group}/{}: {required} {} | {}", entry.name, entry.unit, entry.anchor);
                continue;
            }
            let line = Line::judge(group, entry, (entry.run)(&context));
            if line.verdict == Verdict::Short {
                short += 1;
            }
            if args.json {
                println!("{}", serde_json::to_string(&line)?);
            } else {
                println!("{line}");
            }
        }
    }
    Ok(if short == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
