//! What is fuzzed.

use std::ops::Range;
use std::path::Path;

use profiler_core::clock::ClockDomain;
use profiler_core::config::ProfilerConfig;
use profiler_core::conformance::{Answer, MemorySink};
use profiler_core::control::{FromAgent, ToAgent};
use profiler_core::identity::WorkerIdentity;
use profiler_core::sink::{RecordSink as _, StreamInfo};
use profiler_core::spool::SpoolReader;
use profiler_core::spool::format::{BLOCK_HEADER_BYTES, BLOCK_MAGIC, BlockHeader, ParsedHeader};
use profiler_core::trace_path::{SessionId, SessionLabel, TracePath, TracePathPolicy};
use profiler_worker::Controller;
use profiler_worker::controller::{ProcessLine, StopRequest};
use profiler_worker::start_request::StartRequest;

use super::{Target, configuration, foreign_traces, frames};

/// Words of JSON, and numbers at its edges.
const JSON: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-1",
    "1e999",
    "1e-999",
    "0.1e1",
    "18446744073709551616",
    "9007199254740993",
    "-9223372036854775809",
    "\"\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "[",
    "]",
    "{",
    "}",
    "[[[[[[[[",
    ":",
    ",",
];

/// All targets.
#[must_use]
pub fn all() -> Vec<Target> {
    vec![
        Target {
            name: "spool",
            seeds: &["tests/data/spool/version1.spool", "tests/data/spool/h100.spool"],
            texts: &[],
            words: &["OSB1", "OMNISPL\n"],
            mend: mend_spool,
            read: spool,
        },
        Target {
            name: "cupti",
            seeds: &[
                "backend-cuda/tests/golden/h100-libcupti-12.4.records",
                "backend-cuda/tests/golden/h100-libcupti-13.4.records",
            ],
            texts: &[],
            words: &[],
            mend: as_it_is,
            read: cupti,
        },
        Target {
            name: "mspti",
            seeds: &[],
            texts: &[&[2; 56], &[1; 64], &[9; 88], &[3, 0, 0, 0, 7, 7, 7, 7], b""],
            words: &[],
            mend: as_it_is,
            read: mspti,
        },
        Target {
            name: "kineto",
            seeds: &[],
            texts: &[KINETO, ASCEND, b"{}", b"[]"],
            words: JSON,
            mend: as_it_is,
            read: foreign_traces::read_trace,
        },
        Target {
            name: "ascend-database",
            seeds: &[],
            texts: &[],
            words: foreign_traces::DATABASE_WORDS,
            mend: as_it_is,
            read: foreign_traces::read_trace,
        },
        Target {
            name: "msprof-tables",
            seeds: &[],
            texts: foreign_traces::TABLES,
            words: foreign_traces::TABLE_WORDS,
            mend: as_it_is,
            read: foreign_traces::read_table,
        },
        Target {
            name: "http-bodies",
            seeds: &[],
            texts: &[
                b"",
                br#"{"stages":[0,2],"replicas":[0],"ranks":[1],"duration_ms":2000,"formats":["kineto-gz"],"preset":"full","backend":"cuda","on_unavailable":"degrade","wait_join_ms":100}"#,
                br#"{"start_step":3,"num_steps":"5","activities":["CPU","GPU"],"with_stack":true,"record_shapes":true,"profile_by_stage":false,"profile_stages":[],"profile_id":"17.5","merge_profiles":true,"profile_prefix":"sg"}"#,
                br#"{"session":"20261124T190042530Z-pzxux7k5","wait_ms":5000}"#,
            ],
            words: JSON,
            mend: as_it_is,
            read: bodies,
        },
        Target {
            name: "launcher-bodies",
            seeds: &[],
            texts: &[
                br#"[{"pid":4711,"title":"VLLM::Worker_TP0","code":"no_preload","message":"started before the launcher"},{"pid":1,"title":"","code":"","message":""}]"#,
                b"[]",
            ],
            words: JSON,
            mend: as_it_is,
            read: launchers,
        },
        Target {
            name: "config",
            seeds: &[],
            texts: &[
                b"{}",
                br#"{"profiler":"torch","torch_profiler_dir":"/tmp/x","with_stack":true,"sample_hz":49,"preset":"full","formats":["pftrace-gz"],"delay_iterations":3,"max_iterations":9,"ignore_frontend":true}"#,
            ],
            words: JSON,
            mend: as_it_is,
            read: config,
        },
        Target {
            name: "config-files",
            seeds: &[],
            texts: configuration::FILES,
            words: configuration::FILE_WORDS,
            mend: as_it_is,
            read: configuration::read_files,
        },
        Target {
            name: "map-rules",
            seeds: &[],
            texts: configuration::RULES,
            words: configuration::RULE_WORDS,
            mend: as_it_is,
            read: configuration::read_rule,
        },
        Target {
            name: "control",
            seeds: &[],
            texts: &[
                br#"{"type":"welcome","controller_pid":7}"#,
                br#"{"type":"request","id":1,"request":{"ask":"disarm","fence":3}}"#,
                br#"{"type":"reply","id":1,"outcome":{"failed":{"code":"x","message":"y"}}}"#,
            ],
            words: JSON,
            mend: as_it_is,
            read: control,
        },
        Target {
            name: "frames",
            seeds: &[],
            texts: &[b"\x02\0\0\0{}", b"\xff\xff\xff\xff"],
            words: JSON,
            mend: frames::mend,
            read: frames::read,
        },
        Target {
            name: "trace-paths",
            seeds: &[],
            texts: &[
                b"run-1", b"../../etc/passwd", b"a/b", b".", b"..", b"\xff\xfe", b"con\0trol",
                b"20261124T190042530Z-pzxux7k5", b"20261124T190042530Z-label-pzxux7k5",
            ],
            words: &["..", "/", "\\", "~", "-", "_", "=2F", "%2e", "\u{202e}", "Z-"],
            mend: as_it_is,
            read: trace_paths,
        },
    ]
}

