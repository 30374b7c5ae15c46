//! Chrome JSON as PyTorch's Kineto writes it, for everything that reads PyTorch traces.
//!
//! Instants are microseconds with three digits behind the point, from `baseTimeNanoseconds` on:
//! with whole epoch microseconds a double has no room for the nanoseconds, and readers drop what
//! then seems to overlap.

mod args;
mod metadata;
mod occupancy;
mod text;

use std::collections::HashMap;
use std::io::{self, Write};

use profiler_core::config::EventArguments;
use profiler_core::record::{
    ApiCall, Communication, Counter, Kernel, Memcpy, Memset, Sample, StringId, Synchronization,
};

use crate::capture::{Definitions, Place, Worker};
use crate::label::{self, CATEGORIES, Label};
use crate::operator_links::{Links, OperatorLinks, SlicePlace};
use crate::pids::Pids;
use crate::timeline::{Draw, Drawn, ItemKind, Lane, TimelineCounts};

use self::args::ConfigArgs;
use self::text::{escape, number, time};

/// Kineto counts from the start of a period of three mean months.
const BASE_PERIOD_NS: u64 = 7_889_238_000_000_000;

/// Draws Kineto-compatible JSON.
pub(crate) struct Kineto<W> {
    out: W,
    buffer: Vec<u8>,
    args: EventArguments,
    name: String,
    base: u64,
    /// Add this to an instant of the axis for the distance from the base.
    shift: i64,
    workers: Vec<WorkerIds>,
    lanes: Vec<LaneIds>,
    /// `"ph":"X","cat":…,"name":…,"pid":` by category and name.
    heads: Vec<Vec<Head>>,
    other_heads: HashMap<(usize, Label), Head>,
    configs: ConfigArgs,
    operators: OperatorLinks,
    next_correlation: u64,
    /// Arrows from forward to backward operators so far.
    forward_arrows: u64,
    events: u64,
}

struct WorkerIds {
    pids: Pids,
    pid: u32,
    device_offset: u32,
    /// Devices that have their metadata.
    devices: Vec<u32>,
}

struct LaneIds {
    /// `PID,"tid":TID,"ts":`
    place: Vec<u8>,
}

/// What an event begins with, and whether an arrow leaves it.
#[derive(Clone, Default)]
struct Head {
    text: Box<[u8]>,
    launches: bool,
}

/// What is buffered before it is written.
const BUFFER_BYTES: usize = 256 << 10;
/// Added to a stream's number for the lane of its waits, as Kineto does.
const SYNCHRONIZATION_TID: u64 = 1_000_000;
const COMMUNICATION_TID: u64 = 2_000_000;
/// From here on tracks are numbered that belong to no thread: no thread has such a number, nor one
/// moved for a merge. In a container 1, 2 and 3 are threads like others, and Perfetto takes 0 for the
/// process's first thread.
const OWN_TID: u64 = 2_100_000_000;
const OVERHEAD_TID: u64 = OWN_TID + 1;
const STEPS_TID: u64 = OWN_TID + 2;
const REST_TID: u64 = OWN_TID + 3;
/// Added to a lane's number for each further lane.
const LANE_TID: u64 = 100_000_000;
/// For device work whose launch is not known: readers join by this number, so each gets its own.
const FIRST_OWN_CORRELATION: u64 = 0x7000_0000;

impl<W: Write> Kineto<W> {
    pub(crate) fn new(out: W, args: EventArguments, name: &str) -> Self {
        Self {
            out,
            buffer: Vec::with_capacity(BUFFER_BYTES + (64 << 10)),
            args,
            name: name.to_owned(),
            base: 0,
            shift: 0,
            workers: Vec::new(),
            lanes: Vec::new(),
            heads: vec![Vec::new(); CATEGORIES.len()],
            other_heads: HashMap::new(),
            configs: ConfigArgs::default(),
            operators: OperatorLinks::new(),
            forward_arrows: 0,
            next_correlation: FIRST_OWN_CORRELATION,
            events: 0,
        }
    }

