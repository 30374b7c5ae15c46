//! A worker that can be profiled: an agent, steps and spans.
//!
//! Start `omniprof serve` in the same directory, then this, then `omniprof start`.

use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let agent = profiler_agent::Agent::builder().stage(0).role("thinker").rank(0).connect()?;
    for request in 0..600 {
        agent.step();
        let id = format!("r-{request}");
        let _request = agent.span("decode").request(&id).field("tokens", 16).enter();
        std::thread::sleep(Duration::from_millis(100)); // the worker's work
    }
    Ok(())
}
