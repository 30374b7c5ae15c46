//! `docs/http.md` is written from the OpenAPI document, which is written from the code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

const HEAD: &str = "\
# The HTTP interface

<!-- Written from the code: UPDATE_DOCS=1 cargo test -p profiler-worker --test http_docs -->

`omniprof serve` (and `run`, `demo --serve`) listens on `127.0.0.1:8790`; `--listen` names another
address, and one that is not loopback needs `--token-file`: requests then carry
`Authorization: Bearer TOKEN`. Bodies are JSON, an empty one is `{}`. `/openapi.json` is this page
for programs. Instants and spans of time in answers are ns, unless a name ends in `_ms`.

A failed request answers `{\"error\": {\"code\": …, \"message\": …}}`; the codes are in
[troubleshooting.md](troubleshooting.md).
";

#[test]
fn the_page_is_that_of_the_code() {
    let document = serde_json::to_value(profiler_worker::http::openapi()).unwrap();
    let wanted = page(&document);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    assert!(
        std::fs::read_to_string(&path).is_ok_and(|text| text == wanted),
        "docs/http.md is behind the code: UPDATE_DOCS=1 cargo test -p profiler-worker --test http_docs"
    );
}

fn page(document: &Value) -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## Routes\n\n| request | what | answers |\n|---|---|---|\n");
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, route) in methods.as_object().unwrap() {
            let takes = name_of(&route["requestBody"]["content"]["application/json"]["schema"])
                .map_or_else(String::new, |body| format!(" Takes {body}."));
            let answers: Vec<String> = route["responses"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(status, answer)| {
                    let body = name_of(&answer["content"]["application/json"]["schema"]);
                    let what = plain(&answer["description"]);
                    body.map_or_else(
                        || format!("{status}: {what}"),
                        |body| format!("{status}: {what} ({body})"),
                    )
                })
                .collect();
            writeln!(
                page,
                "| `{} {path}` | {}{takes} | {} |",
                method.to_uppercase(),
                plain(&route["summary"]),
                answers.join("<br>")
            )
            .unwrap();
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        write!(page, "\n## {name}\n\n{}\n", plain(&schema["description"])).unwrap();
        if let Some(choices) = schema["enum"].as_array() {
            let choices: Vec<String> =
                choices.iter().map(|choice| format!("`{}`", choice.as_str().unwrap())).collect();
            writeln!(page, "\nOne of {}.", choices.join(", ")).unwrap();
            continue;
        }
        if schema["oneOf"].is_array() {
            writeln!(page, "\n{}.", type_of(schema)).unwrap();
            continue;
        }
        let Some(fields) = schema["properties"].as_object() else {
            panic!("{name}: neither fields nor choices");
        };
        page.push_str("\n| field | type | meaning |\n|---|---|---|\n");
        for (field, of) in fields {
            writeln!(page, "| `{field}` | {} | {} |", type_of(of), plain(&of["description"]))
                .unwrap();
        }
    }
    page
}

/// A text as the cell of a table: on one line, and without the brackets of Rust's links.
fn plain(text: &Value) -> String {
    text.as_str().unwrap_or_default().replace("[`", "`").replace("`]", "`").replace('\n', " ")
}

/// The schema that a body is of.
fn name_of(schema: &Value) -> Option<String> {
    if schema.is_null() {
        return None;
    }
    Some(type_of(schema))
}

fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for several in ["oneOf", "allOf", "anyOf"] {
        if let Some(choices) = schema[several].as_array() {
            let choices: Vec<String> =
                choices.iter().map(type_of).filter(|choice| choice != "null").collect();
            return choices.join(" or ");
        }
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let kind = kinds.iter().copied().find(|kind| *kind != "null");
    match kind.or(kinds.first().copied()).unwrap_or("any") {
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", type_of(&schema["additionalProperties"]))
        }
        kind => kind.to_owned(),
    }
}
