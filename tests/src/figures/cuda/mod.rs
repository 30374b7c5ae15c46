//! The CUDA backend on a real device, each figure beside its anchor in the same run.
//!
//! The work is that of `cuda-workload`, a process that is told line by line what to launch; the
//! same loops run inside a Python process for torch.profiler and Proton to record. Where there is
//! no device, or no such program, the figures are skipped and say so.

mod after;
mod capture;
mod joined;
mod latency;
mod launched;
mod loops;
mod million;
mod peers;
mod process;
mod traces;

use std::path::PathBuf;
use std::sync::OnceLock;

use self::process::Process;
use super::{Bound, Context, FigureEntry, Measured};

/// Bytes in a MB, as the requirements count.
const MB: f64 = 1e6;

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    let mut figures = million::figures();
    figures.extend(loops::figures());
    figures.extend(latency::figures());
    figures.extend(after::figures());
    figures.extend(joined::figures());
    figures.extend(traces::figures());
    figures.extend(million::long_figures());
    figures.extend(peers::figures());
    figures
}

fn entry(
    name: &'static str,
    unit: &'static str,
    required: Option<Bound>,
    anchor: &'static str,
    run: fn(&Context) -> anyhow::Result<Measured>,
) -> FigureEntry {
    FigureEntry { name, unit, required, anchor, run }
}

/// Measures if there is a device to measure on.
fn on_device(
    context: &Context,
    run: impl FnOnce() -> anyhow::Result<Measured>,
) -> anyhow::Result<Measured> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| match Process::start(context, None) {
        Ok(mut process) => process.ask("memory").err().map(|error| format!("{error:#}")),
        Err(error) => Some(format!("{error:#}")),
    });
    match missing {
        Some(reason) => Ok(Measured::Skipped(reason.clone())),
        None => run(),
    }
}

/// A file that the figures need, beside this program.
fn built(context: &Context, file: &str) -> anyhow::Result<PathBuf> {
    let path = context.bin_dir().join(file);
    anyhow::ensure!(
        path.is_file(),
        "{} is missing: tests/workloads/cuda/measure builds it",
        path.display()
    );
    Ok(path)
}
