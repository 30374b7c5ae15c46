//! What other profilers wrote: timelines, tables beside them, and databases.

use std::path::Path;

use profiler_core::spool::SpoolReader;
use profiler_export::import::import;

pub(super) const TABLES: &[&[u8]] = &[
    b"Device_id,Op Name,Task Start Time(us),Task Duration(us),Input Shapes,aic_mac_ratio,aic_mac_time(us)\n\
      3,aclnnAdd_AddAiCore_Add,1719384920000120.250\t,30.75,\"\"\"4,16;16\"\"\",0.5,12.25\n\
      3,AllReduce,1719384920000140.000\t,50.0,,N/A,N/A\n\
      3,nothing,soon,1.0,,1,1\n",
    b"Step Id,Device_id,Model ID,Task ID,Stream ID,Name,Type,Accelerator Core,Start Time(us),Duration(us),\
      aicore_time(us),aic_total_cycles,aiv_vec_ratio,ub_read_bw(GB/s)\r\n\
      ,0,4294967295,9,46,aclnnMatmul_MatMulV2,MatMulV2,AI_CORE,\"1719384920000120.250\t\",30.75,12.0,8000,0.1,3.5\r\n",
];

pub(super) const TABLE_WORDS: &[&str] = &[
    "Task Start Time(us)",
    "Start Time(us)",
    "Device_id",
    "aic_mac_ratio",
    "a(",
    "a()",
    ")",
    "N/A",
    "nan",
    "inf",
    "-1",
    "1e999",
    "0.0000001",
    "18446744073709551616",
    "\"",
    "\"\"",
    ",",
    "\r\n",
    "\t",
];

/// Words of the language in which a database keeps its schema.
pub(super) const DATABASE_WORDS: &[&str] = &[
    "TABLE", "VIEW", "TASK", "AS", "INTEGER", "TEXT", "NUMERIC", "startNs", "NULL", "view", "index",
];

/// A table lies beside a timeline that is well.
pub(super) fn read_table(input: &[u8], scratch: &Path) {
    let folder = scratch.join("PROF_000001_20240626144840_FUZZ/mindstudio_profiler_output");
    std::fs::create_dir_all(&folder).expect("the scratch folder takes a folder");
    let timeline = folder.join("msprof_20240626.json");
    if !timeline.is_file() {
        std::fs::write(&timeline, super::targets::ASCEND).expect("a file is written");
    }
    std::fs::write(folder.join("op_summary_20240626.csv"), input).expect("a file is written");
    // Whatever is wrong with the table is a note.
    assert!(imported(&timeline, scratch), "the timeline is read");
}

/// A trace of its own, by its first bytes JSON, packed, or a database.
pub(super) fn read_trace(input: &[u8], scratch: &Path) {
    let trace = scratch.join("input.json");
    std::fs::write(&trace, input).expect("the scratch folder takes a file");
    imported(&trace, scratch);
}

/// Whether it becomes a spool, which is whole then.
fn imported(trace: &Path, scratch: &Path) -> bool {
    let spool = scratch.join("imported.spool");
    // It is never written over.
    drop(std::fs::remove_file(&spool));
    if import(trace, &spool).is_err() {
        return false;
    }
    let mut reader = SpoolReader::open(&spool).expect("what was imported is a spool");
    while reader.next_block().expect("a whole spool is read").is_some() {}
    assert!(reader.is_closed(), "what was imported has its footer");
    true
}