const KINETO: &[u8] = br#"{"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "H100", "numSms": 132}],
 "distributedInfo": {"backend": "nccl", "rank": 3, "world_size": 8}, "traceEvents": [
 {"ph": "X", "cat": "cpu_op", "name": "aten::linear", "pid": 55, "tid": 55, "ts": 100.5, "dur": 30.25,
  "args": {"External id": 1, "Input Dims": [[8, 16], []], "Input type": ["float", "Scalar"]}},
 {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 55, "tid": 55, "ts": 110, "dur": 5,
  "args": {"cbid": 211, "correlation": 77}},
 {"ph": "X", "cat": "kernel", "name": "gemm<int>", "pid": 0, "tid": 7, "ts": 120.125, "dur": 40.375,
  "args": {"grid": [4, 1, 1], "block": [128, 1, 1], "correlation": 77, "device": 0, "stream": 7}},
 {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 55, "tid": 55, "ts": 111, "s": "t",
  "args": {"Total Allocated": 512, "Addr": 4096, "Device Id": 0, "Bytes": -512, "Device Type": 1}},
 {"ph": "s", "id": 77, "pid": 55, "tid": 55, "ts": 110, "cat": "ac2g", "name": "ac2g"},
 {"ph": "M", "name": "thread_name", "pid": 55, "tid": 55, "args": {"name": "main"}}],
 "baseTimeNanoseconds": 1700000000000000000}"#;

pub(super) const ASCEND: &[u8] = br#"[{"name": "process_name", "pid": 2, "tid": 0, "args": {"name": "Ascend Hardware"}, "ph": "M"},
 {"name": "MatMulV2", "pid": 2, "tid": 7, "ts": "1700000000000.125", "dur": 3.5, "ph": "X",
  "args": {"Model Id": 4294967295, "Task Type": "AI_CORE", "Stream Id": 7, "Task Id": 1, "connection_id": 9}},
 {"name": "HostToDevice9", "ph": "f", "id": "9", "pid": 2, "tid": 7, "ts": "1700000000000.125", "cat": "HostToDevice"}]"#;

fn as_it_is(_input: &mut [u8]) {}

