//! Puts known work on a GPU, while an agent in this process may be told to record it.
//!
//! Prints one JSON line when the work is done: how many kernels were launched, and how long a
//! launch took.

mod device;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use profiler_agent::Agent;

use crate::device::Device;

/// Launches before a thread waits for its stream: deep enough that the device is never idle.
const DEPTH: u64 = 512;

#[derive(Parser)]
struct Arguments {
    /// What to launch.
    #[arg(long, value_enum, default_value = "launch")]
    kind: Kind,
    /// Kernels, over all threads and rounds.
    #[arg(long, default_value_t = 200_000)]
    launches: u64,
    /// Launching threads.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Nodes of the graph.
    #[arg(long, default_value_t = 1000)]
    nodes: u64,
    /// Be a worker: the rank that the agent tells.
    #[arg(long)]
    rank: Option<u32>,
    /// Wait so long for a capture to begin, then work, then linger as long.
    #[arg(long, default_value_t = 0)]
    linger_ms: u64,
    /// Print the time of a launch for each so many launches, as one more JSON line.
    #[arg(long)]
    rounds: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Kernels that do nothing, one call each.
    Launch,
    /// The same kernels as nodes of a graph that is replayed.
    Graph,
    /// One kernel that runs for seconds, and launches behind it.
    Long,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let _agent = match arguments.rank {
        Some(rank) => Some(
            Agent::builder()
                .stage(0)
                .role("workload")
                .replica(0)
                .rank(rank)
                .connect()
                .context("no agent")?,
        ),
        None => None,
    };
    let device = Device::open()?;
    work(&arguments, &device, arguments.launches.min(10_000))?;
    std::thread::sleep(Duration::from_millis(arguments.linger_ms));
    let rounds = arguments.rounds.unwrap_or(1);
    for _ in 0..rounds {
        let begin = Instant::now();
        let launched = work(&arguments, &device, arguments.launches / rounds)?;
        let spent = begin.elapsed();
        let line = serde_json::json!({
            "kernels": launched,
            "ns_per_kernel": spent.as_nanos() as f64 / launched as f64,
        });
        println_line(&line.to_string());
    }
    std::thread::sleep(Duration::from_millis(arguments.linger_ms));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the line is the program's answer")]
fn println_line(line: &str) {
    println!("{line}");
}

fn work(arguments: &Arguments, device: &Device, launches: u64) -> anyhow::Result<u64> {
    let each = launches / arguments.threads;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..arguments.threads {
            threads.push(scope.spawn(|| on_one_thread(arguments, device, each)));
        }
        let mut sum = 0;
        for thread in threads {
            let Ok(launched) = thread.join() else { anyhow::bail!("a launching thread panicked") };
            sum += launched?;
        }
        Ok(sum)
    })
}

fn on_one_thread(arguments: &Arguments, device: &Device, launches: u64) -> anyhow::Result<u64> {
    device.enter()?;
    let stream = device.stream()?;
    let mut launched = 0;
    match arguments.kind {
        Kind::Launch => {
            while launched < launches {
                device.launch(&stream)?;
                launched += 1;
                if launched % DEPTH == 0 {
                    stream.wait()?;
                }
            }
        }
        Kind::Graph => {
            let graph = device.graph(&stream, arguments.nodes)?;
            while launched < launches {
                stream.replay(&graph)?;
                launched += arguments.nodes;
            }
        }
        Kind::Long => {
            /// About three seconds.
            const CYCLES: u64 = 5_000_000_000;
            device.spin(&stream, CYCLES)?;
            let other = device.stream()?;
            launched = 1;
            while launched < launches.min(50_000) {
                device.launch(&other)?;
                launched += 1;
            }
            other.wait()?;
        }
    }
    stream.wait()?;
    Ok(launched)
}
