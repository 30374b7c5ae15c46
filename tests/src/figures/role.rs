//! Processes of a figure's own: this program again, told by its environment what to be.
//!
//! A figure that needs a worker process (or sixteen) starts [`Context::this_program`] with
//! [`VARIABLE`] set to a role's name and arguments of its own choice.
//!
//! [`Context::this_program`]: super::Context::this_program

use std::process::ExitCode;

/// Names the role that a process of this program shall play.
pub const VARIABLE: &str = "OMNIPROF_FIGURES_ROLE";

/// A role: its name and what it does. The process ends when it returns.
pub type Role = (&'static str, fn() -> anyhow::Result<ExitCode>);

/// All roles of all groups.
fn roles() -> Vec<Role> {
    let mut roles = Vec::new();
    roles.extend(super::agent::roles());
    roles.extend(super::cpu::roles());
    roles.extend(super::process::roles());
    roles.extend(super::npu::roles());
    roles.extend(super::stop::roles());
    roles
}

/// Plays the role that the environment asks for, if it does.
///
/// # Errors
///
/// What the role returns; an unknown one.
pub fn play_if_asked() -> anyhow::Result<Option<ExitCode>> {
    let Ok(asked) = std::env::var(VARIABLE) else {
        return Ok(None);
    };
    for (name, play) in roles() {
        if name == asked {
            return play().map(Some);
        }
    }
    anyhow::bail!("no role {asked:?}")
}
