//! Figures: what omniprof must reach, measured and judged by one rule.
//!
//! A figure is an entry of a group's `figures()`. Its `run` measures and returns a [`Measured`];
//! the harness judges it against the entry's [`Bound`] and prints one line. Nothing about a figure
//! is told before its entry is there.

pub mod agent;
pub mod context;
pub mod cpu;
pub mod cuda;
pub mod export;
pub mod libtorch;
pub mod measure;
pub mod npu;
pub mod process;
pub mod ratio;
pub mod role;
mod rusage;
pub mod spool;
pub mod stop;

use std::fmt;

use serde::Serialize;

pub use context::Context;
pub use measure::{ChildRun, ThreadUsage, peak_rss_bytes, rss_bytes, run_child};
pub use ratio::{Ratio, measure_ratio};

/// One figure: what must be reached, and how it is measured.
#[derive(Clone, Debug)]
pub struct FigureEntry {
    /// The name, unique in its group; it selects the figure on the command line.
    pub name: &'static str,
    /// The unit of the measured value (`launches/s`, `MiB`, `ms`, `x` for a ratio).
    pub unit: &'static str,
    /// What must be reached; `None` where the figure is printed beside another.
    pub required: Option<Bound>,
    /// What the figure is compared with: a measured limit, a peer, the source of the number.
    pub anchor: &'static str,
    /// Measures. An error makes the figure `SHORT`, with the error as its reason.
    pub run: fn(&Context) -> anyhow::Result<Measured>,
}

/// What must be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a bound has two directions")]
pub enum Bound {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

impl Bound {
    /// Whether a value reaches it.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    /// The bound's number.
    #[must_use]
    pub fn number(self) -> f64 {
        match self {
            Self::AtLeast(bound) | Self::AtMost(bound) => bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {}", Number(*bound)),
            Self::AtMost(bound) => write!(f, "<= {}", Number(*bound)),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Measured {
    /// One value, with what a reader should know of it (empty = nothing).
    Value {
        /// The value, in the entry's unit.
        value: f64,
        /// For instance the spread over several runs.
        note: String,
    },
    /// A ratio of two sides that were run in turn.
    Ratio(Ratio),
    /// It cannot be measured here, and why.
    Skipped(String),
}

impl Measured {
    /// One value.
    #[must_use]
    pub fn value(value: f64) -> Self {
        Self::Value { value, note: String::new() }
    }

    /// One value and what a reader should know of it.
    #[must_use]
    pub fn noted(value: f64, note: impl Into<String>) -> Self {
        Self::Value { value, note: note.into() }
    }

    /// The median of several runs, with the least and the greatest beside it.
    ///
    /// # Panics
    ///
    /// Panics on an empty slice: a figure of nothing is a fault of its measurement.
    #[must_use]
    pub fn median_of(runs: &[f64]) -> Self {
        assert!(!runs.is_empty(), "a median needs a run");
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (sorted[0], sorted[sorted.len() - 1]);
        Self::Value {
            value: ratio::median(&sorted),
            note: format!("{} runs, {} .. {}", sorted.len(), Number(least), Number(greatest)),
        }
    }
}

/// The verdict on a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Verdict {
    /// Reached.
    #[serde(rename = "ok")]
    Ok,
    /// Not reached.
    #[serde(rename = "SHORT")]
    Short,
    /// Not reached: the ratio's interval is wider than the bound and contains it.
    #[serde(rename = "NOISY")]
    Noisy,
    /// Not measured here.
    #[serde(rename = "skipped")]
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Short => "SHORT",
            Self::Noisy => "NOISY",
            Self::Skipped => "skipped",
        })
    }
}

/// A figure's line.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Line {
    /// The group.
    pub group: &'static str,
    /// The figure.
    pub name: &'static str,
    /// The measured value (the median of a ratio), `None` where there is none.
    pub measured: Option<f64>,
    /// The 95 % interval of a ratio (or least and greatest of three pairs).
    pub interval: Option<(f64, f64)>,
    /// The unit.
    pub unit: &'static str,
    /// What must be reached.
    pub required: Option<Bound>,
    /// What it is compared with.
    pub anchor: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// Why it was skipped or could not be measured; else what a reader should know.
    pub note: String,
}

