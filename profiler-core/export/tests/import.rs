//! Traces of other profilers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod import_support;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use profiler_export::capture::{Capture, CaptureOptions};
use profiler_export::import::{ImportError, device_records, import, is_foreign, raw_traces};
use profiler_export::summary::{CounterRow, SummaryOptions, summarize};
use profiler_export::{ExportRequest, TraceFormat};

use import_support::imported;

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

/// As PyTorch writes it: arguments in any order, instants after a base that stands behind them.
const KINETO: &str = r#"{
  "schemaVersion": 1,
  "deviceProperties": [{"id": 0, "name": "NVIDIA H100", "totalGlobalMem": 85, "numSms": 132}],
  "distributedInfo": {"backend": "nccl", "rank": 3, "world_size": 8},
  "traceEvents": [
  {"ph": "X", "cat": "cpu_op", "name": "aten::linear", "pid": 55, "tid": 55, "ts": 100.5, "dur": 30.25,
   "args": {"External id": 1, "Input Dims": [[8, 16], []], "Input type": ["float", "Scalar"]}},
  {"ph": "X", "cat": "cpu_op", "name": "aten::addmm", "pid": 55, "tid": 55, "ts": 101, "dur": 20, "args": {}},
  {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 55, "tid": 55, "ts": 110,
   "dur": 5, "args": {"cbid": 211, "correlation": 77}},
  {"ph": "X", "cat": "kernel", "name": "gemm<int>", "pid": 0, "tid": 7, "ts": 120.125, "dur": 40.375,
   "args": {"grid": [4, 1, 1], "block": [128, 1, 1], "correlation": 77, "device": 0, "context": 1, "stream": 7}},
  {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "pid": 0, "tid": 7, "ts": 170,
   "dur": 2, "args": {"bytes": 4096, "correlation": 78, "device": 0, "context": 1, "stream": 7}},
  {"ph": "X", "cat": "gpu_memset", "name": "Memset (Device)", "pid": 0, "tid": 7, "ts": 175, "dur": 1,
   "args": {"bytes": 64, "correlation": 79, "device": 0, "context": 1, "stream": 7}},
  {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#3", "pid": 55, "tid": 55, "ts": 99, "dur": 90},
  {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 55, "tid": 55, "ts": 111, "s": "t",
   "args": {"Total Allocated": 512, "Addr": 4096, "Device Id": 0, "Bytes": -512, "Device Type": 1}},
  {"ph": "s", "id": 77, "pid": 55, "tid": 55, "ts": 110, "cat": "ac2g", "name": "ac2g"},
  {"ph": "f", "id": 77, "pid": 0, "tid": 7, "ts": 120.125, "cat": "ac2g", "name": "ac2g", "bp": "e"},
  {"ph": "M", "name": "thread_name", "pid": 55, "tid": 55, "args": {"name": "main"}}
  ],
  "baseTimeNanoseconds": 1700000000000000000
}"#;

#[test]
fn kineto_becomes_rows() {
    let dir = tempfile::tempdir().unwrap();
    let trace = write(dir.path(), "rank3.pt.trace.json", KINETO);
    let (report, summary) = imported(&trace);
    assert_eq!(report.layout, "kineto");
    let rows = |kind: &str| report.rows.get(kind).copied().unwrap_or(0);
    let counts = ["operator", "api_call", "kernel", "memcpy", "memset", "span", "memory"].map(rows);
    assert_eq!(counts, [2, 1, 1, 1, 1, 1, 1]);
    assert_eq!(report.left_out.values().sum::<u64>(), 2, "{:?}", report.left_out);

    let worker = &summary.workers[0];
    assert_eq!((worker.rank, worker.pid), (Some(3), 55));
    let kernel = &worker.tables.kernels[0];
    assert_eq!((kernel.name.as_str(), kernel.count, kernel.total_us), ("gemm<int>", 1, 40.375));
    assert_eq!(worker.tables.devices[0].name, "NVIDIA H100");
    let linear = worker.tables.operators.iter().find(|row| row.name == "aten::linear").unwrap();
    // What it encloses is not its own.
    assert_eq!((linear.total_us, linear.self_us), (30.25, Some(10.25)));
    assert_eq!(worker.tables.copies.len(), 2);
    assert_eq!(worker.tables.memory[0].frees, 1);
    assert_eq!(worker.activity.window_us.round(), 90.0);
}

