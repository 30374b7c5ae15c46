//! From spools to one stream of rows that exporters read.
//!
//! A [`Capture`] reads the blocks of one or more spools, keeps the rows that belong to the
//! windows, rewrites their ids to those of one set of [`Definitions`], puts their instants on one
//! axis and hands them to a [`Consumer`] block by block, in typed slices. The axis is
//! CLOCK_MONOTONIC of the first worker, in ns.
//!
//! # Which rows belong
//!
//! A row belongs to a window if its launch (the start of the API call with its correlation id;
//! where there is none, its own start) lies in [T0, T1). What a spool says of its windows, it may
//! say after the rows: so a second reader, the survey, looks ahead for the few rows that the
//! others are read by. Of a spool that is still written, rows are read only up to the instant
//! that its writer declared open; the file keeps the rest. A T1 that comes later than that
//! promise ends the reading with [`CaptureError::WindowMoved`], and the caller starts again.

mod definitions;
mod join;
mod launches;
mod pass;
mod reader;
mod rows;
mod source;
mod spool;
mod survey;
mod time;
mod window;
mod worker;

pub use definitions::{Definitions, FrameInfo};
pub use source::{Input, MemorySpool, Origin};
pub use window::WindowSpan;
pub(crate) use worker::DEVICE_FACT;
pub use worker::{
    ClockJoin, DeviceInfo, JoinedBy, LossInfo, ModuleInfo, ProcessInfo, StreamName, ThreadInfo,
    Worker,
};

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use profiler_core::record::{
    ApiCall, Communication, Counter, ExternalCorrelation, Kernel, Marker, Memcpy, Memory, Memset,
    Operator, Overhead, Row, Sample, Span, Step, Synchronization,
};
use profiler_core::sink::{StreamId, StreamInfo};
use profiler_core::spool::SpoolReadError;

use self::reader::WorkerReader;

/// Why a capture could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// There is nothing to read.
    #[error("no spool was given")]
    NoInput,
    /// A spool cannot be read.
    #[error("spool {} cannot be read", path.display())]
    Spool {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SpoolReadError,
    },
    /// The lock that tells whether a spool is still written cannot be asked.
    #[error("cannot tell whether spool {} is still written", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A window ended before rows that were handed out already: start again.
    #[error("window {window} ended {behind_ns} ns before the last row that was read")]
    WindowMoved {
        /// The window.
        window: u32,
        /// How far.
        behind_ns: u64,
    },
    /// The consumer failed.
    #[error("the rows could not be written on")]
    Consumer(#[source] io::Error),
    /// The reading was called off.
    #[error("called off")]
    Cancelled,
}

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CaptureOptions {
    /// Wait for what is still being written.
    pub follow: bool,
    /// Only what belongs after this many ns from the first window's begin.
    pub from_ns: Option<u64>,
    /// Only what belongs before this many ns from the first window's begin.
    pub to_ns: Option<u64>,
}

/// Where rows come from.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Place<'a> {
    /// The worker.
    pub worker: &'a Worker,
    /// The stream in its spool.
    pub stream: StreamId,
    /// What is known of the stream.
    pub info: &'a StreamInfo,
    /// What the ids in the rows mean.
    pub definitions: &'a Definitions,
    /// The heap that the rows' [`profiler_core::record::HeapRef`]s point into.
    pub heap: &'a [u8],
    /// No row of this worker that comes later begins before this instant, as far as is known: a row
    /// may reach a growing spool later than its writer promises, and of a spool with tens of
    /// thousands of blocks not all heads were seen.
    pub settled_until: u64,
}

