//! NVIDIA's profiling interface, loaded at run time.
//!
//! <https://docs.nvidia.com/cupti/main/main.html>

pub(crate) mod buffers;
pub(crate) mod calls;
pub(crate) mod capture;
pub(crate) mod layout;
pub(crate) mod library;
pub(crate) mod locate;
pub(crate) mod told_calls;
