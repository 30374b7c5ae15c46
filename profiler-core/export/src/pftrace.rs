//! Perfetto traces (`.pftrace`), written by hand.
//!
//! Each lane is a packet sequence of its own: names are interned once a lane, instants are
//! written as the distance from the lane's last one. Slices of a lane never overlap unless they
//! nest, since the end of a slice closes whatever began last; the timeline sees to that.

mod args;
mod counters;
mod field;
mod samples;
mod setup;

use std::collections::HashMap;
use std::io::{self, Write};

use profiler_core::config::EventArguments;
use profiler_core::record::{Counter, Operator, OperatorScope, Sample, flag};

use crate::capture::{Definitions, Place, Worker};
use crate::label::{self, Label};
use crate::proto::{Proto as _, Short, message};
use crate::timeline::{Draw, Drawn, ItemKind, Lane, TimelineCounts};

use self::counters::CounterTracks;
use self::samples::SampleTables;
use self::setup::WorkerTracks;

pub(crate) use self::setup::capture_facts;

/// Draws a Perfetto trace.
pub(crate) struct Pftrace<W> {
    out: W,
    buffer: Vec<u8>,
    args: EventArguments,
    next_uuid: u64,
    next_sequence: u32,
    workers: Vec<WorkerTracks>,
    lanes: Vec<LaneState>,
    /// By string id; what is the same for all slices of a name.
    launches: Vec<u8>,
    fixed: HashMap<Label, u32>,
    scratch: Vec<u8>,
    counters: CounterTracks,
    samples: SampleTables,
    clock_written: bool,
    /// The first track of each thread, by its ids in the trace.
    threads: HashMap<(u32, u32), u64>,
    packets: u64,
}

struct LaneState {
    uuid: u64,
    sequence: u32,
    /// The sequence id as a field of a packet.
    sequence_field: [u8; 8],
    sequence_field_len: usize,
    /// The instant of the last packet; `None` = the lane has none yet.
    last: Option<u64>,
    /// The sequence number of the last forward operator, -1 = none.
    last_forward: i64,
    unordered: bool,
    /// A bit for each name that the sequence has interned.
    interned: Vec<u64>,
}

/// The highest number of an interned name: what a sequence remembers of them is a bit each.
const MAX_INTERNED: u32 = 1 << 16;
/// What is buffered before it is written.
const BUFFER_BYTES: usize = 256 << 10;

impl<W: Write> Pftrace<W> {
    pub(crate) fn new(out: W, args: EventArguments) -> Self {
        Self {
            out,
            buffer: Vec::with_capacity(BUFFER_BYTES + (64 << 10)),
            args,
            next_uuid: 1,
            next_sequence: 1,
            workers: Vec::new(),
            lanes: Vec::new(),
            launches: Vec::new(),
            fixed: HashMap::new(),
            scratch: Vec::new(),
            counters: CounterTracks::default(),
            samples: SampleTables::default(),
            clock_written: false,
            threads: HashMap::new(),
            packets: 0,
        }
    }

    /// Packets in the trace.
    pub(crate) fn events(&self) -> u64 {
        self.packets
    }

    /// Ends the trace and returns what it was written to.
    pub(crate) fn into_inner(mut self) -> io::Result<W> {
        self.out.write_all(&self.buffer)?;
        Ok(self.out)
    }