/// Takes the rows of a capture.
///
/// Rows of one call are of one worker, stream and kind. Their ids are the capture's, their
/// instants lie on its axis; a row that was unfinished ends at its window's end and carries
/// `flag::UNFINISHED` where it has flags. The order is mostly by time; how far it is kept says
/// [`Place::settled_until`].
#[expect(unused_variables, reason = "what a consumer does not want, it ignores")]
pub trait Consumer {
    /// Before the first row. Of a spool that is still written, more will be known at the end.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn begin(&mut self, workers: &[Worker]) -> io::Result<()> {
        Ok(())
    }
    /// Kernels.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn kernels(&mut self, place: &Place<'_>, rows: &[Kernel]) -> io::Result<()> {
        Ok(())
    }
    /// Copies.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn memcpys(&mut self, place: &Place<'_>, rows: &[Memcpy]) -> io::Result<()> {
        Ok(())
    }
    /// Memsets.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn memsets(&mut self, place: &Place<'_>, rows: &[Memset]) -> io::Result<()> {
        Ok(())
    }
    /// Allocations and frees.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn memory(&mut self, place: &Place<'_>, rows: &[Memory]) -> io::Result<()> {
        Ok(())
    }
    /// Communication.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn communications(&mut self, place: &Place<'_>, rows: &[Communication]) -> io::Result<()> {
        Ok(())
    }
    /// Calls of a vendor's API.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn api_calls(&mut self, place: &Place<'_>, rows: &[ApiCall]) -> io::Result<()> {
        Ok(())
    }
    /// Waits for a device.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn synchronizations(&mut self, place: &Place<'_>, rows: &[Synchronization]) -> io::Result<()> {
        Ok(())
    }
    /// Overheads.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn overheads(&mut self, place: &Place<'_>, rows: &[Overhead]) -> io::Result<()> {
        Ok(())
    }
    /// Operators.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn operators(&mut self, place: &Place<'_>, rows: &[Operator]) -> io::Result<()> {
        Ok(())
    }
    /// Spans.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn spans(&mut self, place: &Place<'_>, rows: &[Span]) -> io::Result<()> {
        Ok(())
    }
    /// Markers.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn markers(&mut self, place: &Place<'_>, rows: &[Marker]) -> io::Result<()> {
        Ok(())
    }
    /// Counter values.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn counters(&mut self, place: &Place<'_>, rows: &[Counter]) -> io::Result<()> {
        Ok(())
    }
    /// Sampled stacks.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        Ok(())
    }
    /// Ties between correlation ids and ids of another layer.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn external_correlations(
        &mut self,
        place: &Place<'_>,
        rows: &[ExternalCorrelation],
    ) -> io::Result<()> {
        Ok(())
    }
    /// Steps.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn steps(&mut self, place: &Place<'_>, rows: &[Step]) -> io::Result<()> {
        Ok(())
    }
    /// After the last row of one worker: none of it follows, others' rows may.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn worker_end(
        &mut self,
        worker: usize,
        workers: &[Worker],
        definitions: &Definitions,
    ) -> io::Result<()> {
        Ok(())
    }
    /// After the last row.
    ///
    /// # Errors
    ///
    /// Any ends the reading.
    fn end(&mut self, workers: &[Worker], definitions: &Definitions) -> io::Result<()> {
        Ok(())
    }
}

/// Called now and then while reading; `false` calls the reading off.
pub type Progress<'a> = dyn FnMut(&Counts) -> bool + 'a;

/// What became of the rows that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Rows handed out, by the name of their kind.
    pub rows: BTreeMap<&'static str, u64>,
    /// Rows outside every window.
    pub outside_window: u64,
    /// Rows of a warm-up.
    pub warmup: u64,
    /// Instants moved so that no row ends before it starts or starts before its launch.
    pub clamped: u64,
    /// Rows whose clock cannot be mapped.
    pub unmapped: u64,
    /// Rows of kinds that this build does not know.
    pub unknown: u64,
    /// Blocks or segments that were damaged.
    pub damaged: u64,
    /// Rows that the writers did not keep, by cause.
    pub lost: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Rows handed out.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.rows.values().sum()
    }
}

/// Spools, opened and joined.
pub struct Capture {
    options: CaptureOptions,
    readers: Vec<WorkerReader>,
    workers: Vec<Worker>,
    definitions: Definitions,
    counts: Counts,
}

