//! Windows: which rows belong to the capture.

use std::collections::BTreeMap;

use profiler_core::record::{Window, WindowEdge};

/// A window of a worker, on the capture's axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSpan {
    /// The window's number, from 0.
    pub window: u32,
    /// Where its warm-up began, if it had one.
    pub warmup: Option<u64>,
    /// T0.
    pub begin: u64,
    /// T1; `None` = it never ended: the worker died, or still records.
    pub end: Option<u64>,
    /// The step at which it began, if it goes by steps.
    pub step: Option<u64>,
}

/// Where an instant lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    /// In a window.
    Inside,
    /// In the warm-up before a window.
    Warmup,
    /// Anywhere else.
    Outside,
}

/// The windows of a worker, as its rows tell them. Instants are the worker's CLOCK_MONOTONIC.
#[derive(Debug, Default)]
pub(super) struct WindowRows {
    edges: BTreeMap<u32, Edges>,
    /// No end lies before this instant.
    pub(super) open_until: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Edges {
    warmup: Option<u64>,
    begin: Option<u64>,
    end: Option<u64>,
    step: Option<u64>,
}

/// More windows than any schedule makes; the rest of a broken file is ignored.
const MAX_WINDOWS: usize = 100_000;

impl WindowRows {
    pub(super) fn add(&mut self, row: &Window) {
        let Some(edge) = WindowEdge::from_number(row.edge) else { return };
        if edge == WindowEdge::Open {
            self.open_until = self.open_until.max(row.monotonic);
            return;
        }
        if edge == WindowEdge::Abandoned {
            return;
        }
        if self.edges.len() >= MAX_WINDOWS && !self.edges.contains_key(&row.window) {
            return;
        }
        let edges = self.edges.entry(row.window).or_default();
        match edge {
            WindowEdge::Begin => {
                edges.begin = Some(row.monotonic);
                edges.step = (row.step != u64::MAX).then_some(row.step);
            }
            WindowEdge::End => edges.end = Some(row.monotonic),
            WindowEdge::Warmup => edges.warmup = Some(row.monotonic),
            _ => {}
        }
    }

    /// The instant before which no window begins or ends unknown to us.
    pub(super) fn settled_until(&self) -> u64 {
        let last_end = self.edges.values().filter_map(|e| e.end).max().unwrap_or(0);
        let open = self.edges.values().any(|e| e.begin.is_some() && e.end.is_none());
        // Between windows the next may begin anywhere after the last one's end.
        if open { self.open_until.max(last_end) } else { last_end }
    }

    /// The earliest instant at which a window begins or warms up.
    pub(super) fn first(&self) -> Option<u64> {
        self.edges.values().filter_map(|e| e.begin.or(e.warmup)).min()
    }

    /// The windows on an axis that lies `shift` ns further, in the order of their beginnings.
    pub(super) fn spans(&self, shift: i64) -> Vec<WindowSpan> {
        let mut spans: Vec<WindowSpan> = self
            .edges
            .iter()
            .filter_map(|(&window, edges)| {
                let begin = edges.begin?.saturating_add_signed(shift);
                Some(WindowSpan {
                    window,
                    warmup: edges.warmup.map(|at| at.saturating_add_signed(shift)),
                    begin,
                    end: edges.end.map(|at| at.saturating_add_signed(shift).max(begin)),
                    step: edges.step,
                })
            })
            .collect();
        spans.sort_by_key(|span| (span.begin, span.window));
        spans
    }
}

/// Decides where an instant lies; remembers where the last one lay.
#[derive(Debug, Default)]
pub(super) struct Windows {
    spans: Vec<Bounds>,
    warmups: Vec<(u64, u64)>,
    last: usize,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    begin: u64,
    end: u64,
}

impl Windows {
    /// The windows, cut to `slice` where one is given.
    pub(super) fn new(spans: &[WindowSpan], slice: Option<(u64, u64)>) -> Self {
        let (from, to) = slice.unwrap_or((0, u64::MAX));
        let bounds = spans
            .iter()
            .map(|span| Bounds {
                begin: span.begin.max(from),
                end: span.end.unwrap_or(u64::MAX).min(to),
            })
            .filter(|bounds| bounds.begin < bounds.end)
            .collect();
        let warmups = spans.iter().filter_map(|span| Some((span.warmup?, span.begin))).collect();
        Self { spans: bounds, warmups, last: 0 }
    }

    /// Where the instant lies.
    #[inline]
    pub(super) fn place(&mut self, at: u64) -> Belongs {
        if let Some(bounds) = self.spans.get(self.last)
            && bounds.begin <= at
            && at < bounds.end
        {
            return Belongs::Inside;
        }
        self.place_anew(at)
    }

    #[cold]
    fn place_anew(&mut self, at: u64) -> Belongs {
        // Windows may overlap in a broken file only; then the last that began before decides.
        let after = self.spans.partition_point(|bounds| bounds.begin <= at);
        if let Some(index) = after.checked_sub(1)
            && at < self.spans[index].end
        {
            self.last = index;
            return Belongs::Inside;
        }
        if self.warmups.iter().any(|&(from, to)| from <= at && at < to) {
            return Belongs::Warmup;
        }
        Belongs::Outside
    }

    /// The end of the window that holds the instant, if it has one.
    pub(super) fn end_of(&self, at: u64) -> Option<u64> {
        let after = self.spans.partition_point(|bounds| bounds.begin <= at);
        let end = self.spans.get(after.checked_sub(1)?)?.end;
        (end != u64::MAX).then_some(end)
    }
}
