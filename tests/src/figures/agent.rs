//! The agent: idle cost, spans, windows of many workers. Printed in the group `cpu`.

mod demo_load;
mod many;
mod spans;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use profiler_agent::Agent;

use super::measure::{ThreadUsage, threads_of};
use super::role::{Role, VARIABLE};
use super::{Bound, Context, FigureEntry, Measured};

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    let mut figures = vec![
        FigureEntry {
            name: "agent-idle-threads",
            unit: "threads",
            required: Some(Bound::AtMost(1.0)),
            anchor: "one sleeping thread is all there is",
            run: idle_threads,
        },
        FigureEntry {
            name: "agent-idle-wakeups",
            unit: "1/s",
            required: Some(Bound::AtMost(1.0)),
            anchor: "no controller there: one look a second",
            run: idle_wakeups,
        },
    ];
    figures.extend(spans::figures());
    figures.extend(many::figures());
    figures
}

/// Processes of these figures' own.
#[must_use]
pub fn roles() -> Vec<Role> {
    vec![("agent-idle", be_idle), ("agent-worker", many::be_worker)]
}

/// How long an idle agent is watched.
const WATCHED: Duration = Duration::from_secs(10);

const SOCKET_DIR: &str = "OMNIPROF_FIGURES_SOCKET_DIR";

/// A process's process, told to end by the end of its standard input.
struct Helping {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Helping {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the process does not start")?;
        let stdin = child.stdin.take();
        let mut helping = Self { child, stdin };
        let stdout = helping.child.stdout.take().context("the process has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        anyhow::ensure!(line.trim() == "ready", "the process said {line:?}");
        Ok(helping)
    }
}

impl Drop for Helping {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It ends at the end of its input; if not, it is ended.
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _killed: std::io::Result<()> = self.child.kill();
        let _waited: std::io::Result<_> = self.child.wait();
    }
}

/// Says that the process is ready, and waits for the end of its input.
fn ready_until_told(agent: &Agent) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "ready")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    anyhow::ensure!(Agent::current().is_some(), "the agent {agent:?} is there to the end");
    Ok(ExitCode::SUCCESS)
}

fn be_idle() -> anyhow::Result<ExitCode> {
    let dir = std::env::var_os(SOCKET_DIR).context("no directory for the socket")?;
    let agent = Agent::builder().socket_dir(dir).connect()?;
    ready_until_told(&agent)
}

fn idle_agent(context: &Context) -> anyhow::Result<(Helping, Vec<ThreadUsage>)> {
    let dir = context.fresh_dir("idle")?;
    let mut command = Command::new(context.this_program()?);
    command.env(VARIABLE, "agent-idle").env(SOCKET_DIR, dir);
    let helping = Helping::start(&mut command)?;
    // A thread gives itself its name.
    std::thread::sleep(Duration::from_millis(200));
    let threads = own_threads(&helping)?;
    Ok((helping, threads))
}

/// All threads but the first: the process starts none itself.
fn own_threads(helping: &Helping) -> anyhow::Result<Vec<ThreadUsage>> {
    let mut threads = threads_of(helping.child.id())?;
    threads.retain(|thread| thread.tid != helping.child.id());
    anyhow::ensure!(!threads.is_empty(), "the agent has no thread: nothing is measured");
    Ok(threads)
}

fn idle_threads(context: &Context) -> anyhow::Result<Measured> {
    let (_helping, threads) = idle_agent(context)?;
    let names: Vec<&str> = threads.iter().map(|thread| thread.name.as_str()).collect();
    Ok(Measured::noted(threads.len() as f64, names.join(" ")))
}

fn idle_wakeups(context: &Context) -> anyhow::Result<Measured> {
    let (helping, before) = idle_agent(context)?;
    let begin = Instant::now();
    std::thread::sleep(WATCHED);
    let after = own_threads(&helping)?;
    let seconds = begin.elapsed().as_secs_f64();
    let sum = |threads: &[ThreadUsage]| -> u64 {
        threads.iter().map(|thread| thread.voluntary_switches).sum()
    };
    let cpu: Duration = after.iter().map(|thread| thread.cpu).sum();
    let cpu_before: Duration = before.iter().map(|thread| thread.cpu).sum();
    let wakeups = sum(&after).saturating_sub(sum(&before));
    let spent_us = cpu.saturating_sub(cpu_before).as_secs_f64() * 1e6 / seconds;
    let note = format!("{wakeups} in {seconds:.1} s, {spent_us:.0} us of a processor a second");
    Ok(Measured::noted(wakeups as f64 / seconds, note))
}
