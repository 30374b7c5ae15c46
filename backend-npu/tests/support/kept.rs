//! A sink that keeps rows as text, every field of theirs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use profiler_core::record::{HeapRef, RecordKind, Role, Row as _, StringDef};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

/// Rows as `field=value …`, in the order of their fields; names are the texts that they stand for,
/// and fields that are 0 or empty are left out.
#[derive(Default)]
pub(crate) struct KeptSink(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    strings: BTreeMap<u64, String>,
    rows: BTreeMap<RecordKind, Vec<String>>,
}

impl KeptSink {
    /// Takes the rows of a kind.
    pub(crate) fn take(&self, kind: RecordKind) -> Vec<String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.rows.remove(&kind).unwrap_or_default()
    }
}

impl Kept {
    fn row(&mut self, batch: &Batch<'_>, row: &[u8]) {
        let schema = batch.kind.schema().expect("a known kind");
        let mut values = Vec::new();
        for field in schema.fields {
            let (at, width) = (field.offset as usize, field.width as usize);
            let mut bytes = [0; 8];
            bytes[..width].copy_from_slice(&row[at..at + width]);
            let number = u64::from_le_bytes(bytes);
            let text = match field.role {
                _ if number == 0 => continue,
                Role::Heap => {
                    let place = HeapRef { offset: number as u32, len: (number >> 32) as u32 };
                    place.text(batch.heap).expect("in the heap").into_owned()
                }
                Role::String if batch.kind != StringDef::KIND => self.strings[&number].clone(),
                _ => number.to_string(),
            };
            values.push((field.name, text));
        }
        if batch.kind == StringDef::KIND {
            let of = |name: &str| values.iter().find(|(field, _)| *field == name).cloned();
            let (Some((_, text)), Some((_, id))) = (of("text"), of("id")) else { return };
            self.strings.insert(id.parse().expect("a number"), text);
        }
        let texts: Vec<String> =
            values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.rows.entry(batch.kind).or_default().push(texts.join(" "));
    }
}

impl RecordSink for KeptSink {
    fn open_stream(&self, _info: StreamInfo) -> StreamId {
        StreamId(1)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for batch in group {
            for row in batch.rows.chunks_exact(batch.stride as usize) {
                kept.row(batch, row);
            }
        }
        Emit::Accepted
    }

    fn loss(&self, loss: Loss) {
        panic!("nothing is lost here: {loss:?}");
    }

    fn fact(&self, _key: &str, _value: &str) {}

    fn log(&self, _level: LogLevel, _target: &str, _message: &str) {}
}
