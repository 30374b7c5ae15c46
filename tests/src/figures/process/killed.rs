//! A process that is killed while it is recorded: how much of its end is lost.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use profiler_core::record::{Kernel, Row as _};
use profiler_core::spool::SpoolReader;
use profiler_worker::Controller;
use profiler_worker::controller::StopRequest;
use profiler_worker::start_request::StartRequest;

use super::injected::{Injected, Launches, Machine};
use crate::figures::{Bound, Context, FigureEntry, Measured};

/// Kernels a millisecond.
const KERNELS: u64 = 50;
const RUNS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn figures() -> Vec<FigureEntry> {
    vec![FigureEntry {
        name: "killed-lost",
        unit: "ms",
        required: Some(Bound::AtMost(1000.0)),
        anchor: "SIGKILL less the end of the last kernel that can be read (stand-ins)",
        run: |context| {
            let runs: anyhow::Result<Vec<f64>> = (0..RUNS).map(|_| lost_ms(context)).collect();
            let runs = runs?;
            let worst = runs.iter().copied().fold(0.0, f64::max);
            Ok(Measured::noted(worst, format!("the worst of {runs:.0?}")))
        },
    }]
}

fn lost_ms(context: &Context) -> anyhow::Result<f64> {
    let controller = Controller::builder()
        .root(context.fresh_dir("killed")?)
        .without_exporter()
        .options(|options| options.retention = None)
        .build()?;
    let dir = controller.socket_dir().context("the controller does not listen")?;
    let machine = Machine::new(context)?;
    let (go, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut process = Injected::start(context, &machine, &dir, Launches::Steadily(KERNELS), &go)?;
    drop(end);
    process.hear("opened ")?;
    anyhow::ensure!(controller.wait_for_workers(1, DEADLINE), "it does not join");
    controller.start(&StartRequest::default())?;
    machine.launch()?;
    process.hear("calls ")?;
    std::thread::sleep(Duration::from_secs(3));
    let killed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    process.kill()?;
    let wait_ms = u64::try_from(DEADLINE.as_millis())?;
    let manifest = controller.stop(&StopRequest { wait_ms, ..StopRequest::default() })?;
    let line = manifest.workers.first().context("the manifest has no worker")?;
    let spool = line.files.iter().find(|file| file.format == "spool").context("no spool")?;
    let last = last_kernel(&Path::new(&manifest.directory).join(&spool.path))?;
    Ok(killed.saturating_sub(last) as f64 / 1e6)
}

/// The end of the last kernel, in ns of CLOCK_REALTIME.
fn last_kernel(spool: &Path) -> anyhow::Result<u64> {
    let mut reader = SpoolReader::open(spool)?;
    let mut last = None;
    while let Some(block) = reader.next_block()? {
        if block.kind() == Kernel::KIND {
            let rows = block.rows::<Kernel>().context("kernels")?;
            last = last.max(rows.iter().map(|row| row.end).max());
        }
    }
    last.context("no kernel can be read")
}