/// Gives each block that still lies where it says a header and a payload whose checksums fit.
fn mend_spool(input: &mut [u8]) {
    let mut at = 0;
    while at + BLOCK_HEADER_BYTES <= input.len() {
        if input[at..].starts_with(&BLOCK_MAGIC) {
            let whole = at + BLOCK_HEADER_BYTES;
            if let Some(len) = payload_len(&input[at..])
                && let Some(bytes) = input.get(whole..whole + len)
            {
                let crc = crc32fast::hash(bytes);
                input[at..][PAYLOAD_CRC].copy_from_slice(&crc.to_le_bytes());
            }
            mend_header(&mut input[at..whole]);
        }
        at += 8;
    }
}

/// Where a block's header has the checksums of its payload and of itself (docs/spool-format.md).
const PAYLOAD_CRC: Range<usize> = 72..76;
const HEADER_CRC: Range<usize> = 80..84;

fn mend_header(header: &mut [u8]) {
    let crc = crc32fast::hash(&header[..HEADER_CRC.start]);
    header[HEADER_CRC].copy_from_slice(&crc.to_le_bytes());
}

/// How long the payload of a block is, if its header tells it within bounds.
fn payload_len(block: &[u8]) -> Option<usize> {
    let mut mended = block.get(..BLOCK_HEADER_BYTES)?.to_vec();
    mend_header(&mut mended);
    let ParsedHeader::Block(header) = BlockHeader::parse(&mended) else { return None };
    let len = usize::try_from(header.block_len()).ok()?.checked_sub(BLOCK_HEADER_BYTES)?;
    // The padding behind it is not summed; what is wrong there is a block that is refused.
    Some(len.min(block.len() - BLOCK_HEADER_BYTES))
}

fn spool(input: &[u8], scratch: &Path) {
    let path = scratch.join("input.spool");
    std::fs::write(&path, input).expect("the scratch folder takes a file");
    let Ok(mut reader) = SpoolReader::open(&path) else { return };
    let (mut blocks, mut rows) = (0_u64, 0_u64);
    // What a file of this length can hold at most, were each block as short as can be.
    let most = input.len() as u64 / BLOCK_HEADER_BYTES as u64 + 1;
    while let Ok(Some(block)) = reader.next_block() {
        blocks += 1;
        rows += block.count() as u64;
        assert!(blocks <= most, "more blocks than fit");
    }
    let _total = (rows, reader.is_closed(), reader.skipped().damaged_bytes);
    if let Ok(segments) = reader.segments() {
        for segment in segments.iter().take(16) {
            if let Ok(mut part) = reader.segment(segment) {
                while let Ok(Some(_block)) = part.next_block() {}
            }
        }
    }
    // What reads spools further on: windows, joins, the tables.
    let options = profiler_export::capture::CaptureOptions::default();
    if let Ok(mut capture) = profiler_export::capture::Capture::open(vec![path], options) {
        let options = profiler_export::summary::SummaryOptions::default();
        drop(profiler_export::summary::summarize(&mut capture, options));
    }
}

fn sink() -> (MemorySink, profiler_core::sink::StreamId) {
    let sink = MemorySink::new(Answer::Accept);
    let info = StreamInfo { producer: "fuzz".to_owned(), thread: 1, clock: ClockDomain::Realtime };
    let stream = sink.open_stream(info);
    (sink, stream)
}

/// Records, each behind its length as two bytes.
fn records(mut input: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some((len, rest)) = input.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)) % 1024;
        let (record, rest) = rest.split_at(len.min(rest.len()));
        records.push(record);
        input = rest;
    }
    records
}

struct Texts;

impl backend_cuda::replay::KeptNames for Texts {
    fn text(&self, address: u64) -> Option<&[u8]> {
        match address % 5 {
            0 => None,
            1 => Some(b""),
            2 => Some(&[0xff, 0xfe]),
            _ => Some(b"void kernel<float>(float*)"),
        }
    }
}

fn cupti(input: &[u8], _scratch: &Path) {
    // A file of kept records, as far as it is one; else records behind their lengths.
    let records = kept(input).unwrap_or_else(|| records(input));
    let (sink, stream) = sink();
    let (_emitted, _notes) = backend_cuda::replay::decode(records, &Texts, &sink, stream);
}

