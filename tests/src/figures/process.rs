//! Processes that become workers: plugins, joining, launching.

mod injected;
mod joining;
mod killed;
mod plugin_door;
mod size;

use super::FigureEntry;
use super::role::Role;

/// The figures.
#[must_use]
pub fn figures() -> Vec<FigureEntry> {
    let mut figures = joining::figures();
    figures.extend(killed::figures());
    figures.extend(plugin_door::figures());
    figures.extend(size::figures());
    figures
}

/// Processes of these figures' own.
#[must_use]
pub fn roles() -> Vec<Role> {
    let mut roles = injected::roles();
    roles.extend(plugin_door::roles());
    roles
}