/// How long a reader that follows sleeps before it looks again.
const FOLLOW_PAUSE: Duration = Duration::from_millis(20);
/// How many blocks lie between two calls of progress reports.
const PROCEED_BLOCKS: u64 = 64;

impl Capture {
    /// Opens spools and looks what they say of themselves.
    ///
    /// # Errors
    ///
    /// [`CaptureError`] where one cannot be read.
    pub fn open(
        inputs: impl IntoIterator<Item = impl Into<Input>>,
        options: CaptureOptions,
    ) -> Result<Self, CaptureError> {
        Self::open_with(inputs, options, &mut |_| true)
    }

    /// As [`Capture::open`]; while it waits for spools that have no window yet, `progress` is
    /// asked.
    ///
    /// # Errors
    ///
    /// As [`Capture::open`]; [`CaptureError::Cancelled`] where `progress` says so.
    pub fn open_with(
        inputs: impl IntoIterator<Item = impl Into<Input>>,
        options: CaptureOptions,
        progress: &mut Progress<'_>,
    ) -> Result<Self, CaptureError> {
        let nothing_yet = Counts::default();
        let mut readers = Vec::new();
        for input in inputs {
            readers.push(WorkerReader::open(input.into())?);
        }
        if readers.is_empty() {
            return Err(CaptureError::NoInput);
        }
        readers.sort_by(|a, b| reader::order(a.origin()).cmp(&reader::order(b.origin())));
        for reader in &mut readers {
            reader.poll()?;
            while options.follow && !reader.can_be_joined() && reader.may_grow()? {
                if !progress(&nothing_yet) {
                    return Err(CaptureError::Cancelled);
                }
                std::thread::sleep(FOLLOW_PAUSE);
                reader.poll()?;
            }
            if !options.follow {
                reader.end_survey();
            }
        }
        let workers = join::join(&mut readers, options);
        Ok(Self {
            options,
            readers,
            workers,
            definitions: Definitions::default(),
            counts: Counts::default(),
        })
    }

    /// The workers, stage by stage, replica by replica, rank by rank.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// What the ids in rows mean, as far as rows were read.
    #[must_use]
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// What became of the rows that were read so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Reads everything and hands it to `consumer`.
    ///
    /// # Errors
    ///
    /// [`CaptureError::WindowMoved`]: open the capture again and start anew. Others are final.
    pub fn read(&mut self, consumer: &mut dyn Consumer) -> Result<(), CaptureError> {
        self.read_with(consumer, &mut |_| true)
    }

    /// As [`Capture::read`], and says now and then how far it is.
    ///
    /// # Errors
    ///
    /// As [`Capture::read`]; [`CaptureError::Cancelled`] where `progress` says so.
    pub fn read_with(
        &mut self,
        consumer: &mut dyn Consumer,
        progress: &mut Progress<'_>,
    ) -> Result<(), CaptureError> {
        consumer.begin(&self.workers).map_err(CaptureError::Consumer)?;
        if self.options.follow {
            self.read_in_turn(consumer, progress)?;
        } else {
            self.read_one_by_one(consumer, progress)?;
        }
        self.count_left_out();
        consumer.end(&self.workers, &self.definitions).map_err(CaptureError::Consumer)
    }

    fn read_one_by_one(
        &mut self,
        consumer: &mut dyn Consumer,
        progress: &mut Progress<'_>,
    ) -> Result<(), CaptureError> {
        let mut blocks = 0_u64;
        for index in 0..self.readers.len() {
            while self.step(index, u64::MAX, consumer)? {
                blocks += 1;
                if blocks.is_multiple_of(PROCEED_BLOCKS) && !progress(&self.counts) {
                    return Err(CaptureError::Cancelled);
                }
            }
            self.finish(index, consumer)?;
        }
        Ok(())
    }

