//! Databases of msprof and of torch_npu's profiler.
#![cfg(feature = "ascend-db")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod import_support;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use profiler_export::capture::{Capture, CaptureOptions};
use profiler_export::import::{ImportError, device_records, import, is_foreign};
use profiler_export::summary::{SummaryOptions, WorkerSummary, summarize};
use rusqlite::Connection;

use import_support::imported;

/// The tables as msprof documents and makes them.
const TABLES: &str = "
CREATE TABLE STRING_IDS (id INTEGER PRIMARY KEY, value TEXT);
CREATE TABLE SESSION_TIME_INFO (startTimeNs INTEGER, endTimeNs INTEGER);
CREATE TABLE NPU_INFO (id INTEGER, name TEXT);
CREATE TABLE RANK_DEVICE_MAP (rankId INTEGER, deviceId INTEGER);
CREATE TABLE META_DATA (name TEXT, value TEXT);
CREATE TABLE ENUM_HCCL_DATA_TYPE (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE TASK (startNs INTEGER, endNs INTEGER, deviceId INTEGER, connectionId INTEGER,
    globalTaskId INTEGER, globalPid INTEGER, taskType INTEGER, contextId INTEGER, streamId INTEGER,
    taskId INTEGER, modelId INTEGER);
CREATE INDEX TaskIndex ON TASK (startNs, globalTaskId);
CREATE TABLE COMPUTE_TASK_INFO (name INTEGER, globalTaskId INTEGER PRIMARY KEY, blockNum INTEGER,
    mixBlockNum INTEGER, taskType INTEGER, opType INTEGER, inputFormats INTEGER,
    inputDataTypes INTEGER, inputShapes INTEGER, outputFormats INTEGER, outputDataTypes INTEGER,
    outputShapes INTEGER, attrInfo INTEGER, opState INTEGER, hf32Eligible INTEGER);
CREATE TABLE COMMUNICATION_SCHEDULE_TASK_INFO (name INTEGER, globalTaskId INTEGER PRIMARY KEY,
    taskType INTEGER, opType INTEGER);
CREATE TABLE COMMUNICATION_TASK_INFO (name INTEGER, globalTaskId INTEGER, taskType INTEGER,
    planeId INTEGER, groupName INTEGER, notifyId INTEGER, rdmaType INTEGER, srcRank INTEGER,
    dstRank INTEGER, transportType INTEGER, size INTEGER, dataType INTEGER, linkType INTEGER,
    opId INTEGER);
CREATE INDEX CommunicationTaskIndex ON COMMUNICATION_TASK_INFO (globalTaskId);
CREATE TABLE COMMUNICATION_OP (opName INTEGER, startNs INTEGER, endNs INTEGER,
    connectionId INTEGER, groupName INTEGER, opId INTEGER PRIMARY KEY, relay INTEGER, retry INTEGER,
    dataType INTEGER, algType INTEGER, count NUMERIC, opType INTEGER, deviceId INTEGER,
    rankSize INTEGER);
CREATE TABLE CANN_API (startNs INTEGER, endNs INTEGER, type INTEGER, globalTid INTEGER,
    connectionId INTEGER PRIMARY KEY, name INTEGER);
CREATE TABLE MSTX_EVENTS (startNs INTEGER, endNs INTEGER, eventType INTEGER, rangeId INTEGER,
    category INTEGER, message INTEGER, globalTid INTEGER, endGlobalTid INTEGER, domainId INTEGER,
    connectionId INTEGER);
CREATE TABLE TASK_PMU_INFO (globalTaskId INTEGER, name INTEGER, value NUMERIC);
";

/// Two kernels, one with a call that launched it, and one of two parts; a collective; a mark and a
/// range; counters. Instants are ns after 1719384920 s.
const ROWS: &str = "
INSERT INTO STRING_IDS VALUES (1, 'aclnnAdd_AddAiCore_Add'), (2, 'AI_VECTOR_CORE'),
    (3, 'KERNEL_AIVEC'), (4, 'aclnnAdd'), (5, 'hcom_allReduce__123_0_1'), (6, 'group_name_0'),
    (7, 'MESH-RING-NA'), (8, 'EVENT_WAIT'), (9, 'prefill'), (10, 'default'), (11, 'aic_mac_ratio'),
    (12, 'aic_mac_time'), (13, 'N/A'), (14, 'FFTS_PLUS'), (15, 'MatMul_part'), (16, 'MIX_AIC'),
    (17, 'launch'), (18, 'ReduceAicpuKernel'), (19, 'AI_CPU');
INSERT INTO NPU_INFO VALUES (3, 'Ascend910B3');
INSERT INTO RANK_DEVICE_MAP VALUES (-1, 3);
INSERT INTO META_DATA VALUES ('SCHEMA_VERSION_MAJOR', '1');
INSERT INTO ENUM_HCCL_DATA_TYPE VALUES (11, 'BFP16');
INSERT INTO CANN_API VALUES
    (1719384920000105000, 1719384920000109000, 20000, 18219253432524 + 4300, 90, 4),
    (1719384920000106000, 1719384920000107500, 10000, 18219253432524 + 4300, 91, 17);
INSERT INTO TASK VALUES
    (1719384920000120250, 1719384920000151000, 3, 91, 500, 4242, 3, 4294967295, 2, 5, 4294967295),
    (1719384920000160000, 1719384920000165000, 3, -1, 501, 4242, 8, 4294967295, 2, 6, 4294967295),
    (1719384920000200000, 1719384920000300000, 3, 92, 502, 4242, 14, 4294967295, 7, 9, 1),
    (1719384920000210000, 1719384920000240000, 3, 92, 503, 4242, 14, 0, 7, 9, 1),
    (1719384920000250000, 1719384920000290000, 3, 92, 504, 4242, 14, 1, 7, 9, 1),
    (1719384920000400000, 1719384920000401000, 3, 93, 505, 4242, 14, 4294967295, 7, 9, 1),
    (1719384920000410000, 1719384920000412000, 3, 94, 506, 4242, 19, 4294967295, 8, 1, 1);
INSERT INTO COMPUTE_TASK_INFO (name, globalTaskId, taskType) VALUES
    (1, 500, 2), (15, 503, 16), (15, 504, 13);
INSERT INTO COMMUNICATION_SCHEDULE_TASK_INFO VALUES (18, 506, 19, 13);
INSERT INTO COMMUNICATION_OP VALUES
    (5, 1719384920000140000, 1719384920000190000, 95, 6, 1, 0, 0, 11, 7, 4096, 13, 3, 8);
INSERT INTO MSTX_EVENTS VALUES
    (1719384920000100000, 1719384920000450000, 2, 1, 0, 9, 18219253432524 + 4300, 0, 10, 4000000001),
    (1719384920000104000, 1719384920000104000, 0, 2, 0, 17, 18219253432524 + 4300, 0, 10, 4000000002);
INSERT INTO TASK_PMU_INFO VALUES (500, 11, 0.25), (500, 12, 7500), (503, 11, 0.75), (777, 11, 9.0);
";

/// The number of process 4242, whose thread is 0.
const GLOBAL: i64 = 4242 << 32;

fn database(dir: &Path, name: &str, statements: &[&str]) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let connection = Connection::open(&path).unwrap();
    for text in statements {
        let text = text.replace("18219253432524", &GLOBAL.to_string());
        connection.execute_batch(&text).unwrap();
    }
    path
}

