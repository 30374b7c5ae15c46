//! Processes of a figure's own: this program again, told by its environment what to be.
//!
//! A figure that needs a worker process (or sixteen) starts [`Context::this_program`] with
//! [`VARIABLE`] set to a helper's name and arguments of its own choice.
//!
//! [`Context::this_program`]: super::Context::this_program

use std::process::ExitCode;

/// Names the helper that a process of this program shall be.
pub const VARIABLE: &str = "OMNIPROF_FIGURES_HELPER";

/// A helper: its name and what it does. The process ends when it returns.
pub type Helper = (&'static str, fn() -> anyhow::Result<ExitCode>);

/// All helpers of all groups.
fn helpers() -> Vec<Helper> {
    let mut helpers = Vec::new();
    helpers.extend(super::agent::helpers());
    helpers.extend(super::cpu::helpers());
    helpers.extend(super::stop::helpers());
    helpers
}

/// Runs the helper that the environment asks for, if it does.
///
/// # Errors
///
/// What the helper returns; an unknown helper.
pub fn run_if_asked() -> anyhow::Result<Option<ExitCode>> {
    let Ok(asked) = std::env::var(VARIABLE) else {
        return Ok(None);
    };
    for (name, run) in helpers() {
        if name == asked {
            return run().map(Some);
        }
    }
    anyhow::bail!("no helper {asked:?}")
}
