//! A capture in tables: what took how long, by worker and by stage.
//!
//! [`SummaryBuilder`] takes the rows of a capture as they pass and keeps sums alone, so its memory
//! does not grow with the capture: at most [`MAX_NAMES`] names a table and worker (the rest is one
//! line, [`OTHER`]), quantiles from a histogram (within 0.8 %), busy shares from joined intervals
//! ([`MAX_OPEN`] of them at a time).

mod build;
mod by_name;
mod by_stack;
mod coverage;
mod device;
mod distribution;
mod model;
mod nesting;
mod worker;

use std::collections::BTreeMap;
use std::io;

use profiler_core::record::{
    ApiCall, Communication, Counter, Kernel, Memcpy, Memory, Memset, Operator, Overhead, Sample,
    Span, Step, Synchronization,
};

pub use by_name::MAX_NAMES;
pub use coverage::{Coverage, MAX_OPEN};
pub use distribution::Distribution;
pub use model::*;
use worker::{Shapes, WorkerSums};

use crate::capture::{Capture, CaptureError, Consumer, Counts, Definitions, Place, Worker};
use crate::stacks::StackWeights;
use crate::symbolize::SymbolizerOptions;

/// Reads a capture and sums it up.
///
/// # Errors
///
/// The capture's.
pub fn summarize(capture: &mut Capture, options: SummaryOptions) -> Result<Summary, CaptureError> {
    let mut builder = SummaryBuilder::new(options);
    capture.read(&mut builder)?;
    Ok(builder.finish(capture.counts()))
}

/// How to sum up.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SummaryOptions {
    /// How addresses get their names.
    pub symbols: SymbolizerOptions,
}

/// Takes rows and keeps sums.
#[derive(Debug, Default)]
pub struct SummaryBuilder {
    options: SummaryOptions,
    sums: BTreeMap<usize, WorkerSums>,
    shapes: Shapes,
    stacks: StackWeights,
    on_device: device::DeviceTimes,
    buckets: usize,
    summary: Summary,
}

impl SummaryBuilder {
    /// A builder that saw no row yet.
    #[must_use]
    pub fn new(options: SummaryOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// The summary of a capture whose end was seen, with what became of its rows.
    #[must_use]
    pub fn finish(mut self, counts: &Counts) -> Summary {
        let summary = &mut self.summary;
        for (&kind, &count) in &counts.rows {
            summary.rows.insert(kind.to_owned(), count);
        }
        for (what, count) in [
            ("rows were outside the windows", counts.outside_window),
            ("rows belong to a warm-up", counts.warmup),
            ("rows have instants that no clock reading places", counts.unmapped),
            ("rows are of kinds that this build does not know", counts.unknown),
            ("blocks or segments were damaged", counts.damaged),
        ] {
            if count > 0 {
                summary.notes.push(format!("{count} {what}"));
            }
        }
        self.summary
    }

    fn of(&mut self, place: &Place<'_>) -> (&mut WorkerSums, &mut usize, &mut Shapes) {
        let sums = self.sums.entry(place.worker.index).or_default();
        (sums, &mut self.buckets, &mut self.shapes)
    }
}

impl Consumer for SummaryBuilder {
    fn begin(&mut self, workers: &[Worker]) -> io::Result<()> {
        self.on_device.begin(workers)
    }

    fn worker_end(
        &mut self,
        worker: usize,
        workers: &[Worker],
        definitions: &Definitions,
    ) -> io::Result<()> {
        self.on_device.worker_end(worker, workers, definitions)
    }

    fn kernels(&mut self, place: &Place<'_>, rows: &[Kernel]) -> io::Result<()> {
        let (sums, buckets, _) = self.of(place);
        for row in rows {
            sums.kernel(row, buckets);
        }
        self.on_device.rows(rows.len(), |timeline| timeline.kernels(place, rows))
    }

