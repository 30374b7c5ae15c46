//! A sink that keeps what it is given and checks it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::ClockDomain;
use crate::record::{
    LaunchConfigDef, LossCause, RecordKind, Role, Row as _, Schema, StackDef, StringDef,
};
use crate::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

/// What a [`MemorySink`] answers to the next groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Every group is taken.
    Accept,
    /// Refuses half of the groups, in an order without a period: a producer of several streams
    /// would meet one by always refusing the same.
    HalfFull,
    /// Every group is refused.
    Full,
    /// No group is taken any more.
    Closed,
    /// The sink panics.
    Panic,
}

/// Keeps rows in memory. Breaches of the sink's contract become faults, which
/// [`MemorySink::assert_sound`] reports on the test's own thread.
#[derive(Debug)]
pub struct MemorySink {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    answer: Answer,
    groups: u64,
    streams: Vec<StreamInfo>,
    rows: BTreeMap<RecordKind, u64>,
    refused: BTreeMap<RecordKind, u64>,
    losses: BTreeMap<LossCause, u64>,
    lost: BTreeMap<RecordKind, u64>,
    defined: BTreeSet<(u32, RecordKind, u32)>,
    instants: Vec<Seen>,
    facts: BTreeMap<String, String>,
    faults: Vec<String>,
}

/// The instants of one row.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Seen {
    /// The row's kind.
    pub kind: RecordKind,
    /// The clock of its instants.
    pub clock: ClockDomain,
    /// Its first instant.
    pub time: u64,
    /// Its end, 0 = none.
    pub end: u64,
}

/// Rows whose instants are kept, at most.
const MAX_SEEN: usize = 1 << 20;

impl Default for MemorySink {
    fn default() -> Self {
        Self::new(Answer::Accept)
    }
}

impl MemorySink {
    /// A sink that gives one answer to all.
    #[must_use]
    pub fn new(answer: Answer) -> Self {
        let agent =
            StreamInfo { producer: "agent".to_owned(), thread: 0, clock: ClockDomain::Monotonic };
        Self {
            state: Mutex::new(State {
                answer,
                groups: 0,
                streams: vec![agent],
                rows: BTreeMap::new(),
                refused: BTreeMap::new(),
                losses: BTreeMap::new(),
                lost: BTreeMap::new(),
                defined: BTreeSet::new(),
                instants: Vec::new(),
                facts: BTreeMap::new(),
                faults: Vec::new(),
            }),
        }
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, answer: Answer) {
        self.lock().answer = answer;
    }

    /// Rows of a kind that were taken.
    #[must_use]
    pub fn rows(&self, kind: RecordKind) -> u64 {
        self.lock().rows.get(&kind).copied().unwrap_or_default()
    }

