//! The operators of libtorch, in processes that have it.
//!
//! libtorch calls back where a function begins and where it ends (`at::RecordFunction`, which
//! PyTorch's own profiler uses, too). The callbacks are given to it by exported symbols, so that
//! nothing of libtorch is needed to build, and any process can be recorded, whatever its language.
//! They append a row to a chunk of the thread; a thread of ours, `omniprof-ops`, makes rows of
//! the record format from it. What lies where in libtorch's objects is looked at anew in each
//! process; where it is not as expected, names and times are recorded and nothing else.
//!
//! What became of it is told by the facts `cpu.operators` (`recorded`, `names only`, `none`),
//! `cpu.operators.reason`, `cpu.operators.libtorch` (the version) and `cpu.operators.path`.

#[cfg(target_arch = "x86_64")]
mod callbacks;
#[cfg(target_arch = "x86_64")]
mod collector;
mod entry;
#[cfg(target_arch = "x86_64")]
mod layout;
#[cfg(target_arch = "x86_64")]
mod library;
#[cfg(target_arch = "x86_64")]
mod names;
#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(target_arch = "x86_64")]
mod session;
#[cfg(target_arch = "x86_64")]
mod shapes;
#[cfg(target_arch = "x86_64")]
mod state;
#[cfg(not(target_arch = "x86_64"))]
mod unsupported;

#[cfg(target_arch = "x86_64")]
pub(crate) use session::Operators;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use unsupported::Operators;

/// What a recording of operators has to say at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OperatorSummary {
    /// What a person should know.
    pub(crate) notes: Vec<String>,
    /// The most memory that it took.
    pub(crate) memory_bytes: u64,
}

/// What a session asks of operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OperatorPlan {
    /// Record them.
    pub(crate) rows: bool,
    /// With the shapes of their inputs.
    pub(crate) shapes: bool,
}
