//! Captures of known work: every kernel is there, once, has the call that launched it, and carries
//! its ids where it is a node of a graph.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use profiler_core::record::{ApiCall, Kernel, Memcpy, Memset};
use profiler_export::capture::{Capture, CaptureOptions, Consumer, Place};
use profiler_worker::start_request::Activity;

use super::after::spool_of;
use super::capture::{Recorder, Settings, line};
use super::launched::Launched;
use super::loops::on_torch;
use super::{entry, on_device};
use crate::figures::{Bound, Context, FigureEntry, Measured};

/// Kernels of each capture.
const KERNELS: u64 = 200_000;
const NODES: usize = 1000;
const OPERATORS: u64 = 100_000;
const SOME_OPERATORS: &str = "torch use 1000";

/// The figures.
pub(super) fn figures() -> Vec<FigureEntry> {
    vec![
        entry(
            "launch_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing, or without the one call that launched them, of 200,000 launches of one thread",
            |context| missing(context, "launch", 1),
        ),
        entry(
            "threads_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing, or without the one call that launched them, of 200,000 launches of 8 threads",
            |context| missing(context, "launch", 8),
        ),
        entry(
            "graph_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing, or without call, graph or node id, of 200 replays of 1000 nodes",
            |context| missing(context, "graph", 1),
        ),
        entry(
            "mixed_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing of 2,000 kernels between copies and memsets, and of these without call",
            |context| missing(context, "mixed", 1),
        ),
        entry(
            "torch_trace",
            "kernels",
            Some(Bound::AtMost(0.0)),
            "missing, or without the one call that launched them, of 100,000 operators of PyTorch under `omniprof run`",
            torch,
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

/// What is on the device, and the calls that put it there.
#[derive(Default)]
struct Work {
    kernels: u64,
    of_graph: u64,
    nodes: BTreeSet<(u32, u64)>,
    /// By correlation id: how many calls have it, and when the last of them began.
    calls: HashMap<u64, (u32, u64)>,
    /// Correlation id and begin.
    work: Vec<(u64, u64)>,
}

impl Consumer for Work {
    fn kernels(&mut self, _place: &Place<'_>, rows: &[Kernel]) -> std::io::Result<()> {
        for row in rows {
            self.kernels += 1;
            self.work.push((row.correlation, row.start));
            if row.graph != 0 && row.graph_node != 0 {
                self.of_graph += 1;
                self.nodes.insert((row.graph, row.graph_node));
            }
        }
        Ok(())
    }

    fn memcpys(&mut self, _place: &Place<'_>, rows: &[Memcpy]) -> std::io::Result<()> {
        self.work.extend(rows.iter().map(|row| (row.correlation, row.start)));
        Ok(())
    }

    fn memsets(&mut self, _place: &Place<'_>, rows: &[Memset]) -> std::io::Result<()> {
        self.work.extend(rows.iter().map(|row| (row.correlation, row.start)));
        Ok(())
    }

    fn api_calls(&mut self, _place: &Place<'_>, rows: &[ApiCall]) -> std::io::Result<()> {
        for row in rows {
            let call = self.calls.entry(row.correlation).or_default();
            *call = (call.0 + 1, row.start);
        }
        Ok(())
    }
}

impl Work {
    fn of(spool: &Path) -> anyhow::Result<Self> {
        let mut work = Self::default();
        Capture::open([spool.to_owned()], CaptureOptions::default())?.read(&mut work)?;
        Ok(work)
    }

    /// Work without one call that launched it, and work that begins before that call.
    fn astray(&self) -> (u64, u64) {
        let (mut without, mut early) = (0, 0);
        for (correlation, start) in &self.work {
            match self.calls.get(correlation) {
                Some((1, call)) if call <= start => {}
                Some((1, _)) => early += 1,
                _ => without += 1,
            }
        }
        (without, early)
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
        let work = Work::of(&spool)?;
        context.keep(&spool, &format!("{kind}{threads}.spool"))?;
        let mut more = 0;
        let mut note = String::new();
        if kind == "graph" {
            more = work.kernels - work.of_graph;
            note = format!(", {} nodes", work.nodes.len());
            anyhow::ensure!(work.nodes.len() == NODES, "{note} of {NODES}");
        }
        Ok(told(&work, wanted, more, &note))
    })
}

fn torch(context: &Context) -> anyhow::Result<Measured> {
    on_torch(context, |torch| {
        drop(torch);
        let mut ours = Launched::torch(context, vec![Activity::Gpu])?;
        ours.command.ask(SOME_OPERATORS)?;
        ours.record()?;
        ours.command.ask(&format!("torch use {OPERATORS}"))?;
        let (_, _, manifest) = ours.stop()?;
        let spool = ours.spool(&manifest)?;
        let work = Work::of(&spool)?;
        context.keep(&spool, "torch.spool")?;
        Ok(told(&work, OPERATORS, 0, ""))
    })
}

/// The kernels that are missing, and `more` that are not as they should be.
fn told(work: &Work, wanted: u64, more: u64, note: &str) -> Measured {
    let (without, early) = work.astray();
    let missing = wanted.abs_diff(work.kernels) + without + early + more;
    let note = format!(
        "{} kernels{note}; of {} pieces of work {without} without their call, {early} before it",
        work.kernels,
        work.work.len()
    );
    Measured::noted(missing as f64, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_a_real_capture_has_its_calls_and_what_has_none_is_counted() {
        let spool = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/spool/h100.spool");
        let mut work = Work::of(&spool).unwrap();
        assert_eq!((work.kernels, work.of_graph, work.work.len()), (2650, 2000, 2800));
        assert_eq!(work.astray(), (0, 0));
        let (correlation, start) = work.work[0];
        let others = work.work.iter().filter(|other| other.0 != correlation).count();
        let of_it = (work.work.len() - others) as u64;
        work.calls.insert(correlation, (1, start + 1));
        assert_eq!(work.astray(), (0, of_it));
        work.calls.insert(correlation, (2, start));
        assert_eq!(work.astray(), (of_it, 0));
        work.calls.clear();
        assert_eq!(work.astray(), (2800, 0));
    }
}
