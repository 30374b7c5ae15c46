//! A reader of Perfetto traces that knows nothing of the writer: packets to slices.
//!
//! It does what the trace processor does: clocks of sequences, interned names, track descriptors,
//! and an END closes the newest BEGIN of its track.

use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Int(u64),
    Bytes(Vec<u8>),
}

/// The fields of a message, in their order.
pub(crate) fn fields(bytes: &[u8]) -> Vec<(u64, Value)> {
    let mut out = Vec::new();
    let mut at = 0;
    let varint = |at: &mut usize| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    };
    while at < bytes.len() {
        let tag = varint(&mut at);
        let value = match tag & 7 {
            0 => Value::Int(varint(&mut at)),
            1 => {
                at += 8;
                Value::Int(u64::from_le_bytes(bytes[at - 8..at].try_into().unwrap()))
            }
            2 => {
                let len = varint(&mut at) as usize;
                at += len;
                Value::Bytes(bytes[at - len..at].to_vec())
            }
            wire => panic!("wire type {wire} at {at}"),
        };
        out.push((tag >> 3, value));
    }
    out
}

pub(crate) struct Message(Vec<(u64, Value)>);

impl Message {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self(fields(bytes))
    }

    pub(crate) fn int(&self, field: u64) -> Option<u64> {
        self.0.iter().rev().find_map(|(f, v)| match v {
            Value::Int(value) if *f == field => Some(*value),
            _ => None,
        })
    }

    pub(crate) fn all_ints(&self, field: u64) -> Vec<u64> {
        self.0
            .iter()
            .filter(|(f, _)| *f == field)
            .filter_map(|(_, v)| match v {
                Value::Int(value) => Some(*value),
                Value::Bytes(_) => None,
            })
            .collect()
    }

    pub(crate) fn messages(&self, field: u64) -> Vec<Self> {
        self.0
            .iter()
            .filter(|(f, _)| *f == field)
            .filter_map(|(_, v)| match v {
                Value::Bytes(bytes) => Some(Self::parse(bytes)),
                Value::Int(_) => None,
            })
            .collect()
    }

    pub(crate) fn message(&self, field: u64) -> Option<Self> {
        self.messages(field).pop()
    }

    pub(crate) fn text(&self, field: u64) -> Option<String> {
        self.0.iter().rev().find_map(|(f, v)| match v {
            Value::Bytes(bytes) if *f == field => Some(String::from_utf8(bytes.clone()).unwrap()),
            _ => None,
        })
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Track {
    pub(crate) name: String,
    pub(crate) parent: u64,
    pub(crate) pid: Option<u64>,
    pub(crate) tid: Option<u64>,
    pub(crate) is_counter: bool,
    /// Its place below its parent.
    pub(crate) rank: Option<u64>,
    /// Its process's place, where it is that of a process.
    pub(crate) sort_index: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) track: u64,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) flows_out: Vec<u64>,
    pub(crate) flows_in: Vec<u64>,
    pub(crate) correlation: Option<u64>,
    pub(crate) unfinished: bool,
    pub(crate) args: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) packets: usize,
    pub(crate) sequences: Vec<u64>,
    pub(crate) tracks: BTreeMap<u64, Track>,
    pub(crate) slices: Vec<Slice>,
    pub(crate) instants: Vec<Slice>,
    /// Track, instant, value.
    pub(crate) counters: Vec<(u64, u64, f64)>,
    /// Instant, pid, tid, functions from the root on.
    pub(crate) samples: Vec<(u64, u64, u64, Vec<String>)>,
    pub(crate) clocks: BTreeMap<u64, u64>,
    /// ENDs without BEGIN and BEGINs without END.
    pub(crate) unmatched: usize,
}

#[derive(Default)]
struct Sequence {
    clock: u64,
    now: u64,
    track: u64,
    names: HashMap<(u64, u64), String>,
    frames: HashMap<u64, u64>,
    stacks: HashMap<u64, Vec<u64>>,
}

