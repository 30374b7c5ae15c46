//! `omniprof recover`: finishing what a dead controller left.

use std::time::Duration;

use profiler_core::trace_path::{SessionId, TraceRoot};
use profiler_worker::controller;
use profiler_worker::manifest::{Manifest, table};

use crate::cli::{CommandError, Exit, Output, Progress, RecoverArgs};

/// How long the exports of a session may take.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

pub(super) fn run(args: &RecoverArgs, out: &Output) -> Result<Exit, CommandError> {
    let path = args.config.load()?.root(args.root.dir.as_deref());
    // Opened here first: recovering makes no root.
    let root = TraceRoot::open(&path)?;
    if let Some(holder) = root.claimed_by()? {
        return Err(CommandError::text(
            Exit::Conflict,
            format!(
                "{} has a live controller ({holder}), which recovers by itself: ask it by \
                 `omniprof status`",
                root.path().display()
            ),
        ));
    }
    let mut ids = Vec::new();
    for text in &args.sessions {
        let id = SessionId::parse(text)?;
        root.open_session(&id)?;
        ids.push(id);
    }
    let progress = Progress::spinner("recovering");
    let mut manifests: Vec<Manifest> = Vec::new();
    if ids.is_empty() {
        manifests = recover(&path, None)?;
    }
    for id in &ids {
        manifests.extend(recover(&path, Some(id))?);
    }
    drop(progress);
    if args.json {
        out.json(&manifests)?;
    } else if manifests.is_empty() {
        out.line(&format!("{}: every session is finished", root.path().display()))?;
    } else {
        for manifest in &manifests {
            out.text(&table(manifest))?;
        }
    }
    let good = manifests.iter().all(|manifest| manifest.is_good() && manifest.is_final());
    Ok(if good { Exit::Done } else { Exit::Partial })
}

fn recover(
    root: &std::path::Path,
    session: Option<&SessionId>,
) -> Result<Vec<Manifest>, CommandError> {
    controller::recover(root, session, TIMEOUT).map_err(|error| {
        let exit = match &error {
            controller::RecoverError::Recording { .. } => Exit::Conflict,
            _ => return error.into(),
        };
        CommandError::new(exit, error)
    })
}
