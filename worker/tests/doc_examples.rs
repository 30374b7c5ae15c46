//! The examples of the documents are read by what a user would give them to.
//!
//! The word behind a block's language says who reads it: `start` a start request, `deploy` and
//! `config` the command `omniprof config`, `cargo` Cargo, `before` another profiler; `refused` behind
//! it, that it is refused. Commands are read to their end, and not carried out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli_support;

use std::path::PathBuf;

use cli_support::Place;
use profiler_worker::start_request::StartRequest;

struct Example {
    place: String,
    language: String,
    reader: String,
    refused: bool,
    text: String,
}

fn examples() -> Vec<Example> {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut open: Option<Example> = None;
        for (number, line) in text.lines().enumerate() {
            let Some(fence) = line.strip_prefix("```") else {
                if let Some(example) = &mut open {
                    example.text.push_str(line);
                    example.text.push('\n');
                }
                continue;
            };
            if let Some(example) = open.take() {
                examples.push(example);
                continue;
            }
            let mut words = fence.split_ascii_whitespace();
            open = Some(Example {
                place: format!("{}:{}", path.display(), number + 1),
                language: words.next().unwrap_or_default().to_owned(),
                reader: words.next().unwrap_or_default().to_owned(),
                refused: words.next() == Some("refused"),
                text: String::new(),
            });
        }
        assert!(open.is_none(), "{}: a block is not closed", path.display());
    }
    examples
}

#[test]
fn the_examples_are_taken_or_refused_as_the_documents_say() {
    let mut read = [0; 3];
    for example in examples() {
        let place = &example.place;
        match example.reader.as_str() {
            // Compared with the source by a test of the library itself.
            "null" => {}
            "" => {
                let is_read = !matches!(example.language.as_str(), "toml" | "yaml" | "json");
                assert!(is_read, "{place}: nobody is said to read it");
            }
            "before" | "cargo" => {}
            "start" => {
                read[0] += 1;
                let parsed = StartRequest::parse(example.text.as_bytes());
                assert_eq!(parsed.is_err(), example.refused, "{place}: {parsed:?}");
            }
            "deploy" => {
                read[1] += 1;
                let ran = config(&example.text, "deploy.yaml", "--deploy-config");
                assert_eq!(ran.code != Some(0), example.refused, "{place}: {ran}");
            }
            "config" => {
                read[2] += 1;
                let ran = config(&example.text, "omniprof.toml", "--config");
                assert_eq!(ran.code != Some(0), example.refused, "{place}: {ran}");
            }
            reader => panic!("{place}: nobody is called {reader:?}"),
        }
    }
    assert!(read.iter().all(|count| *count > 0), "{read:?}");
}

/// Configurations that stand in the page about them are those that it means.
#[test]
fn the_page_about_the_configuration_has_both_of_its_files() {
    let of_page = |example: &Example| example.place.contains("/config.md:");
    let readers: Vec<String> =
        examples().into_iter().filter(of_page).map(|example| example.reader).collect();
    assert_eq!(readers, ["config", "deploy"]);
}

/// The lines of a page's shell blocks, without their comments.
fn lines_of(page: &str) -> Vec<String> {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    let text = std::fs::read_to_string(page).unwrap();
    let mut lines = Vec::new();
    let mut is_shell = false;
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            is_shell = language == "sh";
        } else if is_shell {
            let line = line.split(" #").next().unwrap_or_default();
            lines.push(line.trim().trim_end_matches('&').trim().to_owned());
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// A command with `--help` behind it is read to its end, values included, and does nothing. What
/// stands behind `--` is another program's.
fn understands(words: &str) {
    let place = Place::new();
    let own = words.split_once(" -- ").map_or(words, |(own, _)| own);
    // No example has blanks inside its quotes.
    let words = own.split_ascii_whitespace().map(|word| word.trim_matches('\''));
    let words: Vec<&str> = words.chain(["--help"]).collect();
    let ran = place.run(&words);
    assert_eq!(ran.code, Some(0), "{words:?}: {ran}");
}

/// What a call of `curl` asks for is in the interface, and its body is taken.
fn calls(call: &str) {
    let (call, body) = match call.split_once(" -d ") {
        Some((call, body)) => (call, body.trim_matches('\'')),
        None => (call, ""),
    };
    let (method, url) = match call.strip_prefix("-X POST ") {
        Some(url) => ("post", url),
        None => ("get", call),
    };
    let address = ["localhost:8790", "127.0.0.1:8790"];
    let path = address.into_iter().find_map(|address| url.strip_prefix(address)).unwrap();
    let interface = profiler_worker::http::openapi();
    let interface = serde_json::to_value(interface).unwrap();
    assert!(interface["paths"][path][method].is_object(), "{method} {path}");
    if path == "/start_profile" {
        StartRequest::parse(body.as_bytes()).unwrap();
    }
}

/// What begins commands that are neither ours nor curl's nor Cargo's.
const OTHERS: [&str; 4] = ["install ", "eval ", "export ", "./my-worker"];

/// A call of Cargo names packages, binaries and examples that exist.
fn is_built(words: &str) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Some(words) = words.split_once(" -- ").map(|(_, words)| words) {
        understands(words);
    }
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let words: Vec<&str> = words.split_ascii_whitespace().collect();
    for pair in words.windows(2) {
        let [option, name] = pair else { unreachable!("windows of two") };
        match *option {
            "-p" => assert!(lock.contains(&format!("name = \"{name}\"\n")), "{words:?}"),
            "--path" => assert!(root.join(name).join("Cargo.toml").is_file(), "{words:?}"),
            "--example" => {
                let file = format!("examples/{name}.rs");
                let places = ["worker", "worker/agent"].map(|folder| root.join(folder).join(&file));
                assert!(places.iter().any(|place| place.is_file()), "{words:?}");
            }
            _ => {}
        }
    }
}

