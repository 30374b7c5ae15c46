//! A sink in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use profiler_core::record::{HeapRef, Operator, Row, StringDef, ThreadDef};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};
use serde_json::json;

#[derive(Default)]
pub(crate) struct MemorySink {
    inner: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    streams: u32,
    operators: Vec<(Operator, String)>,
    strings: HashMap<u32, String>,
    threads: BTreeMap<u32, String>,
    facts: BTreeMap<String, String>,
    lost: u64,
    undefined: u64,
}

impl MemorySink {
    pub(crate) fn operator_count(&self) -> usize {
        self.lock().operators.len()
    }

    /// Each operator in a line, then all else in one.
    pub(crate) fn json(&self, notes: &[String]) -> String {
        let inner = self.lock();
        let mut out = String::new();
        for (row, shapes) in &inner.operators {
            let line = json!({
                "name": inner.strings.get(&row.name.0),
                "start": row.start,
                "end": row.end,
                "sequence": row.sequence,
                "thread": row.thread,
                "forward_thread": row.forward_thread,
                "scope": row.scope,
                "depth": row.depth,
                "flags": row.flags,
                "shapes": shapes,
            });
            out.push_str(&line.to_string());
            out.push('\n');
        }
        let rest = json!({
            "facts": inner.facts,
            "notes": notes,
            "lost": inner.lost,
            "undefined": inner.undefined,
            "threads": inner.threads,
        });
        out.push_str(&rest.to_string());
        out.push('\n');
        out
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rows<R: Row>(batch: &Batch<'_>) -> Vec<R> {
    let rows = batch.rows.chunks_exact(batch.stride as usize);
    rows.filter_map(|row| Some(R::read_from_prefix(row).ok()?.0)).collect()
}

impl RecordSink for MemorySink {
    fn open_stream(&self, _info: StreamInfo) -> StreamId {
        let mut inner = self.lock();
        inner.streams += 1;
        StreamId(inner.streams)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        let mut inner = self.lock();
        for batch in group {
            let text = |place: HeapRef| {
                place.text(batch.heap).map(|text| text.into_owned()).unwrap_or_default()
            };
            if batch.kind == StringDef::KIND {
                for row in rows::<StringDef>(batch) {
                    inner.strings.insert(row.id.0, text(row.text));
                }
            } else if batch.kind == ThreadDef::KIND {
                for row in rows::<ThreadDef>(batch) {
                    inner.threads.insert(row.thread, text(row.name));
                }
            } else if batch.kind == Operator::KIND {
                for row in rows::<Operator>(batch) {
                    inner.undefined += u64::from(!inner.strings.contains_key(&row.name.0));
                    inner.operators.push((row, text(row.shapes)));
                }
            }
        }
        Emit::Accepted
    }

    fn loss(&self, loss: Loss) {
        self.lock().lost += loss.count;
    }

    fn fact(&self, key: &str, value: &str) {
        self.lock().facts.insert(key.to_owned(), value.to_owned());
    }

    fn log(&self, _level: LogLevel, _target: &str, _message: &str) {}
}
