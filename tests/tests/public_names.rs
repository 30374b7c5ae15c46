//! The public names of the library crates, by the file that declares them: a name that goes away
//! breaks who uses it, and shows here. One that moves between files shows as well; where its module
//! is private, the listing is only to be written anew. New ones break nobody.
//!
//! This reads declarations and no types: that a signature changed is seen by the examples and by
//! those who use it here. With `OMNIPROF_RENEW` set it writes the listing anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What programs that embed the profiler, and plugins, link.
const CRATES: [&str; 3] = ["profiler-core", "worker/agent", "worker"];

const LISTING: &str = "data/public-names.txt";

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `pub fn name`, `pub struct Name` and so on; `pub(crate)` is none.
fn declared(line: &str) -> Option<(&'static str, &str)> {
    let rest = line.trim_start().strip_prefix("pub ")?;
    for word in ["const fn", "unsafe fn", "extern \"C\" fn", "async fn"] {
        if let Some(after) = rest.strip_prefix(word) {
            return Some(("fn", name(after)?));
        }
    }
    for word in ["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "union"] {
        if let Some(after) = rest.strip_prefix(word).and_then(|after| after.strip_prefix(' ')) {
            return Some((word, name(after)?));
        }
    }
    None
}

fn name(rest: &str) -> Option<&str> {
    let rest = rest.trim_start();
    let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let name = &rest[..end.unwrap_or(rest.len())];
    (!name.is_empty()).then_some(name)
}

#[test]
fn names_stay() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names = BTreeSet::new();
    for folder in CRATES {
        let source = root.join(folder).join("src");
        let mut files = Vec::new();
        sources(&source, &mut files);
        for file in files {
            let inner = file.strip_prefix(&source).unwrap().with_extension("");
            let module = inner.to_string_lossy().replace('/', "::");
            let module = module.trim_end_matches("::mod").trim_start_matches("lib");
            let text = std::fs::read_to_string(&file).unwrap();
            // Tests stand at the end.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for (word, name) in text.lines().filter_map(declared) {
                names.insert(format!("{folder} {module}: {word} {name}"));
            }
        }
    }
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(LISTING);
    if std::env::var_os("OMNIPROF_RENEW").is_some() {
        let lines: Vec<_> = names.iter().map(|name| format!("{name}\n")).collect();
        std::fs::write(&kept, lines.concat()).unwrap();
    }
    let kept = std::fs::read_to_string(&kept).unwrap();
    assert!(kept.lines().count() > 300, "the listing is whole");
    let gone: Vec<_> = kept.lines().filter(|name| !names.contains(*name)).collect();
    assert!(
        gone.is_empty(),
        "these public names are gone, which breaks who uses them; if that is meant, say so in \
         CHANGELOG.md and renew {LISTING} (OMNIPROF_RENEW=1): {gone:#?}"
    );
}
