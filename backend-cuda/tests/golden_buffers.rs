//! Records as real libcuptis wrote them on a real device, decoded.
//!
//! `tests/workloads/cuda/measure --keep` takes them, by `keep` of `cuda-workload`, whose source says
//! what the file holds. They stand in `golden/`, one file a version of the library.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use backend_cuda::replay::{KeptNames, decode};
use profiler_core::record::{Kernel, LaunchConfigDef, RecordKind, Role, Row as _, StringDef};
use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};

/// A file of records.
#[derive(Default)]
struct Kept {
    version: u32,
    texts: BTreeMap<u64, Vec<u8>>,
    records: Vec<Vec<u8>>,
}

impl Kept {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.strip_prefix(b"CUPTIREC").unwrap();
        let rest = &mut rest;
        let mut kept = Self { version: number(rest), ..Self::default() };
        for _ in 0..number(rest) {
            let address = u64::from(number(rest)) | u64::from(number(rest)) << 32;
            kept.texts.insert(address, counted(rest));
        }
        for _ in 0..number(rest) {
            // A function's domain, number and name: calls are no records of a capture.
            let _function = (number(rest), number(rest), counted(rest));
        }
        for _ in 0..number(rest) {
            kept.records.push(counted(rest));
        }
        assert!(rest.is_empty(), "{} bytes are left", rest.len());
        kept
    }

    /// Records by CUPTI's number of their kind.
    fn kinds(&self) -> BTreeMap<u32, usize> {
        let mut kinds = BTreeMap::new();
        for record in &self.records {
            *kinds.entry(number(&mut &record[..])).or_default() += 1;
        }
        kinds
    }

    /// The starts of calls by correlation. A capture is told calls by callbacks; the workload kept
    /// `CUpti_ActivityAPI` records of them.
    fn launches(&self) -> BTreeMap<u64, u64> {
        const DRIVER: u32 = 4;
        const RUNTIME: u32 = 5;
        let calls = self.records.iter().filter(|record| {
            let kind = number(&mut &record[..]);
            kind == DRIVER || kind == RUNTIME
        });
        calls
            .map(|record| {
                let start = u64::from_le_bytes(record[8..16].try_into().unwrap());
                (u64::from(number(&mut &record[32..])), start)
            })
            .collect()
    }
}

impl KeptNames for Kept {
    fn text(&self, address: u64) -> Option<&[u8]> {
        self.texts.get(&address).map(Vec::as_slice)
    }
}

fn number(bytes: &mut &[u8]) -> u32 {
    let (number, rest) = bytes.split_first_chunk().unwrap();
    *bytes = rest;
    u32::from_le_bytes(*number)
}

fn counted(bytes: &mut &[u8]) -> Vec<u8> {
    let len = number(bytes) as usize;
    let (counted, rest) = bytes.split_at(len);
    *bytes = rest;
    counted.to_vec()
}

/// Rows, field by field; heap references as the texts that they are.
#[derive(Default)]
struct Rows {
    rows: Mutex<BTreeMap<RecordKind, Vec<Fields>>>,
}

type Fields = BTreeMap<&'static str, Value>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Number(u64),
    Text(String),
}

impl Rows {
    fn of(&self, kind: RecordKind) -> Vec<Fields> {
        self.rows.lock().unwrap().get(&kind).cloned().unwrap_or_default()
    }

    fn names(&self) -> BTreeMap<u64, String> {
        let strings = self.of(StringDef::KIND);
        strings.iter().map(|row| (integer(row, "id"), text(row, "text"))).collect()
    }
}

fn integer(row: &Fields, field: &str) -> u64 {
    match row.get(field) {
        Some(Value::Number(number)) => *number,
        other => panic!("{field}: {other:?}"),
    }
}

fn text(row: &Fields, field: &str) -> String {
    match row.get(field) {
        Some(Value::Text(text)) => text.clone(),
        other => panic!("{field}: {other:?}"),
    }
}

impl RecordSink for Rows {
    fn open_stream(&self, _info: StreamInfo) -> StreamId {
        StreamId(1)
    }

