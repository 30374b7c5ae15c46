//! Naming sessions and spools on the command line.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use profiler_core::trace_path::{SessionId, TraceRoot};

use crate::cli::{CommandError, Exit};

/// What a spool's name ends in.
pub(super) const SPOOL_EXTENSION: &str = "spool";

/// The spools that the words name: spools themselves, traces of other profilers, directories of
/// sessions, or ids of sessions in the root; none at all means the newest session of the root.
pub(super) fn spools_of(words: &[PathBuf], root: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let mut spools = Vec::new();
    if words.is_empty() {
        let root = TraceRoot::open(root)?;
        let newest = root.session_ids()?.pop().ok_or_else(|| {
            let text = format!("{} holds no session", root.path().display());
            CommandError::text(Exit::NothingThere, text)
        })?;
        collect(&root.path().join(newest.as_str()), &mut spools)?;
    }
    for word in words {
        let id = word.to_str().and_then(|text| SessionId::parse(text).ok());
        let path = match id {
            Some(id) if !word.exists() => root.join(id.as_str()),
            _ => word.clone(),
        };
        collect(&path, &mut spools)?;
    }
    if spools.is_empty() {
        let text = "no spool is there: the session has recorded nothing yet";
        return Err(CommandError::text(Exit::NothingThere, text));
    }
    spools.sort();
    spools.dedup();
    Ok(spools)
}

fn collect(path: &Path, spools: &mut Vec<PathBuf>) -> Result<(), CommandError> {
    let metadata = std::fs::metadata(path)
        .with_context(|| format!("{} names no spool and no session", path.display()))?;
    if !metadata.is_dir() || profiler_export::import::is_foreign(path) {
        spools.push(path.to_owned());
        return Ok(());
    }
    // <session>/<stage>/<file>
    for below in sorted(path)? {
        if is_spool(&below) {
            spools.push(below);
        } else if below.is_dir() && !below.is_symlink() {
            spools.extend(sorted(&below)?.into_iter().filter(|file| is_spool(file)));
        }
    }
    Ok(())
}

fn is_spool(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == SPOOL_EXTENSION) && path.is_file()
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let context = || format!("listing {}", dir.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(context)? {
        paths.push(entry.with_context(context)?.path());
    }
    paths.sort();
    Ok(paths)
}
