//! What a figure's measurement may use.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use profiler_core::spool::SpoolOptions;

use crate::programs::build_folder;

/// Where the binaries are, and a folder to write in.
#[derive(Debug)]
pub struct Context {
    bin_dir: PathBuf,
    scratch: tempfile::TempDir,
    keep: Option<PathBuf>,
}

impl Context {
    /// A context.
    ///
    /// `bin_dir` holds the `omniprof` binary; without it, the folder of this program is meant
    /// (cargo puts both into one).
    ///
    /// # Errors
    ///
    /// No temporary folder can be made, or this program's own path is unknown.
    pub fn new(bin_dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let bin_dir = match bin_dir {
            Some(dir) => dir,
            None => build_folder()?,
        };
        let scratch = tempfile::Builder::new()
            .prefix("omniprof-figures-")
            .tempdir()
            .context("no temporary folder can be made")?;
        Ok(Self { bin_dir, scratch, keep: None })
    }

    /// Keeps what figures hand to [`Context::keep`] in this folder.
    #[must_use]
    pub fn keeping_in(mut self, dir: Option<PathBuf>) -> Self {
        self.keep = dir;
        self
    }

    /// Copies a file to the folder that the user named, if one was named.
    ///
    /// # Errors
    ///
    /// It cannot be copied.
    pub fn keep(&self, file: &Path, name: &str) -> anyhow::Result<()> {
        let Some(dir) = &self.keep else { return Ok(()) };
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        std::fs::copy(file, dir.join(name)).with_context(|| file.display().to_string())?;
        Ok(())
    }

    /// The folder of the binaries.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The `omniprof` binary.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn omniprof(&self) -> anyhow::Result<PathBuf> {
        let path = self.bin_dir.join("omniprof");
        anyhow::ensure!(
            path.is_file(),
            "{} is missing: build it (cargo build --release), or name its folder by --bin-dir",
            path.display()
        );
        Ok(path)
    }

    /// This program, for figures that need processes of their own: see [`crate::figures::role`].
    ///
    /// # Errors
    ///
    /// Its path is unknown.
    pub fn this_program(&self) -> anyhow::Result<PathBuf> {
        std::env::current_exe().context("the path of this program is unknown")
    }

    /// A fresh, empty folder that is removed at the end. In the folder for temporary files, so
    /// that `TMPDIR` decides which disk is measured.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn fresh_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(self.scratch.path())
            .with_context(|| format!("no folder for {name}"))?;
        Ok(dir.keep())
    }
}

/// How a measurement writes a spool: as by default, on a disk of which nothing has to stay free.
pub(crate) fn spool_options() -> SpoolOptions {
    SpoolOptions { min_free_percent: 0, ..SpoolOptions::default() }
}