    fn memcpys(&mut self, place: &Place<'_>, rows: &[Memcpy]) -> io::Result<()> {
        let (sums, buckets, _) = self.of(place);
        for row in rows {
            sums.memcpy(row, buckets);
        }
        self.on_device.rows(rows.len(), |timeline| timeline.memcpys(place, rows))
    }

    fn memsets(&mut self, place: &Place<'_>, rows: &[Memset]) -> io::Result<()> {
        let (sums, buckets, _) = self.of(place);
        for row in rows {
            sums.memset(row, buckets);
        }
        self.on_device.rows(rows.len(), |timeline| timeline.memsets(place, rows))
    }

    fn memory(&mut self, place: &Place<'_>, rows: &[Memory]) -> io::Result<()> {
        let (sums, ..) = self.of(place);
        for row in rows {
            sums.memory(row);
        }
        Ok(())
    }

    fn communications(&mut self, place: &Place<'_>, rows: &[Communication]) -> io::Result<()> {
        let (sums, buckets, _) = self.of(place);
        for row in rows {
            sums.communication(row, buckets);
        }
        self.on_device.rows(rows.len(), |timeline| timeline.communications(place, rows))
    }

    fn api_calls(&mut self, place: &Place<'_>, rows: &[ApiCall]) -> io::Result<()> {
        let (sums, buckets, _) = self.of(place);
        for row in rows {
            sums.api_call(row, buckets);
        }
        self.on_device.rows(rows.len(), |timeline| timeline.api_calls(place, rows))
    }

    fn synchronizations(&mut self, place: &Place<'_>, rows: &[Synchronization]) -> io::Result<()> {
        let (sums, buckets, _) = self.of(place);
        for row in rows {
            sums.synchronization(row, buckets);
        }
        Ok(())
    }

    fn overheads(&mut self, place: &Place<'_>, rows: &[Overhead]) -> io::Result<()> {
        let (sums, buckets, _) = self.of(place);
        for row in rows {
            sums.overhead(row, buckets);
        }
        Ok(())
    }

    fn operators(&mut self, place: &Place<'_>, rows: &[Operator]) -> io::Result<()> {
        let (sums, buckets, shapes) = self.of(place);
        for row in rows {
            sums.operator(place.stream, row, place.heap, shapes, buckets);
        }
        self.on_device.operators(place, rows)
    }

    fn spans(&mut self, place: &Place<'_>, rows: &[Span]) -> io::Result<()> {
        let (sums, buckets, _) = self.of(place);
        for row in rows {
            sums.span(place.stream, row, buckets);
        }
        Ok(())
    }

    fn counters(&mut self, place: &Place<'_>, rows: &[Counter]) -> io::Result<()> {
        let (sums, ..) = self.of(place);
        for row in rows {
            sums.counter(row);
        }
        Ok(())
    }

    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        let (sums, ..) = self.of(place);
        for row in rows {
            sums.sample(row);
        }
        self.stacks.add(place.worker, rows);
        let running = || rows.iter().filter(|row| row.state == 0);
        self.on_device.rows(running().count(), |timeline| {
            // Copied only where the timeline has not been given up.
            let running: Vec<Sample> = running().copied().collect();
            timeline.put_samples(place, &running)
        })
    }

    fn steps(&mut self, place: &Place<'_>, rows: &[Step]) -> io::Result<()> {
        let (sums, ..) = self.of(place);
        for row in rows {
            sums.step(row);
        }
        Ok(())
    }

    fn end(&mut self, workers: &[Worker], definitions: &Definitions) -> io::Result<()> {
        let on_device = self.on_device.end(workers, definitions, &mut self.shapes)?;
        let sums = build::Sources {
            sums: &self.sums,
            shapes: &self.shapes,
            weights: &self.stacks,
            on_device: &on_device,
        };
        self.summary = build::build(workers, definitions, &sums, &self.options);
        Ok(())
    }
}