/// The records of a file that `keep` of the CUDA workload wrote.
fn kept(input: &[u8]) -> Option<Vec<&[u8]>> {
    fn number(rest: &mut &[u8]) -> Option<usize> {
        let (number, after) = rest.split_first_chunk()?;
        *rest = after;
        usize::try_from(u32::from_le_bytes(*number)).ok()
    }
    fn counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let len = number(rest)?;
        let (counted, after) = rest.split_at_checked(len)?;
        *rest = after;
        Some(counted)
    }
    let rest = &mut input.strip_prefix(b"CUPTIREC")?;
    number(rest)?;
    for _ in 0..number(rest)? {
        number(rest)?;
        number(rest)?;
        counted(rest)?;
    }
    for _ in 0..number(rest)? {
        number(rest)?;
        number(rest)?;
        counted(rest)?;
    }
    let mut records = Vec::new();
    number(rest)?;
    while let Some(record) = counted(rest) {
        records.push(record);
    }
    Some(records)
}

fn mspti(input: &[u8], _scratch: &Path) {
    let (sink, stream) = sink();
    let whole = [input];
    let (_emitted, _notes) = backend_npu::replay::decode(records(input), &sink, stream);
    let (_emitted, _notes) = backend_npu::replay::decode(whole, &sink, stream);
}

fn bodies(input: &[u8], _scratch: &Path) {
    if let Ok(start) = StartRequest::parse(input) {
        // What was understood can be said again.
        let said = serde_json::to_vec(&start).expect("a request is JSON");
        let again = StartRequest::parse(&said);
        assert!(again.as_ref().is_ok_and(|again| *again == start), "{start:?} {again:?}");
    }
    drop(StopRequest::parse(input));
}

/// What a launcher says of its processes goes into the status.
fn launchers(input: &[u8], scratch: &Path) {
    let Ok(lines) = serde_json::from_slice::<Vec<ProcessLine>>(input) else { return };
    let builder = Controller::builder().root(scratch.join("root"));
    let controller = builder.without_exporter().without_socket().build().expect("a controller");
    let told = lines.len();
    controller.set_not_joined(std::process::id(), lines);
    let status = controller.status();
    assert!(status.not_joined.len() <= told, "{status:?}");
    serde_json::to_vec(&status).expect("a status is JSON");
}

fn config(input: &[u8], _scratch: &Path) {
    let value = serde_json::from_slice(input).ok();
    if let Some(Ok(config)) = value.map(|value| ProfilerConfig::parse(&value)) {
        let _applied = config.apply();
    }
    let text = String::from_utf8_lossy(input);
    let (name, value) = text.split_once('=').unwrap_or(("sample_hz", &text));
    drop(ProfilerConfig::parse_text(name, value));
}

fn control(input: &[u8], _scratch: &Path) {
    if let Ok(message) = serde_json::from_slice::<ToAgent>(input) {
        serde_json::to_vec(&message).expect("a message is JSON");
    }
    if let Ok(message) = serde_json::from_slice::<FromAgent>(input) {
        serde_json::to_vec(&message).expect("a message is JSON");
    }
}

fn trace_paths(input: &[u8], scratch: &Path) {
    let text = String::from_utf8_lossy(input);
    let policy = TracePathPolicy::new(scratch);
    let mut worker = WorkerIdentity::of_this_process(Some(1), Some(&text), Some(0), None);
    worker.host = text.chars().rev().collect();
    let path = TracePath::worker(&worker);
    for part in [path.dir().to_owned(), path.file_name("spool")] {
        assert!(part.len() <= 255, "{part:?}");
        assert!(!part.is_empty() && part != "." && part != "..", "{part:?}");
        assert!(!part.contains(['/', '\\', '\0']), "{part:?}");
    }
    let relative = path.relative("spool");
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    assert!(relative.components().all(plain), "{}", relative.display());
    let label = SessionLabel::parse(&text).ok();
    let id = SessionId::from_parts(1, 2, label.as_ref());
    assert!(policy.session_dir(&id).starts_with(scratch));
    assert!(SessionId::parse(id.as_str()).is_ok(), "{id:?}");
    if let Ok(id) = SessionId::parse(&text) {
        assert!(policy.session_dir(&id).starts_with(scratch));
        assert!(!id.as_str().contains('/'), "{id:?}");
    }
}
