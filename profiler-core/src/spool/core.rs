//! What the writer's thread does: gathers rows into blocks and appends them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::record::{Fact, HeapRef, LossCause, RecordKind, Row as _};
use crate::sink::{Batch, Loss, StreamId, StreamInfo};
use crate::spool::format::{BlockHeader, FLAG_REPEATED, block_type};
use crate::spool::gathered::{BLOCK_HEAP_BYTES, Gathered, first_times};
use crate::spool::kept::{Kept, Repeats};
use crate::spool::layout::{Layout, columns};
use crate::spool::output::Output;
use crate::spool::packer::Packer;
use crate::spool::progress::{LossCounts, SpoolEnd};
use crate::spool::sink::{News, Shared, is_opaque, read_batches};
use crate::spool::{SpoolHeader, SpoolOptions};

/// Rows that wait for their block to fill, over all streams and kinds.
const GATHERED_BYTES: usize = 8 << 20;
/// A stream whose blocks are smaller gives their memory back.
const IDLE_BYTES: usize = 64 << 10;
/// What a stream takes in the writer's list and in that of the producers.
const STREAM_BYTES: usize = 2 * (size_of::<StreamInfo>() + 32);
/// Segments that the footer lists; longer files are walked.
const MAX_FOOTER_SEGMENTS: usize = 1024;

/// The state of a spool that is being written.
pub(super) struct Core {
    shared: Arc<Shared>,
    output: Output,
    packer: Packer,
    header: SpoolHeader,
    options: Limits,
    gathered: BTreeMap<(u32, RecordKind), Gathered>,
    gathered_bytes: usize,
    kept: Kept,
    streams: Vec<StreamInfo>,
    segment: u32,
    segment_begin: u64,
    segments: Vec<u64>,
    sequence: u64,
    rows: BTreeMap<RecordKind, u64>,
    taken_bytes: u64,
    most_bytes: usize,
    end: Option<SpoolEnd>,
    has_footer: bool,
}

struct Limits {
    block_rows: usize,
    block_age: Duration,
    segment_bytes: u64,
}

impl Core {
    /// Writes the file's beginning.
    pub(super) fn begin(
        shared: Arc<Shared>,
        mut output: Output,
        header: &SpoolHeader,
        preamble: &[u8],
        options: &SpoolOptions,
    ) -> Result<Self, SpoolEnd> {
        output.append(preamble)?;
        let streams = shared.news(0).streams.into_iter().map(|(_, info)| info).collect();
        let mut core = Self {
            shared,
            segment_begin: output.position(),
            output,
            packer: Packer::new(),
            header: header.clone(),
            options: Limits {
                block_rows: options.block_rows.clamp(1, crate::spool::format::MAX_BLOCK_ROWS),
                block_age: options.block_age,
                segment_bytes: options.segment_bytes.max(1),
            },
            gathered: BTreeMap::new(),
            gathered_bytes: 0,
            kept: Kept::new(options.kept_bytes),
            streams,
            segment: 0,
            segments: Vec::new(),
            sequence: 0,
            rows: BTreeMap::new(),
            taken_bytes: 0,
            most_bytes: 0,
            end: None,
            has_footer: false,
        };
        core.write_segment_marker()?;
        Ok(core)
    }

    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    pub(super) fn end(&self) -> Option<&SpoolEnd> {
        self.end.as_ref()
    }

    /// Takes what came in beside the queue.
    pub(super) fn take_news(&mut self) {
        let News { streams, facts, losses } = self.shared.news(self.streams.len());
        if !streams.is_empty() && self.end.is_none() {
            let result = self.write_streams(&streams);
            self.note_end(result);
        }
        self.streams.extend(streams.into_iter().map(|(_, info)| info));
        for fact in facts {
            let mut heap = Vec::with_capacity(fact.key.len() + fact.value.len());
            let key = HeapRef::push(&mut heap, fact.key.as_bytes());
            let value = HeapRef::push(&mut heap, fact.value.as_bytes());
            let row = Fact { time: fact.time, key, value };
            self.append(&Batch::with_heap(StreamId(0), &[row], &heap));
        }
        for ((stream, kind, cause), waiting) in losses {
            let row = crate::record::Loss {
                from: waiting.from,
                to: waiting.to,
                count: waiting.count,
                stream,
                kind,
                cause: cause.number(),
            };
            // The instants are in the clock of the stream that lost the rows.
            let known = (stream as usize) < self.streams.len();
            let home = StreamId(if known { stream } else { 0 });
            self.append_loss(&Batch::new(home, &[row]));
        }
    }

