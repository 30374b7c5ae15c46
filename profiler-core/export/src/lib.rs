//! From spools to traces, outside the profiled process.
//!
//! [`capture`] reads one or more spools, applies the windows, resolves what the ids mean and puts
//! every instant on one axis; the formats read its rows and nothing else.

pub mod capture;
pub mod stacks;
pub mod summary;
pub mod symbolize;
pub mod tables;