    #[inline]
    fn spill(&mut self) -> io::Result<()> {
        if self.buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn uuid(&mut self) -> u64 {
        self.next_uuid += 1;
        self.next_uuid
    }

    fn sequence(&mut self) -> u32 {
        self.next_sequence += 1;
        self.next_sequence
    }

    /// Appends a packet.
    fn packet(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        self.packets += 1;
        self.scratch.clear();
        fill(&mut self.scratch);
        self.buffer.bytes(field::trace::PACKET, &self.scratch);
    }

    /// The number of a label within a sequence.
    #[inline]
    fn label_iid(&mut self, label: Label) -> u32 {
        match label {
            Label::Name(id) => id.0 * 2,
            fixed => {
                let next = self.fixed.len() as u32 * 2 + 1;
                *self.fixed.entry(fixed).or_insert(next)
            }
        }
    }

    /// Whether arrows leave calls of that name: asked once a name.
    #[inline]
    fn is_launch(&mut self, name: u32, definitions: &Definitions) -> bool {
        let index = name as usize;
        if index >= self.launches.len() {
            self.launches.resize(definitions.strings().len().max(index + 1), 0);
        }
        if self.launches[index] == 0 {
            let text = definitions.string(profiler_core::record::StringId(name));
            self.launches[index] = if label::is_launch(text) { 2 } else { 1 };
        }
        self.launches[index] == 2
    }

    /// Begins a packet of a track event on a lane: everything up to the event itself.
    #[inline]
    fn head(lane: &mut LaneState, at: u64, packet: &mut Short) {
        let time = match (lane.unordered, lane.last) {
            (true, _) => at,
            (false, Some(last)) => at.saturating_sub(last),
            (false, None) => 0,
        };
        lane.last = Some(at.max(lane.last.unwrap_or(0)));
        packet.byte((field::packet::TIMESTAMP << 3) as u8);
        packet.varint(time);
        packet.put_some(lane.sequence_field, lane.sequence_field_len);
    }

    /// A slice's beginning or an instant.
    #[inline]
    fn event(&mut self, lane: usize, drawn: &Drawn<'_>, event_type: u8) -> io::Result<()> {
        if self.lanes[lane].last.is_none() {
            self.begin_sequence(lane, drawn.item.start);
        }
        let label = Label::of(drawn);
        let iid = if matches!(label, Label::Step(_)) { 0 } else { self.label_iid(label) };
        let inline_name = is_inline(label, iid);
        let (flow_from, flow_to, correlation) = self.flow(lane, drawn);
        let state = &mut self.lanes[lane];
        let word = iid as usize / 64;
        let is_known = state.interned.get(word).is_some_and(|bits| bits >> (iid % 64) & 1 == 1);
        let is_long = self.args == EventArguments::Full || inline_name || is_unfinished(drawn);
        self.packets += 1;
        // Every length fits in a byte: a short packet holds a few varints.
        let mut packet = Short::new();
        let in_packet = packet.begin((field::trace::PACKET << 3 | 2) as u8);
        Self::head(state, drawn.item.start, &mut packet);
        let in_event = packet.begin((field::packet::TRACK_EVENT << 3 | 2) as u8);
        packet.put([
            (field::event::TYPE << 3) as u8,
            event_type,
            (field::event::CATEGORY_IIDS << 3) as u8,
            label::category(drawn) as u8 + 1,
        ]);
        if !inline_name {
            packet.byte((field::event::NAME_IID << 3) as u8);
            packet.varint(u64::from(iid));
        }
        if flow_from != 0 {
            packet.varint(u64::from(field::event::FLOW_IDS_OLD) << 3);
            packet.varint(flow_from);
        }
        if flow_to != 0 {
            packet.varint(u64::from(field::event::TERMINATING_FLOW_IDS_OLD) << 3);
            packet.varint(flow_to);
        }
        if correlation != 0 {
            let annotation = packet.begin((field::event::DEBUG_ANNOTATIONS << 3 | 2) as u8);
            packet.put([
                (field::annotation::NAME_IID << 3) as u8,
                args::CORRELATION as u8,
                (field::annotation::UINT << 3) as u8,
            ]);
            packet.varint(correlation);
            packet.end(annotation);
        }
        if is_known && !is_long {
            packet.end(in_event);
            packet.end(in_packet);
            self.buffer.extend_from_slice(packet.as_slice());
            return self.spill();
        }
        let written = packet.as_slice();
        // What stands in front of the event, without the tag and length of the event itself.
        let head = &written[in_packet..in_event - 2];
        self.long_event(lane, drawn, label, head, &written[in_event..])
    }

    /// The same for events that carry more: a name's first use, all arguments, a step.
    fn long_event(
        &mut self,
        lane: usize,
        drawn: &Drawn<'_>,
        label: Label,
        head: &[u8],
        event: &[u8],
    ) -> io::Result<()> {
        let mut event = event.to_vec();
        let iid = if matches!(label, Label::Step(_)) { 0 } else { self.label_iid(label) };
        if is_inline(label, iid) {
            event.text(field::event::NAME, &label.text(drawn.definitions));
        }
        if self.args == EventArguments::Full {
            args::append_all(&mut event, drawn);
        } else if is_unfinished(drawn) {
            args::append_unfinished(&mut event);
        }
        let mut packet = head.to_vec();
        packet.bytes(field::packet::TRACK_EVENT, &event);
        if !is_inline(label, iid) {
            let state = &mut self.lanes[lane];
            let (word, bit) = (iid as usize / 64, 1 << (iid % 64));
            if state.interned.len() <= word {
                state.interned.resize(word + 1, 0);
            }
            if state.interned[word] & bit == 0 {
                state.interned[word] |= bit;
                message(&mut packet, field::packet::INTERNED_DATA, |interned| {
                    message(interned, field::interned::EVENT_NAMES, |name| {
                        name.uint(field::interned_text::IID, u64::from(iid));
                        name.text(field::interned_text::TEXT, &label.text(drawn.definitions));
                    });
                });
            }
        }
        self.buffer.bytes(field::trace::PACKET, &packet);
        self.spill()
    }

    /// The arrow from a forward operator to its backward one. Of operators with one sequence
    /// number that enclose each other, the outermost has it.
    fn forward_flow(&mut self, lane: usize, drawn: &Drawn<'_>) -> (u64, u64, u64) {
        let row: &Operator = drawn.row();
        if row.sequence < 0 {
            return (0, 0, 0);
        }
        match OperatorScope::from_number(row.scope) {
            Some(OperatorScope::Function) => {
                let state = &mut self.lanes[lane];
                if std::mem::replace(&mut state.last_forward, row.sequence) == row.sequence {
                    return (0, 0, 0);
                }
                (label::forward_flow_id(drawn.worker, row.thread, row.sequence), 0, 0)
            }
            Some(OperatorScope::BackwardFunction) => {
                (0, label::forward_flow_id(drawn.worker, row.forward_thread, row.sequence), 0)
            }
            _ => (0, 0, 0),
        }
    }

    /// The arrow that leaves a slice, the one that ends there, and the correlation id.
    #[inline]
    fn flow(&mut self, lane: usize, drawn: &Drawn<'_>) -> (u64, u64, u64) {
        use profiler_core::record::{
            ApiCall, Communication, Kernel, Memcpy, Memset, Overhead, Synchronization,
        };
        let worker = drawn.worker;
        let (correlation, flags) = match drawn.item.kind {
            ItemKind::Kernel => {
                let row: &Kernel = drawn.row();
                (row.correlation, row.flags)
            }
            ItemKind::Memcpy => {
                let row: &Memcpy = drawn.row();
                (row.correlation, row.flags)
            }
            ItemKind::Memset => {
                let row: &Memset = drawn.row();
                (row.correlation, row.flags)
            }
            ItemKind::Communication => {
                let row: &Communication = drawn.row();
                (row.correlation, row.flags)
            }
            ItemKind::ApiCall => {
                let correlation = drawn.row::<ApiCall>().correlation;
                if correlation != 0 && self.is_launch(drawn.item.name, drawn.definitions) {
                    return (label::flow_id(worker, correlation), 0, correlation);
                }
                return (0, 0, correlation);
            }
            ItemKind::Synchronization => {
                return (0, 0, drawn.row::<Synchronization>().correlation);
            }
            ItemKind::Overhead => return (0, 0, drawn.row::<Overhead>().correlation),
            ItemKind::Operator => return self.forward_flow(lane, drawn),
            _ => return (0, 0, 0),
        };
        if correlation == 0 {
            return (0, 0, 0);
        }
        let id = label::flow_id(worker, correlation);
        // A flow that was ended is gone: of a graph's kernels only the first would have it.
        match flags & flag::GRAPH != 0 {
            true => (id, 0, correlation),
            false => (0, id, correlation),
        }
    }
}

/// Steps have no end, and neither have the names of a hostile file: such are written out.
fn is_inline(label: Label, iid: u32) -> bool {
    matches!(label, Label::Step(_)) || iid > MAX_INTERNED
}

fn is_unfinished(drawn: &Drawn<'_>) -> bool {
    args::flags(drawn) & flag::UNFINISHED != 0
}

impl<W: Write> Draw for Pftrace<W> {
    fn begin(&mut self, workers: &[Worker]) -> io::Result<()> {
        self.expect_samples(workers);
        for worker in workers {
            self.describe_worker(worker, workers);
        }
        self.spill()
    }

