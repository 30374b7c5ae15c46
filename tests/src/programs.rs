//! The programs under test.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

/// The folder of this build's programs.
///
/// # Errors
///
/// The path of this program is not known.
pub(crate) fn build_folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    let mut folder = own.parent().context("this program lies in no folder")?;
    // A test program lies in `deps`, beside which the others are.
    if folder.ends_with("deps") {
        folder = folder.parent().context("a folder `deps` lies in no folder")?;
    }
    Ok(folder.to_owned())
}

/// The `omniprof` program of this build. Cargo builds it for a test of the whole workspace; for one
/// of this crate alone it is built here if it is missing.
///
/// # Errors
///
/// It is not there and cannot be built.
pub fn omniprof() -> anyhow::Result<PathBuf> {
    let program = build_folder()?.join("omniprof");
    if !program.is_file() {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.args(["build", "--locked", "-p", "profiler-worker", "--bin", "omniprof"]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let status = command.status().context("cargo cannot be started")?;
        anyhow::ensure!(status.success(), "building omniprof: {status}");
    }
    anyhow::ensure!(program.is_file(), "{} is not there", program.display());
    Ok(program)
}