#[test]
fn gzipped_traces_are_read_in_any_number_of_members_and_up_to_where_they_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let pack = |text: &str| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap()
    };
    let whole = dir.path().join("a.json.gz");
    let (first, second) = KINETO.split_at(700);
    std::fs::write(&whole, [pack(first), pack(second)].concat()).unwrap();
    assert_eq!(imported(&whole).0.rows.get("kernel"), Some(&1));

    let mut events = "[".to_owned();
    for number in 0..20_000 {
        events.push_str(&format!(
            r#"{{"ph":"X","cat":"cpu_op","name":"op{}","pid":1,"tid":1,"ts":{number},"dur":0.5}},"#,
            number * 7919 % 1000
        ));
    }
    let packed = pack(&events);
    let cut = dir.path().join("cut.json.gz");
    std::fs::write(&cut, &packed[..packed.len() / 2]).unwrap();
    let (report, _) = imported(&cut);
    let kept = report.rows["operator"];
    assert!((1_000..20_000).contains(&kept), "{kept}");
    assert!(report.notes[0].contains("cut off"), "{:?}", report.notes);
}

/// As torch_npu's profiler writes it: an array, instants as strings, numbers of timelines that hold
/// process and device.
fn npu_trace() -> String {
    let process = 4242_u64;
    let (cann, hardware, communication, overlap) = (
        (process << 10) | (1 << 5),
        (process << 10) | (2 << 5) | 3,
        (process << 10) | (3 << 5) | 3,
        (process << 10) | (4 << 5) | 3,
    );
    format!(
        r#"[
{{"ph":"M","name":"process_name","pid":4242,"tid":0,"args":{{"name":"Python"}}}},
{{"ph":"M","name":"process_name","pid":{cann},"tid":0,"args":{{"name":"CANN"}}}},
{{"ph":"M","name":"process_name","pid":{hardware},"tid":0,"args":{{"name":"Ascend Hardware"}}}},
{{"ph":"M","name":"process_name","pid":{communication},"tid":0,"args":{{"name":"Communication"}}}},
{{"ph":"M","name":"process_name","pid":{overlap},"tid":0,"args":{{"name":"Overlap Analysis"}}}},
{{"ph":"M","name":"thread_name","pid":{communication},"tid":0,"args":{{"name":"Group 0 Communication"}}}},
{{"ph":"M","name":"thread_name","pid":{communication},"tid":1,"args":{{"name":"Plane 0"}}}},
{{"ph":"X","name":"aten::add","pid":4242,"tid":4300,"ts":"1719384920000100.125","dur":12.5,"cat":"cpu_op","args":{{"Sequence number":7}}}},
{{"ph":"X","name":"AscendCL@aclnnAdd","pid":{cann},"tid":4300,"ts":"1719384920000105.000","dur":4.0,"args":{{"level":"acl","connection_id":91}}}},
{{"ph":"X","name":"aclnnAdd_AddAiCore_Add","pid":{hardware},"tid":2,"ts":"1719384920000120.250","dur":30.75,"args":{{"Model Id":4294967295,"Task Type":"AI_VECTOR_CORE","Physic Stream Id":2,"Task Id":5,"connection_id":91}}}},
{{"ph":"X","name":"hcom_allReduce__123_0_1","pid":{communication},"tid":0,"ts":"1719384920000140.000","dur":50.0,"args":{{"connection_id":95,"data_type":"BFP16","alg_type":"MESH-RING-NA","count":4096}}}},
{{"ph":"X","name":"Notify_Wait","pid":{communication},"tid":1,"ts":"1719384920000161.000","dur":5.0,"args":{{}}}},
{{"ph":"X","name":"Computing","pid":{overlap},"tid":1,"ts":"1719384920000120.250","dur":30.75,"args":{{}}}},
{{"ph":"C","name":"AI Core Freq","pid":{hardware},"tid":0,"ts":"1719384920000100.000","args":{{"MHz":1850}}}},
{{"ph":"s","bp":"e","name":"HostToDevice91","id":"91","cat":"HostToDevice","pid":{cann},"tid":4300,"ts":"1719384920000105.000"}},
{{"ph":"f","bp":"e","name":"HostToDevice91","id":"91","cat":"HostToDevice","pid":{hardware},"tid":2,"ts":"1719384920000120.250"}}
]"#
    )
}

