//! Captures of known work: every kernel is there, once, and graph nodes carry their ids.

use std::collections::BTreeSet;

use profiler_core::record::Kernel;
use profiler_export::capture::{Capture, CaptureOptions, Consumer, Place};

use super::after::spool_of;
use super::capture::{Recorder, Settings, line};
use super::{entry, on_device};
use crate::figures::{Bound, Context, FigureEntry, Measured};

/// Kernels of each capture.
const KERNELS: u64 = 200_000;
const NODES: usize = 1000;

/// The figures.
pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "launch_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing of 200,000 launches of one thread",
            |context| missing(context, "launch", 1),
        ),
        entry(
            "threads_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing of 200,000 launches of 8 threads",
            |context| missing(context, "launch", 8),
        ),
        entry(
            "graph_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing, or without graph and node ids, of 200 replays of 1000 nodes",
            |context| missing(context, "graph", 1),
        ),
        entry(
            "mixed_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing of 2,000 kernels between copies and memsets",
            |context| missing(context, "mixed", 1),
        ),
        entry(
            "small_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing of 50 between copies, 200 and 8 x 50 launches and 2 replays, in one capture",
            small,
        ),
    ]
}

/// A little of everything: what golden files are made of.
fn small(context: &Context) -> anyhow::Result<Measured> {
    const WORK: [&str; 4] =
        ["run mixed 50 1", "run launch 200 1", "run launch 400 8", "run graph 2000 1"];
    const WANTED: u64 = 50 + 200 + 400 + 2000;
    on_device(context, || {
        let mut recorder = Recorder::start(context, Settings::default())?;
        for work in WORK {
            recorder.worker.ask(work)?;
        }
        recorder.record()?;
        for work in WORK {
            recorder.worker.ask(work)?;
        }
        let (_, _, manifest) = recorder.stop()?;
        let kernels = line(&manifest)?.records.get("kernel").copied().unwrap_or(0);
        context.keep(&spool_of(&recorder, &manifest)?, "small.spool")?;
        Ok(Measured::noted(WANTED.abs_diff(kernels) as f64, format!("{kernels} kernels")))
    })
}

#[derive(Default)]
struct Kernels {
    count: u64,
    of_graph: u64,
    nodes: BTreeSet<(u32, u64)>,
}

impl Consumer for Kernels {
    fn kernels(&mut self, _place: &Place<'_>, rows: &[Kernel]) -> std::io::Result<()> {
        for row in rows {
            self.count += 1;
            if row.graph != 0 && row.graph_node != 0 {
                self.of_graph += 1;
                self.nodes.insert((row.graph, row.graph_node));
            }
        }
        Ok(())
    }
}

fn missing(context: &Context, kind: &str, threads: u64) -> anyhow::Result<Measured> {
    on_device(context, || {
        let wanted = if kind == "mixed" { KERNELS / 100 } else { KERNELS };
        let mut recorder = Recorder::start(context, Settings::default())?;
        recorder.worker.ask(&format!("run {kind} {} {threads}", wanted / 100))?;
        recorder.record()?;
        recorder.worker.ask(&format!("run {kind} {wanted} {threads}"))?;
        let (_, _, manifest) = recorder.stop()?;
        line(&manifest)?;
        let spool = spool_of(&recorder, &manifest)?;
        let mut kernels = Kernels::default();
        Capture::open([spool.clone()], CaptureOptions::default())?.read(&mut kernels)?;
        context.keep(&spool, &format!("{kind}{threads}.spool"))?;
        let mut missing = wanted.abs_diff(kernels.count);
        let mut note = format!("{} kernels", kernels.count);
        if kind == "graph" {
            missing += kernels.count - kernels.of_graph;
            note.push_str(&format!(", {} nodes", kernels.nodes.len()));
            anyhow::ensure!(kernels.nodes.len() == NODES, "{note} of {NODES}");
        }
        Ok(Measured::noted(missing as f64, note))
    })
}