    /// Takes one group from the queue; `false` = there is none.
    pub(super) fn take_group(&mut self) -> bool {
        let Some(buffer) = self.shared.pop() else { return false };
        for batch in read_batches(&buffer) {
            if batch.stream.0 as usize >= self.streams.len() {
                self.take_news();
            }
            self.append(&batch);
        }
        self.shared.recycle(buffer);
        true
    }

    /// Looks at the memory held now; called when it is at its most.
    pub(super) fn look_at_memory(&mut self) {
        let gathered: usize = self.gathered.values().map(Gathered::memory_bytes).sum();
        let held = gathered
            + self.kept.memory_bytes()
            + self.packer.memory_bytes()
            + self.segments.capacity() * size_of::<u64>()
            + self.streams.len() * STREAM_BYTES;
        self.most_bytes = self.most_bytes.max(held);
    }

    /// Bytes of rows that were taken since the beginning.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// Takes rows. What cannot be written any more is counted.
    pub(super) fn append(&mut self, batch: &Batch<'_>) {
        let stride = batch.stride as usize;
        self.taken_bytes += batch.rows.len() as u64;
        let mut rows = batch.rows;
        while !rows.is_empty() {
            if let Some(end) = &self.end {
                let lost = Batch { rows, ..*batch };
                count_lost(&self.shared, &lost, end.cause());
                return;
            }
            let taken = self.gather(batch, stride, rows);
            rows = &rows[taken..];
        }
    }

    /// Takes a loss row even after the end, for the last blocks.
    fn append_loss(&mut self, batch: &Batch<'_>) {
        let gathered = self.gathered_for(batch, batch.stride as usize);
        gathered.rows.extend_from_slice(batch.rows);
        self.gathered_bytes += batch.rows.len();
    }

    /// Moves rows from the beginning of `rows` to their block; how many bytes of them.
    fn gather(&mut self, batch: &Batch<'_>, stride: usize, rows: &[u8]) -> usize {
        let key = (batch.stream.0, batch.kind);
        let opaque = is_opaque(Layout::of(batch.kind), stride, batch.heap);
        let differs = self
            .gathered
            .get(&key)
            .is_some_and(|g| !g.rows.is_empty() && (g.stride != stride || opaque || g.opaque));
        if differs {
            self.flush(key);
            if self.end.is_some() {
                return 0;
            }
        }
        let block_rows = self.options.block_rows;
        let gathered = self.gathered_for(batch, stride);
        let before = gathered.rows.len() + gathered.heap.len();
        let taken = match opaque {
            true => {
                gathered.opaque = true;
                gathered.heap.extend_from_slice(batch.heap);
                rows.len()
            }
            false => rows.len().min(block_rows.saturating_sub(gathered.count()) * stride),
        };
        let taken = match gathered.layout.filter(|layout| !opaque && !layout.heap_refs.is_empty()) {
            Some(layout) => gathered.take_with_heap(layout, &rows[..taken], batch.heap),
            None => {
                gathered.rows.extend_from_slice(&rows[..taken]);
                taken
            }
        };
        let full =
            opaque || gathered.count() >= block_rows || gathered.heap.len() >= BLOCK_HEAP_BYTES;
        let added = gathered.rows.len() + gathered.heap.len() - before;
        self.gathered_bytes += added;
        if full {
            self.flush(key);
        } else if self.gathered_bytes > GATHERED_BYTES {
            self.flush_largest();
        }
        taken
    }

    fn gathered_for(&mut self, batch: &Batch<'_>, stride: usize) -> &mut Gathered {
        let key = (batch.stream.0, batch.kind);
        let gathered = self
            .gathered
            .entry(key)
            .or_insert_with(|| Gathered::new(Layout::of(batch.kind), stride));
        if gathered.stride != stride {
            gathered.columns = columns(gathered.layout, stride);
            gathered.stride = stride;
        }
        if gathered.rows.is_empty() {
            gathered.since = Instant::now();
        }
        gathered
    }

    fn flush_largest(&mut self) {
        let largest = self.gathered.iter().max_by_key(|(_, gathered)| gathered.rows.len());
        if let Some((&key, _)) = largest {
            self.flush(key);
        }
    }

