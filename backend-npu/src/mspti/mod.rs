//! Ascend's profiling interface, loaded at run time.
//!
//! <https://www.hiascend.com/document> (MindStudio, MSPTI). Everything here is proved on a stand-in
//! and on recorded observations of the library's host side; no device has run it.

pub(crate) mod buffers;
pub(crate) mod capture;
pub(crate) mod layout;
pub(crate) mod library;
pub(crate) mod locate;
pub(crate) mod walk;