    /// JSON objects in the list of events.
    pub(crate) fn events(&self) -> u64 {
        self.events
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

    /// Begins an event; the first follows nothing.
    #[inline]
    fn begin_event(&mut self) {
        let separator: &[u8] = if self.events == 0 { b"\n" } else { b",\n" };
        self.buffer.extend_from_slice(separator);
        self.events += 1;
    }

    #[inline]
    fn since_base(&self, at: u64) -> u64 {
        at.saturating_add_signed(self.shift)
    }

    /// What the slice's event begins with.
    #[inline]
    fn head(&mut self, drawn: &Drawn<'_>) -> (usize, usize) {
        let category = label::category(drawn);
        let name = drawn.item.name as usize;
        if name != 0 && self.heads[category].get(name).is_some_and(|head| !head.text.is_empty()) {
            return (category, name);
        }
        self.make_head(drawn, category);
        (category, name)
    }

    #[cold]
    fn make_head(&mut self, drawn: &Drawn<'_>, category: usize) {
        let label = Label::of(drawn);
        let heads = &mut self.heads[category];
        let index = drawn.item.name as usize;
        if heads.len() <= index {
            heads.resize(index + 1, Head::default());
        }
        let is_known = index == 0 && self.other_heads.contains_key(&(category, label));
        if is_known {
            return;
        }
        let name = match label {
            Label::Step(step) => format!("ProfilerStep#{step}"),
            Label::Name(_) | Label::Fixed { .. } => label.text(drawn.definitions).into_owned(),
        };
        let cat = match drawn.item.kind {
            ItemKind::Step => "user_annotation",
            // As Kineto calls what no CUDA device does.
            ItemKind::Communication => "collective_comm",
            ItemKind::ApiCall if CATEGORIES[category] == "acl_runtime" => "privateuse1_runtime",
            _ => CATEGORIES[category],
        };
        let mut text = Vec::new();
        text.extend_from_slice(br#"{"ph":"X","cat":""#);
        text.extend_from_slice(cat.as_bytes());
        text.extend_from_slice(br#"","name":"#);
        escape(&mut text, &name);
        text.extend_from_slice(br#","pid":"#);
        let raw = drawn.definitions.string(StringId(drawn.item.name));
        let launches = drawn.item.kind == ItemKind::ApiCall && label::is_launch(raw);
        let head = Head { text: text.into(), launches };
        if index != 0 {
            heads[index] = head;
        } else if !matches!(label, Label::Step(_)) {
            self.other_heads.insert((category, label), head);
        } else {
            // There is no end of steps: only the one at hand is kept.
            self.other_heads.retain(|(_, label), _| !matches!(label, Label::Step(_)));
            self.other_heads.insert((category, label), head);
        }
    }

    fn complete(&mut self, lane: usize, drawn: &Drawn<'_>, links: Links) -> io::Result<()> {
        let (category, name) = self.head(drawn);
        self.begin_event();
        let start = self.since_base(drawn.item.start);
        let head = match name {
            0 => self.other_heads.get(&(category, Label::of(drawn))),
            name => self.heads[category].get(name),
        };
        let Some(head) = head else { return Ok(()) };
        let launches = head.launches;
        let lane_ids = &self.lanes[lane];
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(&head.text);
        buffer.extend_from_slice(&lane_ids.place);
        time(buffer, start);
        buffer.extend_from_slice(br#","dur":"#);
        time(buffer, drawn.item.end - drawn.item.start);
        buffer.extend_from_slice(br#","args":{"#);
        let (mut correlation, is_device) = correlation_of(drawn);
        let known = correlation != 0;
        if is_device && !known {
            correlation = self.next_correlation;
            self.next_correlation += 1;
        }
        let full = self.args == EventArguments::Full;
        args::append(buffer, &mut self.configs, drawn, correlation, links.operator, full);
        buffer.extend_from_slice(b"}}");
        if let Some(forward) = links.forward {
            self.forward_arrow(forward, SlicePlace { lane, start: drawn.item.start });
        }
        if known && launches {
            self.arrow(lane, drawn.worker, correlation, start, false);
        } else if known && is_device {
            self.arrow(lane, drawn.worker, correlation, start, true);
        }
        self.spill()
    }

    #[inline]
    fn arrow(&mut self, lane: usize, worker: u32, correlation: u64, at: u64, ends: bool) {
        self.begin_event();
        let buffer = &mut self.buffer;
        let head: &[u8] = if ends { br#"{"ph":"f","id":"# } else { br#"{"ph":"s","id":"# };
        buffer.extend_from_slice(head);
        number(buffer, label::flow_id(worker, correlation));
        buffer.extend_from_slice(br#","pid":"#);
        buffer.extend_from_slice(&self.lanes[lane].place);
        time(buffer, at);
        let tail: &[u8] = match ends {
            true => br#","cat":"ac2g","name":"ac2g","bp":"e"}"#,
            false => br#","cat":"ac2g","name":"ac2g"}"#,
        };
        buffer.extend_from_slice(tail);
    }
}

impl<W: Write> Kineto<W> {
    /// The arrow from a forward operator to its backward one.
    fn forward_arrow(&mut self, from: SlicePlace, to: SlicePlace) {
        self.forward_arrows += 1;
        for (place, head, tail) in [
            (from, &br#"{"ph":"s","id":"#[..], &br#","cat":"fwdbwd","name":"fwdbwd"}"#[..]),
            (to, br#"{"ph":"f","id":"#, br#","cat":"fwdbwd","name":"fwdbwd","bp":"e"}"#),
        ] {
            self.begin_event();
            let at = self.since_base(place.start);
            let buffer = &mut self.buffer;
            buffer.extend_from_slice(head);
            number(buffer, self.forward_arrows);
            buffer.extend_from_slice(br#","pid":"#);
            buffer.extend_from_slice(&self.lanes[place.lane].place);
            time(buffer, at);
            buffer.extend_from_slice(tail);
        }
    }
}

/// The correlation id, and whether it is that of work on a device which a launch caused.
#[inline]
fn correlation_of(drawn: &Drawn<'_>) -> (u64, bool) {
    match drawn.item.kind {
        ItemKind::Kernel => (drawn.row::<Kernel>().correlation, true),
        ItemKind::Memcpy => (drawn.row::<Memcpy>().correlation, true),
        ItemKind::Memset => (drawn.row::<Memset>().correlation, true),
        ItemKind::Communication => (drawn.row::<Communication>().correlation, true),
        ItemKind::ApiCall => (drawn.row::<ApiCall>().correlation, false),
        ItemKind::Synchronization => (drawn.row::<Synchronization>().correlation, false),
        _ => (0, false),
    }
}

impl<W: Write> Draw for Kineto<W> {
    fn begin(&mut self, workers: &[Worker]) -> io::Result<()> {
        let first = workers.first();
        let offset = first.map_or(0, |worker| worker.clock.realtime_offset_ns);
        // No instant lies before the base: readers know no time below zero.
        let begins = workers.iter().map(|w| w.windows.first().map_or(w.end, |window| window.begin));
        let begin = begins.min().unwrap_or(0);
        let unix = begin.saturating_add_signed(offset);
        self.base = unix / BASE_PERIOD_NS * BASE_PERIOD_NS;
        self.shift = offset.saturating_sub_unsigned(self.base);
        self.write_top(workers);
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
        let links = self.operators.begin(lane, drawn);
        self.complete(lane, drawn, links)
    }

    #[inline]
    fn end_slice(&mut self, lane: usize, _at: u64) -> io::Result<()> {
        self.operators.end(lane);
        Ok(())
    }

    fn instant(&mut self, lane: usize, drawn: &Drawn<'_>) -> io::Result<()> {
        self.begin_event();
        let at = self.since_base(drawn.item.start);
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(br#"{"ph":"i","cat":"cpu_instant_event","s":"t","name":"#);
        match drawn.item.kind {
            ItemKind::Memory => buffer.extend_from_slice(br#""[memory]""#),
            _ => escape(buffer, &Label::of(drawn).text(drawn.definitions)),
        }
        buffer.extend_from_slice(br#","pid":"#);
        buffer.extend_from_slice(&self.lanes[lane].place);
        time(buffer, at);
        buffer.extend_from_slice(br#","args":{"#);
        args::append(buffer, &mut self.configs, drawn, 0, 0, self.args == EventArguments::Full);
        buffer.extend_from_slice(b"}}");
        self.spill()
    }

    fn counters(&mut self, place: &Place<'_>, rows: &[Counter]) -> io::Result<()> {
        for row in rows {
            self.counter(place, row);
        }
        self.spill()
    }

    fn samples(&mut self, _place: &Place<'_>, _rows: &[Sample]) -> io::Result<()> {
        // Chrome's JSON has no samples that its readers agree on.
        Ok(())
    }

    fn finish(
        &mut self,
        workers: &[Worker],
        _definitions: &Definitions,
        counts: &TimelineCounts,
    ) -> io::Result<()> {
        self.write_end(workers, counts);
        self.spill()
    }
}
