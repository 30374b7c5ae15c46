//! Every code that an error can have, and every cause of a loss, is explained in the documents.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use profiler_core::record::LossCause;
use profiler_core::schedule::StopCause;

/// What stands before a code in the sources.
const BEFORE: [&str; 4] =
    ["WorkerError::new(", "unavailable(", "code: \"", "HttpError::new(StatusCode::"];

#[test]
fn every_code_is_explained() {
    let top = top();
    let mut codes = BTreeMap::new();
    for folder in ["profiler-core", "backend-cpu", "backend-cuda", "backend-npu", "worker"] {
        read(&top.join(folder), &mut codes);
    }
    for known in ["running", "no_device", "disk_full", "forked", "foreign_host"] {
        assert!(codes.contains_key(known), "{known} was not found in the sources");
    }
    let pages: String = std::fs::read_dir(top.join("docs"))
        .unwrap()
        .map(|page| std::fs::read_to_string(page.unwrap().path()).unwrap())
        .collect();
    codes.retain(|code, _| !pages.contains(&format!("`{code}`")));
    assert!(codes.is_empty(), "docs/troubleshooting.md does not explain {codes:#?}");
}

#[test]
fn every_cause_of_a_loss_is_explained() {
    let top = top();
    let section = section("Rows are missing");
    let known = LossCause::ALL.iter().map(|cause| cause.text());
    let mut causes: Vec<String> = known.map(ToOwned::to_owned).collect();
    assert!(causes.len() >= 10, "{causes:?}");
    // What an export leaves out by itself.
    let export = top.join("profiler-core/export/src/export.rs");
    let export = std::fs::read_to_string(export).unwrap();
    let drops = export.split("let drops = [").nth(1).unwrap().split("];").next().unwrap();
    causes.extend(drops.split("(\"").skip(1).filter_map(word));
    assert!(causes.iter().any(|cause| cause == "outside_window"), "{causes:?}");
    causes.retain(|cause| !section.contains(&format!("`{cause}`")));
    assert!(causes.is_empty(), "docs/troubleshooting.md does not explain {causes:?}");
}

#[test]
fn every_word_for_what_ended_a_session_is_explained() {
    let top = top();
    let section = section("What ended it");
    let schedule =
        [StopCause::Schedule, StopCause::MaxSteps, StopCause::Duration, StopCause::MaxSession];
    let mut words: Vec<String> = schedule.iter().map(ToString::to_string).collect();
    // What ends sessions beside their schedules, where it does.
    for (file, before) in [
        ("profiler-core/src/spool/progress.rs", "=> \""),
        ("worker/agent/src/agent.rs", ".end(\""),
        ("worker/agent/src/core.rs", "reason: \""),
        ("worker/agent/src/core.rs", "session.stop(self.clock.now(), \""),
        ("worker/agent/src/core.rs", "PANICKED: &str = \""),
        ("worker/agent/src/session.rs", "Some((\""),
        ("worker/src/commands/run/watch.rs", "Some(\""),
        ("worker/src/commands/run/watch.rs", "end(outside, \""),
        ("worker/src/controller/host.rs", "reason: \""),
        ("worker/src/controller/join.rs", "reason: \""),
        ("worker/src/controller/keeper.rs", "self.clock.now(), \""),
        ("worker/src/controller/stop.rs", "self.clock.now(), \""),
        ("worker/src/session/run.rs", "WORKER_DIED: &str = \""),
    ] {
        let text = std::fs::read_to_string(top.join(file)).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let found: Vec<String> = text.split(before).skip(1).filter_map(word).collect();
        assert!(!found.is_empty(), "{file} has no `{before}`");
        words.extend(found);
    }
    // The spool's end as it should be, which ends no session.
    words.retain(|word| word != "finished" && !section.contains(&format!("`{word}`")));
    assert!(words.is_empty(), "docs/troubleshooting.md does not explain {words:?}");
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A section of the page about troubles.
fn section(title: &str) -> String {
    let page = std::fs::read_to_string(top().join("docs/troubleshooting.md")).unwrap();
    let (_, section) = page.split_once(&format!("\n## {title}\n")).unwrap();
    section.split("\n## ").next().unwrap().to_owned()
}

fn read(folder: &Path, codes: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            if !["tests", "examples", "target", "benches"].contains(&&*name) {
                read(&path, codes);
            }
            continue;
        }
        if !name.ends_with(".rs") || name == "tests.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for (code, at) in of_methods(text).chain(of_constructors(text)).map(|code| (code, &path)) {
            codes.entry(code).or_insert_with(|| at.clone());
        }
    }
}

/// The texts that methods named `code` give.
fn of_methods(text: &str) -> impl Iterator<Item = String> {
    text.split("pub fn code(&self)").skip(1).flat_map(|method| {
        let end = method.find("\n    }\n").unwrap_or(method.len());
        method[..end].split("=> \"").skip(1).filter_map(word).collect::<Vec<_>>()
    })
}

/// The texts that errors are made with.
fn of_constructors(text: &str) -> impl Iterator<Item = String> {
    BEFORE.into_iter().flat_map(move |before| {
        text.split(before).skip(1).filter_map(move |after| {
            // The code is the first text, unless something else is named first.
            let after = if before.ends_with('"') { after } else { argument(after)? };
            word(after)
        })
    })
}

/// What follows the opening quote of the first text, where it is the first or second argument.
fn argument(after: &str) -> Option<&str> {
    let quote = after.find('"')?;
    let plain = |c: char| c.is_whitespace() || c.is_ascii_uppercase() || c == '_' || c == ',';
    after[..quote].chars().all(plain).then(|| &after[quote + 1..])
}

/// A stable word: lower case, and closed by a quote.
fn word(text: &str) -> Option<String> {
    let (word, _) = text.split_once('"')?;
    let is_code = !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_code.then(|| word.to_owned())
}
