//! Folded stacks: a line for each stack, for flame graphs.
//!
//! `worker;thread;outermost;…;innermost weight`, worker by worker and thread by thread; the weight
//! is sampled time in microseconds. A `;` in a name becomes `:`. Stacks seen waiting end in `[waiting]`.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use profiler_core::record::Sample;

use crate::capture::{Consumer, Definitions, Place, Worker};
use crate::stacks::{CallTree, FrameNames, StackWeights, thread_title};
use crate::symbolize::SymbolizerOptions;

/// Writes a capture's samples as folded stacks.
#[derive(Debug)]
pub struct FoldedWriter<W> {
    out: W,
    symbols: SymbolizerOptions,
    weights: StackWeights,
}

impl<W: Write> FoldedWriter<W> {
    /// Writes to `out` when the capture's end was seen.
    pub fn new(out: W, symbols: SymbolizerOptions) -> Self {
        Self { out, symbols, weights: StackWeights::default() }
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write> Consumer for FoldedWriter<W> {
    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        self.weights.add(place.worker, rows);
        Ok(())
    }

    fn end(&mut self, workers: &[Worker], definitions: &Definitions) -> io::Result<()> {
        let mut names = FrameNames::new(workers, self.symbols.clone());
        let mut tree = CallTree::default();
        let mut sums: BTreeMap<(usize, u32, u32), u64> = BTreeMap::new();
        for (key, weight) in self.weights.sorted() {
            let node = tree.node(definitions, &mut names, key.stack, key.waiting);
            let sum = sums.entry((key.worker, key.thread, node)).or_default();
            *sum = sum.saturating_add(weight.ns);
        }
        let functions: Vec<String> = tree.functions().iter().map(|f| part(&f.name)).collect();
        let mut out = BufWriter::new(&mut self.out);
        let mut path = Vec::new();
        let mut line = String::new();
        for ((worker, thread, node), ns) in sums {
            // Less than a microsecond would fold to nothing.
            let weight = (ns / 1000).max(1);
            let Some(worker) = workers.iter().find(|known| known.index == worker) else { continue };
            line.clear();
            line.push_str(&part(&worker.title()));
            line.push(';');
            line.push_str(&part(&thread_title(worker, thread)));
            tree.path(node, &mut path);
            for &function in &path {
                line.push(';');
                line.push_str(functions.get(function as usize).map_or("", |name| name));
            }
            writeln!(out, "{line} {weight}")?;
        }
        out.flush()
    }
}

/// A name that neither splits the stack nor the line.
fn part(name: &str) -> String {
    if name.is_empty() {
        return "?".to_owned();
    }
    name.chars()
        .map(|c| match c {
            ';' => ':',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}
