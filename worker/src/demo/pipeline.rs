//! The pipeline as the demo's own process sees it: starts the stages, gives them requests.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use demo_stage::frames::{self, Connect, Request, ToFront};
use demo_stage::{PLACES, Place, front, inlet};

use super::engine::StageProgram;
use super::interrupt::Interrupt;

/// How long the stages may take to start and to stop.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// How often a wait looks for an interrupt and for dead stages.
const LOOK: Duration = Duration::from_millis(100);

/// A running pipeline. Dropping it ends all its processes.
pub(super) struct Pipeline {
    stages: Vec<Child>,
    thinker: Option<UnixStream>,
    results: Receiver<Result<ToFront, String>>,
    sockets: PathBuf,
    next_request: u64,
    open: BTreeSet<u64>,
}

impl Pipeline {
    /// Starts the stages and waits until they are connected. `agents` is the folder of the
    /// controller's socket, `None` = the stages are not profiled.
    pub(super) fn start(
        program: &StageProgram,
        agents: Option<&Path>,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let sockets = sockets_dir()?;
        let (sender, results) = channel();
        let mut pipeline = Self {
            stages: Vec::new(),
            thinker: None,
            results,
            sockets,
            next_request: 1,
            open: BTreeSet::new(),
        };
        let path = front(&pipeline.sockets);
        let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
        listener.set_nonblocking(true)?;
        for place in PLACES {
            let child = spawn(program, place, &pipeline.sockets, agents)
                .with_context(|| format!("stage {} does not start", place.stage))?;
            pipeline.stages.push(child);
        }
        let wires = pipeline.gather(&listener, interrupt)?;
        for (place, mut wire) in wires {
            frames::write(&mut wire, &Connect { next: pipeline.after(place) })?;
            if place.stage == 0 && place.rank == 0 {
                pipeline.thinker = Some(wire.try_clone()?);
            }
            listen(place, wire, sender.clone())?;
        }
        Ok(pipeline)
    }

    /// Gives the pipeline a request for so many images.
    pub(super) fn submit(&mut self, images: usize) -> anyhow::Result<u64> {
        let id = self.next_request;
        self.next_request += 1;
        let prompt = (0..24).map(|n| ((id * 37 + n * 11) % 1000) as u32).collect();
        let request = Request { id, prompt, answer_tokens: 48, images };
        let thinker = self.thinker.as_mut().context("the pipeline is closed")?;
        frames::write(thinker, &request).context("the thinker is gone")?;
        self.open.insert(id);
        Ok(id)
    }

    /// How many requests are on their way.
    pub(super) fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// Waits until a request is through, or `deadline`: then `None`.
    ///
    /// # Errors
    ///
    /// A stage ended, or the user interrupted.
    pub(super) fn next_done(
        &mut self,
        deadline: Instant,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Option<u64>> {
        loop {
            interrupt.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            match self.results.recv_timeout(left.min(LOOK)) {
                Ok(Ok(ToFront::Done { request, brightness })) => {
                    anyhow::ensure!(brightness.is_finite(), "request {request} gave no image");
                    self.open.remove(&request);
                    return Ok(Some(request));
                }
                Ok(Ok(ToFront::Ready { .. })) => {}
                Ok(Err(gone)) => anyhow::bail!("{gone}"),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("all stages are gone"),
            }
        }
    }

    /// Ends the stages in order and removes their sockets. They have time to finish what they do.
    pub(super) fn stop(&mut self) {
        if let Some(thinker) = self.thinker.take() {
            // Each stage ends when the one before has closed; the clone that listens for results
            // holds the connection open, so it is shut down and not only dropped. A stage that is
            // already gone has closed it itself.
            if let Err(error) = thinker.shutdown(std::net::Shutdown::Write) {
                tracing::debug!("thinker: {error}");
            }
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        for child in &mut self.stages {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if matches!(child.try_wait(), Ok(None)) {
                // It ended by itself meanwhile, or is killed: either way it is reaped.
                if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
                    tracing::debug!("stage: {error}");
                }
            }
        }
        self.stages.clear();
        if let Err(error) = fs::remove_dir_all(&self.sockets)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!("{}: {error}", self.sockets.display());
        }
    }

