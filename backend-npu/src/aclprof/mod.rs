//! Recording through AscendCL's profiling interface: raw files, which `msprof` makes a trace of.

pub(crate) mod capture;
pub(crate) mod library;