    /// Writes every block that has waited long enough, or all.
    pub(super) fn flush_due(&mut self, all: bool) {
        let now = Instant::now();
        let age = self.options.block_age;
        self.gathered.retain(|_, g| !g.rows.is_empty() || now - g.since < age);
        let due: Vec<_> = self
            .gathered
            .iter()
            .filter(|(_, g)| !g.rows.is_empty() && (all || now - g.since >= age))
            .map(|(&key, _)| key)
            .collect();
        for key in due {
            if self.end.is_some() {
                return;
            }
            self.flush(key);
        }
    }

    /// Writes the block of `key`, the definitions of its stream before it.
    fn flush(&mut self, key: (u32, RecordKind)) {
        let (stream, kind) = key;
        let below = if kind.is_definition() { kind } else { RecordKind::FIRST_FOREIGN };
        let definitions: Vec<_> = self
            .gathered
            .range((stream, RecordKind::FIRST_DEFINITION)..(stream, below))
            .filter(|(_, gathered)| !gathered.rows.is_empty())
            .map(|(&key, _)| key)
            .collect();
        for key in definitions.into_iter().chain([key]) {
            if self.end.is_some() {
                return;
            }
            let result = self.write_gathered(key);
            self.note_end(result);
        }
    }

    fn write_gathered(&mut self, key: (u32, RecordKind)) -> Result<(), SpoolEnd> {
        let Some(mut gathered) = self.gathered.remove(&key) else { return Ok(()) };
        let result = self.write_block_of(key, &gathered);
        if result.is_ok() {
            self.gathered_bytes -= gathered.rows.len() + gathered.heap.len();
            // A stream that gives little keeps little: there may be thousands of them.
            if gathered.rows.len() < IDLE_BYTES {
                gathered.rows = Vec::new();
            }
            gathered.rows.clear();
            gathered.heap.clear();
            gathered.opaque = false;
            gathered.heap.shrink_to(IDLE_BYTES);
        }
        self.gathered.insert(key, gathered);
        result
    }

    fn write_block_of(
        &mut self,
        key: (u32, RecordKind),
        gathered: &Gathered,
    ) -> Result<(), SpoolEnd> {
        let (stream, kind) = key;
        if gathered.rows.is_empty() {
            return Ok(());
        }
        if self.output.position() - self.segment_begin >= self.options.segment_bytes {
            self.begin_segment()?;
        }
        if self.segment > 0
            && let Some(layout) = gathered.layout
        {
            let missing =
                self.kept.missing(stream, layout, gathered.stride, &gathered.rows, self.segment);
            self.write_repeats(stream, &missing)?;
        }
        let mut header = self.packer.pack_rows(gathered, 0);
        header.stream = stream;
        header.kind = kind.0;
        self.write_packed(header, false)?;
        self.kept.note(stream, kind, gathered.stride, &gathered.rows, &gathered.heap, self.segment);
        *self.rows.entry(kind).or_default() += gathered.count() as u64;
        Ok(())
    }