fn refused(trace: &Path) -> ImportError {
    let dir = tempfile::tempdir().unwrap();
    import(trace, &dir.path().join("a.spool")).unwrap_err()
}

/// Names, counts and microseconds of kernels.
fn kernels(worker: &WorkerSummary) -> Vec<(String, u64, f64)> {
    let rows = worker.tables.kernels.iter();
    rows.map(|row| (row.name.clone(), row.count, row.total_us)).collect()
}

#[test]
fn a_database_of_msprof_becomes_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path(), "msprof_20240626.db", &[TABLES, ROWS]);
    assert!(is_foreign(&path));
    let before = std::fs::read(&path).unwrap();
    let (report, summary) = imported(&path);
    assert_eq!(report.layout, "msprof_db");
    let rows = |kind: &str| report.rows.get(kind).copied().unwrap_or(0);
    let kinds = ["kernel", "api_call", "communication", "span", "marker", "counter"];
    assert_eq!(kinds.map(rows), [6, 2, 1, 1, 1, 3]);
    // The task of two parts is there by its parts, and one of the same number later by itself.
    assert_eq!(report.left_out.get("tasks whose parts are there"), Some(&1), "{report:?}");
    assert_eq!((report.left_out.len(), &report.notes), (1, &Vec::new()));

    let worker = &summary.workers[0];
    assert_eq!((worker.pid, worker.rank), (4242, None));
    let name = |name: &str, count, us| (name.to_owned(), count, us);
    assert_eq!(
        kernels(worker),
        [
            name("MatMul_part", 2, 70.0),
            name("aclnnAdd_AddAiCore_Add", 1, 30.75),
            name("EVENT_WAIT", 1, 5.0),
            name("ReduceAicpuKernel", 1, 2.0),
            name("FFTS_PLUS", 1, 1.0),
        ]
    );
    let types = worker.tables.kernel_types.iter();
    let mut types: Vec<&str> = types.map(|row| row.name.as_str()).collect();
    types.sort_unstable();
    assert_eq!(types, ["AI_CPU", "AI_VECTOR_CORE", "EVENT_WAIT", "FFTS_PLUS", "MIX_AIC"]);
    let device = &worker.tables.devices[0];
    assert_eq!((device.device, device.name.as_str()), (3, "Ascend910B3"));
    let calls: Vec<&str> = worker.tables.api_calls.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(calls, ["AscendCL@aclnnAdd", "Node@launch"]);
    let collective = &worker.tables.communication[0];
    assert_eq!((collective.name.as_str(), collective.total_us), ("hcom_allReduce__123_0_1", 50.0));
    let counters: Vec<(&str, &str, u64, f64)> = worker
        .tables
        .counters
        .iter()
        .map(|row| (row.name.as_str(), row.unit.as_str(), row.count, row.mean))
        .collect();
    assert_eq!(counters, [("aic_mac_ratio", "1", 2, 0.5), ("aic_mac_time", "ns", 1, 7500.0)]);
    assert_eq!(worker.tables.counters[0].device, Some(3));

    // Nothing was written, neither into it nor beside it.
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// The same capture as msprof's timeline has it.
fn timeline() -> String {
    let process = 4242_u64;
    let number = |sort: u64, device: u64| (process << 10) | (sort << 5) | device;
    let (cann, hardware, communication) = (number(1, 0), number(2, 3), number(3, 3));
    let mut events = Vec::new();
    for (pid, name) in
        [(cann, "CANN"), (hardware, "Ascend Hardware"), (communication, "Communication")]
    {
        events.push(format!(
            r#"{{"ph":"M","name":"process_name","pid":{pid},"tid":0,"args":{{"name":"{name}"}}}}"#
        ));
    }
    for (name, pid, tid, ts, dur, args) in [
        ("AscendCL@aclnnAdd", cann, 4300, "105.000", 4.0, r#""connection_id":90"#),
        ("Node@launch", cann, 4300, "106.000", 1.5, r#""connection_id":91"#),
        (
            "aclnnAdd_AddAiCore_Add",
            hardware,
            2,
            "120.250",
            30.75,
            r#""Task Type":"AI_VECTOR_CORE","connection_id":91"#,
        ),
        ("EVENT_WAIT", hardware, 2, "160.000", 5.0, r#""Task Type":"EVENT_WAIT""#),
        ("hcom_allReduce__123_0_1", communication, 0, "140.000", 50.0, r#""connection_id":95"#),
    ] {
        events.push(format!(
            r#"{{"ph":"X","name":"{name}","pid":{pid},"tid":{tid},"ts":"1719384920000{ts}","dur":{dur},"args":{{{args}}}}}"#
        ));
    }
    format!("[{}]", events.join(","))
}

#[test]
fn a_database_says_what_the_timeline_of_the_same_capture_says() {
    let dir = tempfile::tempdir().unwrap();
    let less = "DELETE FROM TASK WHERE globalTaskId > 501; DELETE FROM MSTX_EVENTS;
                DELETE FROM TASK_PMU_INFO; UPDATE NPU_INFO SET name = 'Ascend NPU';";
    let path = database(dir.path(), "msprof_1.db", &[TABLES, ROWS, less]);
    let json = dir.path().join("msprof_1.json");
    std::fs::write(&json, timeline()).unwrap();
    let (by_database, by_timeline) = (imported(&path).1, imported(&json).1);
    let (ours, theirs) = (&by_database.workers[0].tables, &by_timeline.workers[0].tables);
    assert_eq!(kernels(&by_database.workers[0]).len(), 2);
    assert_eq!(ours.kernels, theirs.kernels);
    assert_eq!(ours.kernel_types, theirs.kernel_types);
    assert_eq!(ours.communication, theirs.communication);
    assert_eq!(ours.api_calls, theirs.api_calls);
    assert_eq!(ours.devices, theirs.devices);
}

/// msprof names the tasks that a collective consists of, and the collective that each belongs to.
#[test]
fn steps_of_collectives_are_no_work_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let steps = "
        INSERT INTO STRING_IDS VALUES (20, 'NOTIFY_WAIT_SQE'), (21, 'Notify_Wait'), (22, 'Memcpy'),
            (23, 'SDMA_SQE');
        INSERT INTO TASK VALUES
            (1719384920000141000, 1719384920000150000, 3, 95, 510, 4242, 20, 4294967295, 9, 1, 1),
            (1719384920000151000, 1719384920000189000, 3, 95, 511, 4242, 23, 4294967295, 9, 2, 1),
            (1719384920000420000, 1719384920000424000, 3, 96, 512, 4242, 23, 4294967295, 9, 3, 1);
        INSERT INTO COMMUNICATION_TASK_INFO (name, globalTaskId, taskType, groupName, opId) VALUES
            (21, 510, 21, 6, 1), (22, 511, 22, 6, 1), (22, 512, 22, 6, 77);";
    let whole = imported(&database(dir.path(), "whole.db", &[TABLES, ROWS])).1;
    let (report, summary) = imported(&database(dir.path(), "steps.db", &[TABLES, ROWS, steps]));
    assert_eq!(report.left_out["steps of collectives, which are there as a whole"], 2);
    let (before, after) = (&whole.workers[0], &summary.workers[0]);
    assert_eq!(before.tables.communication, after.tables.communication);
    // One whose collective is missing has the name that stands there, and not that of its kind.
    let mut expected = kernels(before);
    expected.push(("Memcpy".to_owned(), 1, 4.0));
    let mut found = kernels(after);
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, expected);

    // Without the collectives nothing is said to be a part of them.
    let none = "DROP TABLE COMMUNICATION_OP;";
    let path = database(dir.path(), "none.db", &[TABLES, ROWS, steps, none]);
    assert_eq!(imported(&path).0.rows["kernel"], 6 + 3);
}

#[test]
fn what_a_version_lacks_is_read_as_nothing_and_what_torch_npu_adds_is_read() {
    let dir = tempfile::tempdir().unwrap();
    // As older versions have it, and with instants as torch_npu keeps them.
    let tables = "
        CREATE TABLE STRING_IDS (id INTEGER, value TEXT);
        INSERT INTO STRING_IDS VALUES (1, 'AI_CORE'), (2, 'hcom'), (3, 'aten::add'), (4, '8,16;8'),
            (5, 'Enqueue');
        CREATE TABLE TASK (startNs INTEGER, endNs INTEGER, deviceId INTEGER, taskType INTEGER);
        INSERT INTO TASK VALUES (1719384920000000000, 1719384920000001000, 1, 1);
        CREATE TABLE COMMUNICATION_OP (opName INTEGER, startNs INTEGER, endNs INTEGER);
        INSERT INTO COMMUNICATION_OP VALUES (2, 1719384920000000000, 1719384920000002000);
        CREATE TABLE PYTORCH_API (startNs TEXT, endNs TEXT, globalTid INTEGER, connectionId INTEGER,
            name INTEGER, sequenceNumber INTEGER, fwdThreadId INTEGER, inputDtypes INTEGER,
            inputShapes INTEGER, callchainId INTEGER, type INTEGER);
        INSERT INTO PYTORCH_API VALUES
            ('1719384920000000100', '1719384920000000900', 18219253432524 + 7, 1, 3, 12, 0, 0, 4, 0, 50001),
            ('1719384920000000200', '1719384920000000300', 18219253432524 + 7, 1, 5, 4294967295, 0, 0, 0, 0, 50002);";
    let place = dir.path().join("worker_1_2_ascend_pt");
    database(&place, "ASCEND_PROFILER_OUTPUT/ascend_pytorch_profiler_0.db", &[tables]);
    let (report, summary) = imported(&place);
    let rows = |kind: &str| report.rows.get(kind).copied().unwrap_or(0);
    assert_eq!(["kernel", "communication", "operator", "span"].map(rows), [1; 4]);
    let tables = &summary.workers[0].tables;
    assert_eq!((tables.kernels[0].name.as_str(), tables.kernels[0].total_us), ("AI_CORE", 1.0));
    assert_eq!(tables.devices[0].device, 1);
    // There is one device: it is the collective's.
    assert!(tables.devices[0].communication_percent > 0.0, "{:?}", tables.devices);
    assert_eq!(
        (tables.operators[0].name.as_str(), tables.operators[0].total_us),
        ("aten::add", 0.8)
    );
}

#[test]
fn a_database_beside_a_spool_is_taken_where_there_is_no_timeline() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host.json");
    let event = |ts: &str| {
        format!(r#"{{"ph":"X","cat":"cpu_op","name":"op","pid":4242,"tid":1,"ts":{ts},"dur":1}}"#)
    };
    let events = [event("1719384920000000"), event("1719384921000000")].join(",");
    std::fs::write(&host, format!(r#"{{"traceEvents":[{events}]}}"#)).unwrap();
    let spool = dir.path().join("a.spool");
    import(&host, &spool).unwrap();
    let place = dir.path().join("a.raw/PROF_000001_20240626144840_ABCDEFGH");
    database(&place, "msprof_20240625.db", &[TABLES]);
    database(&place, "msprof_20240626.db", &[TABLES, ROWS]);
    let found = device_records(&spool, &mut || false);
    assert_eq!((found.spools.len(), found.notes.len()), (1, 0), "{found:?}");
    let spools = [vec![spool], found.spools].concat();
    let mut capture = Capture::open(spools, CaptureOptions::default()).unwrap();
    let summary = summarize(&mut capture, SummaryOptions::default()).unwrap();
    let device = summary.workers.iter().find(|own| own.title.ends_with(", device")).unwrap();
    assert_eq!(kernels(device).len(), 5);
}

#[test]
fn what_is_no_such_database_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let add = |name: &str, statements: &[&str]| database(dir.path(), name, statements);
    let own_table = "CREATE TABLE people (name TEXT); INSERT INTO people VALUES ('me');";
    let no_start = "CREATE TABLE TASK (began INTEGER, endNs INTEGER);";
    let text = "INSERT INTO TASK (startNs, endNs) VALUES ('soon', 'later');";
    let view = "CREATE TABLE t (startNs INTEGER, endNs INTEGER); INSERT INTO t VALUES (1, 2);
                CREATE VIEW TASK AS SELECT * FROM t;";
    for (path, why) in [
        (add("foreign.db", &[own_table]), "without the tables of msprof"),
        (add("empty.db", &[TABLES]), "none of its tables has a row"),
        (add("columns.db", &[no_start]), "its table TASK lacks the column startNs"),
        (add("text.db", &[TABLES, text]), "none of its tables has a row"),
        (add("view.db", &[view]), "without the tables of msprof"),
    ] {
        let error = refused(&path);
        assert!(matches!(error, ImportError::NotATrace { .. }), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let path = dir.path().join("begins.db");
    std::fs::write(&path, b"SQLite format 3\0 and more").unwrap();
    let error = refused(&path);
    assert!(matches!(error, ImportError::Database { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot be read as a database"), "{error}");
    let newer = "UPDATE META_DATA SET value = '2'";
    let (report, _) = imported(&add("newer.db", &[TABLES, ROWS, newer]));
    assert!(report.notes[0].contains("tables of version 2"), "{:?}", report.notes);
}

/// Whatever a hostile file makes SQLite do is bound by its size.
#[test]
fn work_is_bound_by_the_size_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    // The column is computed anew for each row: by counting to a hundred million.
    let endless = "
        CREATE TABLE TASK (endNs INTEGER, startNs INTEGER
            AS (1719384920000000000 + length(replace(hex(zeroblob(1000 * 1000)), '0', 'x'))));
        INSERT INTO TASK (endNs) VALUES (1), (2), (3);";
    let error = refused(&database(dir.path(), "computed.db", &[endless]));
    assert!(matches!(error, ImportError::Database { .. }), "{error:?}");
    // Two tables of which each row has all rows of the other as its name.
    let product = "
        DROP TABLE COMPUTE_TASK_INFO;
        CREATE TABLE COMPUTE_TASK_INFO (name INTEGER, globalTaskId INTEGER, taskType INTEGER);
        WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000)
            INSERT INTO COMPUTE_TASK_INFO SELECT 1, 1, 2 FROM n;
        WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000)
            INSERT INTO TASK (startNs, endNs, globalTaskId) SELECT x, x, 1 FROM n;";
    let error = refused(&database(dir.path(), "product.db", &[TABLES, product]));
    assert!(matches!(error, ImportError::NotATrace { .. }), "{error:?}");
    assert!(error.to_string().contains("more steps than"), "{error}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// Whatever is damaged in a database, or cut off of it, an import ends in rows or in an error.
    #[test]
    fn damaged_databases(
        bytes in proptest::collection::vec((0usize..1 << 20, proptest::prelude::any::<u8>()), 1..12),
        cut in 0usize..1 << 20,
        is_cut in proptest::prelude::any::<bool>(),
    ) {
        static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let whole = WHOLE.get_or_init(|| std::fs::read(database(dir.path(), "whole.db", &[TABLES, ROWS])).unwrap());
        let mut whole = whole.clone();
        for (at, byte) in bytes {
            let at = at % whole.len();
            whole[at] = byte;
        }
        if is_cut {
            whole.truncate(cut % whole.len());
        }
        std::fs::write(&path, whole).unwrap();
        drop(import(&path, &dir.path().join("a.spool")));
    }
}
