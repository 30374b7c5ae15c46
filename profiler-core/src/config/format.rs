//! The formats that spools are exported to.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::parse::closest;

/// An export format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TraceFormat {
    /// Perfetto's own, in one gzip member.
    PftraceGz,
    /// Perfetto's own.
    Pftrace,
    /// Kineto-compatible JSON, in one gzip member.
    KinetoGz,
    /// Kineto-compatible JSON.
    Kineto,
    /// A Parquet table a kind of row.
    Parquet,
    /// Text tables for people.
    Table,
    /// The same tables as CSV.
    Csv,
    /// Sampled stacks for speedscope.
    Speedscope,
    /// Sampled stacks, folded.
    Folded,
}

impl TraceFormat {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::PftraceGz,
        Self::Pftrace,
        Self::KinetoGz,
        Self::Kineto,
        Self::Parquet,
        Self::Table,
        Self::Csv,
        Self::Speedscope,
        Self::Folded,
    ];

    /// Reads a format's name.
    ///
    /// # Errors
    ///
    /// [`UnknownFormat`] where there is none of that name.
    pub fn parse(name: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownFormat {
            name: name.to_owned(),
            suggestion: closest(name, Self::ALL.iter().map(|format| format.name())),
        })
    }

    /// The name, in bodies, configurations and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PftraceGz => "pftrace-gz",
            Self::Pftrace => "pftrace",
            Self::KinetoGz => "kineto-gz",
            Self::Kineto => "kineto",
            Self::Parquet => "parquet",
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Speedscope => "speedscope",
            Self::Folded => "folded",
        }
    }

    /// What a file's name ends in; TensorBoard finds its files by theirs.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::PftraceGz => "pftrace.gz",
            Self::Pftrace => "pftrace",
            Self::KinetoGz => "pt.trace.json.gz",
            Self::Kineto => "pt.trace.json",
            Self::Parquet => "parquet",
            Self::Table => "txt",
            Self::Csv => "csv",
            Self::Speedscope => "speedscope.json",
            Self::Folded => "folded",
        }
    }
}

impl fmt::Display for TraceFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no format of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no format {name:?}{}; there are {}", did_you_mean(*suggestion), names())]
pub struct UnknownFormat {
    /// The name.
    pub name: String,
    /// The format that was perhaps meant.
    pub suggestion: Option<&'static str>,
}

fn names() -> String {
    TraceFormat::ALL.map(TraceFormat::name).join(", ")
}

pub(super) fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |meant| format!(" (did you mean `{meant}`?)"))
}
