//! Failures that are known, each with backend, library and reason.

use super::Cell;

/// Tests that are known to fail with a library.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a table of the matrix")]
pub struct Expectation {
    /// The backend's id.
    pub backend: &'static str,
    /// The version of the vendor's library, as its backend tells it; on a stand-in, `stand-in`.
    pub library: &'static str,
    /// The tests, by a part of their names.
    pub tests: &'static [&'static str],
    /// Why they fail, and what would mend it.
    pub reason: &'static str,
}

impl Expectation {
    /// Whether a test of a cell is known to fail with this library.
    #[must_use]
    pub fn covers(&self, cell: Cell, library: &str, test: &str) -> bool {
        self.backend == cell.backend.id()
            && library.contains(self.library)
            && self.tests.iter().any(|part| test.contains(part))
    }
}

/// What is known today: nothing fails. A test that is listed here and passes fails its cell, so that
/// no line outlives its reason.
pub const KNOWN: &[Expectation] = &[];
