//! Rows as columns, by the layout tables of their kinds.

use std::collections::HashMap;

use parquet::data_type::ByteArray;
use profiler_core::record::{
    ApiDomain, CopyKind, Field, HeapRef, Kernel, MemoryKind, OperatorScope, Role, Row, Schema,
    StringId, SynchronizationKind,
};

use super::table::{Column, Kind, Value};
use crate::capture::{Definitions, Place, Worker};
use crate::symbolize::demangle;

/// The columns that every table of rows begins with: whose row it is.
pub(super) fn worker_columns() -> Vec<Column> {
    vec![
        Column::new("worker", Kind::Unsigned32),
        Column::nullable("stage", Kind::Unsigned32),
        Column::nullable("role", Kind::Text),
        Column::nullable("replica", Kind::Unsigned32),
        Column::nullable("rank", Kind::Unsigned32),
        Column::new("host", Kind::Text),
        Column::new("pid", Kind::Unsigned32),
    ]
}

/// The values of [`worker_columns`].
pub(super) fn worker_values(worker: &Worker) -> [Value; 7] {
    let identity = &worker.identity;
    [
        Value::Number(worker.index as u64),
        Value::optional(identity.stage),
        identity.role.as_deref().map_or(Value::Null, shared),
        Value::optional(identity.replica),
        Value::optional(identity.rank),
        shared(&identity.host),
        Value::Number(u64::from(identity.pid)),
    ]
}

fn shared(text: &str) -> Value {
    Value::Shared(ByteArray::from(text))
}

/// A column for each field of a kind; a code has a second one with its text.
pub(super) fn row_columns(schema: &Schema) -> Vec<Column> {
    let mut columns = Vec::new();
    for field in schema.fields {
        let name = column_name(field);
        let column = match field.role {
            Role::Reserved => continue,
            Role::Time => Column::new(name, Kind::Instant),
            Role::EndTime => Column::nullable(name, Kind::Instant),
            Role::Sequence if is_signed(field) => Column::new(name, Kind::Signed64),
            Role::Sequence => Column::new(name, Kind::Sequence),
            Role::Number if has_none(field) => Column::nullable(name, Kind::Unsigned32),
            Role::Number if field.width == 8 => Column::new(name, Kind::Unsigned64),
            Role::Number => Column::new(name, Kind::Unsigned32),
            Role::Signed if field.width == 8 => Column::new(name, Kind::Signed64),
            Role::Signed => Column::new(name, Kind::Signed32),
            Role::Float => Column::new(name, Kind::Float),
            Role::String | Role::Heap => Column::nullable(name, Kind::Text),
            Role::Stack | Role::LaunchConfig => Column::nullable(name, Kind::Unsigned32),
            // A role that came later: its bits.
            _ => Column::new(name, Kind::Unsigned64),
        };
        columns.push(column);
        if code_text(schema, field, 0).is_some() {
            columns.push(Column::nullable(format!("{name}_text"), Kind::Text));
        }
    }
    if schema.kind == Kernel::KIND {
        columns.push(Column::nullable("demangled_name", Kind::Text));
    }
    columns
}

/// The application's name for the stage of a span would else stand where the worker's stage does.
fn column_name(field: &Field) -> &'static str {
    match field.name {
        "stage" => "span_stage",
        name => name,
    }
}

/// The one sequence number that may be -1.
fn is_signed(field: &Field) -> bool {
    field.name == "sequence"
}

/// Fields in which the greatest number means none.
fn has_none(field: &Field) -> bool {
    field.width == 4 && matches!(field.name, "device" | "stream" | "cpu")
}

