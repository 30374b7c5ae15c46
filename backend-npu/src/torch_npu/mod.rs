//! Recording by the profiler of torch_npu, in the process's own Python.

pub(crate) mod capture;
pub(crate) mod library;
mod python;

/// What a probe says of this path.
pub(crate) fn note() -> String {
    "recorded by torch_npu.profiler in the process's own Python: raw files beside the spool, which \
     its `analyse` makes a trace of after the stop, in a process of its own"
        .to_owned()
}
