//! The worker of the soak: a process with the real agent that marks the time.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use profiler_agent::Agent;
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::record::{Marker, Row as _};
use profiler_core::spool::SpoolReader;

/// Names the role that a process of this program shall play.
pub(super) const VARIABLE: &str = "OMNIPROF_SOAK_ROLE";
const RANK: &str = "OMNIPROF_SOAK_RANK";
const SOCKET_DIR: &str = "OMNIPROF_SOAK_SOCKET_DIR";

const EVERY_MS: &str = "OMNIPROF_SOAK_EVERY_MS";

/// Plays the role that the environment asks for, if it does.
///
/// # Errors
///
/// What the role returns; an unknown one.
pub fn play_if_asked() -> anyhow::Result<Option<ExitCode>> {
    match std::env::var(VARIABLE).as_deref() {
        Ok("worker") => be_worker().map(Some),
        Ok("small-disk") => super::disk::be_small_disk().map(Some),
        Ok("slow-disk") => super::slow_disk::be_slow_disk().map(Some),
        Ok("clock-steps") => super::clock_steps::be_stepped().map(Some),
        Ok(asked) => anyhow::bail!("no role {asked:?}"),
        Err(_) => Ok(None),
    }
}

/// This program, in a role.
pub(crate) fn role(name: &str) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("the path of this program is unknown")?;
    let mut command = Command::new(program);
    command.env(VARIABLE, name).stdin(Stdio::null());
    Ok(command)
}

/// A worker process. It ends when this is dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
}

impl Worker {
    /// Starts one that joins the controller of that socket folder.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(socket_dir: &Path, rank: usize) -> anyhow::Result<Self> {
        Self::marking(socket_dir, rank, Duration::from_millis(2))
    }

    /// The same, which makes a mark so often.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn marking(socket_dir: &Path, rank: usize, every: Duration) -> anyhow::Result<Self> {
        let mut command = role("worker")?;
        command
            .env(SOCKET_DIR, socket_dir)
            .env(RANK, rank.to_string())
            .env(EVERY_MS, every.as_millis().to_string())
            .stdin(Stdio::piped());
        Ok(Self { child: command.spawn().context("a worker does not start")? })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it; the instant after that, on CLOCK_MONOTONIC.
    ///
    /// # Errors
    ///
    /// It cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<u64> {
        self.child.kill().context("a worker cannot be killed")?;
        let killed = SystemClock::new().now().monotonic_ns;
        self.child.wait().context("a killed worker")?;
        Ok(killed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _killed: std::io::Result<()> = self.child.kill();
        let _waited: std::io::Result<_> = self.child.wait();
    }
}

fn be_worker() -> anyhow::Result<ExitCode> {
    let dir = std::env::var_os(SOCKET_DIR).context("no directory for the socket")?;
    let rank = std::env::var(RANK)?.parse()?;
    let every = Duration::from_millis(std::env::var(EVERY_MS)?.parse()?);
    let agent = Agent::builder().stage(0).role("soak").rank(rank).socket_dir(dir).connect()?;
    std::thread::Builder::new().name("work".to_owned()).spawn(move || {
        loop {
            agent.step();
            let _span = agent.span("round").enter();
            agent.marker("mark").emit();
            std::thread::sleep(every);
        }
    })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(ExitCode::SUCCESS)
}

/// What a worker's spool tells.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Read {
    /// Marks.
    pub marks: u64,
    /// The last mark, on CLOCK_MONOTONIC.
    pub last: u64,
    /// Whether it ends as a whole file does.
    pub closed: bool,
    /// Whether parts of it could not be read.
    pub damaged: bool,
}

/// Reads a worker's spool to its end.
///
/// # Errors
///
/// It cannot be read.
pub fn read(spool: &Path) -> anyhow::Result<Read> {
    let mut reader = SpoolReader::open(spool).with_context(|| spool.display().to_string())?;
    let mut read = Read::default();
    while let Some(block) = reader.next_block()? {
        if block.kind() != Marker::KIND {
            continue;
        }
        for row in block.rows::<Marker>().context("marks")?.iter() {
            read.marks += 1;
            read.last = read.last.max(row.time);
        }
    }
    read.closed = reader.is_closed();
    read.damaged = !reader.skipped().is_empty();
    Ok(read)
}
