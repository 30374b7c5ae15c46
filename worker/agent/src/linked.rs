//! The only place that names backend crates.
//!
//! A backend registers itself with `inventory`; a crate that nothing names is not linked and
//! registers nothing.

#[cfg(feature = "cpu")]
use backend_cpu as _;
#[cfg(feature = "cuda")]
use backend_cuda as _;
#[cfg(feature = "npu")]
use backend_npu as _;
