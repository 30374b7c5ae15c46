//! The kinds of rows as the specification of the spool lists them.

use std::fmt::Write as _;
use std::path::PathBuf;

use profiler_core::record::{
    self, ApiDomain, CopyKind, DeviceVendor, LossCause, MemoryKind, OperatorScope, Role, Schema,
    SynchronizationKind, WindowEdge, flag,
};

const BEGIN: &str = "<!-- kinds: ";
const END: &str = "<!-- end of kinds -->";

/// Where the rows are declared, with what each field means.
const SOURCES: [&str; 2] =
    [include_str!("../src/record/rows.rs"), include_str!("../src/record/definitions.rs")];

/// A kind's declaration: what it is, and its fields with what they mean.
struct Declared {
    meaning: String,
    fields: Vec<(String, String)>,
}

/// Finds `Name = 1, "kernel" { … }`.
fn declared(schema: &Schema) -> Declared {
    let head = format!(" = {}, \"{}\" {{", schema.kind.0, schema.name);
    let mut meaning = String::new();
    let mut found: Option<Declared> = None;
    for line in SOURCES.iter().flat_map(|source| source.lines()) {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            if !meaning.is_empty() {
                meaning.push(' ');
            }
            meaning.push_str(text.trim());
            continue;
        }
        let meaning = std::mem::take(&mut meaning);
        match &mut found {
            None if line.ends_with(&head) => {
                found = Some(Declared { meaning, fields: Vec::new() });
            }
            Some(_) if line == "}" => break,
            Some(declared) => {
                let name = line.split(':').next().unwrap_or_default();
                declared.fields.push((name.to_owned(), meaning));
            }
            None => {}
        }
    }
    found.unwrap_or_else(|| panic!("{} is declared nowhere", schema.name))
}

/// A comment as the cell of a table: without the brackets of Rust's links and its paths.
fn plain(text: &str) -> String {
    let text = text.replace("[`super::", "`").replace("[`", "`").replace("`]", "`");
    text.replace("`StringId::NONE`", "0").replace("`StackId::NONE`", "0").replace('|', "\\|")
}

/// What the bytes of a field are.
fn content(role: Role) -> &'static str {
    match role {
        Role::Time => "instant",
        Role::EndTime => "end",
        Role::Sequence => "number that grows",
        Role::Number => "number",
        Role::Signed => "signed number",
        Role::Float => "IEEE 754 double",
        Role::String => "string id",
        Role::Stack => "stack id",
        Role::LaunchConfig => "launch configuration id",
        Role::Heap => "heap",
        Role::Reserved => "zero",
        _ => panic!("{role:?} has no word here"),
    }
}

fn numbers<T: Copy>(
    page: &mut String,
    name: &str,
    all: &[T],
    of: impl Fn(T) -> (u32, &'static str),
) {
    let all: Vec<String> = all
        .iter()
        .map(|item| {
            let (number, text) = of(*item);
            format!("{number} {text}")
        })
        .collect();
    writeln!(page, "| `{name}` | {} |", all.join(", ")).unwrap_or_default();
}

fn kinds() -> String {
    let mut page = String::new();
    for schema in record::schemas() {
        let declared = declared(schema);
        let names: Vec<&str> = declared.fields.iter().map(|(name, _)| name.as_str()).collect();
        let known: Vec<&str> = schema.fields.iter().map(|field| field.name).collect();
        assert_eq!(names, known, "{}", schema.name);
        writeln!(
            page,
            "\n### {} `{}`\n\n{} {} bytes.\n\n| offset | bytes | field | is | meaning |\n|---|---|---|---|---|",
            schema.kind.0,
            schema.name,
            plain(&declared.meaning),
            schema.stride
        )
        .unwrap_or_default();
        for (field, (_, meaning)) in schema.fields.iter().zip(&declared.fields) {
            assert!(!meaning.is_empty(), "{}.{} says nothing", schema.name, field.name);
            writeln!(
                page,
                "| {} | {} | `{}` | {} | {} |",
                field.offset,
                field.width,
                field.name,
                content(field.role),
                plain(meaning)
            )
            .unwrap_or_default();
        }
    }
    page.push_str(
        "\n### Numbers in rows\n\n| name | numbers; others may come, and 0 is none |\n|---|---|\n",
    );
    writeln!(
        page,
        "| `flag` (bits) | {} unfinished, {} graph, {} asynchronous |",
        flag::UNFINISHED,
        flag::GRAPH,
        flag::ASYNC
    )
    .unwrap_or_default();
    numbers(&mut page, "CopyKind", CopyKind::ALL, |kind| (kind.number().into(), kind.text()));
    numbers(&mut page, "MemoryKind", MemoryKind::ALL, |kind| (kind.number().into(), kind.text()));
    numbers(&mut page, "ApiDomain", ApiDomain::ALL, |kind| (kind.number(), kind.text()));
    numbers(&mut page, "SynchronizationKind", SynchronizationKind::ALL, |kind| {
        (kind.number(), kind.text())
    });
    numbers(&mut page, "OperatorScope", OperatorScope::ALL, |kind| {
        (kind.number().into(), kind.text())
    });
    numbers(&mut page, "DeviceVendor", DeviceVendor::ALL, |kind| (kind.number(), kind.text()));
    numbers(&mut page, "WindowEdge", WindowEdge::ALL, |kind| (kind.number(), kind.text()));
    numbers(&mut page, "LossCause", LossCause::ALL, |kind| (kind.number().into(), kind.text()));
    page.push('\n');
    page
}

#[test]
fn the_kinds_of_the_specification_are_those_of_the_code() -> std::io::Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/spool-format.md");
    let text = std::fs::read_to_string(&path)?;
    let begin = text.find(BEGIN).unwrap_or_else(|| panic!("{BEGIN:?} is not there"));
    let begin = begin + text[begin..].find('\n').map_or(0, |at| at + 1);
    let end = text.find(END).unwrap_or_else(|| panic!("{END:?} is not there"));
    let wanted = kinds();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(&path, format!("{}{wanted}{}", &text[..begin], &text[end..]));
    }
    assert!(
        text[begin..end] == wanted,
        "docs/spool-format.md is behind the code: UPDATE_DOCS=1 cargo test -p profiler-core --test \
         record_layout_docs"
    );
    Ok(())
}
