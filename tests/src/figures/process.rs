//! Processes that become workers: plugins, joining, launching.

mod plugin_door;

use super::FigureEntry;
use super::role::Role;

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    plugin_door::figures()
}

/// Processes of these figures' own.
#[must_use]
pub fn roles() -> Vec<Role> {
    plugin_door::roles()
}
