//! One spool: the survey ahead, and the rows behind it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use profiler_core::clock::ClockDomain;
use profiler_core::record::{
    ApiCall, ClockTuple, Communication, Counter, ExternalCorrelation, GraphNodeDef, Kernel,
    LaunchConfigDef, LossCause, Marker, Memcpy, Memory, Memset, Operator, Overhead, RecordKind,
    Row as _, Sample, Span, StackDef, Step, StringDef, Synchronization,
};
use profiler_core::sink::{StreamId, StreamInfo};

use super::definitions::{Definitions, StreamIds, define};
use super::launches::Launches;
use super::pass::{Pass, StreamState, count_outside, deliver, fit};
use super::rows::{CaptureRow, Waiting};
use super::source::{BlockHead, BlockSource, Input, LeftOut, Origin};
use super::survey::Survey;
use super::time::TimeMap;
use super::window::{Belongs, Windows};
use super::worker::{ClockJoin, JoinedBy, LossInfo, Worker};
use super::{CaptureError, CaptureOptions, Delivery, WindowSpan};

/// One spool being read.
pub(super) struct WorkerReader {
    index: usize,
    path: Option<PathBuf>,
    input: Input,
    origin: Origin,
    /// Opened at the first row, and given up after the last.
    source: Option<Box<dyn BlockSource>>,
    /// Given up when nothing more can be surveyed.
    ahead: Option<Box<dyn BlockSource>>,
    is_closed: bool,
    left_out: LeftOut,
    survey: Survey,
    /// The survey's version that `windows`, the maps and the worker were made from.
    taken_version: u64,
    shift: i64,
    clock: ClockJoin,
    slice: Option<(u64, u64)>,
    spans: Vec<WindowSpan>,
    windows: Windows,
    streams: BTreeMap<u32, StreamState>,
    launches: Launches,
    waiting: Waiting,
    /// Blocks that were skimmed and not read yet, by where their first instants lie, then by
    /// their order in the file.
    pending: BTreeMap<(u64, u64), Pending>,
    skimmed: u64,
    last_key: u64,
    /// The latest instant handed out since the newest window was known to be open.
    handed_out: u64,
    scratch: Vec<u64>,
    /// Where the block that was loaded begins.
    began: u64,
    /// The earliest start of a row that waits for its launch; none waits = the last instant.
    held: u64,
}

/// A block that was skimmed.
struct Pending {
    head: BlockHead,
    /// The survey's version by which its instants were placed.
    version: u64,
}

/// Blocks that are looked at before the first of them is read.
const MAX_PENDING: usize = 1 << 14;
/// How late the rows of a growing spool may be handed over after the fact.
const LAG_NS: u64 = 750_000_000;
/// How long rows may wait for their launch while later ones are read: of some it was before the
/// capture, of others it is not recorded at all.
const HOLD_NS: u64 = 1_000_000_000;
/// Rows that may wait for their launch, of each kind.
const MAX_WAITING: usize = 32 * 1024;

/// The order of workers: stage by stage, replica by replica, rank by rank.
pub(super) fn order(origin: &Origin) -> (u32, u32, u32, &str, &str, u32, &str) {
    let worker = &origin.worker;
    let known = |number: Option<u32>| number.unwrap_or(u32::MAX);
    (
        known(worker.stage),
        known(worker.replica),
        known(worker.rank),
        worker.role.as_deref().unwrap_or(""),
        &worker.host,
        worker.pid,
        &worker.key,
    )
}

fn is_row(kind: RecordKind) -> bool {
    [
        Kernel::KIND,
        ApiCall::KIND,
        Memcpy::KIND,
        Memset::KIND,
        Memory::KIND,
        Communication::KIND,
        Synchronization::KIND,
        Overhead::KIND,
        Operator::KIND,
        Span::KIND,
        Marker::KIND,
        Counter::KIND,
        Sample::KIND,
        ExternalCorrelation::KIND,
        Step::KIND,
    ]
    .contains(&kind)
}

fn is_definition(kind: RecordKind) -> bool {
    [StringDef::KIND, StackDef::KIND, LaunchConfigDef::KIND, GraphNodeDef::KIND].contains(&kind)
}

