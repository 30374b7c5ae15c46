//! From spools to traces, outside the profiled process.
//!
//! [`capture`] reads one or more spools, applies the windows, resolves what the ids mean and puts
//! every instant on one axis; the formats read its rows and nothing else.

pub mod capture;
pub mod export;
pub mod folded;
pub mod gzip;
pub mod import;
mod kineto;
mod label;
mod operator_links;
mod operator_shapes;
pub mod parquet;
mod pftrace;
mod pids;
mod proto;
pub mod speedscope;
pub mod stacks;
pub mod summary;
pub mod symbolize;
pub mod tables;
mod timeline;

pub use export::{ExportError, ExportReport, ExportRequest, run};
pub use profiler_core::config::{EventArguments, TraceFormat};
