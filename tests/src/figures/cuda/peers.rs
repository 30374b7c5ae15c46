//! The others a user would pick, with the same loop in the same run.

use std::sync::OnceLock;

use anyhow::Context as _;

use super::loops::with_torch;
use super::process::Process;
use super::{MB, entry, on_device};
use crate::figures::{Context, FigureEntry, Measured};

const LAUNCHES: &str = "run launch 1000000 1";

/// The figures: anchors, which nothing is required of.
pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "torch_complete",
            "ms",
            None,
            "torch.profiler, CUDA only: stop() until the gzipped JSON of 1 M launches is written",
            |context| torch(context, |peer| peer.complete_ms),
        ),
        entry("torch_memory", "MB", None, "its peak resident memory added", |context| {
            torch(context, |peer| peer.added_mb)
        }),
        entry("torch_bytes", "MB", None, "its gzipped JSON", |context| {
            torch(context, |peer| peer.file_mb)
        }),
        entry("torch_first_start", "ms", None, "its first start in a process", |context| {
            torch(context, |peer| peer.first_start_ms)
        }),
        entry(
            "proton_complete",
            "ms",
            None,
            "Proton, data=\"trace\": finalize() until its trace of 1 M launches is written",
            |context| proton(context, |peer| peer.complete_ms),
        ),
        entry("proton_memory", "MB", None, "its peak resident memory added", |context| {
            proton(context, |peer| peer.added_mb)
        }),
        entry("proton_bytes", "MB", None, "its trace", |context| {
            proton(context, |peer| peer.file_mb)
        }),
    ]
}

#[derive(Clone)]
struct Peer {
    complete_ms: f64,
    added_mb: f64,
    file_mb: f64,
    first_start_ms: f64,
    kernel_ns: f64,
}

type Cell = OnceLock<Result<Peer, String>>;

fn torch(context: &Context, value: impl Fn(&Peer) -> f64) -> anyhow::Result<Measured> {
    static TORCH: Cell = OnceLock::new();
    told(context, &TORCH, measure_torch, value)
}

fn proton(context: &Context, value: impl Fn(&Peer) -> f64) -> anyhow::Result<Measured> {
    static PROTON: Cell = OnceLock::new();
    told(context, &PROTON, measure_proton, value)
}

fn told(
    context: &Context,
    cell: &'static Cell,
    measure: fn(&Context) -> anyhow::Result<Peer>,
    value: impl Fn(&Peer) -> f64,
) -> anyhow::Result<Measured> {
    on_device(context, || {
        let peer = cell.get_or_init(|| measure(context).map_err(|error| format!("{error:#}")));
        Ok(match peer {
            Ok(peer) => {
                let note = format!("{:.2} us a launch", peer.kernel_ns / 1e3);
                Measured::noted(value(peer), note)
            }
            Err(error) => Measured::Skipped(error.clone()),
        })
    })
}

fn measure_torch(context: &Context) -> anyhow::Result<Peer> {
    let mut process = with_torch(context)?;
    process.ask("run launch 10000 1")?;
    let file = context.fresh_dir("torch")?.join("torch.json.gz");
    let before = process.number("memory", "rss_bytes")?;
    process.ask("forget-peak")?;
    let first_start_ms = process.number("torch start", "ns")? / 1e6;
    let kernel_ns = process.kernel_ns(LAUNCHES)?;
    let stop_ns = process.number("torch stop", "ns")?;
    let export = process.ask(&format!("torch export {}", file.display()))?;
    let export_ns = export["ns"].as_f64().context("no time")?;
    Ok(Peer {
        complete_ms: (stop_ns + export_ns) / 1e6,
        added_mb: (process.number("memory", "peak_rss_bytes")? - before) / MB,
        file_mb: export["bytes"].as_f64().context("no size")? / MB,
        first_start_ms,
        kernel_ns,
    })
}

fn measure_proton(context: &Context) -> anyhow::Result<Peer> {
    let mut process = Process::with_other_profiler(context)?;
    process.ask("run launch 10000 1")?;
    let dir = context.fresh_dir("proton")?;
    let before = process.number("memory", "rss_bytes")?;
    process.ask("forget-peak")?;
    let start = format!("proton start {}", dir.join("proton").display());
    let first_start_ms = process.number(&start, "ns")? / 1e6;
    let kernel_ns = process.kernel_ns(LAUNCHES)?;
    let complete_ms = process.number("proton stop", "ns")? / 1e6;
    let mut bytes = 0;
    for file in std::fs::read_dir(&dir)? {
        bytes += file?.metadata()?.len();
    }
    anyhow::ensure!(bytes > 0, "Proton wrote nothing");
    Ok(Peer {
        complete_ms,
        added_mb: (process.number("memory", "peak_rss_bytes")? - before) / MB,
        file_mb: bytes as f64 / MB,
        first_start_ms,
        kernel_ns,
    })
}
