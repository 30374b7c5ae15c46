//! What comes of a trace that another profiler wrote.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use profiler_export::capture::{Capture, CaptureOptions};
use profiler_export::import::{ImportReport, import};
use profiler_export::summary::{Summary, SummaryOptions, summarize};

/// Imports a trace and sums up its spool.
pub(crate) fn imported(trace: &Path) -> (ImportReport, Summary) {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("a.spool");
    let report = import(trace, &spool).unwrap();
    let mut capture = Capture::open(vec![spool], CaptureOptions::default()).unwrap();
    (report, summarize(&mut capture, SummaryOptions::default()).unwrap())
}
