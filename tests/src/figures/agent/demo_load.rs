//! The demo's pipeline as a load: `omniprof demo --serve`, watched by the requests it does.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::super::Context;

/// How long the pipeline may take to come up, or to do a request.
const DEADLINE: Duration = Duration::from_secs(120);

/// A pipeline under a steady load until it is dropped.
pub(super) struct DemoLoad {
    demo: Child,
    done: Arc<AtomicU64>,
}

impl DemoLoad {
    /// Starts it; answers once its stages run.
    pub(super) fn start(context: &Context) -> anyhow::Result<Self> {
        let mut demo = Command::new(context.omniprof()?)
            .args(["demo", "--serve", "--json", "--port", "0", "--dir"])
            .arg(context.fresh_dir("demo-load")?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the demo does not start")?;
        let stdout = demo.stdout.take();
        let load = Self { demo, done: Arc::new(AtomicU64::new(0)) };
        let mut lines = BufReader::new(stdout.context("the demo has no output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let ready: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("the demo said {line:?}"))?;
        anyhow::ensure!(ready["url"].is_string(), "the demo said {line:?}");
        let done = Arc::clone(&load.done);
        std::thread::Builder::new()
            .name("demo-output".to_owned())
            .spawn(move || follow(lines, &done))?;
        Ok(load)
    }

    /// Requests done since the start, half a second old at most.
    pub(super) fn requests_done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until it has done `count` more requests than it has now.
    ///
    /// # Errors
    ///
    /// It has ended, or does not work.
    pub(super) fn wait_for_more(&mut self, count: u64) -> anyhow::Result<()> {
        let enough = self.requests_done() + count;
        let deadline = Instant::now() + DEADLINE;
        while self.requests_done() < enough {
            if let Some(status) = self.demo.try_wait()? {
                anyhow::bail!("the demo ended with {status}: there was no load");
            }
            anyhow::ensure!(Instant::now() < deadline, "the demo does no requests");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for DemoLoad {
    fn drop(&mut self) {
        // Interrupted it removes its sockets; its stages end with it in any case.
        let pid = i32::try_from(self.demo.id()).ok().and_then(Pid::from_raw);
        let told = pid.is_some_and(|pid| kill_process(pid, Signal::INT).is_ok());
        let deadline = Instant::now() + Duration::from_secs(20);
        while told && Instant::now() < deadline {
            if !matches!(self.demo.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _killed: std::io::Result<()> = self.demo.kill();
        let _waited: std::io::Result<_> = self.demo.wait();
    }
}

/// Takes the demo's lines until its output ends.
fn follow(lines: BufReader<ChildStdout>, done: &AtomicU64) {
    for line in lines.lines().map_while(Result::ok) {
        let told: Option<serde_json::Value> = serde_json::from_str(&line).ok();
        if let Some(count) = told.and_then(|told| told["requests_done"].as_u64()) {
            done.store(count, Ordering::Release);
        }
    }
}
