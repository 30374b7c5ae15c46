//! `omniprof prune`: retention by hand.

use profiler_core::trace_path::TraceRoot;
use profiler_worker::retention::{Candidate, Pruned, RetentionPolicy, prune};
use serde::Serialize;

use crate::cli::{CommandError, Exit, Output, PruneArgs, bytes_text};

#[derive(Serialize)]
struct Document<'a> {
    root: String,
    dry_run: bool,
    policy: RetentionPolicy,
    #[serde(flatten)]
    pruned: &'a Pruned,
}

pub(super) fn run(args: &PruneArgs, out: &Output) -> Result<Exit, CommandError> {
    let resolved = args.config.load()?;
    let root = TraceRoot::open(&resolved.root(args.root.dir.as_deref()))?;
    let default = RetentionPolicy::default();
    let settings = &resolved.settings;
    let policy = RetentionPolicy {
        max_bytes: args.max_bytes.or(settings.max_root_bytes).unwrap_or(default.max_bytes),
        max_sessions: args.max_sessions.or(settings.max_sessions).unwrap_or(default.max_sessions),
    };
    if !args.dry_run
        && let Some(holder) = root.claimed_by()?
    {
        return Err(CommandError::text(
            Exit::Conflict,
            format!(
                "{} has a live controller ({holder}), which prunes it itself; `--dry-run` only \
                 looks",
                root.path().display()
            ),
        ));
    }
    if !args.dry_run {
        root.sweep()?;
    }
    let sessions: Vec<Candidate> = root
        .sessions()?
        .into_iter()
        .map(|session| Candidate { id: session.id, bytes: session.bytes, live: session.live })
        .collect();
    let pruned = prune(&root, &sessions, &policy, args.dry_run);
    let root = root.path().display().to_string();
    if args.json {
        out.json(&Document { root, dry_run: args.dry_run, policy, pruned: &pruned })?;
    } else {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        for id in &pruned.removed {
            out.line(&format!("{verb} {id}"))?;
        }
        for (id, reason) in &pruned.failed {
            out.line(&format!("could not remove {id}: {reason}"))?;
        }
        out.line(&format!(
            "{verb} {} of {} sessions, {}; {} stay, {}",
            pruned.removed.len(),
            sessions.len(),
            bytes_text(pruned.removed_bytes),
            pruned.kept,
            bytes_text(pruned.kept_bytes),
        ))?;
    }
    Ok(if pruned.failed.is_empty() { Exit::Done } else { Exit::Partial })
}