    /// All rows that were taken.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lock().rows.values().sum()
    }

    /// All rows that were refused as [`Emit::Full`].
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.lock().refused.values().sum()
    }

    /// Rows of a kind that were refused as [`Emit::Full`].
    #[must_use]
    pub fn refused_of(&self, kind: RecordKind) -> u64 {
        self.lock().refused.get(&kind).copied().unwrap_or_default()
    }

    /// Rows of a kind that the producer said were lost.
    #[must_use]
    pub fn lost_of(&self, kind: RecordKind) -> u64 {
        self.lock().lost.get(&kind).copied().unwrap_or_default()
    }

    /// Rows that the producer said were lost, and not of which kind.
    pub(super) fn lost_of_no_kind(&self) -> u64 {
        let state = self.lock();
        state.losses.values().sum::<u64>() - state.lost.values().sum::<u64>()
    }

    /// Groups that were offered, whatever became of them.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.lock().groups
    }

    /// Rows that the producer said were lost, by cause.
    #[must_use]
    pub fn losses(&self) -> BTreeMap<LossCause, u64> {
        self.lock().losses.clone()
    }

    /// Facts, by key.
    #[must_use]
    pub fn facts(&self) -> BTreeMap<String, String> {
        self.lock().facts.clone()
    }

    /// The instants of all rows that have any.
    #[must_use]
    pub fn instants(&self) -> Vec<Seen> {
        self.lock().instants.clone()
    }

    /// # Panics
    ///
    /// Where the producer broke the sink's contract.
    pub fn assert_sound(&self) {
        let faults = self.lock().faults.clone();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fault(&mut self, text: String) {
        if self.faults.len() < 20 {
            self.faults.push(text);
        }
    }

    fn take(&mut self, batch: &Batch<'_>) {
        *self.rows.entry(batch.kind).or_default() += batch.count() as u64;
        let Some(schema) = batch.kind.schema() else { return };
        let stride = batch.stride as usize;
        let Some(clock) = self.streams.get(batch.stream.0 as usize).map(|info| info.clock) else {
            return;
        };
        for row in batch.rows.chunks_exact(stride) {
            self.take_row(batch, schema, clock, row);
        }
    }

    fn take_row(&mut self, batch: &Batch<'_>, schema: &Schema, clock: ClockDomain, row: &[u8]) {
        let mut seen = Seen { kind: batch.kind, clock, time: 0, end: 0 };
        for field in schema.fields {
            let Some(value) = value_of(row, field.offset as usize, field.width as usize) else {
                continue;
            };
            let defines = match field.role {
                Role::Time if seen.time == 0 => {
                    seen.time = value;
                    continue;
                }
                Role::EndTime => {
                    seen.end = value;
                    continue;
                }
                Role::String => StringDef::KIND,
                Role::Stack => StackDef::KIND,
                Role::LaunchConfig => LaunchConfigDef::KIND,
                Role::Heap => {
                    let (offset, len) = (value & 0xffff_ffff, value >> 32);
                    if len != 0 && offset + len > batch.heap.len() as u64 {
                        self.fault(format!("{}: a heap reference leaves the heap", batch.kind));
                    }
                    continue;
                }
                _ => continue,
            };
            let key = (batch.stream.0, defines, value as u32);
            if batch.kind == defines {
                self.defined.insert(key);
            } else if value != 0 && !self.defined.contains(&key) {
                self.fault(format!(
                    "{}.{} names {defines} {value}, which was not defined before",
                    batch.kind, field.name
                ));
            }
        }
        if seen.time != 0 && self.instants.len() < MAX_SEEN {
            self.instants.push(seen);
        }
    }
}

fn value_of(row: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = row.get(at..at + width)?;
    let mut value = [0; 8];
    value[..width].copy_from_slice(bytes);
    Some(u64::from_le_bytes(value))
}

impl RecordSink for MemorySink {
    fn open_stream(&self, info: StreamInfo) -> StreamId {
        let mut state = self.lock();
        state.streams.push(info);
        StreamId(state.streams.len() as u32 - 1)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        let mut state = self.lock();
        state.groups += 1;
        let answer = match state.answer {
            // The sequence of Thue and Morse.
            Answer::HalfFull if state.groups.count_ones() % 2 == 1 => Answer::Full,
            Answer::HalfFull => Answer::Accept,
            answer => answer,
        };
        assert_ne!(answer, Answer::Panic, "the sink panics, as the test asked it to");
        for batch in group {
            let stride = batch.stride;
            if stride == 0 || !stride.is_multiple_of(8) {
                state.fault(format!("{}: a stride of {stride}", batch.kind));
                return Emit::Full;
            }
            if !batch.rows.len().is_multiple_of(stride as usize) {
                state.fault(format!("{}: a broken row", batch.kind));
            }
            if batch.stream != group[0].stream {
                state.fault(format!("{}: a group of several streams", batch.kind));
            }
            if batch.stream.0 as usize >= state.streams.len() {
                state.fault(format!("{}: stream {} was not opened", batch.kind, batch.stream.0));
            }
        }
        match answer {
            Answer::Closed => return Emit::Closed,
            Answer::Full => {
                for batch in group {
                    *state.refused.entry(batch.kind).or_default() += batch.count() as u64;
                }
                return Emit::Full;
            }
            _ => {}
        }
        for batch in group {
            state.take(batch);
        }
        Emit::Accepted
    }

    fn loss(&self, loss: Loss) {
        let mut state = self.lock();
        if loss.cause == LossCause::SinkFull {
            state.fault("the sink counts what it refuses itself".to_owned());
        }
        *state.losses.entry(loss.cause).or_default() += loss.count;
        if let Some(kind) = loss.kind {
            *state.lost.entry(kind).or_default() += loss.count;
        }
    }

    fn fact(&self, key: &str, value: &str) {
        self.lock().facts.insert(key.to_owned(), value.to_owned());
    }

    fn log(&self, _level: LogLevel, _target: &str, _message: &str) {}
}
