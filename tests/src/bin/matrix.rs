//! Prints the test matrix: `matrix [--short | --log FILE] [--only TEXT] [--json]`.
//!
//! One row for each backend, door and ground, one column for each set of features. A cell that
//! cannot run on this machine is skipped, with its reason. The exit code is 1 if a cell failed, 2 if
//! something could not be built.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints a table")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use profiler_tests::matrix::expectations::KNOWN;
use profiler_tests::matrix::plan::{Machine, plan};
use profiler_tests::matrix::programs::Programs;
use profiler_tests::matrix::{Cell, Features, Ground, Outcome, Report, table, verdict};

/// Runs the tests of every backend, through every door, on stand-ins and on this machine's hardware.
#[derive(Parser)]
#[command(name = "matrix")]
struct Args {
    /// Default features alone, with the programs of `cargo test --workspace`.
    #[arg(long)]
    short: bool,
    /// The same, but of what this log of `cargo test --workspace` says; nothing is run again.
    #[arg(long, value_name = "FILE", conflicts_with = "short")]
    log: Option<PathBuf>,
    /// Only cells whose name (`cuda/plugin/stand-in/default`) contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Print one JSON object a cell.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("matrix: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let machine = Machine::probe();
    let mut programs = match &args.log {
        Some(log) => Programs::from_log(log)?,
        None => Programs::new(args.short)?,
    };
    let short = args.short || args.log.is_some();
    let mut reports = Vec::new();
    for cell in Cell::all() {
        if !cell.to_string().contains(&args.only) {
            continue;
        }
        let report = if short && cell.features != Features::Default {
            Report::skipped(cell, "the short form has default features alone")
        } else {
            report(cell, &machine, &mut programs)?
        };
        if args.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        reports.push(report);
    }
    anyhow::ensure!(!reports.is_empty(), "no cell is called like {:?}", args.only);
    if !args.json {
        print!("{}", table::table(&reports));
    }
    let failed = reports.iter().any(|report| matches!(report.outcome, Outcome::Failed { .. }));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn report(cell: Cell, machine: &Machine, programs: &mut Programs) -> anyhow::Result<Report> {
    let parts = match plan(cell, machine) {
        Ok(parts) => parts,
        Err(reason) => return Ok(Report::skipped(cell, reason)),
    };
    let began = Instant::now();
    let (mut tests, mut faults) = (BTreeMap::new(), Vec::new());
    let mut said = String::new();
    for part in &parts {
        let told = programs.run(part)?;
        tests.extend(told.tests);
        faults.extend(told.faults);
        said.push_str(&told.text);
    }
    let library = match cell.ground {
        Ground::StandIn => "stand-in".to_owned(),
        Ground::Hardware => machine.library(cell.backend).unwrap_or_default(),
    };
    let outcome = verdict::judge(cell, &library, &tests, &faults, KNOWN);
    if matches!(outcome, Outcome::Failed { .. }) {
        eprintln!("{cell} failed:\n{said}");
    }
    let seconds = began.elapsed().as_secs();
    eprintln!("{cell}: {seconds} s");
    Ok(Report::new(cell, outcome, library, seconds))
}
