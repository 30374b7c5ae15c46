//! The worker of the soak: a process with the real agent that marks the time.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use profiler_agent::Agent;
use profiler_core::clock::{ClockSource as _, SystemClock};
use profiler_core::record::{Loss, Marker, Row as _, Sample};
use profiler_core::spool::SpoolReader;

use super::application::Application;
use crate::cuda_stand_in::CudaStandIn;
use crate::npu_stand_in::NpuStandIn;

/// Names the role that a process of this program shall play.
pub(super) const VARIABLE: &str = "OMNIPROF_SOAK_ROLE";
const RANK: &str = "OMNIPROF_SOAK_RANK";
const SOCKET_DIR: &str = "OMNIPROF_SOAK_SOCKET_DIR";
const EVERY_MS: &str = "OMNIPROF_SOAK_EVERY_MS";
/// The stand-in on which a worker launches.
const LIBRARY: &str = "OMNIPROF_SOAK_LIBRARY";

const EVERY: Duration = Duration::from_millis(2);
/// Kernels between two marks, where there is a device.
const KERNELS: u32 = 5;

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
        Self::marking(socket_dir, rank, EVERY)
    }

    /// The same, which makes a mark so often.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn marking(socket_dir: &Path, rank: usize, every: Duration) -> anyhow::Result<Self> {
        Self::spawn(role("worker")?, socket_dir, rank, every)
    }

    /// Starts one that launches kernels of a stand-in for libcupti between its marks.
    pub(super) fn on_cuda(
        socket_dir: &Path,
        rank: usize,
        machine: &CudaStandIn,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program is unknown")?;
        let mut command = machine.command(program.as_os_str());
        command.env(VARIABLE, "worker").env(LIBRARY, machine.library());
        Self::spawn(command, socket_dir, rank, EVERY)
    }

    /// Starts one in which a stand-in for libmspti launches kernels.
    pub(super) fn on_npu(
        socket_dir: &Path,
        rank: usize,
        machine: &NpuStandIn,
    ) -> anyhow::Result<Self> {
        let mut command = role("worker")?;
        machine.enter(&mut command, KERNELS);
        command.env_remove("FAKE_MSPTI_LEDGER");
        Self::spawn(command, socket_dir, rank, EVERY)
    }

    fn spawn(
        mut command: Command,
        socket_dir: &Path,
        rank: usize,
        every: Duration,
    ) -> anyhow::Result<Self> {
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

    /// Lets it end by itself.
    ///
    /// # Errors
    ///
    /// It does not end as it should.
    pub fn end(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().context("a worker")?;
        anyhow::ensure!(status.success(), "a worker ended with {status}");
        Ok(())
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
    let library = std::env::var_os(LIBRARY);
    let application = library.map(|library| Application::load(&library)).transpose()?.map(Arc::new);
    let agent = Agent::builder().stage(0).role("soak").rank(rank).socket_dir(dir).connect()?;
    let working = application.clone();
    std::thread::Builder::new().name("work".to_owned()).spawn(move || {
        for number in 0_u64.. {
            agent.step();
            let _span = agent.span("round").enter();
            agent.marker("mark").payload(number).emit();
            if let Some(application) = &working {
                application.launch(u64::from(KERNELS));
            }
            std::thread::sleep(every);
        }
    })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let violations = application.map_or(0, |application| application.violations());
    anyhow::ensure!(violations == 0, "CUPTI was called {violations} times as it must not be");
    Ok(ExitCode::SUCCESS)
}

/// What a worker's spool tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Read {
    /// Marks.
    pub marks: u64,
    /// Marks that are not there between the first and the last, by their numbers.
    pub missing: u64,
    /// Marks that stand where an earlier one had their number or a later one.
    pub misplaced: u64,
    /// Marks that the file says it lacks.
    pub lost: u64,
    /// The last mark, on CLOCK_MONOTONIC.
    pub last: u64,
    /// Samples of stacks.
    pub samples: u64,
    /// The last of them, on CLOCK_MONOTONIC.
    pub last_sample: u64,
    /// Whether it ends as a whole file does.
    pub closed: bool,
    /// Whether parts of it could not be read.
    pub damaged: bool,
}

impl Read {
    /// Marks that are neither in the file nor told as lost, and those that are not where they were
    /// made. What a killed process had not written yet lies behind the last mark and is none.
    #[must_use]
    pub fn holes(&self) -> u64 {
        self.missing.saturating_sub(self.lost) + self.misplaced
    }
}