    fn gather(
        &mut self,
        listener: &UnixListener,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Vec<(Place, UnixStream)>> {
        let deadline = Instant::now() + START_DEADLINE;
        let mut wires = Vec::new();
        while wires.len() < PLACES.len() {
            interrupt.check()?;
            for (child, place) in self.stages.iter_mut().zip(PLACES) {
                if let Some(status) = child.try_wait()? {
                    anyhow::bail!("stage {} ended while it started ({status})", place.stage);
                }
            }
            match listener.accept() {
                Ok((mut wire, _)) => {
                    wire.set_nonblocking(false)?;
                    wire.set_read_timeout(Some(START_DEADLINE))?;
                    let ready = frames::read(&mut wire)?.context("a stage went away at once")?;
                    wire.set_read_timeout(None)?;
                    let ToFront::Ready { stage, replica, rank } = ready else {
                        anyhow::bail!("a stage spoke out of turn");
                    };
                    let place = PLACES
                        .into_iter()
                        .find(|p| (p.stage, p.replica, p.rank) == (stage, replica, rank))
                        .context("an unknown stage")?;
                    wires.push((place, wire));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    anyhow::ensure!(Instant::now() < deadline, "the stages do not start");
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(wires)
    }

    fn after(&self, place: Place) -> Vec<PathBuf> {
        // Only a leading rank hands on.
        if place.rank != 0 {
            return Vec::new();
        }
        PLACES
            .iter()
            .filter(|next| next.stage == place.stage + 1 && next.rank == 0)
            .map(|next| inlet(&self.sockets, next.stage, next.replica))
            .collect()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(
    program: &StageProgram,
    place: Place,
    sockets: &Path,
    agents: Option<&Path>,
) -> anyhow::Result<Child> {
    let mut command = program.command();
    command
        .arg("--sockets")
        .arg(sockets)
        .args(["--stage", &place.stage.to_string()])
        .args(["--replica", &place.replica.to_string()])
        .args(["--rank", &place.rank.to_string()])
        .args(["--parent", &std::process::id().to_string()])
        // Five processes share the machine: each computes on one thread.
        .env("RAYON_NUM_THREADS", "1")
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::null())
        // The demo's own output is for the user alone.
        .stdout(Stdio::null())
        // Ctrl-C reaches the demo alone, which ends the stages in order.
        .process_group(0);
    match agents {
        Some(dir) => command.env("OMNIPROF_SOCKET", dir),
        None => command.arg("--unprofiled"),
    };
    Ok(command.spawn()?)
}

/// Reads what a stage says, on a thread of its own.
fn listen(
    place: Place,
    mut wire: UnixStream,
    sender: Sender<Result<ToFront, String>>,
) -> anyhow::Result<()> {
    std::thread::Builder::new().name(format!("front-{}", place.role)).spawn(move || {
        let gone = loop {
            match frames::read(&mut wire) {
                Ok(Some(message)) => {
                    if sender.send(Ok(message)).is_err() {
                        return;
                    }
                }
                Ok(None) => break "it closed its connection".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        let Place { stage, role, replica, rank } = place;
        let text = format!("stage {stage} ({role}, replica {replica}, rank {rank}) ended: {gone}");
        // Nobody listens any more once the pipeline is stopped.
        drop(sender.send(Err(text)));
    })?;
    Ok(())
}

/// A folder for the pipeline's sockets that only this user can enter. Paths of sockets are short,
/// so it lies in the folder for temporary files.
fn sockets_dir() -> anyhow::Result<PathBuf> {
    let base = std::env::temp_dir();
    for attempt in 0..1000 {
        let dir = base.join(format!("omniprof-demo-{}-{attempt}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| dir.display().to_string()),
        }
    }
    anyhow::bail!("{} is full of old demos", base.display())
}