#[test]
fn a_directory_of_torch_npu_becomes_rows() {
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("worker_4242_20240626_ascend_pt");
    write(&capture, "ASCEND_PROFILER_OUTPUT/trace_view.json", &npu_trace());
    assert!(is_foreign(&capture));
    let (report, summary) = imported(&capture);
    assert_eq!(report.layout, "torch_npu");
    let rows = |kind: &str| report.rows.get(kind).copied().unwrap_or(0);
    assert_eq!(["operator", "api_call", "kernel", "communication", "counter"].map(rows), [1; 5]);
    let left_out: Vec<&str> = report.left_out.keys().map(String::as_str).collect();
    assert_eq!(left_out.len(), 3, "{left_out:?}");

    let worker = &summary.workers[0];
    assert_eq!(worker.pid, 4242);
    let kernel = &worker.tables.kernels[0];
    assert_eq!((kernel.name.as_str(), kernel.total_us), ("aclnnAdd_AddAiCore_Add", 30.75));
    assert_eq!(
        (worker.tables.devices[0].device, worker.tables.devices[0].name.as_str()),
        (3, "Ascend NPU")
    );
    assert_eq!(worker.tables.communication[0].total_us, 50.0);
    let types = &worker.tables.kernel_types;
    assert_eq!((types[0].name.as_str(), types[0].total_us), ("AI_VECTOR_CORE", 30.75));
    // The kernel ended 11 us after the collective began.
    let device = &worker.tables.devices[0];
    assert_eq!(device.communication_overlap_percent.round(), 22.0);
    assert!(device.communication_percent > 0.0);
    assert_eq!(worker.tables.counters[0].unit, "MHz");
}

#[test]
fn what_was_imported_is_exported_again_and_merged_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let kineto = write(dir.path(), "a.json", KINETO);
    let npu = write(dir.path(), "b.json", &npu_trace());
    let spools = [dir.path().join("a.spool"), dir.path().join("b.spool")];
    import(&kineto, &spools[0]).unwrap();
    import(&npu, &spools[1]).unwrap();
    let output = dir.path().join("again.json");
    let request = ExportRequest::new(spools.to_vec(), output.clone(), TraceFormat::Kineto);
    profiler_export::run(&request, &mut |_| true).unwrap();
    let text = std::fs::read_to_string(&output).unwrap();
    for category in ["kernel", "collective_comm", "privateuse1_runtime"] {
        assert!(text.contains(&format!("\"cat\":\"{category}\"")), "{category}");
    }
    // Ours are read again as well, with the same work in them.
    let (report, summary) = imported(&output);
    assert_eq!((report.rows["kernel"], report.rows["communication"]), (2, 1));
    let kernels = &summary.workers[0].tables.kernels;
    assert_eq!(kernels.iter().map(|row| row.total_us).sum::<f64>(), 40.375 + 30.75);
}

/// A worker's spool whose window is so many microseconds from 1719384920 s on, and the directory
/// beside it.
fn worker(dir: &Path, window_us: u32) -> (PathBuf, PathBuf) {
    let event = |at: u32| {
        format!(
            r#"{{"ph":"X","cat":"cpu_op","name":"op","pid":4242,"tid":1,"ts":{at},"dur":0.001}}"#
        )
    };
    let text = format!(
        r#"{{"baseTimeNanoseconds": 1719384920000000000, "distributedInfo": {{"rank": 5}},
            "traceEvents": [{}, {}]}}"#,
        event(0),
        event(window_us)
    );
    let spool = dir.join("a.spool");
    import(&write(dir, "host.json", &text), &spool).unwrap();
    (spool, dir.join("a.raw"))
}

/// Nobody waits.
fn no_patience() -> bool {
    false
}

#[test]
fn what_a_vendors_tool_recorded_beside_a_spool_belongs_to_its_worker_and_window() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, raw) = worker(dir.path(), 130);
    assert_eq!(device_records(&spool, &mut no_patience), Default::default());
    let place = raw.join("PROF_000001_20240626144840_ABCDEFGH");
    write(&place, "mindstudio_profiler_output/msprof_20240626.json", &npu_trace());
    // An older export, and tables, are not read.
    write(&place, "mindstudio_profiler_output/msprof_20240625.json", "[]");
    write(&place, "mindstudio_profiler_output/op_summary_20240626.csv", "Op Name\n");
    assert!(!raw_traces(&spool)[0].is_imported);
    let found = device_records(&spool, &mut no_patience);
    assert_eq!((found.spools.len(), found.notes.len()), (1, 0), "{found:?}");
    assert!(raw_traces(&spool)[0].is_imported);
    // The second time nothing is made anew.
    let modified = |path: &Path| path.metadata().unwrap().modified().unwrap();
    let made = modified(&found.spools[0]);
    assert_eq!(device_records(&spool, &mut no_patience), found);
    assert_eq!(modified(&found.spools[0]), made);

    let spools = [vec![spool], found.spools].concat();
    let mut capture = Capture::open(spools, CaptureOptions::default()).unwrap();
    let summary = summarize(&mut capture, SummaryOptions::default()).unwrap();
    assert_eq!(summary.workers.len(), 2);
    let device = summary.workers.iter().find(|own| own.title.ends_with(", device")).unwrap();
    assert_eq!((device.rank, device.pid), (Some(5), 4242));
    assert_eq!(device.tables.kernels[0].total_us, 30.75);
    // The collective began behind the window's end.
    assert!(device.tables.communication.is_empty(), "{:?}", device.tables.communication);
    assert!(capture.counts().outside_window > 0);
}

