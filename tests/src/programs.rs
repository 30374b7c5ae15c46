//! The programs under test.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

/// The `omniprof` program of this build. Cargo builds it for a test of the whole workspace; for one
/// of this crate alone it is built here if it is missing.
///
/// # Errors
///
/// It is not there and cannot be built.
pub fn omniprof() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    let mut dir = own.parent().context("this program lies in no folder")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("a folder `deps` lies in no folder")?;
    }
    let program = dir.join("omniprof");
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