    fn open_lane(&mut self, lane: &Lane, worker: &Worker) -> io::Result<()> {
        self.describe_lane(lane, worker);
        self.spill()
    }

    #[inline]
    fn slice(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()> {
        self.event(lane, drawn, field::event::TYPE_SLICE_BEGIN)
    }

    #[inline]
    fn end_slice(&mut self, lane: usize, at: u64) -> io::Result<()> {
        let mut packet = Short::new();
        let in_packet = packet.begin((field::trace::PACKET << 3 | 2) as u8);
        Self::head(&mut self.lanes[lane], at, &mut packet);
        let in_event = packet.begin((field::packet::TRACK_EVENT << 3 | 2) as u8);
        packet.put([(field::event::TYPE << 3) as u8, field::event::TYPE_SLICE_END]);
        packet.end(in_event);
        packet.end(in_packet);
        self.packets += 1;
        self.buffer.extend_from_slice(packet.as_slice());
        self.spill()
    }

    fn instant(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()> {
        self.event(lane, drawn, field::event::TYPE_INSTANT)
    }

    fn counters(&mut self, place: &Place<'_>, rows: &[Counter]) -> io::Result<()> {
        for row in rows {
            self.counter(place, row);
        }
        self.spill()
    }

    fn samples(&mut self, place: &Place<'_>, rows: &[Sample]) -> io::Result<()> {
        for row in rows {
            self.sample(place, row);
            self.spill()?;
        }
        Ok(())
    }

    fn finish(
        &mut self,
        workers: &[Worker],
        _definitions: &Definitions,
        counts: &TimelineCounts,
    ) -> io::Result<()> {
        for worker in workers {
            self.finish_worker(worker, counts);
        }
        self.spill()
    }
}