impl Trace {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut trace = Self::default();
        let mut sequences: HashMap<u64, Sequence> = HashMap::new();
        let mut events = Vec::new();
        for (field, value) in fields(bytes) {
            let Value::Bytes(packet) = value else { panic!("a packet is a message") };
            assert_eq!(field, 1);
            trace.packets += 1;
            let packet = Message::parse(&packet);
            let id = packet.int(10).expect("each packet names its sequence");
            if !trace.sequences.contains(&id) {
                trace.sequences.push(id);
            }
            let sequence = sequences.entry(id).or_default();
            if packet.int(13) == Some(1) {
                *sequence = Sequence::default();
            }
            trace.packet(&packet, sequence, &mut events);
        }
        trace.pair(events);
        trace
    }

    fn packet(&mut self, packet: &Message, sequence: &mut Sequence, events: &mut Vec<Event>) {
        if let Some(defaults) = packet.message(59) {
            sequence.clock = defaults.int(58).unwrap_or(sequence.clock);
            if let Some(event) = defaults.message(11) {
                sequence.track = event.int(11).unwrap_or(0);
            }
        }
        if let Some(snapshot) = packet.message(6) {
            for clock in snapshot.messages(1) {
                let (id, shows) = (clock.int(1).unwrap(), clock.int(2).unwrap());
                if id >= 64 {
                    assert_eq!(clock.int(3), Some(1), "clocks of sequences are incremental");
                    sequence.now = shows;
                } else {
                    self.clocks.entry(id).or_insert(shows);
                }
            }
        }
        if let Some(interned) = packet.message(12) {
            for list in [1, 2, 3, 5] {
                for name in interned.messages(list) {
                    let iid = name.int(1).unwrap();
                    let text = name.text(2).unwrap();
                    let before = sequence.names.insert((list, iid), text.clone());
                    assert!(before.is_none_or(|b| b == text), "{iid} was interned otherwise");
                }
            }
            for frame in interned.messages(6) {
                sequence.frames.insert(frame.int(1).unwrap(), frame.int(2).unwrap());
            }
            for stack in interned.messages(7) {
                sequence.stacks.insert(stack.int(1).unwrap(), stack.all_ints(2));
            }
        }
        if let Some(track) = packet.message(60) {
            let uuid = track.int(1).unwrap();
            let thread = track.message(4);
            let process = track.message(3);
            let described = Track {
                name: track
                    .text(2)
                    .or_else(|| thread.as_ref().and_then(|t| t.text(5)))
                    .or_else(|| process.as_ref().and_then(|p| p.text(6)))
                    .unwrap_or_default(),
                parent: track.int(5).unwrap_or(0),
                pid: process.as_ref().or(thread.as_ref()).and_then(|m| m.int(1)),
                tid: thread.as_ref().and_then(|t| t.int(2)),
                is_counter: track.message(8).is_some(),
                rank: track.int(12),
                sort_index: process.as_ref().and_then(|process| process.int(3)),
            };
            assert!(self.tracks.insert(uuid, described).is_none(), "track {uuid} twice");
        }
        let at = packet.int(8).map(|time| match sequence.clock {
            64.. => {
                sequence.now += time;
                sequence.now
            }
            _ => time,
        });
        if let Some(event) = packet.message(11) {
            let at = at.expect("events have an instant");
            self.event(&event, at, sequence, events);
        }
        if let Some(sample) = packet.message(66) {
            let stack = sample.int(4).map(|iid| sequence.stacks[&iid].clone()).unwrap_or_default();
            let names = stack.iter().map(|f| sequence.names[&(5, sequence.frames[f])].clone());
            let (pid, tid) = (sample.int(2).unwrap(), sample.int(3).unwrap());
            self.samples.push((at.unwrap(), pid, tid, names.collect()));
        }
    }

    fn event(&mut self, event: &Message, at: u64, sequence: &Sequence, events: &mut Vec<Event>) {
        let track = event.int(11).unwrap_or(sequence.track);
        let kind = event.int(9).unwrap();
        if kind == 4 {
            let value = match (event.int(30), event.int(44)) {
                (Some(whole), _) => whole as i64 as f64,
                (None, Some(bits)) => f64::from_bits(bits),
                (None, None) => panic!("a counter without value"),
            };
            return self.counters.push((track, at, value));
        }
        let mut args = BTreeMap::new();
        for annotation in event.messages(4) {
            let name = match annotation.int(1) {
                Some(iid) => sequence.names[&(3, iid)].clone(),
                None => annotation.text(10).unwrap(),
            };
            let value = annotation
                .text(6)
                .or_else(|| annotation.text(9))
                .or_else(|| {
                    [2, 3, 4].iter().find_map(|f| annotation.int(*f)).map(|v| v.to_string())
                })
                .unwrap();
            args.insert(name, value);
        }
        let slice = Slice {
            track,
            name: match event.int(10) {
                Some(iid) => sequence.names[&(2, iid)].clone(),
                None => event.text(23).unwrap_or_default(),
            },
            category: match event.int(3) {
                Some(iid) => sequence.names[&(1, iid)].clone(),
                None => event.text(22).unwrap_or_default(),
            },
            start: at,
            end: 0,
            flows_out: event.all_ints(36),
            flows_in: event.all_ints(42),
            correlation: args.get("correlation").map(|v| v.parse().unwrap()),
            unfinished: args.contains_key("unfinished"),
            args,
        };
        events.push(Event { at, kind, slice });
    }

    fn pair(&mut self, mut events: Vec<Event>) {
        events.sort_by_key(|event| event.at);
        let mut open: HashMap<u64, Vec<Slice>> = HashMap::new();
        for Event { at, kind, slice } in events {
            assert!(
                self.tracks.contains_key(&slice.track),
                "track {} is not described",
                slice.track
            );
            match kind {
                1 => open.entry(slice.track).or_default().push(slice),
                2 => match open.entry(slice.track).or_default().pop() {
                    Some(begun) => self.slices.push(Slice { end: at, ..begun }),
                    None => self.unmatched += 1,
                },
                3 => self.instants.push(slice),
                other => panic!("event type {other}"),
            }
        }
        self.unmatched += open.values().map(Vec::len).sum::<usize>();
        self.slices.sort_by_key(|slice| (slice.start, slice.track));
    }

    pub(crate) fn of_category(&self, category: &str) -> Vec<&Slice> {
        self.slices.iter().filter(|slice| slice.category == category).collect()
    }

    /// The name of the process above a track.
    pub(crate) fn process(&self, track: u64) -> &Track {
        let mut at = &self.tracks[&track];
        while at.parent != 0 {
            at = &self.tracks[&at.parent];
        }
        at
    }

    /// Pairs of flows: (out, in) counts by id that have both sides.
    pub(crate) fn linked(&self) -> usize {
        let mut outs: BTreeMap<u64, usize> = BTreeMap::new();
        for id in self.slices.iter().flat_map(|slice| &slice.flows_out) {
            *outs.entry(*id).or_default() += 1;
        }
        let ins = self.slices.iter().flat_map(|slice| &slice.flows_in);
        ins.filter(|id| outs.get(id) == Some(&1)).count()
    }
}

struct Event {
    at: u64,
    kind: u64,
    slice: Slice,
}