#[test]
fn slices_of_a_timeline_are_all_read() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, raw) = worker(dir.path(), 10_000);
    let place = raw.join("PROF_000001_20240626144840_ABCDEFGH/mindstudio_profiler_output");
    write(&place, "msprof_slice_0_20240626.json", &npu_trace());
    write(&place, "msprof_slice_1_20240626.json", &npu_trace());
    let found = device_records(&spool, &mut no_patience);
    assert_eq!((found.spools.len(), found.notes.len()), (2, 0), "{found:?}");
}

#[test]
fn counters_of_the_ai_cores_are_read_from_the_tables_beside_a_timeline() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, raw) = worker(dir.path(), 10_000);
    let place = raw.join("PROF_000001_20240626144840_ABCDEFGH/mindstudio_profiler_output");
    write(&place, "msprof_slice_0_20240626.json", &npu_trace());
    write(&place, "msprof_slice_1_20240626.json", &npu_trace());
    let head = "Device_id,Op Name,Task Start Time(us),Task Duration(us),Input Shapes,aic_mac_ratio,\
                aic_mac_time(us)\n";
    let rows = "3,aclnnAdd_AddAiCore_Add,1719384920000120.250\t,30.75,\"\"\"4,16;16\"\"\",0.5,12.25\n\
                3,AllReduce,1719384920000140.000\t,50.0,,N/A,N/A\n\
                3,nothing,soon,1.0,,1,1\n";
    write(&place, "op_summary_20240625.csv", &format!("{head}3,x,1719384920000001.000,1,,9,9\n"));
    write(&place, "op_summary_20240627.csv", &format!("{head}{rows}"));
    let found = device_records(&spool, &mut no_patience);
    assert_eq!((found.spools.len(), found.notes.len()), (2, 0), "{found:?}");
    let counters = |spools: Vec<PathBuf>| -> Vec<(String, String, u64, f64, Option<u32>)> {
        let mut capture = Capture::open(spools, CaptureOptions::default()).unwrap();
        let summary = summarize(&mut capture, SummaryOptions::default()).unwrap();
        let counters = summary.workers.into_iter().flat_map(|worker| worker.tables.counters);
        let of_cores = counters.filter(|row| row.name != "AI Core Freq");
        of_cores.map(|row| (row.name, row.unit, row.count, row.mean, row.device)).collect()
    };
    let row = |name: &str, unit: &str, value| (name.to_owned(), unit.to_owned(), 1, value, Some(3));
    // Both parts of the timeline have one table.
    assert_eq!(
        counters(found.spools),
        [row("aic_mac_ratio", "1", 0.5), row("aic_mac_time", "us", 12.25)]
    );

    // As torch_npu's profiler has it.
    let place = dir.path().join("worker_4242_1_ascend_pt/ASCEND_PROFILER_OUTPUT");
    let trace = write(&place, "trace_view.json", &npu_trace());
    write(&place, "kernel_details.csv", &format!("{head}{rows}").replace("Task ", ""));
    let (report, summary) = imported(&trace);
    assert_eq!(report.left_out.get("counters without an instant"), Some(&1), "{report:?}");
    let ratio = &summary.workers[0].tables.counters;
    assert!(ratio.iter().any(|row| row.name == "aic_mac_ratio" && row.mean == 0.5), "{ratio:?}");
}