impl WorkerReader {
    pub(super) fn open(input: Input) -> Result<Self, CaptureError> {
        let path = match &input {
            Input::Spool(path) => Some(path.clone()),
            Input::Memory(_) => None,
        };
        let ahead = input.open()?;
        Ok(Self {
            index: 0,
            path,
            origin: ahead.origin().clone(),
            input,
            source: None,
            ahead: Some(ahead),
            is_closed: false,
            left_out: LeftOut::default(),
            survey: Survey::default(),
            taken_version: 0,
            shift: 0,
            clock: ClockJoin {
                by: JoinedBy::Monotonic,
                error_ns: 0,
                realtime_offset_ns: 0,
                boottime_offset_ns: 0,
            },
            slice: None,
            spans: Vec::new(),
            windows: Windows::default(),
            streams: BTreeMap::new(),
            launches: Launches::default(),
            waiting: Waiting::default(),
            pending: BTreeMap::new(),
            skimmed: 0,
            last_key: 0,
            handed_out: 0,
            scratch: Vec::new(),
            began: 0,
            held: u64::MAX,
        })
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn poll(&mut self) -> Result<(), CaptureError> {
        let Some(ahead) = &mut self.ahead else { return Ok(()) };
        self.survey.poll(ahead.as_mut())?;
        self.is_closed = ahead.is_closed();
        Ok(())
    }

    /// Gives up the reader that looks ahead: all was seen.
    pub(super) fn end_survey(&mut self) {
        self.ahead = None;
    }

    /// Gives up what only further rows would need.
    pub(super) fn release(&mut self) {
        if let Some(source) = self.source.take() {
            self.left_out = source.left_out();
        }
        self.ahead = None;
        self.pending.clear();
        self.streams.clear();
        self.launches = Launches::default();
        self.waiting = Waiting::default();
        self.scratch = Vec::new();
    }

    fn source(&mut self) -> Result<&mut dyn BlockSource, CaptureError> {
        if self.source.is_none() {
            self.source = Some(self.input.open()?);
        }
        match &mut self.source {
            Some(source) => Ok(source.as_mut()),
            None => unreachable!("opened above"),
        }
    }

    /// Whether somebody may still write what matters.
    pub(super) fn may_grow(&self) -> Result<bool, CaptureError> {
        match &self.ahead {
            Some(ahead) if !self.is_closed => ahead.writer_alive(),
            _ => Ok(false),
        }
    }

    pub(super) fn survey_is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether enough is known to put this worker beside others: a window began, and a clock
    /// tuple lies behind its beginning.
    pub(super) fn can_be_joined(&self) -> bool {
        match (self.survey.windows.first(), self.survey.tuples.last()) {
            (Some(begin), Some(tuple)) => begin <= tuple.monotonic,
            _ => false,
        }
    }

    pub(super) fn placed_until(&self) -> u64 {
        self.survey.placed_until().saturating_add_signed(self.shift)
    }

    pub(super) fn left_out(&self) -> LeftOut {
        self.source.as_ref().map_or(self.left_out, |source| source.left_out())
    }

    pub(super) fn first_window(&self) -> Option<u64> {
        self.survey.windows.first()
    }

    pub(super) fn clock_error_ns(&self) -> u64 {
        self.tuples().iter().map(|t| u64::from(t.error_ns)).max().unwrap_or(0)
    }

    /// The tuple nearest to the first window's begin.
    pub(super) fn reference_tuple(&self) -> ClockTuple {
        let begin = self.survey.windows.first().unwrap_or(0);
        self.tuples()
            .into_iter()
            .filter(|t| t.realtime != 0)
            .min_by_key(|t| t.monotonic.abs_diff(begin))
            .unwrap_or_default()
    }

    /// The clock tuples, or what comes nearest to one where the spool has none.
    fn tuples(&self) -> Vec<ClockTuple> {
        if !self.survey.tuples.is_empty() {
            return self.survey.tuples.clone();
        }
        let created = self.origin.created;
        if created.monotonic_ns == 0 {
            return Vec::new();
        }
        vec![ClockTuple {
            monotonic: created.monotonic_ns,
            realtime: created.realtime_ns,
            ..ClockTuple::default()
        }]
    }

    pub(super) fn join(&mut self, shift: i64, clock: ClockJoin) {
        self.shift = shift;
        self.clock = clock;
    }

    pub(super) fn describe(&mut self, index: usize, slice: Option<(u64, u64)>) -> Worker {
        self.index = index;
        self.slice = slice;
        let origin = &self.origin;
        let mut worker = Worker {
            index,
            spool: self.path.clone(),
            session: origin.session.clone(),
            prefix: origin.prefix.clone(),
            identity: origin.worker.clone(),
            writer: origin.writer.clone(),
            facts: BTreeMap::new(),
            windows: Vec::new(),
            end: 0,
            complete: false,
            losses: Vec::new(),
            modules: Vec::new(),
            threads: BTreeMap::new(),
            processes: BTreeMap::new(),
            devices: BTreeMap::new(),
            contexts: BTreeMap::new(),
            stream_names: BTreeMap::new(),
            clock: self.clock,
        };
        self.take_over(&mut worker);
        worker
    }

    /// Takes over what the survey found since the last time.
    pub(super) fn update(
        &mut self,
        worker: &mut Worker,
        _options: CaptureOptions,
    ) -> Result<(), CaptureError> {
        worker.complete = self.is_closed;
        if self.taken_version == self.survey.version {
            return Ok(());
        }
        let open = self.spans.iter().find(|span| span.end.is_none()).copied();
        self.take_over(worker);
        let Some(open) = open else { return Ok(()) };
        let Some(now) = self.spans.iter().find(|span| span.window == open.window) else {
            return Ok(());
        };
        let Some(end) = now.end else { return Ok(()) };
        if end <= self.handed_out {
            return Err(CaptureError::WindowMoved {
                window: open.window,
                behind_ns: self.handed_out - end,
            });
        }
        self.handed_out = 0;
        Ok(())
    }

    fn take_over(&mut self, worker: &mut Worker) {
        self.taken_version = self.survey.version;
        self.spans = self.survey.windows.spans(self.shift);
        self.windows = Windows::new(&self.spans, self.slice);
        let survey = &self.survey;
        worker.facts.clone_from(&survey.facts);
        worker.windows.clone_from(&self.spans);
        let newest = survey.newest().saturating_add_signed(self.shift);
        worker.end = match self.spans.iter().any(|span| span.end.is_none()) {
            true => newest,
            false => self.spans.iter().filter_map(|span| span.end).max().unwrap_or(newest),
        };
        worker.complete = self.is_closed;
        worker.modules = survey.modules.iter().cloned().collect();
        worker.threads.clone_from(&survey.threads);
        worker.processes.clone_from(&survey.processes);
        worker.devices.clone_from(&survey.devices);
        worker.contexts.clone_from(&survey.contexts);
        worker.stream_names.clone_from(&survey.stream_names);
        let tuples = self.tuples();
        let mut maps: BTreeMap<(u16, u32), TimeMap> = BTreeMap::new();
        worker.losses = survey
            .losses
            .iter()
            .map(|(domain, stream, row)| {
                let map = maps
                    .entry((domain.number(), *stream))
                    .or_insert_with(|| TimeMap::new(*domain, *stream, &tuples, self.shift));
                LossInfo {
                    from: map.map(row.from),
                    to: map.map(row.to),
                    count: row.count,
                    kind: (row.kind != 0).then_some(RecordKind(row.kind)),
                    cause: LossCause::from_number(row.cause),
                }
            })
            .collect();
    }

    /// Goes on to the block that comes next by time and lies before `limit`; `false` = none now.
    ///
    /// Producers hand over their rows at different times after the fact. Read by time and not in
    /// the order of the file, rows of different streams come nearly in the order in which things
    /// happened.
    pub(super) fn advance(
        &mut self,
        limit: u64,
        definitions: &mut Definitions,
    ) -> Result<bool, CaptureError> {
        loop {
            self.skim(definitions)?;
            let Some((&key, next)) = self.pending.first_key_value() else { return Ok(false) };
            if limit != u64::MAX && !self.is_due(key.0, &next.head, limit) {
                return Ok(false);
            }
            let Some(next) = self.pending.remove(&key) else { return Ok(false) };
            if !self.source()?.load(&next.head)? {
                continue;
            }
            self.began = key.0;
            // Where a clock was set back its readings come twice; which one a block means was
            // seen when it was skimmed, among its neighbours in the file.
            if next.version == self.survey.version {
                self.stream(next.head.stream).map.expect(key.0);
            }
            return Ok(true);
        }
    }

    /// No row that is handed out after the loaded block begins before this instant.
    pub(super) fn settled_until(&self, limit: u64) -> u64 {
        let read = self.pending.first_key_value().map_or(u64::MAX, |(key, _)| key.0);
        // Of a growing spool, what was not written yet begins behind what is due.
        let next = match limit {
            u64::MAX => read,
            _ => read.min(limit.saturating_sub(LAG_NS)),
        };
        next.min(self.held)
    }

    /// Whether all rows of a growing spool that belong before a block are known.
    fn is_due(&self, first: u64, head: &BlockHead, limit: u64) -> bool {
        let map = self.streams.get(&head.stream.0).map(|stream| &stream.map);
        let last = map.map_or(0, |map| map.probe(head.last_time, first));
        last < limit && first.saturating_add(LAG_NS) < limit
    }

    /// Looks at the heads of further blocks, and takes definitions at once.
    fn skim(&mut self, definitions: &mut Definitions) -> Result<(), CaptureError> {
        while self.pending.len() < MAX_PENDING {
            let Some(head) = self.source()?.skim()? else { return Ok(()) };
            self.skimmed += 1;
            if is_definition(head.kind) {
                if self.source()?.load(&head)? {
                    self.define(definitions);
                }
                continue;
            }
            if !is_row(head.kind) {
                continue;
            }
            let version = self.survey.version;
            let stream = self.stream(head.stream);
            // Rows without instants stay beside their neighbours.
            let known = match head.first_time {
                0 => 0,
                first => stream.map.probe(first, stream.skimmed),
            };
            if known != 0 {
                stream.skimmed = known;
                self.last_key = known;
            }
            self.pending.insert((self.last_key, self.skimmed), Pending { head, version });
        }
        Ok(())
    }

    /// What is known of a stream, with its map made of the newest clock tuples.
    fn stream(&mut self, id: StreamId) -> &mut StreamState {
        let version = self.survey.version;
        let is_fresh = self.streams.get(&id.0).is_some_and(|state| state.map_version == version);
        if !is_fresh {
            let known = self.source.as_ref().and_then(|source| source.stream(id)).cloned();
            let info = known.unwrap_or_else(|| StreamInfo {
                producer: "unknown".to_owned(),
                thread: 0,
                clock: ClockDomain::Monotonic,
            });
            let map = TimeMap::new(info.clock, id.0, &self.tuples(), self.shift);
            let state = self.streams.entry(id.0).or_insert_with(|| StreamState {
                info,
                ids: StreamIds::default(),
                map: TimeMap::default(),
                map_version: 0,
                skimmed: 0,
            });
            let before = std::mem::replace(&mut state.map, map);
            state.map.resume(&before);
            state.map_version = version;
        }
        self.streams.entry(id.0).or_insert_with(|| unreachable!("inserted above"))
    }

    fn define(&mut self, definitions: &mut Definitions) {
        let loaded = self.source.as_ref().and_then(|source| source.block());
        let Some(id) = loaded.map(|block| block.stream) else { return };
        self.stream(id);
        let Some(block) = self.source.as_ref().and_then(|source| source.block()) else { return };
        let Some(stream) = self.streams.get_mut(&block.stream.0) else { return };
        define(&block, &mut stream.ids, self.index, definitions);
    }

    /// Hands out the rows of the block that was loaded.
    pub(super) fn take_block(&mut self, sink: &mut Delivery<'_>) -> Result<(), CaptureError> {
        let loaded = self.source.as_ref().and_then(|source| source.block());
        let Some((id, kind)) = loaded.map(|block| (block.stream, block.kind)) else {
            return Ok(());
        };
        self.stream(id);
        let Self { source, streams, windows, launches, waiting, scratch, handed_out, held, .. } =
            self;
        let Some(block) = source.as_ref().and_then(|source| source.block()) else {
            return Ok(());
        };
        let Some(stream) = streams.get_mut(&id.0) else { return Ok(()) };
        let mut pass =
            Pass { block, stream, windows, launches, waiting, scratch, handed_out, held, sink };
        match kind {
            Kernel::KIND => pass.take::<Kernel>(),
            ApiCall::KIND => pass.take::<ApiCall>(),
            Memcpy::KIND => pass.take::<Memcpy>(),
            Memset::KIND => pass.take::<Memset>(),
            Memory::KIND => pass.take::<Memory>(),
            Communication::KIND => pass.take::<Communication>(),
            Synchronization::KIND => pass.take::<Synchronization>(),
            Overhead::KIND => pass.take::<Overhead>(),
            Operator::KIND => pass.take::<Operator>(),
            Span::KIND => pass.take::<Span>(),
            Marker::KIND => pass.take::<Marker>(),
            Counter::KIND => pass.take::<Counter>(),
            Sample::KIND => pass.take::<Sample>(),
            ExternalCorrelation::KIND => pass.take::<ExternalCorrelation>(),
            Step::KIND => pass.take::<Step>(),
            _ => Ok(()),
        }?;
        // Seldom, for all that waits is looked at.
        let is_old = self.held.saturating_add(HOLD_NS / 2 * 3) < self.began;
        if kind != ApiCall::KIND && !is_old && self.waiting.longest() <= MAX_WAITING {
            return Ok(());
        }
        let until = self.began.saturating_sub(HOLD_NS);
        self.take_waiting(sink, until.max(self.waiting.crowded_until(MAX_WAITING)), MAX_WAITING)
    }

    /// Hands out what waits for launches, all that there will be.
    pub(super) fn end_waiting(&mut self, sink: &mut Delivery<'_>) -> Result<(), CaptureError> {
        self.take_waiting(sink, u64::MAX, 0)
    }

    /// Hands out the rows whose launch was read since. Of the others those that start until then are
    /// judged by their own start: of all kinds, since they may share a track. Rows without a start
    /// are given up where there are more than `keep`.
    fn take_waiting(
        &mut self,
        sink: &mut Delivery<'_>,
        until: u64,
        keep: usize,
    ) -> Result<(), CaptureError> {
        self.settle::<Kernel>(sink, until, keep)?;
        self.settle::<Memcpy>(sink, until, keep)?;
        self.settle::<Memset>(sink, until, keep)?;
        self.settle::<Memory>(sink, until, keep)?;
        self.settle::<Communication>(sink, until, keep)?;
        self.settle::<Synchronization>(sink, until, keep)?;
        self.settle::<Overhead>(sink, until, keep)?;
        self.settle::<ExternalCorrelation>(sink, until, keep)?;
        self.held = self.waiting.first_start().unwrap_or(u64::MAX);
        Ok(())
    }

    fn settle<R: CaptureRow>(
        &mut self,
        sink: &mut Delivery<'_>,
        until: u64,
        keep: usize,
    ) -> Result<(), CaptureError> {
        let Some(rows) = R::waiting(&mut self.waiting) else { return Ok(()) };
        if rows.is_empty() {
            return Ok(());
        }
        let mut taken = std::mem::take(rows);
        let mut left = Vec::new();
        let forced = if taken.len() > keep { taken.len() - keep / 2 } else { 0 };
        let mut ready: BTreeMap<u32, Vec<R>> = BTreeMap::new();
        for (index, waiting) in taken.drain(..).enumerate() {
            let (stream, mut row) = waiting;
            let belongs = match self.launches.belongs(row.correlation()) {
                Some(belongs) => belongs,
                None if R::HAS_OWN_TIME && row.start() <= until => self.windows.place(row.start()),
                None if !R::HAS_OWN_TIME && index < forced => Belongs::Outside,
                None => {
                    left.push((stream, row));
                    continue;
                }
            };
            if count_outside(belongs, sink.counts) {
                continue;
            }
            fit(&mut row, &self.launches, &self.windows, sink);
            self.handed_out = self.handed_out.max(row.start());
            ready.entry(stream.0).or_default().push(row);
        }
        if let Some(rows) = R::waiting(&mut self.waiting) {
            *rows = left;
        }
        for (id, rows) in ready {
            let Some(stream) = self.streams.get(&id) else { continue };
            deliver(sink, StreamId(id), &stream.info, &[], &rows)?;
        }
        Ok(())
    }
}
