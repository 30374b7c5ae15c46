//! An offline pipeline that profiles itself: no server, no other process.
//!
//! `cargo run --release -p profiler-worker --example offline`

use std::sync::Arc;

use profiler_agent::Agent;
use profiler_core::schedule::StepSource;
use profiler_worker::Controller;
use profiler_worker::links::LocalLink;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let controller = Controller::builder().build()?;
    let local = Agent::builder().stage(0).role("sort").step_source(StepSource::Api).local()?;
    let agent = local.agent().clone();
    controller.attach(Arc::new(LocalLink::new(Arc::new(local))?))?;

    controller.start_profile(Some("offline"), None)?;
    let mut checksum = 0;
    for batch in 0..20 {
        agent.step();
        checksum ^= work(batch);
    }
    let manifest = controller.stop_profile()?;

    print(&format!("checksum {checksum:x}\n{}", profiler_worker::manifest::table(&manifest)))?;
    Ok(())
}

/// Something that takes a while: sorts numbers and hashes the result.
fn work(batch: u64) -> u64 {
    let _span = profiler_agent::span("batch").enter();
    let mut state = batch * 2 + 1;
    let mut numbers: Vec<u64> = (0..200_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        })
        .collect();
    numbers.sort_unstable();
    numbers.iter().fold(0, |hash, number| hash.rotate_left(5) ^ number)
}

fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes())
}
