//! What a device does as a whole, by NVIDIA's management library.
//!
//! The numbers are those of the machine, the same for all its processes, so that they are read
//! once a host, outside the profiled processes, into a spool of their own.
//!
//! <https://docs.nvidia.com/deploy/nvml-api/>

mod backend;
mod counters;
mod gpm;
mod library;

pub use backend::HostCounters;
