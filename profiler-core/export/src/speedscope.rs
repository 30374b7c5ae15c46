//! Samples for speedscope: a sampled profile for each thread, in the order of time.
//!
//! Equal stacks in a row are one sample. Of a capture with more than [`MAX_TIMED_SAMPLES`] of them,
//! the rest is summed up by stack and stands at the end of its thread's profile, whose name says
//! so: what is read as a flame graph stays whole, and the file stays small enough to open.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use profiler_core::record::{Sample, StackId};

use crate::capture::{Consumer, Definitions, Place, Worker};
use crate::stacks::{CallTree, FrameNames, thread_title};
use crate::symbolize::SymbolizerOptions;

/// The samples that are kept in the order of time, over all threads.
pub const MAX_TIMED_SAMPLES: usize = 1 << 18;

/// The different stacks that are kept beyond that, over all threads.
const MAX_SUMMED_STACKS: usize = 1 << 18;

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

/// Writes a capture's samples for speedscope.
#[derive(Debug)]
pub struct SpeedscopeWriter<W> {
    out: W,
    symbols: SymbolizerOptions,
    threads: BTreeMap<(usize, u32), Thread>,
    timed: usize,
    summed: usize,
}

#[derive(Debug, Default)]
struct Thread {
    /// Time, stack, weight. In the order of the file.
    samples: Vec<(u64, Seen, u64)>,
    rest: BTreeMap<Seen, u64>,
}

type Seen = (StackId, bool);

impl<W: Write> SpeedscopeWriter<W> {
    /// Writes to `out` when the capture's end was seen.
    pub fn new(out: W, symbols: SymbolizerOptions) -> Self {
        Self { out, symbols, threads: BTreeMap::new(), timed: 0, summed: 0 }
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn add(&mut self, worker: usize, sample: &Sample) {
        let thread = self.threads.entry((worker, sample.thread)).or_default();
        let seen = (sample.stack, sample.state == 1);
        match thread.samples.last_mut() {
            Some((at, last, weight))
                if *last == seen && *at <= sample.time && thread.rest.is_empty() =>
            {
                *weight = weight.saturating_add(sample.weight_ns);
            }
            _ if self.timed < MAX_TIMED_SAMPLES => {
                self.timed += 1;
                thread.samples.push((sample.time, seen, sample.weight_ns));
            }
            _ => {
                let known = thread.rest.contains_key(&seen);
                let seen = if known || self.summed < MAX_SUMMED_STACKS {
                    seen
                } else {
                    (StackId::NONE, seen.1)
                };
                self.summed += usize::from(!known);
                let sum = thread.rest.entry(seen).or_default();
                *sum = sum.saturating_add(sample.weight_ns);
            }
        }
    }
}

impl<W: Write> Consumer for SpeedscopeWriter<W> {
    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        for row in rows {
            self.add(place.worker.index, row);
        }
        Ok(())
    }

    fn end(&mut self, workers: &[Worker], definitions: &Definitions) -> io::Result<()> {
        let mut names = FrameNames::new(workers, self.symbols.clone());
        let mut tree = CallTree::default();
        let mut out = BufWriter::new(&mut self.out);
        let name = workers.first().map(|worker| worker.session.as_str()).unwrap_or_default();
        write!(out, "{{\"$schema\":\"{SCHEMA}\",\"name\":")?;
        string(&mut out, name)?;
        write!(out, ",\"exporter\":\"omniprof {}\"", env!("CARGO_PKG_VERSION"))?;
        write!(out, ",\"activeProfileIndex\":0,\"profiles\":[")?;
        let mut first = true;
        for (&(worker, thread), samples) in &mut self.threads {
            let Some(worker) = workers.iter().find(|known| known.index == worker) else { continue };
            if !std::mem::take(&mut first) {
                out.write_all(b",")?;
            }
            let mut title = format!("{}: {}", worker.title(), thread_title(worker, thread));
            if !samples.rest.is_empty() {
                title.push_str(" (later samples by stack, not by time)");
            }
            // Blocks may come a little out of order.
            samples.samples.sort_by_key(|&(at, ..)| at);
            let sums = samples.rest.iter().map(|(&seen, &weight)| (seen, weight));
            let timed = samples.samples.iter().map(|&(_, seen, weight)| (seen, weight));
            let nodes: Vec<(u32, u64)> = timed
                .chain(sums)
                .map(|((stack, waiting), weight)| {
                    (tree.node(definitions, &mut names, stack, waiting), weight)
                })
                .collect();
            profile(&mut out, &title, &nodes, &tree)?;
        }
        write!(out, "],\"shared\":{{\"frames\":[")?;
        for (index, function) in tree.functions().iter().enumerate() {
            if index > 0 {
                out.write_all(b",")?;
            }
            write!(out, "{{\"name\":")?;
            string(&mut out, &function.name)?;
            if !function.file.is_empty() {
                write!(out, ",\"file\":")?;
                string(&mut out, &function.file)?;
            }
            out.write_all(b"}")?;
        }
        out.write_all(b"]}}")?;
        out.flush()
    }
}

fn profile(
    out: &mut impl Write,
    title: &str,
    nodes: &[(u32, u64)],
    tree: &CallTree,
) -> io::Result<()> {
    write!(out, "{{\"type\":\"sampled\",\"name\":")?;
    string(out, title)?;
    let end = nodes.iter().map(|&(_, weight)| weight).fold(0, u64::saturating_add);
    write!(out, ",\"unit\":\"nanoseconds\",\"startValue\":0,\"endValue\":{end},\"samples\":[")?;
    let mut path = Vec::new();
    let mut digits = itoa::Buffer::new();
    for (index, &(node, _)) in nodes.iter().enumerate() {
        out.write_all(if index > 0 { b",[" } else { b"[" })?;
        tree.path(node, &mut path);
        for (depth, &function) in path.iter().enumerate() {
            if depth > 0 {
                out.write_all(b",")?;
            }
            out.write_all(digits.format(function).as_bytes())?;
        }
        out.write_all(b"]")?;
    }
    write!(out, "],\"weights\":[")?;
    for (index, &(_, weight)) in nodes.iter().enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        out.write_all(digits.format(weight).as_bytes())?;
    }
    out.write_all(b"]}")
}

fn string(out: &mut impl Write, text: &str) -> io::Result<()> {
    serde_json::to_writer(out, text).map_err(io::Error::other)
}
