//! The seams of omniprof: what flows between drivers, profiled processes, files and readers.
//!
//! A [`backend`] turns what a driver hands over into [`record`]s and gives them to a [`sink`]; the
//! spool writer behind the sink appends them to a file; readers turn that file into traces. A
//! controller and the agents in the profiled processes talk in [`control`] messages. This crate
//! holds the formats and the contracts of all of them and depends on none.
//!
//! `unsafe` is confined to the plugin door, the thread-local chunks and one instruction that reads
//! the time stamp counter.

pub mod abi;
pub mod backend;
pub mod chunk;
pub mod clock;
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod control;
pub mod descriptor;
pub mod environment;
pub mod error;
pub mod identity;
pub mod inject_env;
pub mod null;
pub mod probe;
pub mod process_facts;
pub mod program;
pub mod record;
pub mod registry;
pub mod schedule;
pub mod secret;
pub mod sink;
pub mod socket_path;
pub mod spool;
pub mod step_names;
#[cfg(feature = "conformance")]
pub mod synthetic;
pub mod thread;
pub mod trace_path;
pub mod tsc;
