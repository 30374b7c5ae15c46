//! A stand-in for `msprof --export=on`: makes a timeline of what the stand-in for aclprof wrote.
//!
//! `FAKE_MSPROF=fail` is one that ends with an error, `hang` one that does not end, `nothing` one
//! that succeeds and writes no timeline, `slices` one that cuts the timeline in two.

#![expect(clippy::print_stderr, reason = "a program that says what went wrong")]

use std::path::Path;
use std::process::ExitCode;

/// Bits of a timeline's number below the process.
const PROCESS_BITS: u32 = 10;
const SORT_BITS: u32 = 5;

/// Counters of the AI cores were recorded.
const AICORE_METRICS: u64 = 0x4;
/// The value of one of them.
const MAC_RATIO: f64 = 0.375;
const TABLE_HEAD: &str = "Device_id,Model ID,Task ID,Stream ID,Op Name,OP Type,OP State,Task Type,\
                          Task Start Time(us),Task Duration(us),Task Wait Time(us),Block Num,\
                          Mix Block Num,HF32 Eligible,Input Shapes";

fn main() -> ExitCode {
    let variant = std::env::var("FAKE_MSPROF").unwrap_or_default();
    match variant.as_str() {
        "fail" => {
            eprintln!("[ERROR] PROFILING: Failed to parse the data, Python 3.7.5 is required");
            return ExitCode::from(255);
        }
        "hang" => loop {
            std::thread::park();
        },
        "nothing" => return ExitCode::SUCCESS,
        _ => {}
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let output = arguments.iter().find_map(|argument| argument.strip_prefix("--output="));
    let Some(output) = output.filter(|_| arguments.contains(&"--export=on".to_owned())) else {
        eprintln!("usage: msprof --export=on --type=text --output=DIR");
        return ExitCode::from(2);
    };
    match export(Path::new(output), variant == "slices") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("[ERROR] {output}: {error}");
            ExitCode::from(1)
        }
    }
}

fn export(place: &Path, is_sliced: bool) -> std::io::Result<()> {
    let mut raw = None;
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path().join("data/fake.slice_0");
        if path.is_file() {
            raw = Some(std::fs::read_to_string(path)?);
        }
    }
    let raw = raw.ok_or_else(|| std::io::Error::other("no raw data of the stand-in"))?;
    let mut lines = raw.lines();
    let head: Vec<u64> =
        lines.next().unwrap_or_default().split(',').filter_map(|text| text.parse().ok()).collect();
    let [process, device, bits] = head[..] else {
        return Err(std::io::Error::other("a raw file without a head"));
    };
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
    let has_metrics = bits & AICORE_METRICS != 0;
    let mut table = TABLE_HEAD.to_owned();
    table += if has_metrics { ",aicore_time(us),aic_mac_ratio\n" } else { "\n" };
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        let [kind, name, task_type, connection, launched, start, end] = fields[..] else {
            continue;
        };
        let (ts, dur) = (us(start), us_between(start, end));
        if kind == "communication" {
            events.push(format!(
                r#"{{"name":"{name}","pid":{communication},"tid":0,"ts":"{ts}","dur":{dur},"ph":"X","args":{{"connection_id":{connection}}}}}"#
            ));
            continue;
        }
        events.push(format!(
            r#"{{"name":"{name}","pid":{hardware},"tid":2,"ts":"{ts}","dur":{dur},"ph":"X","args":{{"Task Type":"{task_type}","Physic Stream Id":2,"Task Id":5,"connection_id":{connection}}}}}"#
        ));
        // Instants end with a tab, for the sake of spreadsheets.
        table += &format!(
            "{device},4294967295,5,2,{name},N/A,dynamic,{task_type},{ts}\t,{dur},0,8,0,NO,\"\"\"4,16;16\"\"\""
        );
        table += &match (has_metrics, task_type) {
            (false, _) => "\n".to_owned(),
            // Work of the host's kind has no such core.
            (true, "AI_CPU") => ",N/A,N/A\n".to_owned(),
            (true, _) => format!(",{dur},{MAC_RATIO}\n"),
        };
        if launched != start {
            let ts = us(launched);
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
    if !is_sliced {
        return write("msprof_20261124120001.json", &events);
    }
    let (first, second) = events.split_at(events.len() / 2);
    write("msprof_slice_0_20261124120001.json", first)?;
    write("msprof_slice_1_20261124120001.json", second)
}

/// Microseconds with three decimals.
fn us(ns: &str) -> String {
    let ns: u64 = ns.parse().unwrap_or(0);
    format!("{}.{:03}", ns / 1_000, ns % 1_000)
}

fn us_between(start: &str, end: &str) -> String {
    let (start, end): (u64, u64) = (start.parse().unwrap_or(0), end.parse().unwrap_or(0));
    us(&(end - start).to_string())
}
