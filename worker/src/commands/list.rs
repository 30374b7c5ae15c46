//! `omniprof list`.

use std::io::Read as _;
use std::path::Path;

use comfy_table::{Table, presets};
use profiler_core::trace_path::{SessionEntry, SessionId, TraceRoot};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{CommandError, Exit, ListArgs, Output, bytes_text};

/// The file in which a session keeps its manifest.
const MANIFEST: &str = "manifest.json";

/// The longest manifest that is read for a list.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

#[derive(Serialize)]
struct Listing {
    root: String,
    bytes: u64,
    sessions: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    session: SessionId,
    label: Option<String>,
    state: String,
    workers: Option<usize>,
    files: usize,
    bytes: u64,
}

pub(super) fn run(args: &ListArgs, out: &Output) -> Result<Exit, CommandError> {
    let root = TraceRoot::open(&args.config.load()?.root(args.root.dir.as_deref()))?;
    let sessions = root.sessions()?;
    let lines: Vec<Line> = sessions.into_iter().map(|entry| line(&root, entry)).collect();
    let listing = Listing {
        root: root.path().display().to_string(),
        bytes: lines.iter().map(|line| line.bytes).sum(),
        sessions: lines,
    };
    if args.json {
        out.json(&listing)?;
        return Ok(Exit::Done);
    }
    if listing.sessions.is_empty() {
        out.line(&format!("{} holds no session", listing.root))?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["session", "state", "workers", "files", "size"]);
    for line in &listing.sessions {
        table.add_row([
            line.session.to_string(),
            line.state.clone(),
            line.workers.map_or_else(|| "-".to_owned(), |count| count.to_string()),
            line.files.to_string(),
            bytes_text(line.bytes),
        ]);
    }
    out.line(&format!("{table}"))?;
    let count = listing.sessions.len();
    out.line(&format!("{count} in {}, {}", listing.root, bytes_text(listing.bytes)))?;
    Ok(Exit::Done)
}

fn line(root: &TraceRoot, entry: SessionEntry) -> Line {
    let manifest = manifest(root, &entry.id);
    let told = manifest.as_ref().and_then(|manifest| manifest.get("state")?.as_str());
    let state = match told {
        _ if entry.live => "recording",
        Some("complete") => "complete",
        // Nobody writes and the manifest says that somebody does: its controller died or exports.
        Some("exporting") => "exporting",
        _ => "unfinished",
    };
    let workers = manifest.as_ref().and_then(|manifest| manifest.get("workers")?.as_array());
    Line {
        label: entry.id.label().map(str::to_owned),
        state: state.to_owned(),
        workers: workers.map(Vec::len),
        files: entry.files,
        bytes: entry.bytes,
        session: entry.id,
    }
}

fn manifest(root: &TraceRoot, id: &SessionId) -> Option<Value> {
    let file = root.open_session(id).ok()?.open_file(Path::new(MANIFEST)).ok()?;
    let mut text = String::new();
    file.take(MAX_MANIFEST_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}