    fn emit(&self, group: &[Batch<'_>]) -> Emit {
        let mut rows = self.rows.lock().unwrap();
        for batch in group {
            let schema = batch.kind.schema().unwrap();
            for row in batch.rows.chunks_exact(batch.stride as usize) {
                let mut fields = Fields::new();
                for field in schema.fields.iter().filter(|field| field.role != Role::Reserved) {
                    let (at, width) = (field.offset as usize, field.width as usize);
                    let mut bytes = [0; 8];
                    bytes[..width].copy_from_slice(&row[at..at + width]);
                    let number = u64::from_le_bytes(bytes);
                    let value = match field.role {
                        Role::Heap => {
                            let (offset, len) = (number as u32 as usize, (number >> 32) as usize);
                            let bytes = &batch.heap[offset..offset + len];
                            Value::Text(String::from_utf8_lossy(bytes).into_owned())
                        }
                        _ => Value::Number(number),
                    };
                    fields.insert(field.name, value);
                }
                rows.entry(batch.kind).or_default().push(fields);
            }
        }
        Emit::Accepted
    }

    fn loss(&self, loss: Loss) {
        panic!("{loss:?}");
    }

    fn fact(&self, _key: &str, _value: &str) {}

    fn log(&self, _level: LogLevel, _target: &str, _message: &str) {}
}

/// What is equal in every run of the workload, with how often it comes.
fn digest(kept: &Kept, rows: &Rows) -> String {
    const LEFT_OUT: &[&str] = &[
        "start",
        "end",
        "correlation",
        "event",
        "event_correlation",
        "thread",
        "graph_node",
        "config",
        "id",
        "uuid",
        // Whether it came of a graph is among the flags.
        "graph",
        "object",
    ];
    let names = rows.names();
    let configs: BTreeMap<u64, Fields> =
        rows.of(LaunchConfigDef::KIND).into_iter().map(|row| (integer(&row, "id"), row)).collect();
    let describe = |fields: &Fields| {
        let mut words = Vec::new();
        for (field, value) in fields {
            match value {
                Value::Text(text) => words.push(format!("{field}={text:?}")),
                Value::Number(id) if *field == "name" || *field == "category" => {
                    words.push(format!("{field}={:?}", names.get(id).map_or("", String::as_str)));
                }
                Value::Number(number) if *number != 0 => words.push(format!("{field}={number}")),
                Value::Number(_) => {}
            }
        }
        words.join(" ")
    };
    let mut lines =
        vec![format!("libcupti {}", kept.version), format!("records {:?}", kept.kinds())];
    for (kind, all) in &*rows.rows.lock().unwrap() {
        if [StringDef::KIND, LaunchConfigDef::KIND].contains(kind) {
            continue;
        }
        let mut counted: BTreeMap<String, usize> = BTreeMap::new();
        for row in all {
            let mut line = row.clone();
            if let Some(Value::Number(config)) = line.get("config") {
                line.extend(configs[config].clone());
            }
            line.retain(|field, _| !LEFT_OUT.contains(field));
            *counted.entry(describe(&line)).or_default() += 1;
        }
        lines.push(format!("{}:", kind.schema().unwrap().name));
        lines.extend(counted.iter().map(|(line, count)| format!("  {count} x {line}")));
    }
    lines.join("\n")
}

fn golden_files() -> Vec<std::path::PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "records"));
    files.sort();
    assert!(!files.is_empty(), "the golden files are missing");
    files
}

#[test]
fn what_real_libraries_wrote_is_understood() {
    for path in golden_files() {
        let kept = Kept::read(&path);
        let rows = Rows::default();
        let records = kept.records.iter().map(Vec::as_slice);
        let (outcome, notes) = decode(records, &kept, &rows, StreamId(1));
        assert_eq!((outcome, notes), (Emit::Accepted, Vec::new()), "{}", path.display());
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        insta::assert_snapshot!(name, digest(&kept, &rows));

        // What the workload is known to have done.
        let names = rows.names();
        let kernels = rows.of(Kernel::KIND);
        let of_graph = kernels.iter().filter(|row| integer(row, "graph_node") != 0).count();
        assert!(of_graph > 0 && of_graph < kernels.len(), "{of_graph} of {}", kernels.len());
        let launches = kept.launches();
        let mut launched = 0;
        for kernel in &kernels {
            let (start, end) = (integer(kernel, "start"), integer(kernel, "end"));
            assert!(start > 0 && start <= end, "{kernel:?}");
            assert!(["empty", "fill"].contains(&&*names[&integer(kernel, "name")]), "{kernel:?}");
            if let Some(launch) = launches.get(&integer(kernel, "correlation")) {
                assert!(*launch <= start, "{kernel:?} before its launch at {launch}");
                launched += 1;
            }
        }
        assert!(launched > 0, "no kernel has its launch");
    }
}

#[test]
fn real_records_cut_short_do_no_harm() {
    for path in golden_files() {
        let kept = Kept::read(&path);
        let mut cut = Vec::new();
        for record in &kept.records {
            for end in [0, 3, 4, 17, record.len() / 2, record.len() - 1] {
                cut.push(&record[..end.min(record.len())]);
            }
        }
        let rows = Rows::default();
        let (outcome, _) = decode(cut, &kept, &rows, StreamId(1));
        assert_eq!(outcome, Emit::Accepted, "{}", path.display());
    }
}
