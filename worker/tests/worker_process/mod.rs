//! Workers in processes of their own: the test binary once more, which is one test of it there.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use profiler_agent::Agent;
use profiler_core::schedule::StepSource;

/// A process, killed when it is dropped. It may have others above it.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts a command that says nothing and is told nothing.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// As SIGKILL ends it.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What makes the test binary be `test` alone.
pub(crate) fn arguments(test: &str) -> [&str; 3] {
    ["--exact", test, "--nocapture"]
}

/// This test binary once more, as `test`.
pub(crate) fn itself(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments(test));
    command
}

/// Records a span each millisecond, and calls `between`, until it is killed.
pub(crate) fn work(rank: u32, mut between: impl FnMut(&Agent)) -> ! {
    let agent = Agent::builder()
        .stage(0)
        .role("thinker")
        .replica(0)
        .rank(rank)
        .step_source(StepSource::Api)
        .connect()
        .unwrap();
    loop {
        drop(profiler_agent::span("tick").enter());
        std::thread::sleep(Duration::from_millis(1));
        between(&agent);
    }
}
