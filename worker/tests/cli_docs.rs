//! The documentation says what the code does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::PathBuf;

use profiler_core::config::{FIELDS, FieldKind, FieldOrigin, TraceFormat};

const BEGIN: &str = "<!-- fields: ";
const END: &str = "<!-- end of fields -->";

fn document(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

fn table() -> String {
    let mut table = "| field | takes | default | meaning |\n|---|---|---|---|\n".to_owned();
    for field in FIELDS {
        let whose = match field.origin {
            FieldOrigin::Own => "",
            _ => " (vLLM)",
        };
        let takes = match field.kind {
            FieldKind::Flag => "flag".to_owned(),
            FieldKind::Number { min, max } => format!("{min} to {max}"),
            FieldKind::Text => "text".to_owned(),
            FieldKind::Choice(choices) => choices.join(", "),
            FieldKind::Choices(choices) => format!("list of {}", choices.join(", ")),
            _ => "object".to_owned(),
        };
        let same =
            field.alias_of.map_or_else(String::new, |name| format!(" The same as `{name}`."));
        table.push_str(&format!(
            "| `{}`{whose} | {takes} | {} | {}{same} |\n",
            field.name, field.default, field.doc
        ));
    }
    table
}

#[test]
fn the_table_of_fields_is_that_of_the_code() {
    let path = document("config.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = text.find(BEGIN).unwrap();
    let begin = begin + text[begin..].find('\n').unwrap() + 1;
    let end = text.find(END).unwrap();
    let wanted = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{wanted}{}", &text[..begin], &text[end..])).unwrap();
        return;
    }
    assert!(
        text[begin..end] == wanted,
        "docs/config.md is behind the code: UPDATE_DOCS=1 cargo test -p profiler-worker --test cli_docs"
    );
}

#[test]
fn the_documents_name_every_format_and_variable() {
    let paths = std::fs::read_to_string(document("trace-paths.md")).unwrap();
    for format in TraceFormat::ALL {
        assert!(paths.contains(&format!("`{format}`")), "{format}");
        assert!(paths.contains(&format!("`{}`", format.extension())), "{format}");
    }
    let config = std::fs::read_to_string(document("config.md")).unwrap();
    let known = std::process::Command::new(env!("CARGO_BIN_EXE_omniprof"))
        .args(["config", "--variables", "--json"])
        .env_clear()
        .output()
        .unwrap();
    let known: Vec<(String, String)> = serde_json::from_slice(&known.stdout).unwrap();
    assert!(known.len() > 3);
    for (name, _) in known {
        assert!(config.contains(&format!("`{name}`")), "{name}");
    }
}