/// Reads all commands of a page; how many are ours, calls, and others.
fn commands_of(page: &str) -> [usize; 3] {
    let mut read = [0; 3];
    for line in lines_of(page) {
        // Variables before a command are for it.
        let is_variable = |word: &&str| {
            word.split_once('=').is_some_and(|(name, _)| {
                name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
            })
        };
        let variables: usize =
            line.split_inclusive(' ').take_while(is_variable).map(str::len).sum();
        let command = &line[variables..];
        if let Some(words) = command.strip_prefix("omniprof ") {
            read[0] += 1;
            understands(words);
        } else if let Some(call) = command.strip_prefix("curl ") {
            read[1] += 1;
            calls(call);
        } else {
            read[2] += 1;
            if let Some(words) = command.strip_prefix("cargo ") {
                is_built(words);
                continue;
            }
            let is_known = OTHERS.iter().any(|begin| command.starts_with(begin));
            assert!(is_known, "{page}: nobody knows {command:?}");
        }
    }
    read
}

#[test]
fn the_commands_of_all_pages_are_understood() {
    let mut read = [0; 3];
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        pages.push(format!("docs/{}", entry.unwrap().file_name().to_string_lossy()));
    }
    for page in pages {
        for (sum, count) in read.iter_mut().zip(commands_of(&page)) {
            *sum += count;
        }
    }
    assert!(read[0] >= 45 && read[1] >= 10 && read[2] >= 6, "{read:?}");
}

/// The worker of the README, compiled and not run.
fn worker_of_the_readme(request_id: u64) -> Result<(), profiler_agent::AgentError> {
    use profiler_agent::{Agent, TracingLayer};
    use tracing_subscriber::prelude::*;
    let agent = Agent::builder().stage(0).role("thinker").rank(1).connect()?;
    tracing_subscriber::registry().with(TracingLayer::new()).init();
    loop {
        agent.step();
        let _span = tracing::info_span!("decode", request_id, stage = "thinker").entered();
        // one iteration of the engine
    }
}

#[test]
fn the_lines_of_rust_in_the_readme_are_compiled() {
    let _compiled: fn(u64) -> Result<(), profiler_agent::AgentError> = worker_of_the_readme;
    let lines = rust_lines("README.md");
    assert!(lines.len() >= 6, "{lines:?}");
    let own = include_str!("doc_examples.rs");
    for line in lines {
        assert!(own.lines().any(|known| known.trim() == line.trim()), "{line:?} is not compiled");
    }
}

/// The lines of a page's blocks of Rust.
fn rust_lines(page: &str) -> Vec<String> {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    let mut language = None;
    let mut lines = Vec::new();
    for line in std::fs::read_to_string(page).unwrap().lines() {
        match (line.strip_prefix("```"), &language) {
            (Some(word), None) => language = Some(word.to_owned()),
            (Some(_), Some(_)) => language = None,
            (None, Some(word)) if word == "rust" => lines.push(line.to_owned()),
            _ => {}
        }
    }
    lines
}

#[test]
fn the_lines_of_rust_in_the_guide_are_those_of_the_examples() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let examples = ["examples/offline.rs", "agent/examples/embed.rs"]
        .map(|file| std::fs::read_to_string(root.join(file)).unwrap())
        .concat();
    let lines = rust_lines("docs/user-guide.md");
    assert!(lines.len() >= 8, "{lines:?}");
    for line in lines {
        let known = examples.lines().any(|known| known.trim() == line.trim());
        assert!(known, "{line:?} stands in no example");
    }
}

fn config(text: &str, name: &str, option: &str) -> cli_support::Ran {
    let place = Place::new();
    let file = place.write(name, text);
    place.run(&["config", option, file.to_str().unwrap()])
}
