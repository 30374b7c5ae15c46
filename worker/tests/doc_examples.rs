//! The examples of the documents are read by what a user would give them to.
//!
//! The word behind a block's language says who reads it: `start` a start request, `deploy` and
//! `config` the command `omniprof config`; `refused` behind it, that it is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli_support;

use std::path::PathBuf;

use cli_support::Place;
use profiler_worker::start_request::StartRequest;

struct Example {
    place: String,
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
            let mut words = fence.split_ascii_whitespace().skip(1);
            open = Some(Example {
                place: format!("{}:{}", path.display(), number + 1),
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
            "" | "null" => {}
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

/// Reads all commands of a page; how many are ours, and how many are calls.
fn commands_of(page: &str) -> [usize; 2] {
    let mut read = [0; 2];
    for line in lines_of(page) {
        if let Some(words) = line.strip_prefix("omniprof ") {
            read[0] += 1;
            understands(words);
        } else if let Some(call) = line.strip_prefix("curl ") {
            read[1] += 1;
            calls(call);
        } else {
            panic!("who reads {line:?}?");
        }
    }
    read
}

#[test]
fn the_commands_of_the_page_for_servers_are_understood() {
    let read = commands_of("docs/profile-vllm.md");
    assert!(read[0] >= 5 && read[1] >= 3, "{read:?}");
}

#[test]
fn the_commands_of_the_guide_are_understood() {
    let read = commands_of("docs/user-guide.md");
    assert!(read[0] >= 25 && read[1] >= 5, "{read:?}");
}

#[test]
fn the_lines_of_rust_in_the_guide_are_those_of_the_examples() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let examples = ["examples/offline.rs", "agent/examples/embed.rs"]
        .map(|file| std::fs::read_to_string(root.join(file)).unwrap())
        .concat();
    let guide = std::fs::read_to_string(root.join("../docs/user-guide.md")).unwrap();
    let mut language = None;
    let mut lines = 0;
    for line in guide.lines() {
        match (line.strip_prefix("```"), language) {
            (Some(word), None) => language = Some(word),
            (Some(_), Some(_)) => language = None,
            (None, Some("rust")) => {
                lines += 1;
                let known = examples.lines().any(|known| known.trim() == line.trim());
                assert!(known, "{line:?} stands in no example");
            }
            _ => {}
        }
    }
    assert!(lines >= 8, "{lines}");
}

#[test]
fn the_commands_of_the_readme_are_understood() {
    let mut read = [0; 3];
    for line in lines_of("README.md") {
        if let Some(words) = line.strip_prefix("omniprof ") {
            read[0] += 1;
            understands(words);
        } else if let Some(words) = line.strip_prefix("cargo run --release -- ") {
            read[1] += 1;
            understands(words);
        } else if let Some(call) = line.strip_prefix("curl ") {
            read[2] += 1;
            calls(call);
        } else {
            assert!(line == "cargo test --workspace" || line.starts_with("./"), "{line}");
        }
    }
    assert!(read[0] >= 3 && read[1] >= 1 && read[2] >= 4, "{read:?}");
}

fn config(text: &str, name: &str, option: &str) -> cli_support::Ran {
    let place = Place::new();
    let file = place.write(name, text);
    place.run(&["config", option, file.to_str().unwrap()])
}