#[test]
fn counters_of_the_l2_cache_belong_to_the_kernel_that_has_their_number_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, raw) = worker(dir.path(), 10_000);
    let place = raw.join("PROF_000001_20240626144840_ABCDEFGH/mindstudio_profiler_output");
    write(&place, "msprof_slice_0_20240626.json", &npu_trace());
    write(&place, "msprof_slice_1_20240626.json", &npu_trace());
    // The second kernel has the first one's number, and the fourth is the third one once more.
    let kernels = "Device_id,Task ID,Stream ID,Op Name,Task Start Time(us)\n\
                   3,5,2,Add,1719384920000120.250\t\n3,5,2,Mul,1719384920000130.000\t\n\
                   3,6,2,Add,1719384920000140.000\t\n3,6,2,Add,1719384920000150.000\t\n";
    write(&place, "op_summary_20240627.csv", kernels);
    let cache = "Device_id,Stream Id,Task Id,Hit Rate,Victim Rate,Op Name\n\
                 3,2,5,0.5,0.25,Mul\n3,2,5,0.75,1.5,Add\n3,2,6,0.1,0.1,Add\n3,2,9,0.1,0.1,Add\n\
                 0,2,5,0.1,0.1,Add\n3,2,5,N/A,0.5,Add\n";
    write(&place, "l2_cache_20240626.csv", "Device_id,Stream Id,Task Id,Hit Rate,Op Name\n");
    write(&place, "l2_cache_20240627.csv", cache);
    let found = device_records(&spool, &mut no_patience);
    let [note] = &found.notes[..] else { panic!("{found:?}") };
    assert!(note.contains("3 lines of ") && note.contains("l2_cache_20240627.csv"), "{note}");
    let counters = |tables: &[CounterRow]| -> Vec<(String, String, u64, f64, Option<u32>)> {
        let of_cache = tables.iter().filter(|row| row.name.starts_with("l2_cache"));
        of_cache
            .map(|row| (row.name.clone(), row.unit.clone(), row.count, row.mean, row.device))
            .collect()
    };
    let mut capture = Capture::open(found.spools, CaptureOptions::default()).unwrap();
    let summary = summarize(&mut capture, SummaryOptions::default()).unwrap();
    let tables = summary.workers.iter().flat_map(|worker| worker.tables.counters.clone());
    let row = |name: &str, count, mean| (name.to_owned(), "1".to_owned(), count, mean, Some(3));
    assert_eq!(
        counters(&tables.collect::<Vec<_>>()),
        [row("l2_cache_hit_rate", 2, 0.625), row("l2_cache_victim_rate", 3, 0.75)]
    );

    // As torch_npu's profiler has it, and as msprof wrote it before tables named the device.
    let place = dir.path().join("worker_4242_1_ascend_pt/ASCEND_PROFILER_OUTPUT");
    let trace = write(&place, "trace_view.json", &npu_trace());
    let kernels = kernels.replace("Task Start", "Start").replace("Op Name", "Name");
    write(&place, "kernel_details.csv", &kernels);
    let cache = "Stream Id,Task Id,Hit Rate,Victim Rate,Op Name\n2,5,0.5,0.25,Mul\n";
    write(&place, "l2_cache.csv", cache);
    let (report, summary) = imported(&trace);
    assert_eq!(report.notes, Vec::<String>::new());
    assert_eq!(
        counters(&summary.workers[0].tables.counters),
        [row("l2_cache_hit_rate", 1, 0.5), row("l2_cache_victim_rate", 1, 0.25)]
    );
}

#[test]
fn raw_data_that_becomes_no_trace_is_named_with_the_command_to_type() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, raw) = worker(dir.path(), 10_000);
    let place = raw.join("PROF_000001_20240626144840_ABCDEFGH");
    write(&place, "mindstudio_profiler_output/msprof_20240626.json", "no JSON");
    let found = device_records(&spool, &mut no_patience);
    assert_eq!(found.spools.len(), 0);
    let command = format!("`msprof --export=on --type=text --output={}`", place.display());
    assert!(found.notes[0].contains(&command), "{found:?}");
    assert!(found.notes[0].contains("no list of trace events"), "{found:?}");
    // Half an import is none.
    assert!(raw_traces(&spool).iter().all(|trace| !trace.is_imported));

    let dir = tempfile::tempdir().unwrap();
    let (spool, raw) = worker(dir.path(), 10_000);
    let place = raw.join("host_1_20240626_ascend_pt");
    write(&place, "FRAMEWORK/torch.op_range", "raw");
    write(&raw, "analyse.log", "[WARNING] something\nRuntimeError: no CANN\n");
    let found = device_records(&spool, &mut no_patience);
    assert!(found.notes[0].contains("RuntimeError: no CANN"), "{found:?}");
    assert!(found.notes[0].contains("analyse('"), "{found:?}");
    // Somebody analyses it, and the next look takes it.
    write(&place, "ASCEND_PROFILER_OUTPUT/trace_view.json", &npu_trace());
    assert_eq!(device_records(&spool, &mut no_patience).spools.len(), 1);
}

