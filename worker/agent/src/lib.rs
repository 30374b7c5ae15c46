//! All of omniprof that runs inside a profiled process.

pub mod link;
