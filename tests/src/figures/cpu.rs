//! The CPU backend: what sampling costs.

use super::FigureEntry;

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    Vec::new()
}

/// Processes of these figures' own.
#[must_use]
pub fn helpers() -> Vec<super::helper::Helper> {
    Vec::new()
}
