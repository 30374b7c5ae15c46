//! A timeline, and the tables beside it.

use std::path::Path;

use crate::raw::Raw;

/// Bits of a timeline's number below the process.
const PROCESS_BITS: u32 = 10;
const SORT_BITS: u32 = 5;

const STREAM: u32 = 2;
/// The value of a counter of the AI cores.
const MAC_RATIO: f64 = 0.375;
/// Those of the L2 cache.
const HIT_RATE: f64 = 0.75;
const VICTIM_RATE: f64 = 0.125;

const TABLE_HEAD: &str = "Device_id,Model ID,Task ID,Stream ID,Op Name,OP Type,OP State,Task Type,\
                          Task Start Time(us),Task Duration(us),Task Wait Time(us),Block Num,\
                          Mix Block Num,HF32 Eligible,Input Shapes";
const CACHE_HEAD: &str = "Device_id,Stream Id,Task Id,Hit Rate,Victim Rate,Op Name\n";

pub(crate) fn write(place: &Path, raw: &Raw, is_sliced: bool) -> std::io::Result<()> {
    let Raw { process, device, .. } = *raw;
    let number = |sort: u64| (process << PROCESS_BITS) | (sort << SORT_BITS) | device;
    let (cann, hardware, communication) = (number(1), number(2), number(3));
    let names = [(cann, "CANN"), (hardware, "Ascend Hardware"), (communication, "Communication")];
    let heads: Vec<String> = names
        .iter()
        .map(|(pid, name)| {
            format!(
                r#"{{"name":"process_name","pid":{pid},"tid":0,"args":{{"name":"{name}"}},"ph":"M"}}"#
            )
        })
        .collect();
    let mut events = Vec::new();
    let mut table = TABLE_HEAD.to_owned();
    table += if raw.has_metrics() { ",aicore_time(us),aic_mac_ratio\n" } else { "\n" };
    let mut cache = CACHE_HEAD.to_owned();
    let mut has_cached = false;
    for (task_id, task) in raw.tasks.iter().enumerate() {
        let (name, task_type, connection) = (&task.name, &task.task_type, task.connection);
        let (ts, dur) = (us(task.start), us(task.end - task.start));
        if task.is_collective {
            events.push(format!(
                r#"{{"name":"{name}","pid":{communication},"tid":0,"ts":"{ts}","dur":{dur},"ph":"X","args":{{"connection_id":{connection}}}}}"#
            ));
            continue;
        }
        events.push(format!(
            r#"{{"name":"{name}","pid":{hardware},"tid":{STREAM},"ts":"{ts}","dur":{dur},"ph":"X","args":{{"Task Type":"{task_type}","Physic Stream Id":{STREAM},"Task Id":{task_id},"connection_id":{connection}}}}}"#
        ));
        // Instants end with a tab, for the sake of spreadsheets.
        table += &format!(
            "{device},4294967295,{task_id},{STREAM},{name},N/A,dynamic,{task_type},{ts}\t,{dur},0,8,0,NO,\"\"\"4,16;16\"\"\""
        );
        table += &match (raw.has_metrics(), task.is_of_a_core()) {
            (false, _) => "\n".to_owned(),
            (true, false) => ",N/A,N/A\n".to_owned(),
            (true, true) => format!(",{dur},{MAC_RATIO}\n"),
        };
        if task.is_of_a_core() {
            // The first one is always missing.
            if has_cached {
                cache += &format!("{device},{STREAM},{task_id},{HIT_RATE},{VICTIM_RATE},{name}\n");
            }
            has_cached = true;
        }
        if task.launched != task.start {
            let ts = us(task.launched);
            events.push(format!(
                r#"{{"name":"AscendCL@aclnnLaunch","pid":{cann},"tid":{process},"ts":"{ts}","dur":1.0,"ph":"X","args":{{"connection_id":{connection}}}}}"#
            ));
        }
    }
    let folder = place.join("mindstudio_profiler_output");
    std::fs::create_dir_all(&folder)?;
    let write = |name: &str, events: &[String]| {
        let all: Vec<&str> = heads.iter().chain(events).map(String::as_str).collect();
        std::fs::write(folder.join(name), format!("[{}]", all.join(",\n")))
    };
    // Written after the timeline.
    std::fs::write(folder.join("op_summary_20261124120003.csv"), table)?;
    if raw.has_l2_cache() {
        std::fs::write(folder.join("l2_cache_20261124120004.csv"), cache)?;
    }
    if !is_sliced {
        return write("msprof_20261124120001.json", &events);
    }
    let (first, second) = events.split_at(events.len() / 2);
    write("msprof_slice_0_20261124120001.json", first)?;
    write("msprof_slice_1_20261124120001.json", second)
}

/// Microseconds with three decimals.
fn us(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000, ns % 1_000)
}
