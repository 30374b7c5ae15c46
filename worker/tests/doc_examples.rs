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
            "" => {}
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

fn config(text: &str, name: &str, option: &str) -> cli_support::Ran {
    let place = Place::new();
    let file = place.write(name, text);
    place.run(&["config", option, file.to_str().unwrap()])
}
