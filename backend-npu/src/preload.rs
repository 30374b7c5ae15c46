//! What MSPTI needs of LD_PRELOAD, and how a person is told.

use std::path::Path;

use profiler_core::error::BackendError;

/// Whether the process was started with libmspti in LD_PRELOAD, by the test that the library makes
/// itself.
pub(crate) fn is_preloaded() -> bool {
    profiler_core::environment::variable("LD_PRELOAD")
        .is_some_and(|list| list.to_string_lossy().contains("libmspti.so"))
}

/// What to do so that it is.
pub(crate) fn remedy(library: &Path) -> String {
    format!("start the worker with `LD_PRELOAD={}`", library.display())
}

/// The error where nothing can be recorded without.
pub(crate) fn needed(library: &Path) -> BackendError {
    BackendError::Unavailable { code: "needs_ld_preload".to_owned(), message: message(library) }
}

/// The same in words.
pub(crate) fn message(library: &Path) -> String {
    format!(
        "this CANN is older than 9.0, and its MSPTI finds devices only where it was loaded first: {}",
        remedy(library)
    )
}