impl Line {
    /// Judges what was measured.
    #[must_use]
    pub fn judge(
        group: &'static str,
        entry: &FigureEntry,
        outcome: anyhow::Result<Measured>,
    ) -> Self {
        let mut line = Self {
            group,
            name: entry.name,
            measured: None,
            interval: None,
            unit: entry.unit,
            required: entry.required,
            anchor: entry.anchor,
            verdict: Verdict::Short,
            note: String::new(),
        };
        match outcome {
            Err(error) => line.note = format!("could not be measured: {error:#}"),
            Ok(Measured::Skipped(reason)) => {
                line.verdict = Verdict::Skipped;
                line.note = reason;
            }
            Ok(Measured::Value { value, note }) => {
                line.measured = Some(value);
                line.note = note;
                line.verdict = match entry.required {
                    // NaN reaches no bound.
                    Some(bound) if !bound.holds(value) => Verdict::Short,
                    Some(_) | None => Verdict::Ok,
                };
            }
            Ok(Measured::Ratio(ratio)) => {
                line.measured = Some(ratio.median);
                line.interval = Some((ratio.low, ratio.high));
                line.note = ratio.to_string();
                line.verdict = entry.required.map_or(Verdict::Ok, |bound| ratio.judge(bound));
            }
        }
        line
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}/{}", self.group, self.name);
        write!(f, "{name:<44} ")?;
        let measured = match (self.measured, self.interval) {
            (Some(value), Some((low, high))) => {
                format!("{} [{}, {}]", Number(value), Number(low), Number(high))
            }
            (Some(value), None) => Number(value).to_string(),
            (None, _) => "-".to_owned(),
        };
        write!(f, "{measured:>10} {:<12} ", self.unit)?;
        match self.required {
            Some(bound) => write!(f, "{:<12} ", bound.to_string())?,
            None => write!(f, "{:<12} ", "-")?,
        }
        write!(f, "{:<7}", self.verdict.to_string())?;
        if !self.note.is_empty() {
            write!(f, " ({})", self.note)?;
        }
        write!(f, " | {}", self.anchor)
    }
}

/// All groups, in the order in which they are printed.
#[must_use]
pub fn groups() -> Vec<(&'static str, Vec<FigureEntry>)> {
    let mut host = cpu::figures();
    host.extend(agent::figures());
    vec![
        ("spool", spool::figures()),
        ("export", export::figures()),
        ("stop", stop::figures()),
        ("cpu", host),
        ("cuda", cuda::figures()),
        ("process", process::figures()),
        ("npu", npu::figures()),
        ("libtorch", libtorch::figures()),
    ]
}

/// A number for people: three to four digits that count, thousands with a suffix.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if size >= 1e9 {
            write!(f, "{:.2} G", self.0 / 1e9)
        } else if size >= 1e6 {
            write!(f, "{:.2} M", self.0 / 1e6)
        } else if size >= 1e4 {
            write!(f, "{:.1} k", self.0 / 1e3)
        } else if size >= 100.0 || self.0 == self.0.trunc() {
            write!(f, "{:.0}", self.0)
        } else if size >= 10.0 {
            write!(f, "{:.1}", self.0)
        } else {
            write!(f, "{:.4}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(required: Option<Bound>) -> FigureEntry {
        FigureEntry {
            name: "n",
            unit: "ms",
            required,
            anchor: "a",
            run: |_| Ok(Measured::value(0.0)),
        }
    }

    #[test]
    fn a_value_is_judged_by_its_bound() {
        let at_most = entry(Some(Bound::AtMost(100.0)));
        let verdict = |measured| Line::judge("g", &at_most, measured).verdict;
        assert_eq!(verdict(Ok(Measured::value(100.0))), Verdict::Ok);
        assert_eq!(verdict(Ok(Measured::value(100.1))), Verdict::Short);
        assert_eq!(verdict(Ok(Measured::value(f64::NAN))), Verdict::Short);
        assert_eq!(verdict(Ok(Measured::Skipped("no".into()))), Verdict::Skipped);
        assert_eq!(verdict(Err(anyhow::anyhow!("broken"))), Verdict::Short);
        let at_least = entry(Some(Bound::AtLeast(5.0)));
        assert_eq!(Line::judge("g", &at_least, Ok(Measured::value(4.9))).verdict, Verdict::Short);
    }

    #[test]
    fn names_are_unique_in_their_group() {
        for (group, entries) in groups() {
            let mut names: Vec<_> = entries.iter().map(|entry| entry.name).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "group {group} has a name twice");
        }
    }
}
