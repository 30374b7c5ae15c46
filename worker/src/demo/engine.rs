//! Which program the stages run, and so what computes their tensors.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use clap::ValueEnum;
use profiler_core::program::locate_file;

/// A library of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// Rust alone, on the processors.
    Candle,
    /// libtorch, on a GPU where there is one; a program of its own, which is built with libtorch.
    Torch,
}

/// The name of the program whose stages run on libtorch.
const TORCH_PROGRAM: &str = "torch-worker";

/// How to get it.
const TORCH_HINT: &str = "build it in a checkout of omniprof: \
    eval \"$(tests/workloads/torch/setup)\" && \
    cargo build --release -p torch-worker --features torch";

/// A program that runs stages.
#[derive(Clone, Debug)]
pub(super) struct StageProgram {
    path: PathBuf,
    subcommand: &'static str,
}

impl StageProgram {
    /// The program of an engine, which has been seen to start.
    ///
    /// # Errors
    ///
    /// It is not there, or does not start; the text says what to do.
    pub(super) fn of(engine: EngineName) -> anyhow::Result<Self> {
        match engine {
            EngineName::Candle => {
                let path =
                    std::env::current_exe().context("the path of this program is unknown")?;
                Ok(Self { path, subcommand: "demo-stage" })
            }
            EngineName::Torch => {
                let path = locate_file(TORCH_PROGRAM).with_context(|| {
                    format!(
                        "--engine torch needs the program {TORCH_PROGRAM} in OMNIPROF_BIN_DIR, \
                         beside omniprof or in PATH; {TORCH_HINT}"
                    )
                })?;
                try_out(&path)?;
                Ok(Self { path, subcommand: "stage" })
            }
        }
    }

    /// A stage process, without its arguments.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg(self.subcommand);
        command
    }
}

/// Five stages that cannot load their library would each say so: one is tried before.
fn try_out(path: &Path) -> anyhow::Result<()> {
    let output = Command::new(path)
        .arg("check")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not start", path.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let told = told.trim();
    let status = output.status;
    anyhow::bail!(
        "{} does not work ({status}): {told}; the libtorch that it was built with must lie where \
         it lay then, or be named by LD_LIBRARY_PATH; else {TORCH_HINT}",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_work_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = try_out(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("does not start"), "{error}");
        let error = try_out(Path::new("/bin/false")).unwrap_err().to_string();
        assert!(error.contains("exit status: 1") && error.contains("cargo build"), "{error}");
        assert!(try_out(Path::new("/bin/true")).is_ok());
    }
}
