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

/// The file that is injected, of this build, beside its `omniprof`.
///
/// # Errors
///
/// It cannot be built.
pub fn injected() -> anyhow::Result<PathBuf> {
    let built = build_folder()?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["build", "--locked", "--quiet", "-p", "profiler-inject", "--target-dir"]);
    command.arg(built.parent().context("no target folder")?);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let status = command.status().context("cargo cannot be started")?;
    anyhow::ensure!(status.success(), "building the injected file: {status}");
    let file = built.join(profiler_core::inject_env::INJECTED_FILE_NAME);
    anyhow::ensure!(file.is_file(), "{} is not there", file.display());
    Ok(file)
}

/// The Python interpreter itself: what is called `python3` may be a script.
///
/// # Errors
///
/// There is none.
pub fn python() -> anyhow::Result<PathBuf> {
    let script = "import os, sys; print(os.path.realpath(sys.executable))";
    let output = Command::new("python3").args(["-c", script]).output().context("python3")?;
    let text = String::from_utf8(output.stdout).context("python3")?;
    Ok(PathBuf::from(text.trim()))
}