/// Reads a worker's spool to its end.
///
/// # Errors
///
/// It cannot be read.
pub fn read(spool: &Path) -> anyhow::Result<Read> {
    let mut reader = SpoolReader::open(spool).with_context(|| spool.display().to_string())?;
    let mut read = Read::default();
    let mut next = None;
    let mut told = 0_u64;
    while let Some(block) = reader.next_block()? {
        match block.kind() {
            Marker::KIND => {
                for row in block.rows::<Marker>().context("marks")?.iter() {
                    read.marks += 1;
                    read.last = read.last.max(row.time);
                    let expected = next.unwrap_or(row.payload);
                    read.missing =
                        read.missing.saturating_add(row.payload.saturating_sub(expected));
                    read.misplaced += u64::from(row.payload < expected);
                    next = Some(row.payload.wrapping_add(1));
                }
            }
            Sample::KIND => {
                for row in block.rows::<Sample>().context("samples")?.iter() {
                    read.samples += 1;
                    read.last_sample = read.last_sample.max(row.time);
                }
            }
            Loss::KIND => {
                let rows = block.rows::<Loss>().context("losses")?;
                let of_marks = rows.iter().filter(|row| row.kind == Marker::KIND.0);
                told += of_marks.map(|row| row.count).sum::<u64>();
            }
            _ => {}
        }
    }
    read.closed = reader.is_closed();
    read.damaged = !reader.skipped().is_empty();
    // The footer of a whole file counts what its rows of losses count, and what came after them.
    let in_all = reader.footer().map(|footer| {
        let of_marks = footer.lost.iter().filter(|(kind, _, _)| *kind == Marker::KIND);
        of_marks.map(|(_, _, count)| count).sum::<u64>()
    });
    read.lost = in_all.unwrap_or(told);
    Ok(read)
}

#[cfg(test)]
mod tests {
    use profiler_core::clock::ClockDomain;
    use profiler_core::identity::WorkerIdentity;
    use profiler_core::record::LossCause;
    use profiler_core::sink::{self, Batch, Emit, StreamInfo};
    use profiler_core::spool::{SpoolHeader, SpoolOptions, SpoolWriter};

    use super::*;

    /// A spool that has marks of these numbers and says that it lacks so many.
    fn spool(numbers: &[u64], lost: u64) -> anyhow::Result<Read> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("marks.spool");
        let clock = SystemClock::new();
        let header = SpoolHeader {
            session: "marks".to_owned(),
            prefix: None,
            worker: WorkerIdentity::of_this_process(Some(0), None, None, None),
            writer: "soak".to_owned(),
            created: clock.now(),
            fence: 1,
        };
        let options = SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() };
        let file = std::fs::File::create_new(&path)?;
        let writer = SpoolWriter::create(file, &header, options, Arc::new(clock))?;
        let sink = writer.sink();
        let stream = sink.open_stream(StreamInfo {
            producer: "soak".to_owned(),
            thread: 1,
            clock: ClockDomain::Monotonic,
        });
        let row = |(time, &payload)| Marker { time, payload, ..Marker::default() };
        let rows: Vec<_> = (1..).zip(numbers).map(row).collect();
        anyhow::ensure!(sink.emit(&[Batch::new(stream, &rows)]) == Emit::Accepted, "refused");
        if lost > 0 {
            sink.loss(sink::Loss {
                stream: Some(stream),
                kind: Some(Marker::KIND),
                count: lost,
                from: 0,
                to: 0,
                cause: LossCause::SinkFull,
            });
        }
        writer.finish(Duration::from_secs(30));
        read(&path)
    }

    #[test]
    fn a_mark_that_is_not_there_is_a_hole() -> anyhow::Result<()> {
        assert_eq!(spool(&[7, 8, 9], 0)?.holes(), 0);
        let read = spool(&[7, 9, 12], 0)?;
        assert_eq!((read.marks, read.missing, read.holes()), (3, 3, 3));
        Ok(())
    }

    #[test]
    fn a_mark_that_is_told_as_lost_is_none() -> anyhow::Result<()> {
        let read = spool(&[7, 9, 12], 2)?;
        assert_eq!((read.lost, read.holes()), (2, 1));
        Ok(())
    }

    #[test]
    fn a_mark_that_stands_twice_is_told() -> anyhow::Result<()> {
        assert_eq!(spool(&[7, 8, 8, 9], 0)?.holes(), 1);
        Ok(())
    }
}