/// The text of a code: `None` where the field holds no code, empty where this build does not know
/// the code.
fn code_text(schema: &Schema, field: &Field, code: u64) -> Option<&'static str> {
    let text = match (schema.name, field.name) {
        (_, "copy_kind") => {
            u8::try_from(code).ok().and_then(CopyKind::from_number).map(CopyKind::text)
        }
        (_, "source_kind" | "target_kind" | "memory_kind") => {
            u8::try_from(code).ok().and_then(MemoryKind::from_number).map(MemoryKind::text)
        }
        ("api_call", "domain") => {
            u32::try_from(code).ok().and_then(ApiDomain::from_number).map(ApiDomain::text)
        }
        ("synchronization", "synchronization_kind") => u32::try_from(code)
            .ok()
            .and_then(SynchronizationKind::from_number)
            .map(SynchronizationKind::text),
        ("operator", "scope") => {
            u16::try_from(code).ok().and_then(OperatorScope::from_number).map(OperatorScope::text)
        }
        ("memory", "operation") => match code {
            1 => Some("allocate"),
            2 => Some("free"),
            _ => None,
        },
        ("sample", "state") => match code {
            0 => Some("running"),
            1 => Some("waiting"),
            _ => None,
        },
        _ => return None,
    };
    Some(text.unwrap_or(""))
}

/// Texts as the writer wants them, by their ids: rows of one name share its bytes.
#[derive(Default)]
pub(super) struct Texts {
    by_id: HashMap<StringId, ByteArray>,
    demangled: HashMap<StringId, ByteArray>,
    codes: HashMap<&'static str, ByteArray>,
}

impl Texts {
    fn string(&mut self, definitions: &Definitions, id: StringId) -> Value {
        if id.is_none() {
            return Value::Null;
        }
        let text = self.by_id.entry(id).or_insert_with(|| ByteArray::from(definitions.string(id)));
        Value::Shared(text.clone())
    }

    fn demangled(&mut self, definitions: &Definitions, id: StringId) -> Value {
        if id.is_none() {
            return Value::Null;
        }
        let text = self
            .demangled
            .entry(id)
            .or_insert_with(|| ByteArray::from(&*demangle(definitions.string(id))));
        Value::Shared(text.clone())
    }

    fn code(&mut self, text: &'static str) -> Value {
        if text.is_empty() {
            return Value::Null;
        }
        Value::Shared(self.codes.entry(text).or_insert_with(|| ByteArray::from(text)).clone())
    }
}

/// The values of [`row_columns`] of one row.
pub(super) fn row_values<R: Row>(
    place: &Place<'_>,
    row: &R,
    texts: &mut Texts,
    values: &mut Vec<Value>,
) {
    let bytes = row.as_bytes();
    let mut name = StringId::NONE;
    for field in R::SCHEMA.fields {
        let number = number_at(bytes, field);
        values.push(match field.role {
            Role::Reserved => continue,
            Role::EndTime if number == 0 => Value::Null,
            Role::Number if has_none(field) && number == u64::from(u32::MAX) => Value::Null,
            Role::Stack | Role::LaunchConfig if number == 0 => Value::Null,
            Role::Float => Value::Float(f64::from_bits(number)),
            Role::String => {
                let id = StringId(number as u32);
                if field.name == "name" {
                    name = id;
                }
                texts.string(place.definitions, id)
            }
            Role::Heap => {
                let at = HeapRef { offset: number as u32, len: (number >> 32) as u32 };
                match at.text(place.heap) {
                    Some(text) if !text.is_empty() => Value::text(&text),
                    _ => Value::Null,
                }
            }
            _ => Value::Number(number),
        });
        if let Some(text) = code_text(R::SCHEMA, field, number) {
            values.push(texts.code(text));
        }
    }
    if R::KIND == Kernel::KIND {
        values.push(texts.demangled(place.definitions, name));
    }
}

fn number_at(bytes: &[u8], field: &Field) -> u64 {
    let mut word = [0; 8];
    let (at, width) = (field.offset as usize, field.width as usize);
    match bytes.get(at..at + width) {
        Some(found) if width <= 8 => word[..width].copy_from_slice(found),
        _ => {}
    }
    u64::from_le_bytes(word)
}
