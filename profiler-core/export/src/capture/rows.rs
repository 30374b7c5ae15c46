//! What the capture does with each kind of row.

use std::io;

use profiler_core::record::{
    ApiCall, Communication, Counter, ExternalCorrelation, Kernel, LaunchConfigId, Marker, Memcpy,
    Memory, Memset, Operator, Overhead, Row, Sample, Span, StackId, Step, StringId,
    Synchronization, flag,
};
use profiler_core::sink::StreamId;

use super::definitions::StreamIds;
use super::{Consumer, Place};

/// A kind of row that consumers see.
pub(super) trait CaptureRow: Row {
    /// Whether the row belongs where its launch belongs.
    const BY_LAUNCH: bool;
    /// Whether the row is the launch that others belong to.
    const IS_LAUNCH: bool;
    /// Whether it has an end.
    const HAS_END: bool;
    /// Whether it has instants.
    const HAS_OWN_TIME: bool = true;

    fn start(&self) -> u64;
    fn set_start(&mut self, at: u64);
    fn end(&self) -> u64;
    fn set_end(&mut self, at: u64);
    fn correlation(&self) -> u64;
    fn mark_unfinished(&mut self);
    fn resolve(&mut self, ids: &StreamIds, thread: u32);
    fn deliver(consumer: &mut dyn Consumer, place: &Place<'_>, rows: &[Self]) -> io::Result<()>;
    fn waiting(waiting: &mut Waiting) -> Option<&mut Vec<(StreamId, Self)>>;
}

/// Rows whose launch was not read yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) kernels: Vec<(StreamId, Kernel)>,
    pub(super) memcpys: Vec<(StreamId, Memcpy)>,
    pub(super) memsets: Vec<(StreamId, Memset)>,
    pub(super) memory: Vec<(StreamId, Memory)>,
    pub(super) communications: Vec<(StreamId, Communication)>,
    pub(super) synchronizations: Vec<(StreamId, Synchronization)>,
    pub(super) overheads: Vec<(StreamId, Overhead)>,
    pub(super) external: Vec<(StreamId, ExternalCorrelation)>,
}

impl Waiting {
    /// Rows of the kind of which the most wait.
    pub(super) fn longest(&self) -> usize {
        let lengths = [
            self.kernels.len(),
            self.memcpys.len(),
            self.memsets.len(),
            self.memory.len(),
            self.communications.len(),
            self.synchronizations.len(),
            self.overheads.len(),
            self.external.len(),
        ];
        lengths.into_iter().max().unwrap_or(0)
    }

    /// The earliest start of a row.
    pub(super) fn first_start(&self) -> Option<u64> {
        fn first<R: CaptureRow>(rows: &[(StreamId, R)]) -> Option<u64> {
            rows.iter().map(|(_, row)| row.start()).min()
        }
        let firsts = [
            first(&self.kernels),
            first(&self.memcpys),
            first(&self.memsets),
            first(&self.memory),
            first(&self.communications),
            first(&self.synchronizations),
            first(&self.overheads),
        ];
        firsts.into_iter().flatten().min()
    }

    /// Until which start the older half lies, of a kind of which more than `most` wait; 0 = none.
    pub(super) fn crowded_until(&self, most: usize) -> u64 {
        fn half<R: CaptureRow>(rows: &[(StreamId, R)], most: usize) -> u64 {
            if rows.len() <= most {
                return 0;
            }
            let mut starts: Vec<u64> = rows.iter().map(|(_, row)| row.start()).collect();
            let (_, median, _) = starts.select_nth_unstable(rows.len() / 2);
            *median
        }
        let halves = [
            half(&self.kernels, most),
            half(&self.memcpys, most),
            half(&self.memsets, most),
            half(&self.memory, most),
            half(&self.communications, most),
            half(&self.synchronizations, most),
            half(&self.overheads, most),
        ];
        halves.into_iter().max().unwrap_or(0)
    }
}