    /// Reads growing spools together, each as far as its instants can be placed.
    fn read_in_turn(
        &mut self,
        consumer: &mut dyn Consumer,
        progress: &mut Progress<'_>,
    ) -> Result<(), CaptureError> {
        let mut open: Vec<usize> = (0..self.readers.len()).collect();
        while !open.is_empty() {
            let mut moved = false;
            let mut still_open = Vec::new();
            for index in open {
                // Asked before the last look: what was written until then is seen by it.
                let growing = self.readers[index].may_grow()?;
                self.refresh(index)?;
                let limit = match growing && !self.readers[index].survey_is_closed() {
                    true => self.readers[index].placed_until(),
                    false => u64::MAX,
                };
                let mut blocks = 0;
                while blocks < PROCEED_BLOCKS && self.step(index, limit, consumer)? {
                    blocks += 1;
                }
                moved |= blocks > 0;
                if limit == u64::MAX && blocks < PROCEED_BLOCKS {
                    self.finish(index, consumer)?;
                } else {
                    still_open.push(index);
                }
            }
            open = still_open;
            if !progress(&self.counts) {
                return Err(CaptureError::Cancelled);
            }
            if !moved && !open.is_empty() {
                std::thread::sleep(FOLLOW_PAUSE);
            }
        }
        Ok(())
    }

    /// Looks ahead again and takes over what became known.
    fn refresh(&mut self, index: usize) -> Result<(), CaptureError> {
        let reader = &mut self.readers[index];
        reader.poll()?;
        let options = self.options;
        reader.update(&mut self.workers[index], options)
    }

    /// Reads one block; `false` = there is none to read now.
    fn step(
        &mut self,
        index: usize,
        limit: u64,
        consumer: &mut dyn Consumer,
    ) -> Result<bool, CaptureError> {
        let reader = &mut self.readers[index];
        if !reader.advance(limit, &mut self.definitions)? {
            return Ok(false);
        }
        let settled_until = reader.settled_until(limit);
        let mut sink = Delivery {
            worker: &self.workers[index],
            definitions: &self.definitions,
            counts: &mut self.counts,
            consumer,
            settled_until,
        };
        reader.take_block(&mut sink)?;
        Ok(true)
    }

    fn finish(&mut self, index: usize, consumer: &mut dyn Consumer) -> Result<(), CaptureError> {
        self.refresh(index)?;
        let settled_until = self.readers[index].settled_until(u64::MAX);
        let mut sink = Delivery {
            worker: &self.workers[index],
            definitions: &self.definitions,
            counts: &mut self.counts,
            consumer,
            settled_until,
        };
        self.readers[index].end_waiting(&mut sink)?;
        self.readers[index].release();
        consumer.worker_end(index, &self.workers, &self.definitions).map_err(CaptureError::Consumer)
    }

    fn count_left_out(&mut self) {
        for reader in &self.readers {
            let left_out = reader.left_out();
            self.counts.damaged += left_out.damaged;
            self.counts.unknown += left_out.unknown_rows;
        }
        for worker in &self.workers {
            for loss in &worker.losses {
                *self.counts.lost.entry(loss.cause_text()).or_default() += loss.count;
            }
        }
    }
}

/// Where a reader puts what it read.
struct Delivery<'a> {
    worker: &'a Worker,
    definitions: &'a Definitions,
    counts: &'a mut Counts,
    consumer: &'a mut dyn Consumer,
    settled_until: u64,
}

/// Reads rows of `stride` bytes by the prefix that this build knows; what a shorter row lacks is
/// zero.
fn prefix_rows<R: Row>(rows: &[u8], stride: u32, mut take: impl FnMut(R)) {
    let stride = stride as usize;
    if stride == 0 {
        return;
    }
    for bytes in rows.chunks_exact(stride) {
        if let Ok((row, _)) = R::read_from_prefix(bytes) {
            take(row);
            continue;
        }
        let mut row = R::default();
        row.as_mut_bytes()[..stride].copy_from_slice(bytes);
        take(row);
    }
}
