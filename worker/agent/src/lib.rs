//! All of omniprof that runs inside a profiled process.
//!
//! An [`Agent`] enters a process once. Idle it is one sleeping thread that keeps a link to its
//! controller, or looks for one each second. Armed, its threads write the rows of the backends
//! and of the application's own spans to a spool that the controller opened. It knows no export,
//! no HTTP and no async runtime: the profiled process does the least possible.
//!
//! ```no_run
//! # fn main() -> Result<(), profiler_agent::AgentError> {
//! let agent = profiler_agent::Agent::builder().stage(0).role("thinker").rank(1).connect()?;
//! loop {
//!     agent.step();
//!     // … the worker's work
//! #   break;
//! }
//! # Ok(())
//! # }
//! ```

mod agent;
mod arm;
mod backends;
mod client;
mod core;
mod cost;
mod credentials;
mod door;
mod drain;
mod entrance;
mod environment;
mod exit;
mod facts;
mod fork;
mod jit;
pub mod link;
mod linked;
mod log_lines;
pub mod nvtx;
mod outbox;
#[cfg_attr(not(feature = "plugins"), path = "plugins_disabled.rs")]
mod plugins;
mod raw_files;
mod sandbox;
mod session;
mod spans;

pub use agent::{Agent, AgentBuilder, AgentError, LocalAgent};
pub use backends::backends;
pub use linked::host_counters;
#[cfg(feature = "tracing-layer")]
pub use spans::TracingLayer;
pub use spans::{FieldValue, MarkerBuilder, SpanBuilder, SpanGuard, marker, span, step};