    fn write_repeats(&mut self, stream: u32, repeats: &Repeats) -> Result<(), SpoolEnd> {
        // Strings have a lower number than the stacks that name them.
        for (&kind, repeated) in &repeats.batches {
            let layout = Layout::of(kind);
            let mut gathered = Gathered::new(layout, repeated.stride);
            let mut rows = &repeated.rows[..];
            while !rows.is_empty() {
                let part = rows.len().min(self.options.block_rows * repeated.stride);
                gathered.rows.clear();
                gathered.heap.clear();
                let taken = match layout {
                    Some(layout) => gathered.take_with_heap(layout, &rows[..part], &repeated.heap),
                    None => part,
                };
                rows = &rows[taken..];
                let mut header = self.packer.pack_rows(&gathered, FLAG_REPEATED);
                header.stream = stream;
                header.kind = kind.0;
                self.write_packed(header, false)?;
            }
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), SpoolEnd> {
        self.segment += 1;
        self.segment_begin = self.output.position();
        self.write_segment_marker()?;
        for (stream, repeats) in self.kept.known() {
            self.write_repeats(stream, &repeats)?;
        }
        Ok(())
    }

    fn write_segment_marker(&mut self) -> Result<(), SpoolEnd> {
        let begin = self.output.position();
        let streams: Vec<_> = self.streams.iter().enumerate().collect();
        let marker = json!({
            "header": self.header,
            "streams": streams,
            "complete": self.kept.is_complete(),
        });
        self.write_json(block_type::SEGMENT, &marker, false)?;
        self.segments.push(begin);
        Ok(())
    }

    fn write_streams(&mut self, streams: &[(u32, StreamInfo)]) -> Result<(), SpoolEnd> {
        self.write_json(block_type::STREAMS, &json!({ "streams": streams }), false)
    }

    fn write_json(
        &mut self,
        block_type: u8,
        value: &serde_json::Value,
        last: bool,
    ) -> Result<(), SpoolEnd> {
        let header = self.packer.pack_bytes(block_type, value.to_string().as_bytes());
        self.write_packed(header, last)
    }

    fn write_packed(&mut self, mut header: BlockHeader, last: bool) -> Result<(), SpoolEnd> {
        header.offset = self.output.position();
        header.sequence = self.sequence;
        header.segment = self.segment;
        let block = self.packer.finish(&header);
        match last {
            true => self.output.append_last(block)?,
            false => self.output.append(block)?,
        }
        self.sequence += 1;
        Ok(())
    }

    fn note_end(&mut self, result: Result<(), SpoolEnd>) {
        if let Err(end) = result {
            self.end.get_or_insert(end);
        }
    }

    /// Ends the file: counts what is left, writes the losses and the footer.
    pub(super) fn close(&mut self, end: SpoolEnd) {
        let end = self.end.get_or_insert(end).clone();
        self.shared.close(end.cause());
        loop {
            let busy = self.shared.is_busy();
            while self.take_group() {}
            if !busy {
                break;
            }
            std::thread::yield_now();
        }
        let left = std::mem::take(&mut self.gathered);
        for ((stream, kind), gathered) in left {
            if kind == crate::record::Loss::KIND {
                self.gathered.insert((stream, kind), gathered);
                continue;
            }
            let batch = Batch {
                stream: StreamId(stream),
                kind,
                stride: gathered.stride as u32,
                rows: &gathered.rows,
                heap: &[],
            };
            count_lost(&self.shared, &batch, end.cause());
        }
        self.take_news();
        let result = self.write_last_blocks(&end);
        self.has_footer = result.is_ok();
        if let Err(error) = self.output.trim() {
            self.shared.write_log(
                crate::sink::LogLevel::Warn,
                "spool",
                &format!("cannot cut the spool to its length: {error}"),
            );
        }
    }

    fn write_last_blocks(&mut self, end: &SpoolEnd) -> Result<(), SpoolEnd> {
        let losses = std::mem::take(&mut self.gathered);
        for ((stream, kind), gathered) in losses {
            if gathered.rows.is_empty() {
                continue;
            }
            let mut header = self.packer.pack_rows(&gathered, 0);
            header.stream = stream;
            header.kind = kind.0;
            self.write_packed(header, true)?;
            *self.rows.entry(kind).or_default() += gathered.count() as u64;
        }
        let rows: Vec<_> = self.rows.iter().map(|(kind, count)| (kind.0, *count)).collect();
        let losses: Vec<_> = self
            .shared
            .losses()
            .iter()
            .map(|(kind, cause, count)| (kind.0, cause.number(), count))
            .collect();
        let listed = self.segments.len() <= MAX_FOOTER_SEGMENTS;
        let footer = json!({
            "end": end,
            "ended": self.shared.clock.now(),
            "rows": rows,
            "losses": losses,
            "segments": if listed { self.segments.as_slice() } else { &[] },
            "segment_count": self.segments.len(),
        });
        self.write_json(block_type::FOOTER, &footer, true)
    }

    /// Tells others how far the file is.
    pub(super) fn report(&self) {
        let lost: LossCounts = self.shared.losses();
        let mut progress = self.shared.progress();
        progress.rows.clone_from(&self.rows);
        progress.bytes = self.output.position();
        progress.lost = lost;
        progress.queued_bytes = self.shared.queued_bytes() as u64;
        progress.memory_bytes = (self.most_bytes + self.shared.most_bytes()) as u64;
        progress.end.clone_from(&self.end);
        progress.crc32 = self.output.crc32();
        progress.has_footer = self.has_footer;
    }
}

fn count_lost(shared: &Shared, batch: &Batch<'_>, cause: LossCause) {
    let stride = batch.stride as usize;
    let time = Layout::of(batch.kind).and_then(|layout| layout.time);
    let (from, to) = first_times(batch.rows, stride, time);
    shared.count_loss(Loss {
        stream: Some(batch.stream),
        kind: Some(batch.kind),
        count: batch.count() as u64,
        from,
        to,
        cause,
    });
}