#[test]
fn an_analysis_that_runs_is_waited_for_until_called_off() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, raw) = worker(dir.path(), 10_000);
    write(&raw, "host_1_20240626_ascend_pt/FRAMEWORK/torch.op_range", "raw");
    let lock = std::fs::File::create(raw.join("analyse.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut asked = 0;
    let found = device_records(&spool, &mut || {
        asked += 1;
        asked < 3
    });
    assert_eq!(asked, 3);
    assert!(found.notes[0].contains("called off"), "{found:?}");
}

#[test]
fn links_and_strange_names_beside_a_spool_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, raw) = worker(dir.path(), 10_000);
    let elsewhere = dir.path().join("elsewhere");
    let place = elsewhere.join("PROF_000001_20240626144840_ABCDEFGH");
    write(&place, "mindstudio_profiler_output/msprof_20240626.json", &npu_trace());
    std::os::unix::fs::symlink(&elsewhere, &raw).unwrap();
    assert_eq!(device_records(&spool, &mut no_patience), Default::default());
    std::fs::remove_file(&raw).unwrap();
    std::fs::create_dir(&raw).unwrap();
    std::os::unix::fs::symlink(&place, raw.join("PROF_1")).unwrap();
    std::fs::write(raw.join("PROF_2"), "a file").unwrap();
    std::fs::create_dir(raw.join("other")).unwrap();
    assert_eq!(device_records(&spool, &mut no_patience), Default::default());
}

#[test]
fn what_is_no_trace_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("a.spool");
    for (text, why) in [
        ("", "no list of trace events"),
        ("no JSON", "no list of trace events"),
        ("{\"a\": 1}", "no list of trace events"),
        ("[]", "no list of trace events"),
        (r#"[{"ph":"M","name":"process_name"}]"#, "instant"),
    ] {
        let error = import(&write(dir.path(), "x.json", text), &spool).unwrap_err();
        assert!(matches!(error, ImportError::NotATrace { .. }), "{text}: {error}");
        assert!(error.to_string().contains(why), "{text}: {error}");
        assert!(!spool.exists(), "{text}");
    }
    // By a build with SQLite, and by one without.
    let error =
        import(&write(dir.path(), "x.db", "SQLite format 3\0 and more"), &spool).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("--type=text") || text.contains("cannot be read as a database"),
        "{text}"
    );
    assert!(!spool.exists());
    let raw = dir.path().join("worker_1_2_ascend_pt");
    std::fs::create_dir_all(raw.join("PROF_000001_20240626_ABC")).unwrap();
    let error = import(&raw, &spool).unwrap_err();
    assert!(error.to_string().contains("analyse("), "{error}");
    let raw = dir.path().join("PROF_000001_20240626144840_ABCDEFGH");
    std::fs::create_dir_all(raw.join("device_0")).unwrap();
    let error = import(&raw, &spool).unwrap_err();
    assert!(error.to_string().contains("`msprof --export=on"), "{error}");
    write(&raw, "mindstudio_profiler_output/msprof_20240626.json", &npu_trace());
    assert!(is_foreign(&raw));
    assert_eq!(imported(&raw).0.layout, "torch_npu");
    let error = import(&dir.path().join("nothing.json"), &spool).unwrap_err();
    assert!(matches!(error, ImportError::Read { .. }), "{error}");
}

#[test]
fn nothing_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let spool = write(dir.path(), "a.spool", "somebody's");
    let error = import(&write(dir.path(), "x.json", KINETO), &spool).unwrap_err();
    assert!(matches!(error, ImportError::Create { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(spool).unwrap(), "somebody's");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever is damaged in a trace, an import ends, in rows or in an error.
    #[test]
    fn damaged_traces(at in 0usize..1500, byte in proptest::prelude::any::<u8>(), npu in proptest::prelude::any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = if npu { npu_trace().into_bytes() } else { KINETO.as_bytes().to_vec() };
        let at = at % bytes.len();
        bytes[at] = byte;
        let trace = dir.path().join("x.json");
        std::fs::write(&trace, bytes).unwrap();
        drop(import(&trace, &dir.path().join("a.spool")));
    }
}