macro_rules! capture_rows {
    ($($row:ident {
        start: $start:ident,
        end: $($end:ident)?,
        correlation: $($correlation:ident)? $(= $rule:ident)?,
        flags: $($flags:ident)?,
        strings: [$($string:ident),*],
        stacks: [$($stack:ident),*],
        configs: [$($config:ident),*],
        thread: $($thread:ident)?,
        deliver: $deliver:ident,
        waiting: $($waiting:ident)?,
    })*) => {$(
        impl CaptureRow for $row {
            const BY_LAUNCH: bool = capture_rows!(@by_launch $($rule)?);
            const IS_LAUNCH: bool = capture_rows!(@is_launch $($rule)?);
            const HAS_END: bool = capture_rows!(@present $($end)?);

            #[inline]
            fn start(&self) -> u64 {
                self.$start
            }

            #[inline]
            fn set_start(&mut self, at: u64) {
                self.$start = at;
            }

            #[inline]
            fn end(&self) -> u64 {
                capture_rows!(@or_else self.$start, $(self.$end)?)
            }

            #[inline]
            fn set_end(&mut self, at: u64) {
                let _ = at;
                $(self.$end = at;)?
            }

            #[inline]
            fn correlation(&self) -> u64 {
                capture_rows!(@or_else 0, $(self.$correlation)?)
            }

            #[inline]
            fn mark_unfinished(&mut self) {
                $(self.$flags |= flag::UNFINISHED;)?
            }

            #[inline]
            fn resolve(&mut self, ids: &StreamIds, thread: u32) {
                let _ = (ids, thread);
                $(self.$string = StringId(ids.strings.resolve(self.$string.0));)*
                $(self.$stack = StackId(ids.stacks.resolve(self.$stack.0));)*
                $(self.$config = LaunchConfigId(ids.configs.resolve(self.$config.0));)*
                $(if self.$thread == 0 {
                    self.$thread = thread;
                })?
            }

            fn deliver(
                consumer: &mut dyn Consumer,
                place: &Place<'_>,
                rows: &[Self],
            ) -> io::Result<()> {
                consumer.$deliver(place, rows)
            }

            fn waiting(waiting: &mut Waiting) -> Option<&mut Vec<(StreamId, Self)>> {
                let _ = &waiting;
                capture_rows!(@or_none $(&mut waiting.$waiting)?)
            }
        }
    )*};
    (@by_launch caused) => { true };
    (@by_launch $($other:ident)?) => { false };
    (@is_launch launch) => { true };
    (@is_launch $($other:ident)?) => { false };
    (@present $name:ident) => { true };
    (@present) => { false };
    (@or_else $default:expr, $value:expr) => { $value };
    (@or_else $default:expr,) => { $default };
    (@or_none $value:expr) => { Some($value) };
    (@or_none) => { None };
}

capture_rows! {
    Kernel {
        start: start, end: end, correlation: correlation = caused, flags: flags,
        strings: [name, category], stacks: [], configs: [config], thread: ,
        deliver: kernels, waiting: kernels,
    }
    Memcpy {
        start: start, end: end, correlation: correlation = caused, flags: flags,
        strings: [], stacks: [], configs: [], thread: ,
        deliver: memcpys, waiting: memcpys,
    }
    Memset {
        start: start, end: end, correlation: correlation = caused, flags: flags,
        strings: [], stacks: [], configs: [], thread: ,
        deliver: memsets, waiting: memsets,
    }
    Memory {
        start: time, end: , correlation: correlation = caused, flags: ,
        strings: [allocator], stacks: [], configs: [], thread: thread,
        deliver: memory, waiting: memory,
    }
    Communication {
        start: start, end: end, correlation: correlation = caused, flags: flags,
        strings: [name, algorithm, data_type, communicator], stacks: [], configs: [], thread: ,
        deliver: communications, waiting: communications,
    }
    ApiCall {
        start: start, end: end, correlation: correlation = launch, flags: flags,
        strings: [name], stacks: [], configs: [], thread: thread,
        deliver: api_calls, waiting: ,
    }
    Synchronization {
        start: start, end: end, correlation: correlation = caused, flags: ,
        strings: [], stacks: [], configs: [], thread: ,
        deliver: synchronizations, waiting: synchronizations,
    }
    Overhead {
        start: start, end: end, correlation: correlation = caused, flags: flags,
        strings: [name], stacks: [], configs: [], thread: thread,
        deliver: overheads, waiting: overheads,
    }
    Operator {
        start: start, end: end, correlation: , flags: flags,
        strings: [name], stacks: [stack], configs: [], thread: thread,
        deliver: operators, waiting: ,
    }
    Span {
        start: start, end: end, correlation: , flags: flags,
        strings: [name, target, request, stage], stacks: [], configs: [], thread: thread,
        deliver: spans, waiting: ,
    }
    Marker {
        start: time, end: , correlation: , flags: ,
        strings: [name, target, request], stacks: [], configs: [], thread: thread,
        deliver: markers, waiting: ,
    }
    Counter {
        start: time, end: , correlation: , flags: ,
        strings: [name, unit], stacks: [], configs: [], thread: ,
        deliver: counters, waiting: ,
    }
    Sample {
        start: time, end: , correlation: , flags: ,
        strings: [], stacks: [stack], configs: [], thread: thread,
        deliver: samples, waiting: ,
    }
    Step {
        start: time, end: , correlation: , flags: ,
        strings: [], stacks: [], configs: [], thread: thread,
        deliver: steps, waiting: ,
    }
}

impl CaptureRow for ExternalCorrelation {
    const BY_LAUNCH: bool = true;
    const IS_LAUNCH: bool = false;
    const HAS_END: bool = false;
    const HAS_OWN_TIME: bool = false;

    fn start(&self) -> u64 {
        0
    }

    fn set_start(&mut self, _at: u64) {}

    fn end(&self) -> u64 {
        0
    }

    fn set_end(&mut self, _at: u64) {}

    fn correlation(&self) -> u64 {
        self.correlation
    }

    fn mark_unfinished(&mut self) {}

    fn resolve(&mut self, _ids: &StreamIds, _thread: u32) {}

    fn deliver(consumer: &mut dyn Consumer, place: &Place<'_>, rows: &[Self]) -> io::Result<()> {
        consumer.external_correlations(place, rows)
    }

    fn waiting(waiting: &mut Waiting) -> Option<&mut Vec<(StreamId, Self)>> {
        Some(&mut waiting.external)
    }
}
